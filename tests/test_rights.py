"""Who may build here, and what is said to who may not."""

from __future__ import annotations

import pytest

from builder.errors import EnvironmentLacks
from builder.layers import LayerStore
from builder.rights import lacks

RANGE = "ada:100000:65536\n"

CASES = [
    (False, RANGE, RANGE, "newuidmap and newgidmap are missing", "apt-get install uidmap"),
    (True, "", "", "ada has no 65535 ids in /etc/subuid and /etc/subgid",
     "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ada, as root; a range that nobody else has"),
    (True, "1000:100000:65536\n", "eve:1:65536\n", "ada has no 65535 ids in /etc/subgid",
     "usermod --add-subgids 100000-165535 ada, as root; a range that nobody else has"),
    (True, "ada:100000:1000\n", RANGE, "ada has no 65535 ids in /etc/subuid",
     "usermod --add-subuids 100000-165535 ada, as root; a range that nobody else has"),
    (True, "# lent\nada:x\n", RANGE, "ada has no 65535 ids in /etc/subuid",
     "usermod --add-subuids 100000-165535 ada, as root; a range that nobody else has"),
    (True, RANGE, RANGE, "the kernel refuses: unshare: unshare failed: Operation not permitted",
     "needed: Linux 5.11, and user namespaces for users (sysctl user.max_user_namespaces, "
     "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); else run it with sudo"),
]  # fmt: skip


@pytest.mark.parametrize(("tools", "subuid", "subgid", "what", "hint"), CASES)
def test_why_there_are_no_builds_without_root(tools, subuid, subgid, what, hint):
    said = "before\nunshare: unshare failed: Operation not permitted\n"
    error = lacks("ada", 1000, tools, subuid, subgid, said)
    assert (error.what, error.hint) == (f"builds without root do not work here: {what}", hint)


def test_layers_of_two_owners_are_not_mixed(tmp_path, monkeypatch):
    LayerStore(tmp_path)
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 7)
    with pytest.raises(EnvironmentLacks, match="layers of root and of other users cannot be mixed"):
        LayerStore(tmp_path)
