"""Our hook on a provider's machine: put, told, taken away, and never half."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import EnvironmentLacks
from cluster.hosts import hook, hooked, registry
from cluster.site import Site
from tests.invented import LAB


class Machine:
    """Files in memory; `daemon` is what runs there."""

    def __init__(self, daemon="libvirtd"):
        self.host, self.daemon, self.files, self.silent = LAB, daemon, {}, False

    def folders(self, *wanted):
        pass

    def write(self, path, data, mode, owner):
        self.files[str(path)] = (data, mode, owner)

    def remove(self, *paths):
        for path in paths:
            self.files.pop(str(path), None)

    def run(self, argv, *, timeout, data=b""):
        if self.silent:
            raise EnvironmentLacks("host 'rack' does not answer over SSH")
        if argv[2] == hooked._AGAIN:
            return f"{self.daemon}\n"
        self.files.pop(argv[4], None)
        return ""

    def close(self):
        pass


def test_it_is_put_beside_others_told_and_taken_away():
    machine, home = Machine(), Path("/srv/site")
    told = hooked.put(machine, home)
    [(path, found)] = machine.files.items()
    assert path.startswith("/etc/libvirt/hooks/libxl.d/philoxenia-")
    assert found == (Path(hook.__file__).read_bytes(), 0o755, 0)
    assert path in told and "libvirtd was started again" in told
    assert hooked.path(Path("/srv/other")) != hooked.path(home), "another home has its own"
    for _ in range(2):
        hooked.take(machine, home)
        assert machine.files == {}


def test_where_nobody_would_take_note_of_it_nothing_is_left():
    machine = Machine(daemon="")
    with pytest.raises(
        EnvironmentLacks, match="neither libvirtd nor virtxend is a service"
    ) as caught:
        hooked.put(machine, Path("/srv/site"))
    assert machine.files == {} and "--no-hook" in caught.value.hint


@pytest.mark.parametrize("silent", [False, True])
def test_a_machine_is_forgotten_whether_it_answers_or_not(silent, tmp_path, monkeypatch):
    site, machine = Site(tmp_path), Machine()
    host = replace(LAB, name="rack", kind="libvirt", folder="", driver="xen", hook=True)
    site.ledger.put_host(host)
    hooked.put(machine, site.home)
    machine.silent = silent
    monkeypatch.setattr(site, "reach", lambda _: machine)
    left = registry.end(site, host)
    assert bool(left) is silent and bool(machine.files) is silent
    assert site.ledger.hosts() == []
    site.ledger.close()
