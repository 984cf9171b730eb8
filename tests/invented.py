"""Values that tests share: an image, hosts, a cluster file. All invented; nothing here exists anywhere."""

from __future__ import annotations

import base64
import hashlib
import io
import ipaddress
import re
import tarfile
import zipfile
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType

from builder.document import check, parse
from builder.images.manifest import Manifest, PackageFact
from builder.steps import Locked
from cluster.guarantee import Guarantee
from cluster.hosts.fake import FakeHypervisor
from cluster.hosts.host import Host
from cluster.hosts.port import Seen
from cluster.plan import ClusterPlan, draw
from cluster.spec import ClusterSpec
from contextualize.identity import Secret

SECRET = Secret(b"an invented secret of 32 bytes !")

IMAGE = Manifest(
    id="1f" * 32, name="worker", version="1.0", summary="an invented image", size=1 << 30,
    stored=300 << 20, kernel="6.1.0-99-cloud-amd64", cmdline="net.ifnames=0 loglevel=4",
    digests=(("disk.raw", "aa" * 32), ("initrd", "bb" * 32), ("vmlinuz", "cc" * 32)),
    packages=(PackageFact("base-files", "12.4", "amd64", "base-files"),),
    plan="2e" * 32, recipe_digest="3d" * 32, parameters=(("port", 80), ("tls", False)),
    layers=("4c" * 32, "5b" * 32), epoch=1_700_000_000, built="2026-01-02T03:04:05+00:00",
    capabilities=("compute",), max_age=2_592_000,
    papers=(("inventory.json", "dd" * 32), ("provenance.json", "ee" * 32)),
)  # fmt: skip

FOLDER = PurePosixPath("/var/lib/libvirt/images") / IMAGE.id[:16]

LAB = Host(
    name="lab", kind="sandbox", uri="qemu+unix:///system?socket=/nonexistent/run/lab/libvirt-sock",
    folder="/nonexistent/hosts/lab", run="/nonexistent/run/lab", netns="phx-lab",
    cpu=3600, memory=7 << 30, network=10**9, accelerator="", partition="/phx-lab",
    catalog="/nonexistent/images",
)  # fmt: skip
"""A sandbox host that does not run."""


def promise(
    cpu: int = 500, limit: int = 1500, memory: int = 512 << 20, network: int = 20_000_000,
    most: int = 100_000_000, disk: int = 4 << 30, **more: int,
) -> Guarantee:  # fmt: skip
    """A guarantee that is the same in both directions, with all its memory from the start."""
    told = {
        "cpu_guarantee": cpu, "cpu_limit": limit, "memory_min": memory, "memory_max": memory,
        "in_guarantee": network, "in_limit": most, "out_guarantee": network, "out_limit": most, "disk": disk,
    }  # fmt: skip
    return Guarantee(**{**told, **more})


GUARANTEE = promise()

CLUSTER = """\
cluster: demo
network: 10.7.0.0/24
roles:
  head:
    image: worker
    cpu: {guarantee: 0.5, limit: 1}
    memory: 512M
    network: {guarantee: 20Mbit, limit: 100Mbit}
    ssh_to: [worker]
  worker:
    count: 2
    image: worker
    cpu: {guarantee: 0.5, limit: 2}
    memory: 1G
    network: {guarantee: 20Mbit, limit: 100Mbit}
"""


def spec(text: str = CLUSTER) -> ClusterSpec:
    return check(parse(text, "demo.yaml"), ClusterSpec)


def drawn(
    text: str = CLUSTER, host: Host = LAB, secret: Secret = SECRET, image: Manifest = IMAGE
) -> ClusterPlan:
    from cluster.spec import declared

    net = ipaddress.IPv4Network("10.7.0.0/24")
    document = parse(text, "demo.yaml")
    parsed = check(document, ClusterSpec)
    said = {role: declared(parsed, document, role) for role in parsed.roles}
    return draw(parsed, host, net, {"worker": (image, FOLDER)}, secret, said)


def launched(plan: ClusterPlan) -> tuple[Seen, ...]:
    """What a hypervisor shows after all of `plan` was launched and became ready."""
    from cluster import domain

    fake = FakeHypervisor()
    for node in plan.nodes:
        fake.start(node.domain, domain.xml(node.machine, node.context))
        fake.vouch(node.domain)
    return fake.observe()


def masked(text: str) -> str:
    """The text with each private key as its digest: no golden file looks like a key that leaked."""

    def digest(found: re.Match[str]) -> str:
        return f"<private key {hashlib.sha256(found[0].encode()).hexdigest()[:16]}>"

    marks = "-----{} OPENSSH PRIVATE KEY-----"
    return re.sub(f"{marks.format('BEGIN')}.*?{marks.format('END')}", digest, text, flags=re.DOTALL)


def deb(
    name: str,
    version: str = "1.0",
    fields: str = "",
    scripts: Mapping[str, str] = MappingProxyType({}),
    files: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """A small file that reads as a Debian package, deb(5): the same bytes each time, at first installing nothing.

    fields   more lines of its control file, each with its end
    scripts  its maintainer scripts, by name
    files    what it installs; a link's text begins with "-> ". Folders above a file come before it
    """
    control = (
        f"Package: {name}\nVersion: {version}\nArchitecture: all\n{fields}Description: invented\n"
    )
    held = {"control": control, **scripts}
    members = (
        (b"debian-binary", b"2.0\n"),
        (b"control.tar", _tar({f"./{n}": text for n, text in held.items()}, set(scripts))),
        (b"data.tar", _tar(files, folders=True) if files else bytes(1024)),
    )
    data = b"!<arch>\n"
    for member, content in members:
        data += b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (member, 0, 0, 0, b"100644", len(content))
        data += content + b"\n" * (len(content) % 2)
    return data


def _tar(texts: Mapping[str, str], programs: Collection[str] = (), folders: bool = False) -> bytes:
    packed, made = io.BytesIO(), set[PurePosixPath]()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, text in texts.items():
            above = [p for p in reversed(PurePosixPath(path).parents) if p.name and p.name != ".."]
            for folder in above if folders else ():
                if folder not in made and str(folder) not in texts:
                    entry = tarfile.TarInfo(str(folder))
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(entry)
                made.add(folder)
            entry = tarfile.TarInfo(path)
            if path.removeprefix("./") in programs:
                entry.mode = 0o755
            if text.startswith("-> "):
                entry.type, entry.linkname = tarfile.SYMTYPE, text[3:]
                tar.addfile(entry)
                continue
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def locked(name: str, version: str = "1.0") -> Locked:
    data = deb(name, version)
    return Locked(name, version, "all", hashlib.sha256(data).hexdigest(), len(data))


def wheel(
    name: str, version: str, requires: tuple[str, ...] = (), files: dict[str, str] | None = None
) -> bytes:
    """A small wheel (PEP 427) with a module, a program of its name, and a record: the same bytes each time."""
    info = f"{name}-{version}.dist-info"
    held = {
        f"{name}/__init__.py": f"version = {version!r}\nwords = {{'of', 'a', 'set'}}\ndef main(): print(version)\n"
    }
    held |= files or {}
    held[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {r}\n" for r in requires)
    )
    held[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: invented\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    held[f"{info}/entry_points.txt"] = f"[console_scripts]\n{name} = {name}:main\n"
    record = ""
    for path, text in held.items():
        digest = (
            base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        )
        record += f"{path},sha256={digest},{len(text)}\n"
    held[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in held.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return packed.getvalue()
