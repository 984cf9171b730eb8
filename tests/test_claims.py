"""One at a time, between threads as between processes; and the claims of the dead are told from those of the living."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from builder.claims import alone, claimed, claims


def test_one_at_a_time_and_the_lock_is_gone_afterwards(tmp_path):
    inside, most, waited = [], [], []

    def work():
        with alone(tmp_path / "lock", lambda: waited.append(1)):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.002)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20 and waited
    assert list(tmp_path.iterdir()) == []


def test_it_is_let_go_when_the_work_fails(tmp_path):
    with pytest.raises(RuntimeError, match="out of paper"), alone(tmp_path / "lock"):
        raise RuntimeError("out of paper")
    with alone(tmp_path / "lock", lambda: pytest.fail("nobody has it")):
        pass


def test_a_claim_is_told_while_it_lasts_and_removed_at_its_end(tmp_path):
    with claimed(tmp_path, "use", ["a", "b"]) as one, claimed(tmp_path, "work") as two:
        (two / "file").write_text("")
        with claims(tmp_path, "use", "work") as now:
            assert (now.held, now.dead) == ({"a", "b"}, ())
        with claims(tmp_path, "work") as now:
            assert now.held == set()
        assert one.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_what_was_moved_away_stays(tmp_path):
    with claimed(tmp_path, "tmp") as folder:
        (folder / "file").write_text("kept")
        folder.rename(tmp_path / "image")
    assert (tmp_path / "image" / "file").read_text() == "kept"


@pytest.mark.process
def test_a_dead_owners_claim_is_rubbish_and_its_lock_is_free(tmp_path):
    script = f"""
import sys, time
from pathlib import Path
from builder.claims import alone, claimed
with claimed(Path({str(tmp_path)!r}), "use", ["a"]), alone(Path({str(tmp_path / "lock")!r})):
    print("ready", flush=True)
    time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner:
        assert owner.stdout.readline() == "ready\n"
        with claims(tmp_path, "use") as now:
            assert (now.held, now.dead) == ({"a"}, ())
        os.kill(owner.pid, signal.SIGKILL)
    with claims(tmp_path, "use") as now:
        assert now.held == set()
        assert [p.name.partition("-")[0] for p in now.dead] == ["use"]
    with alone(tmp_path / "lock", lambda: pytest.fail("its owner is dead")):
        pass
