"""What each node is told: its seed, and the context document that late facts complete. All is rendered on our side.

A document is JSON. `complete` says whether everything that the node's role requires is in it; until then it holds
identity only (names, keys, who may enter), and the agent waits for the next. `digest` covers all of it but the
generation, so a change elsewhere in the cluster leaves a node's digest, and the node, alone.

It has two forms. In a seed it is whole. On a channel, what many nodes share and may have already (the hosts of 10,000
members, a file of a role) stands as {"part": SHA-256} in its place, and goes out only to nodes that ask for it: where
the seed told a node of all its peers, a late fact costs no more among 10,000 of them than among three.

A template sees:
    this        this node: name, short, full, role, address, cpus, memory (MiB)
    cluster     the cluster's name
    roles       role -> its nodes, each as `this` is; only roles that this role sees
    nodes       all of these nodes
    facts       required fact -> text, or of several nodes: node -> text
    data        the cluster file's data, by name
    parameters  what the image was built with
One that does not look at `this` is rendered once for all nodes of a role.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contextualize.context import Context, Member, authorized_keys, hosts, known_hosts
from contextualize.declared import Declared, File
from contextualize.exchange import Fact
from contextualize.part import lean, part, whole
from contextualize.template import Peer, TemplateError, Templates

VERSION = 3
"""Of the seed and the documents; the agent refuses others."""


@dataclass(frozen=True, slots=True)
class Alike:
    """What all nodes of a role are told alike, with the facts of one moment.

    body      the document but for its files
    files     those of the identity that are shared
    rest      the role's own, rendered; those that are another on each node are still a File
    parts     digest -> what stands for it in a whole document
    personal  whether even the peers are another for each node
    """

    role: str
    body: Mapping[str, Any] = field(repr=False)
    files: tuple[Mapping[str, Any], ...] = field(repr=False)
    rest: tuple[Mapping[str, Any] | File, ...] = field(repr=False)
    parts: Mapping[str, Any] = field(repr=False)
    facts: Mapping[str, Mapping[str, Fact]] = field(repr=False)
    scope: Mapping[str, Any] = field(repr=False)
    personal: bool


class Documents:
    """The documents of one generation."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._members = {m.name: m for m in context.members}
        self._roles = dict.fromkeys(m.role for m in context.members)
        self._enters = {role for role, into in context.ssh_to if into}
        self._seen: dict[str, tuple[Member, ...]] = {}
        self._shared: dict[str, list[dict[str, Any]]] = {}
        self._bases: dict[str, str] = {}
        self._identities: dict[str, tuple[Any, tuple[Mapping[str, Any], ...], dict[str, Any]]] = {}
        self._peers = {
            m.name: Peer(m.name, m.role, m.address, f"{m.name}.{context.cluster}", m.cpus, m.memory)
            for m in context.members
        }
        self._templates = Templates()

    def member(self, node: str) -> Member:
        return self._members[node]

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
        me = self._members[node]
        role = me.role
        if role not in self._bases:
            shared = [] if self._personal(role) else self._common(role, self.sees(role))
            told = [
                shared, [self._plain(m) for m in self.sees(role)], repr(self.declared(role)),
                dict(self.context.data), dict(self.context.parameters.get(role, {})),
            ]  # fmt: skip
            self._bases[role] = _digest(told)
        around = self._common(role, self._around(me)) if self._personal(role) else []
        return _digest([self._own(me), self._plain(me), self._bases[role], around])

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
        """The node's document, whole.

        facts    what its role may read now: fact -> node -> Fact (`Exchange.facts`)
        missing  what it still waits for, in words; the document is complete when there is nothing
        Raises TemplateError.
        """
        alike = self.alike(self._members[node].role, facts, missing)
        return whole(self.told(node, alike), alike.parts)

    def alike(
        self,
        role: str,
        facts: Mapping[str, Mapping[str, Fact]] | None = None,
        missing: Sequence[str] = (),
    ) -> Alike:
        """What nodes of the role are told alike; made once, however many they are. Raises TemplateError."""
        declared, personal = self.declared(role), self._personal(role)
        facts = facts if facts and not missing else {}
        parts: dict[str, Any] = {}
        given = {
            name: {
                "one": self._of_one(declared, name),
                "secret": any(f.secret for f in of.values()),
                "values": {n: _packed(f.value or b"") for n, f in sorted(of.items())},
            }
            for name, of in sorted(facts.items())
        }
        peers, files = ([], ()) if personal else self._identity(role, parts)
        body: dict[str, Any] = {
            "complete": not missing,
            "missing": list(missing),
            "peers": peers,
            "provides": [
                {"name": p.name, "how": p.how, "what": p.what, "early": p.early}
                for p in declared.provides
            ],
            "healthy": [list(p) for p in declared.probes],
            "data": dict(self.context.data),
            "facts": part(given, parts),
        }
        scope: dict[str, Any] = {}
        rest: list[Mapping[str, Any] | File] = []
        if declared.files and not missing:
            scope = self._scope(role, self.sees(role), facts)
            rest += self._role_files(role, scope, facts, parts)
        return Alike(role, body, files, tuple(rest), parts, facts, scope, personal)

    def told(self, node: str, alike: Alike) -> dict[str, Any]:
        """The node's document as it goes over its channel. Raises TemplateError."""
        me = self._members[node]
        files = [*self._own(me), *alike.files]
        found = dict(alike.body)
        around = self._around(me) if alike.personal else ()
        if around:
            found["peers"] = [self._plain(m) for m in around]
            files += self._common(me.role, around)
        scope: dict[str, Any] | None = None
        for file in alike.rest:
            if isinstance(file, File):
                if scope is None:
                    mine = self._scope(me.role, around, alike.facts) if around else alike.scope
                    scope = {**mine, "this": self._peers[me.name]}
                file = self._rendered(file, scope, alike.facts)
            files.append(dict(file))
        found["files"] = files
        found["digest"] = _digest(found)
        found["generation"] = self.context.generation
        return found

    # --- what it is made of

    def _personal(self, role: str) -> bool:
        """Whether its nodes see something different each: themselves, besides others."""
        known = self.declared(role).sees
        return known is not None and role not in known

    def _around(self, me: Member) -> Sequence[Member]:
        return (me, *self.sees(me.role)) if self._personal(me.role) else self.sees(me.role)

    @staticmethod
    def _plain(m: Member) -> dict[str, str]:
        return {"name": m.name, "role": m.role, "address": m.address}

    def _identity(
        self, role: str, parts: dict[str, Any]
    ) -> tuple[Any, tuple[Mapping[str, Any], ...]]:
        """Peers and shared files of a role, the long ones by their digests; made once, whatever the facts are."""
        if role not in self._identities:
            seen, own = self.sees(role), dict[str, Any]()
            peers = part([self._plain(m) for m in seen], own)
            shared = tuple(lean(f, own) for f in self._common(role, seen))
            self._identities[role] = peers, shared, own
        peers, files, own = self._identities[role]
        parts |= own
        return peers, files

    def _own(self, me: Member) -> list[dict[str, Any]]:
        """The files of its identity that no other node has."""
        key = me.identity.host_key
        files = [
            ("/etc/hostname", f"{me.name}\n", "0644"),
            ("/etc/ssh/ssh_host_ed25519_key", key.private.reveal().decode(), "0600"),
            ("/etc/ssh/ssh_host_ed25519_key.pub", f"{key.public} {me.name}\n", "0644"),
        ]
        if me.role in self._enters:
            user_key = me.identity.user_key.private.reveal().decode()
            files.append(("/root/.ssh/id_ed25519", user_key, "0600"))
        return [_file(*f) for f in files]

    def _common(self, role: str, around: Sequence[Member]) -> list[dict[str, Any]]:
        known = self._shared.get(role)
        if known is not None:
            return known
        cluster = self.context.cluster
        made = [
            _file("/etc/hosts", hosts(cluster, around), "0644"),
            _file("/etc/ssh/ssh_known_hosts", known_hosts(cluster, around), "0644"),
            _file("/root/.ssh/authorized_keys", authorized_keys(self.context, role), "0600"),
        ]
        if not self._personal(role):
            self._shared[role] = made
        return made

    @staticmethod
    def _of_one(declared: Declared, name: str) -> bool:
        return all(n.of == "one" for n in declared.requires if n.fact == name)

    def _role_files(
        self, role: str, scope: Mapping[str, Any], facts: Mapping[str, Mapping[str, Fact]],
        parts: dict[str, Any],
    ) -> Iterator[Mapping[str, Any] | File]:  # fmt: skip
        declared = self.declared(role)
        late = {n.fact for n in declared.requires if n.late and n.fact} - facts.keys()
        for file in declared.files:
            if late.intersection(self._facts_of(file)):
                continue  # it comes with the fact, as a change
            if file.text is not None and (
                self._personal(role) or self._templates.personal(file.path, file.text)
            ):
                yield file
            else:
                yield lean(self._rendered(file, scope, facts), parts)

    def _facts_of(self, file: File) -> Collection[str]:
        """The facts that a file is made of, as far as they are named in it."""
        return {file.fact} if file.text is None else self._templates.facts(file.path, file.text)

    def _rendered(
        self, file: File, scope: Mapping[str, Any], facts: Mapping[str, Mapping[str, Fact]]
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {"path": file.path, "mode": file.mode, "owner": file.owner}
        if file.reload:
            entry["reload"] = list(file.reload)
        if file.text is None:
            value = next(iter(facts.get(file.fact, {}).values()), None)
            if value is None:
                raise TemplateError(f"{file.path}: the fact {file.fact} is not there")
            return entry | _packed(value.value or b"")
        hidden = [_text(f) for of in facts.values() for f in of.values() if f.secret]
        entry["text"] = self._templates.render(file.path, file.text, scope, hidden)
        return entry

    def _scope(
        self, role: str, around: Sequence[Member], facts: Mapping[str, Mapping[str, Fact]]
    ) -> dict[str, Any]:
        peers = [self._peers[m.name] for m in around]
        roles: dict[str, list[Peer]] = {name: [] for name in self._roles}
        for peer in peers:
            roles[peer.role].append(peer)
        declared = self.declared(role)
        texts: dict[str, Any] = {}
        for name, of in facts.items():
            values = {n: _text(f) for n, f in of.items()}
            texts[name] = next(iter(values.values())) if self._of_one(declared, name) else values
        return {
            "cluster": self.context.cluster, "roles": roles, "nodes": peers, "facts": texts,
            "data": dict(self.context.data),
            "parameters": dict(self.context.parameters.get(role, {})),
        }  # fmt: skip


def _file(path: str, text: str, mode: str) -> dict[str, Any]:
    return {"path": path, "text": text, "mode": mode, "owner": "root"}


def _text(fact: Fact) -> str:
    return (fact.value or b"").decode(errors="replace")


def _packed(value: bytes) -> dict[str, str]:
    """Text as it is, other bytes in base64."""
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"data": base64.b64encode(value).decode()}


def _digest(told: object) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
