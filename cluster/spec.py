"""cluster.yaml turned into a checked ClusterSpec: roles, counts, images, guarantees, one private network, data.

What the file names besides itself (templates, data files) is read once and put in its place, so that the ledger can
keep the whole as one text and plan from it again.
"""

from __future__ import annotations

import copy
import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from builder import units
from builder.document import Document, Place, Written, by_line, check, read
from builder.errors import InputError, Problem, close, shown
from builder.language.chain import reason
from builder.language.context import Deployment
from builder.language.deployment import told
from builder.language.kinds import FactName, Inside, Many, Name, Rate, Seconds, Size, Throughput
from builder.language.requires import Requires
from builder.language.scope import Scope
from cluster.elements import Crash
from cluster.hosts.host import cpu_list, cpu_text
from contextualize import declared as declarations
from contextualize.declared import Declared


def cores(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(
            f"{shown(value)} is not a number of cores; write cores without a unit, as in 0.5"
        )
    if not 0.01 <= value <= 4096:
        raise ValueError(f"{value!r} cores cannot be given; write 0.01 to 4096")
    return round(value * 1000)


def _net(text: object) -> ipaddress.IPv4Network:
    try:
        net = ipaddress.IPv4Network(str(text))
    except ValueError as cause:
        raise ValueError(
            f"{shown(text)} is not a network ({cause}); write one as in 10.7.0.0/24"
        ) from None
    if not net.is_private or not 8 <= net.prefixlen <= 29:
        raise ValueError(f"{shown(text)} is not usable; write a private network between /8 and /29")
    return net


def _address(text: object) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(str(text))
    except ValueError:
        raise ValueError(f"{shown(text)} is not an address; write one as in 10.7.0.10") from None


def _key(text: str) -> str:
    words = text.split()
    if len(words) < 2 or not words[0].startswith(("ssh-", "ecdsa-", "sk-")) or "\n" in text:
        raise ValueError("not a public key; write one OpenSSH line, as in ~/.ssh/id_ed25519.pub")
    return text


def _cpus(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{shown(value)} is not a list of CPUs; write one as in 0-1 or 0,2")
    return cpu_text(cpu_list(str(value)))


LONGEST = 60
"""Letters that CLUSTER.NODE may have: it is in the path of a socket, which holds 107 bytes."""

Cores = Annotated[
    int,
    BeforeValidator(cores),
    WithJsonSchema({"type": "number", "minimum": 0.01, "maximum": 4096}),
]
"""Thousandths of a core."""
Cpus = Annotated[
    str,
    BeforeValidator(_cpus),
    WithJsonSchema(
        {"type": ["string", "integer"], "pattern": r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$"}
    ),
]
"""Numbers of a host's CPUs, in their shortest form."""
_DOTTED = r"[0-9]{1,3}(\.[0-9]{1,3}){3}"
Net = Annotated[
    ipaddress.IPv4Network,
    BeforeValidator(_net),
    WithJsonSchema({"type": "string", "pattern": f"^{_DOTTED}/([89]|1[0-9]|2[0-9])$"}),
]
Address = Annotated[
    ipaddress.IPv4Address,
    BeforeValidator(_address),
    WithJsonSchema({"type": "string", "pattern": f"^{_DOTTED}$"}),
]
PublicKey = Annotated[
    str,
    AfterValidator(_key),
    WithJsonSchema({"type": "string", "pattern": "^(ssh-|ecdsa-|sk-)[^ ]+ .+$"}),
]


Owner = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._@+-]{0,63}$")]
"""A user, a project, a virtual organization: a word without blanks."""


class Cpu(Written):
    """Cores: what the node gets when everybody wants all, and what it never passes."""

    guarantee: Cores = Field(description="cores that are always there, as in 0.5")
    limit: Cores = Field(description="cores that are never passed, as in 1")
    pin: Cpus = Field(
        "", description="CPUs of the host that the node stays on, as in 0-1; else all"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Cpu:
        if self.guarantee > self.limit:
            raise ValueError(
                "the guarantee is above the limit; raise the limit or lower the guarantee"
            )
        return self


class Memory(Written):
    """What a node has, and how far that can be raised while it runs. Written as one size, it is both."""

    min: Size = Field(description="memory that the node has, as in 512M")
    max: Size = Field(description="how far `phx set` can raise it while the node runs, as in 1G")

    @model_validator(mode="after")
    def _ordered(self) -> Memory:
        if self.min > self.max:
            raise ValueError("min is above max; raise max or lower min")
        return self


class Bandwidth(Written):
    """Bits per second of one direction."""

    guarantee: Rate = Field(description="rate that is always there, as in 20Mbit")
    limit: Rate = Field(description="rate that is never passed, as in 100Mbit")

    @model_validator(mode="after")
    def _ordered(self) -> Bandwidth:
        if self.guarantee > self.limit:
            raise ValueError(
                "the guarantee is above the limit; raise the limit or lower the guarantee"
            )
        return self


class Network(Written):
    """Bandwidth: one guarantee and limit for each direction, or those of `in` (to the node) and of `out` (from it)."""

    guarantee: Rate | None = Field(
        None, description="rate that is always there, in each direction, as in 20Mbit"
    )
    limit: Rate | None = Field(
        None, description="rate that is never passed, in each direction, as in 100Mbit"
    )
    in_: Bandwidth | None = Field(
        None, alias="in", description="to the node, as in {guarantee: 20Mbit, limit: 100Mbit}"
    )
    out: Bandwidth | None = Field(
        None, description="from the node, as in {guarantee: 20Mbit, limit: 100Mbit}"
    )

    @model_validator(mode="after")
    def _whole(self) -> Network:
        each, apart = {"guarantee", "limit"}, {"in", "out"}
        told = {k.rstrip("_") for k, value in self if value is not None}
        if told & each and told & apart:
            raise ValueError(
                "both ways at once; write {guarantee, limit} for each direction, or {in, out}"
            )
        missing = (apart if told & apart else each) - told
        if missing:
            raise ValueError(
                f"'{min(missing)}' is missing; write {{guarantee, limit}} for each direction, or {{in, out}}"
            )
        if self.guarantee is not None and self.limit is not None and self.guarantee > self.limit:
            raise ValueError(
                "the guarantee is above the limit; raise the limit or lower the guarantee"
            )
        return self

    @property
    def inward(self) -> Bandwidth:
        return self.in_ or self._each

    @property
    def outward(self) -> Bandwidth:
        return self.out or self._each

    @property
    def _each(self) -> Bandwidth:
        return Bandwidth.model_construct(None, **self.model_dump(include={"guarantee", "limit"}))


class Disk(Written):
    """A node's disk, and what it may read and write in a second. Written as one size, it has no limits."""

    size: Size = Field(
        4 << 30,
        description="size of the disk, as in 4G; at least the image's",
        json_schema_extra={"default": "4G"},
    )
    throughput: Throughput | None = Field(
        None, description="bytes that are read and written in a second at most, as in 20M/s"
    )
    iops: int | None = Field(
        None, description="reads and writes in a second at most, as in 500", ge=1, le=1_000_000_000
    )


def _plain(model: type[Written], *keys: str) -> BeforeValidator:
    """A size alone stands for a mapping in which `keys` have it."""

    def read(value: object) -> object:
        if isinstance(value, dict | model):
            return value
        units.size(value)
        return dict.fromkeys(keys, value)

    return BeforeValidator(read, json_schema_input_type=Size | model)


class DataFile(Written):
    """Data from a file beside the cluster file."""

    file: Inside = Field(description="a text file below the cluster file's folder")


class Deadlines(Written):
    """How long a node may take from one stage to the next; the cluster's deadline holds besides."""

    booted: Seconds | None = Field(None, description="from its start to its agent, as in 2m")
    contextualized: Seconds | None = Field(
        None, description="from booted until its hooks have run, waiting for others included"
    )
    healthy: Seconds | None = Field(None, description="from contextualized until all is well")


class Role(Written):
    """What all nodes of one role have in common."""

    count: int = Field(1, description="how many nodes, 1 to 10000", ge=1, le=10000)
    min: int | None = Field(
        None,
        description="with so many healthy the cluster is ready (degraded); else all",
        ge=1,
        le=10000,
    )
    image: str = Field(description="an image of the catalog: name, name:version or id")
    cpu: Cpu = Field(description="as in {guarantee: 0.5, limit: 1}, in cores")
    memory: Annotated[Memory, _plain(Memory, "min", "max")] = Field(
        description="memory of each node, as in 512M, or in {min: 512M, max: 1G}"
    )
    network: Network = Field(
        description="as in {guarantee: 20Mbit, limit: 100Mbit}, or one of these each for in and out"
    )
    disk: Annotated[Disk, _plain(Disk, "size")] = Field(
        default_factory=lambda: Disk.model_construct(size=4 << 30),
        description="each node's disk, as in 4G, or in {size: 4G, throughput: 20M/s, iops: 500}",
        json_schema_extra={"default": "4G"},
    )
    address: Address | None = Field(
        None, description="address of the first node; the others follow it"
    )
    ssh_to: Many[Name] = Field(
        (), description="roles whose nodes this role's root may enter by SSH"
    )
    virtualization: Literal["auto", "pv", "pvh", "hvm"] = Field(
        "auto", description="what its nodes are on a Xen host; auto chooses what host and image can"
    )
    channel: Literal["virtio", "https"] = Field(
        "virtio",
        description="how its agents are reached: a device, or HTTPS on the private network",
    )
    source: Literal["own", "any"] = Field(
        "own",
        description="the addresses that its nodes may send under: their own, or any (a router's)",
    )
    crash: Crash = Field(
        "destroy",
        description="what becomes of a node whose kernel crashes: it is off, or it starts again",
    )
    autostart: bool = Field(
        False, description="whether its nodes start again when their host does, as after its reboot"
    )
    negotiable: dict[str, str] = Field(
        default_factory=dict,
        description="what its nodes may ask for from inside, as in {cpu.limit: 0.2..0.8}",
    )
    context: Deployment = Field(
        default_factory=Deployment, description="late facts and files, besides those of its image"
    )
    requires: Requires = Field(
        default_factory=Requires, description="what its host must be, besides the cluster's own"
    )

    @model_validator(mode="after")
    def _enough(self) -> Role:
        if self.min is not None and self.min > self.count:
            raise ValueError(
                f"min is {self.min} and count is {self.count}; lower min or raise count"
            )
        return self

    @property
    def least(self) -> int:
        """How many of its nodes must be healthy."""
        return self.count if self.min is None else self.min


class ClusterSpec(Written):
    """One cluster.yaml."""

    cluster: Name = Field(description="the cluster's name")
    host: Name | None = Field(
        None, description="the host to use; the default is the one that is there"
    )
    network: Net | None = Field(
        None, description="private network, as in 10.7.0.0/24; else one is chosen"
    )
    owner: Owner | None = Field(
        None, description="whose account it is on; else the user's who launched it"
    )
    uplink: bool = Field(
        False, description="whether its network goes on through the host's uplink, shared by shares"
    )
    requires: Requires = Field(
        default_factory=Requires, description="what the host must be, as in {hypervisor: xen}"
    )
    roles: dict[Name, Role] = Field(description="roles by name", min_length=1)
    authorized_keys: Many[PublicKey] = Field(
        (), description="public keys that may enter every node"
    )
    deadline: Seconds = Field(
        300,
        description="how long all nodes may take to be ready, as in 5m",
        json_schema_extra={"default": "5m"},
    )
    deadlines: Deadlines = Field(
        default_factory=Deadlines, description="how long each stage of a node may take"
    )
    data: dict[FactName, str | DataFile] = Field(
        default_factory=dict, description="texts by name, for templates and hooks"
    )
    hook_limit: Seconds = Field(
        300, description="how long one hook may take, as in 2m", json_schema_extra={"default": "5m"}
    )

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """(node, role) of every node: ROLE-1 to ROLE-N, roles in the order of the file."""
        return tuple(
            (f"{role}-{n}", role) for role, r in self.roles.items() for n in range(1, r.count + 1)
        )

    @property
    def texts(self) -> dict[str, str]:
        """`data`, every file read."""
        return {name: text for name, text in self.data.items() if isinstance(text, str)}


def schema() -> dict[str, Any]:
    """JSON Schema of cluster.yaml, for editors."""
    return ClusterSpec.model_json_schema(by_alias=True)


def natural(name: str) -> tuple[str, int]:
    """Sort key under which worker-2 comes before worker-10.

    >>> sorted(["w-10", "w-2"], key=natural)
    ['w-2', 'w-10']
    """
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isdigit() else (name, 0)


def load(
    path: Path, load: Callable[[Path], bytes] = Path.read_bytes
) -> tuple[ClusterSpec, Document]:
    """The cluster file, with every file that it names in its place.

    Raises InputError with all that is wrong in it, whatever the hosts and the catalog hold.
    """
    document = read(path, load)
    check(document, ClusterSpec)
    return checked(_inlined(document, path.parent, load))


def text_of(document: Document) -> str:
    """A document as one text that `parse` reads again."""
    return json.dumps(document.data, indent=1, default=str)


def scaled(document: Document, counts: Mapping[str, int]) -> Document:
    """The same with other counts. InputError for a role that it does not have."""
    data = copy.deepcopy(document.data)
    unknown = [name for name in counts if name not in data["roles"]]
    if unknown:
        raise InputError(
            Problem("", f"no role '{name}'", close(name, data["roles"])) for name in unknown
        )
    for name, count in counts.items():
        data["roles"][name]["count"] = count
    return replace(document, data=data)


def _inlined(document: Document, folder: Path, load: Callable[[Path], bytes]) -> Document:
    data = copy.deepcopy(document.data)
    problems: list[Problem] = []

    def text(place: Place, name: str) -> str:
        try:
            return load(folder / name).decode()
        except OSError as cause:
            problems.append(document.problem(place, f"{folder / name}: {reason(cause)}"))
        except UnicodeDecodeError:
            problems.append(document.problem(place, f"{folder / name} is not UTF-8"))
        return ""

    for name, value in data.get("data", {}).items():
        if isinstance(value, dict):
            data["data"][name] = text(("data", name, "file"), value["file"])
    for name, role in data["roles"].items():
        for n, file in enumerate((role.get("context") or {}).get("files", ())):
            if "template" in file:
                place = ("roles", name, "context", "files", n, "template")
                file["content"] = text(place, file.pop("template"))
    if problems:
        raise InputError(by_line(problems))
    return replace(document, data=data)


def declared(spec: ClusterSpec, document: Document, role: str) -> Declared:
    """What the cluster file itself says of the role's deployment."""
    problems: list[Problem] = []
    scope = Scope(document, {}, problems)
    at: Place = ("roles", role, "context")
    found = told(scope, spec.roles[role].context, lambda *_: b"", at)
    if problems:
        raise InputError(by_line(problems))
    return declarations.declared(found)


def checked(document: Document) -> tuple[ClusterSpec, Document]:
    """The spec of a document whose files are in their places. InputError with all that is wrong in it."""
    spec = check(document, ClusterSpec)
    problems: list[Problem] = []
    for name, role in spec.roles.items():
        longest = f"{spec.cluster}.{name}-{role.count}"
        if len(longest) > LONGEST:
            what = f"the name {longest} has {len(longest)} letters, {LONGEST} are allowed"
            hint = "shorten the cluster's name or the role's"
            problems.append(document.problem(("roles", name), what, hint))
        for n, other in enumerate(role.ssh_to):
            if other not in spec.roles:
                place = ("roles", name, "ssh_to", n)
                problems.append(
                    document.problem(place, f"no role '{other}'", close(other, spec.roles))
                )
        problems += _negotiable_problems(name, role, document)
    problems += _address_problems(spec, document)
    if problems:
        raise InputError(by_line(problems))
    return spec, document


def _negotiable_problems(name: str, role: Role, document: Document) -> list[Problem]:
    from cluster.contract.negotiable import bounds  # its numbers are read as ours are

    try:
        bounds(role.negotiable)
    except InputError as cause:
        return [
            document.problem(("roles", name, "negotiable", p.where), p.what, p.hint)
            for p in cause.problems
        ]
    return []


def _address_problems(spec: ClusterSpec, document: Document) -> list[Problem]:
    problems: list[Problem] = []
    taken: dict[int, str] = {}
    room = 2 ** (32 - spec.network.prefixlen) - 3 if spec.network else 253
    if len(spec.names) > room:
        what = f"{len(spec.names)} nodes do not fit: the network has {room} addresses for nodes"
        problems.append(
            document.problem(("network",), what, "write a larger network, as in 10.7.0.0/16")
        )
    for name, role in spec.roles.items():
        if role.address is None:
            continue
        place = ("roles", name, "address")
        if spec.network is None:
            problems.append(document.problem(place, "needs 'network'", "name the network it is in"))
            continue
        for n in range(role.count):
            number = int(role.address) + n
            address = ipaddress.IPv4Address(number)
            gate = spec.network.broadcast_address - 1
            if address not in spec.network or address in (
                spec.network.network_address, spec.network.broadcast_address, gate,
            ):  # fmt: skip
                what = f"{address} ({name}-{n + 1}) is not for nodes in {spec.network}"
                hint = f"use {spec.network.network_address + 1} to {gate - 1}; {gate} is the host's"
                problems.append(document.problem(place, what, hint))
                break
            if number in taken:
                what = f"{address} ({name}-{n + 1}) is {taken[number]}'s already"
                problems.append(
                    document.problem(place, what, "leave room for every node's address")
                )
                break
            taken[number] = f"{name}-{n + 1}"
    return problems
