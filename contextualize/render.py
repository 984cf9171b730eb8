"""What each node is told: its seed, and the context document that late facts complete. All templates are rendered here.

A document is JSON. `complete` says whether everything that the node's role requires is in it; until then it holds
identity only (names, keys, who may enter), and the agent waits for the next. `digest` covers all of it but the
generation, so a change elsewhere in the cluster leaves a node's digest, and the node, alone.

A template sees:
    this        this node: name, short, full, role, address, cpus, memory (MiB)
    cluster     the cluster's name
    roles       role -> its nodes, each as `this` is; only roles that this role sees
    nodes       all of these nodes, in the order of their names
    facts       required fact -> text, or of several nodes: node -> text
    data        the cluster file's data, by name
    parameters  what the image was built with
An unknown name is an error, as is a fact that is not required. Templates run in jinja2's sandbox: a manifest may come
from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contextualize.context import Context, Member, authorized_keys, hosts, known_hosts
from contextualize.exchange import Declared, Fact, File

if TYPE_CHECKING:
    import jinja2
    import jinja2.nodes

VERSION = 2
"""Of the seed and the documents; the agent refuses others."""
NAMES = ("this", "cluster", "roles", "nodes", "facts", "data", "parameters")


class TemplateError(ValueError):
    """A template that cannot be rendered: which file, and why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A node in a template."""

    name: str
    role: str
    address: str
    full: str
    cpus: int
    memory: int

    @property
    def short(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name


class Documents:
    """The documents of one generation. What nodes of a role share is rendered once."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._members = {m.name: m for m in context.members}
        self._seen: dict[str, tuple[Member, ...]] = {}
        self._shared: dict[str, list[dict[str, Any]]] = {}
        self._peers = {
            m.name: Peer(m.name, m.role, m.address, f"{m.name}.{context.cluster}", m.cpus, m.memory)
            for m in context.members
        }
        self._environment: jinja2.Environment | None = None
        self._templates: dict[str, jinja2.Template] = {}

    def declared(self, role: str) -> Declared:
        return self.context.declared.get(role) or Declared()

    def sees(self, role: str) -> tuple[Member, ...]:
        """The members that nodes of the role know by name, besides themselves."""
        if role not in self._seen:
            known = self.declared(role).sees
            self._seen[role] = tuple(
                m for m in self.context.members if known is None or m.role in known
            )
        return self._seen[role]

    def base(self, node: str) -> str:
        """Digest of all that the node's document is made of but late facts: while it is the same, so is the node."""
        member = self._members[node]
        role = member.role
        told = [
            self._identity_files(member), [self._plain(m) for m in self._around(member)],
            repr(self.declared(role)), dict(self.context.data), self._parameters(role),
        ]  # fmt: skip
        return _digest(told)

    def seed(self, node: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """What the agent reads first: who the node is, its network, and the document of this moment. Holds secrets."""
        return {**self.identity(node), "context": dict(document)}

    def identity(self, node: str) -> dict[str, Any]:
        """The part of the seed that never changes while the node lives."""
        me = self._members[node]
        return {
            "version": VERSION,
            "cluster": self.context.cluster,
            "node": node,
            "role": me.role,
            "machine_id": me.identity.machine_id,
            "token": me.identity.token.reveal().decode(),
            "hook_limit": self.context.hook_limit,
            "nics": [{"mac": me.identity.mac, "address": f"{me.address}/{me.prefix}"}],
        } | ({"https": dict(https)} if (https := self.context.https.get(me.role)) else {})

    def document(
        self,
        node: str,
        facts: Mapping[str, Mapping[str, Fact]] | None = None,
        missing: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The node's document.

        facts    what its role may read now: fact -> node -> Fact (`Exchange.facts`)
        missing  what it still waits for, in words; the document is complete when there is nothing
        Raises TemplateError.
        """
        me = self._members[node]
        declared = self.declared(me.role)
        found: dict[str, Any] = {
            "complete": not missing,
            "missing": list(missing),
            "peers": [self._plain(m) for m in self._around(me)],
            "files": self._identity_files(me),
            "provides": [
                {"name": p.name, "how": p.how, "what": p.what, "early": p.early}
                for p in declared.provides
            ],
            "healthy": [list(p) for p in declared.probes],
            "data": dict(self.context.data),
            "facts": {},
        }
        if not missing:
            found["facts"] = {
                name: {
                    "one": self._of_one(declared, name),
                    "secret": any(f.secret for f in of.values()),
                    "values": {n: _packed(f.value or b"") for n, f in sorted(of.items())},
                }
                for name, of in sorted((facts or {}).items())
            }
            found["files"] = [*found["files"], *self._role_files(me, declared, facts or {})]
        found["digest"] = _digest(found)
        found["generation"] = self.context.generation
        return found

    # --- what it is made of

    def _around(self, me: Member) -> Sequence[Member]:
        seen = self.sees(me.role)
        return seen if self.declared(me.role).sees is None or me in seen else (me, *seen)

    @staticmethod
    def _plain(m: Member) -> dict[str, str]:
        return {"name": m.name, "role": m.role, "address": m.address}

    def _identity_files(self, me: Member) -> list[dict[str, Any]]:
        around = self._around(me)
        if around is self.sees(me.role):
            shared = self._shared.get(me.role)
            if shared is None:
                shared = self._shared[me.role] = self._common(me.role, around)
        else:
            shared = self._common(me.role, around)
        key = me.identity.host_key
        files = [
            ("/etc/hostname", f"{me.name}\n", "0644"),
            ("/etc/ssh/ssh_host_ed25519_key", key.private.reveal().decode(), "0600"),
            ("/etc/ssh/ssh_host_ed25519_key.pub", f"{key.public} {me.name}\n", "0644"),
        ]
        if dict(self.context.ssh_to).get(me.role):
            user_key = me.identity.user_key.private.reveal().decode()
            files.append(("/root/.ssh/id_ed25519", user_key, "0600"))
        return [*(_file(*f) for f in files), *shared]

    def _common(self, role: str, around: Sequence[Member]) -> list[dict[str, Any]]:
        cluster = self.context.cluster
        return [
            _file("/etc/hosts", hosts(cluster, around), "0644"),
            _file("/etc/ssh/ssh_known_hosts", known_hosts(cluster, around), "0644"),
            _file("/root/.ssh/authorized_keys", authorized_keys(self.context, role), "0600"),
        ]

    def _parameters(self, role: str) -> dict[str, Any]:
        return dict(self.context.parameters.get(role, {}))

    @staticmethod
    def _of_one(declared: Declared, name: str) -> bool:
        return all(n.of == "one" for n in declared.requires if n.fact == name)

    def _role_files(
        self, me: Member, declared: Declared, facts: Mapping[str, Mapping[str, Fact]]
    ) -> Iterator[dict[str, Any]]:
        if not declared.files:
            return
        scope = self._scope(me, declared, facts)
        late = {n.fact for n in declared.requires if n.late and n.fact} - facts.keys()
        for file in declared.files:
            if late and late & _facts_of(file):
                continue  # it comes with the fact, as a change
            entry: dict[str, Any] = {"path": file.path, "mode": file.mode, "owner": file.owner}
            if file.reload:
                entry["reload"] = list(file.reload)
            if file.text is None:
                value = next(iter(facts.get(file.fact, {}).values()), None)
                if value is None:
                    raise TemplateError(f"{file.path}: the fact {file.fact} is not there")
                entry |= _packed(value.value or b"")
            else:
                entry["text"] = self._render(file, scope)
            yield entry

    def _scope(
        self, me: Member, declared: Declared, facts: Mapping[str, Mapping[str, Fact]]
    ) -> dict[str, Any]:
        around = [self._peers[m.name] for m in self._around(me)]
        roles: dict[str, list[Peer]] = {m.role: [] for m in self.context.members}
        for peer in around:
            roles[peer.role].append(peer)
        texts: dict[str, Any] = {}
        for name, of in facts.items():
            values = {n: (f.value or b"").decode(errors="replace") for n, f in of.items()}
            texts[name] = next(iter(values.values())) if self._of_one(declared, name) else values
        return {
            "this": self._peers[me.name], "cluster": self.context.cluster, "roles": roles,
            "nodes": around, "facts": texts, "data": dict(self.context.data),
            "parameters": self._parameters(me.role),
        }  # fmt: skip

    def _render(self, file: File, scope: Mapping[str, Any]) -> str:
        import jinja2

        assert file.text is not None
        try:
            template = self._templates.get(file.text)
            if template is None:
                template = self._templates[file.text] = self._jinja().from_string(file.text)
            return template.render(scope)
        except jinja2.TemplateError as cause:
            raise TemplateError(f"{file.path}: {cause}") from None
        except Exception as cause:  # a filter or an operator on values that it does not take
            raise TemplateError(f"{file.path}: cannot be rendered: {cause}") from None

    def _jinja(self) -> jinja2.Environment:
        if self._environment is None:
            self._environment = environment()
        return self._environment


def environment() -> jinja2.Environment:
    """The environment of context templates: sandboxed, undefined names are errors."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )


def flaws(role: Declared) -> list[tuple[str, str]]:
    """(path, what is wrong) of templates that no cluster could render: bad syntax, names that there are not, facts that
    the role does not require.
    """
    import jinja2
    from jinja2 import meta

    found = []
    required = {need.fact for need in role.requires if need.fact}
    for file in role.files:
        if file.text is None:
            continue
        try:
            parsed = environment().parse(file.text)
        except jinja2.TemplateSyntaxError as cause:
            found.append((file.path, f"line {cause.lineno}: {cause.message}"))
            continue
        free = meta.find_undeclared_variables(parsed)
        found += [
            (file.path, f"'{name}' is not known to templates")
            for name in sorted(free - set(NAMES) - environment().globals.keys())
        ]
        for name in _facts_used(parsed):
            if name not in required:
                found.append((file.path, f"the fact {name} is used and not required"))
    return found


def _facts_of(file: File) -> set[str]:
    """The facts that a file is made of, as far as they are named in it."""
    return {file.fact} if file.text is None else set(_facts_used(environment().parse(file.text)))


def _facts_used(parsed: jinja2.nodes.Template) -> Iterator[str]:
    """Names in facts.NAME and facts["NAME"]."""
    from jinja2 import nodes

    for dotted in parsed.find_all(nodes.Getattr):
        if isinstance(dotted.node, nodes.Name) and dotted.node.name == "facts":
            yield dotted.attr
    for item in parsed.find_all(nodes.Getitem):
        key = getattr(item.arg, "value", None)
        if isinstance(item.node, nodes.Name) and item.node.name == "facts" and isinstance(key, str):
            yield key


def _file(path: str, text: str, mode: str) -> dict[str, Any]:
    return {"path": path, "text": text, "mode": mode, "owner": "root"}


def _packed(value: bytes) -> dict[str, str]:
    """Text as it is, other bytes in base64."""
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"data": base64.b64encode(value).decode()}


def _digest(told: object) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
