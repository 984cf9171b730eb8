"""The recipes that we ship, on guests of a cluster: what each of them is for is done once for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.vm.conftest import Phx, cluster_text, eventually

pytestmark = pytest.mark.vm

SIZE = """    cpu: {guarantee: 0.3, limit: 1}
    memory: 256M
    network: {guarantee: 10Mbit, limit: 200Mbit}
"""


def ssh(phx: Phx, node: str, *command: str, status: int | None = 0) -> str:
    return phx.run("ssh", node, "--", *command, status=status, timeout=90).stdout


@pytest.fixture(scope="module")
def launch(
    image: Phx, sandbox: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., None]]:
    """launch(name, role=image, ...) has a cluster ready, one node for each role; all are gone afterwards."""
    names: list[str] = []

    def up(name: str, net: str, **roles: str) -> None:
        image.run("build", *sorted(set(roles.values())), timeout=600)
        text = "".join(f"  {role}:\n    image: {of}\n{SIZE}" for role, of in roles.items())
        file = tmp_path_factory.mktemp(name) / f"{name}.yaml"
        file.write_text(cluster_text(name, text, network=net))
        names.append(name)
        image.run("up", file, "--host", sandbox)

    yield up
    for name in names:
        image.run("down", name, status=None)


def test_a_client_writes_to_the_file_server_and_comes_back_after_a_reboot(
    image: Phx, launch: Callable[..., None]
) -> None:
    launch("files", "10.83.0.0/24", server="nfs-server", client="nfs-client")
    mounted = ssh(image, "client-1", "findmnt -n -o SOURCE,FSTYPE /home").split()
    address = image.nodes()["server-1"]["address"]
    assert mounted == [f"{address}:/home", "nfs4"]
    ssh(image, "client-1", "echo hello > /home/word; chown 1234 /home/word; sync /home/word")
    assert ssh(image, "server-1", "cat /home/word; stat -c %u /home/word") == "hello\n1234\n"
    ssh(image, "client-1", "touch /run/first; systemctl reboot", status=None)
    listening = ssh(image, "server-1", "ss -Hltn | awk '{print $4}' | grep -v :22 | sort -u")
    assert {line.rpartition(":")[2] for line in listening.split()} == {"2049"}, "version 4 alone"

    def back() -> bool:
        """The first boot is over: its files in /run are gone, and the mount is there again."""
        look = "test ! -e /run/first && mountpoint -q /home && cat /home/word"
        done = image.run("ssh", "client-1", "--", look, status=None, timeout=60)
        return done.stdout == "hello\n"

    eventually("the client mounts again", back, 90)


@pytest.mark.parametrize("name", ["squid", "jupyter"])
def test_an_appliance_passes_its_own_tests(image: Phx, sandbox: str, name: str) -> None:
    """squid's cluster has web in it; the others are tested here by what is above, and on their trees by the build."""
    image.run("build", "python", "web", name, timeout=600)
    image.run("test", name, "--host", sandbox, timeout=400)
