"""What a recipe says of deployment: facts that a node gives and needs, files that late facts complete, probes.

None of it changes the image's bytes. It travels in the manifest, and whoever launches the appliance acts on it
(contextualize/declared.py, contextualize/template.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from builder.document import Written
from builder.language.kinds import FactName, Inside, Many, Mode, Owner, RoleName, Target

Port = Annotated[int, Field(ge=1, le=65535)]
Of = Literal["one", "all", "quorum"] | Annotated[int, Field(ge=1, le=10000)]
WHEN = "an expression over the parameters; when it is false, this is as if not written"


class Provide(Written):
    """A fact of this node for others: a value (`file`, `command`, or what a hook writes), or a readiness
    (`tcp`, `probe`).
    """

    name: FactName = Field(description="the fact's name")
    file: Target | None = Field(None, description="its value is this file of the node, up to 1 MiB")
    command: str | None = Field(
        None, description="its value is what this prints, a line for sh on the node"
    )
    tcp: Port | None = Field(
        None, description="no value: it is ready when this port answers on the node's address"
    )
    probe: str | None = Field(
        None, description="no value: it is ready when this succeeds, a line for sh on the node"
    )
    secret: bool = Field(
        False, description="its value is never shown, and kept no longer than it is needed"
    )
    to: Many[RoleName] = Field(
        (), description="the roles that may read it; else every role that requires it"
    )
    early: bool = Field(
        False,
        description="given as soon as the node has booted, before its own requirements are met",
    )
    when: str | None = Field(None, description=WHEN)

    @model_validator(mode="after")
    def _one_origin(self) -> Provide:
        ways = [x for x in (self.file, self.command, self.tcp, self.probe) if x is not None]
        if len(ways) > 1:
            raise ValueError(
                f"the fact {self.name} has {len(ways)} origins; "
                "write one of file, command, tcp, probe, or none when a hook gives it"
            )
        if self.secret and (self.tcp is not None or self.probe is not None):
            raise ValueError(
                f"the readiness {self.name} has no value to keep secret; drop 'secret'"
            )
        if self.secret and not self.to:
            raise ValueError(
                f"nobody is named for the secret {self.name}; write 'to' with the roles that may read it"
            )
        if self.early and not ways:
            raise ValueError(
                f"no hook has run when the early fact {self.name} is given; "
                "write file, command, tcp or probe"
            )
        return self


class Require(Written):
    """What must be there first: another role's fact, or its nodes' stage."""

    fact: FactName | None = Field(None, description="a fact that some role provides")
    stage: Literal["booted", "contextualized", "healthy"] | None = Field(
        None, description="a stage that nodes of the role in 'from' have reached"
    )
    from_: RoleName | None = Field(
        None,
        alias="from",
        description="the role; needed for a stage, else any role that provides it",
    )
    of: Of = Field(
        "one", description="how many of them: one, all, quorum (the role's min), or a number"
    )
    before: Literal["contextualized", "healthy"] = Field(
        "contextualized", description="what waits for it: the node's hooks, or only its health"
    )
    when: str | None = Field(None, description=WHEN)

    @model_validator(mode="after")
    def _one_kind(self) -> Require:
        if (self.fact is None) == (self.stage is None):
            raise ValueError("a requirement names one thing; write exactly one of fact, stage")
        if self.stage is not None and self.from_ is None:
            raise ValueError("a stage is some role's; write 'from' with the role")
        return self


class ContextFile(Written):
    """A file of the node that deployment completes, from exactly one of `content`, `template` and `fact`."""

    path: Target = Field(description="where it goes on the node, absolute")
    content: str | None = Field(
        None, description="its text, a template over the cluster (see docs/join.md)"
    )
    template: Inside | None = Field(
        None, description="the same in a file below the recipe's folder"
    )
    fact: FactName | None = Field(
        None, description="the bytes of a required fact, as its provider gave them"
    )
    mode: Mode = Field(
        0o644, description="permissions in octal, as in 0644", json_schema_extra={"default": "0644"}
    )
    owner: Owner = Field("root", description="user[:group] of the node that owns it")
    reload: Many[str] = Field(
        (), description="systemd units that are reloaded, or else restarted, when it changes"
    )
    when: str | None = Field(None, description=WHEN)

    @model_validator(mode="after")
    def _one_origin(self) -> ContextFile:
        if sum(x is not None for x in (self.content, self.template, self.fact)) != 1:
            raise ValueError(
                f"the file {self.path} needs one origin; write exactly one of content, template, fact"
            )
        return self


class Probe(Written):
    """What must hold for the node to count as healthy."""

    tcp: Port | None = Field(None, description="this port answers on the node's private address")
    command: str | None = Field(None, description="this succeeds, a line for sh on the node")
    when: str | None = Field(None, description=WHEN)

    @model_validator(mode="after")
    def _one_kind(self) -> Probe:
        if (self.tcp is None) == (self.command is None):
            raise ValueError("a probe looks at one thing; write exactly one of tcp, command")
        return self


class Deployment(Written):
    """How nodes of this appliance join a cluster."""

    provides: Many[Provide] = Field((), description="facts that a node gives to others")
    requires: Many[Require] = Field((), description="what a node waits for")
    files: Many[ContextFile] = Field((), description="files that deployment completes")
    healthy: Many[Probe] = Field((), description="what must hold for a node to be healthy")
    sees: Many[RoleName] | None = Field(
        None,
        description="roles whose nodes it knows by name; else all. A change of others leaves it alone",
    )
