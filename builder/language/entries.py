"""What stands in the sections of a recipe: one model for each kind of entry, with every key described."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from builder.document import Written
from builder.errors import shown
from builder.language.kinds import (
    Comment,
    Component,
    Inside,
    Login,
    LoginPath,
    Many,
    Mode,
    Name,
    Owner,
    Package,
    PlainPackage,
    Requirement,
    Sha256,
    Suite,
    Target,
    TargetDirectory,
    Url,
    Value,
    WheelFile,
)

WHEN = "an expression over the parameters, as in tls or port > 1024; when it is false, this is as if not written"


class Parameter(Written):
    """One value that a child recipe (`set:`) or the command line (`--set`) may change."""

    type: Literal["text", "integer", "boolean"] = Field(
        "text", description="text, integer or boolean"
    )
    default: Value = Field(description="the value when nobody sets another")
    summary: str = Field("", description="what it is for")

    @model_validator(mode="after")
    def _fits(self) -> Parameter:
        if not self.takes(self.default):
            raise ValueError(f"the default {shown(self.default)} is not {self.noun}")
        return self

    @property
    def noun(self) -> str:
        return {"text": "text", "integer": "a whole number", "boolean": "true or false"}[self.type]

    def takes(self, value: Value) -> bool:
        if self.type == "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        return isinstance(value, {"text": str, "boolean": bool}[self.type])

    def read(self, text: str) -> Value:
        """A command line's text as this parameter's type; ValueError if it does not fit."""
        if self.type == "integer" and re.fullmatch(r"-?[0-9]+", text):
            return int(text)
        if self.type == "boolean" and text in ("true", "false"):
            return text == "true"
        if self.type == "text":
            return text
        raise ValueError(f"'{text}' is not {self.noun}")


def _form(value: object) -> str:
    return "text" if not isinstance(value, dict | Written) else "mapping"


class PackageWhen(Written):
    """A package that is only installed when an expression holds."""

    name: Package = Field(description="the Debian package, name or name=version")
    when: str = Field(description=WHEN)


class Archive(Written):
    """One archive of Debian packages besides Debian's own, and the key that signs it."""

    name: Name = Field(description="what messages and the image call it")
    uri: Url = Field(description="where it is, http, https or file; a template")
    suite: Suite = Field(description="its suite, a template; ./ for an archive without suites")
    components: Many[Component] = Field(
        ("main",), description="its components; none where there are no suites"
    )
    key: Inside | None = Field(
        None, description="the public key that signs it, a file below the recipe's folder"
    )
    key_text: str | None = Field(None, description="the public key itself, in ASCII armor")
    snapshot: bool = Field(
        False,
        description="it is a state of some day: that its Release file has run out does not matter",
    )
    keep: bool = Field(
        False,
        description="leave it in the image, for apt in the guest; else nothing there names it",
    )
    when: str | None = Field(None, description=WHEN)

    @model_validator(mode="after")
    def _one_key(self) -> Archive:
        if (self.key is None) == (self.key_text is None):
            raise ValueError(
                f"the archive {self.name} needs one key: whoever answers could give anything; "
                "write exactly one of key, key_text"
            )
        return self


class PythonPackage(Written):
    """A Python package: one of an index, or a wheel of the recipe's folder."""

    name: Requirement | None = Field(None, description="the package, name or name==version")
    wheel: WheelFile | None = Field(None, description="a wheel below the recipe's folder")
    when: str | None = Field(None, description=WHEN)

    @model_validator(mode="after")
    def _one_origin(self) -> PythonPackage:
        if (self.name is None) == (self.wheel is None):
            raise ValueError("a Python package needs one origin; write exactly one of name, wheel")
        return self


class UnitWhen(Written):
    """A unit that is only switched when an expression holds."""

    name: str = Field(description="the systemd unit")
    when: str = Field(description=WHEN)


class CapabilityWhen(Written):
    """A capability that the image only has when an expression holds."""

    name: Name = Field(description="the capability, a word")
    when: str = Field(description=WHEN)


PackageItem = Annotated[
    Annotated[Package, Tag("text")] | Annotated[PackageWhen, Tag("mapping")], Discriminator(_form)
]
PythonItem = Annotated[
    Annotated[Requirement, Tag("text")] | Annotated[PythonPackage, Tag("mapping")],
    Discriminator(_form),
]
UnitItem = Annotated[
    Annotated[str, Tag("text")] | Annotated[UnitWhen, Tag("mapping")], Discriminator(_form)
]
CapabilityItem = Annotated[
    Annotated[Name, Tag("text")] | Annotated[CapabilityWhen, Tag("mapping")], Discriminator(_form)
]


class User(Written):
    """One user, without a password, and its group."""

    name: Login = Field(description="the user's name")
    uid: int | None = Field(
        None, description="its number, 100 to 59999; else the first free one", ge=100, le=59999
    )
    gid: int | None = Field(
        None, description="number of its own group; else the uid", ge=100, le=59999
    )
    group: Login | None = Field(
        None, description="its first group, there already; else one of its own name is made"
    )
    home: LoginPath | None = Field(None, description="its home folder; else /home/NAME")
    shell: LoginPath = Field("/bin/bash", description="what runs when it logs in")
    groups: Many[Login] = Field((), description="more groups that it is in, there already")
    system: bool = Field(
        False, description="of a service: numbers from 900 downwards, no home folder made"
    )
    when: str | None = Field(None, description=WHEN)
    summary: Comment = Field("", description="who it is, kept in /etc/passwd")

    @model_validator(mode="after")
    def _one_group(self) -> User:
        if self.name == "root":
            raise ValueError("the user root is there already; write another name")
        if self.gid is not None and self.group is not None:
            raise ValueError(
                f"the user {self.name} has two first groups; "
                "write gid for a group of its own, or group for one that is there"
            )
        return self


class Directory(Written):
    """One directory of the image; one that is there already gets this owner and mode."""

    path: TargetDirectory = Field(description="where it is in the image, absolute")
    mode: Mode = Field(
        0o755, description="permissions in octal, as in 0755", json_schema_extra={"default": "0755"}
    )
    owner: Owner = Field("root", description="user[:group] that owns it in the image")
    when: str | None = Field(None, description=WHEN)


class File(Written):
    """One file of the image, from exactly one of `content`, `template`, `source` and `url`."""

    path: Target = Field(description="where it goes in the image, absolute")
    content: str | None = Field(None, description="its text, a template over the parameters")
    template: Inside | None = Field(None, description="a jinja2 template below the recipe's folder")
    source: Inside | None = Field(
        None, description="a file below the recipe's folder, copied as it is"
    )
    url: Url | None = Field(
        None, description="where it is fetched from, http, https or file; a template; needs sha256"
    )
    sha256: Sha256 | None = Field(
        None, description="the sha256 that what is fetched must have; a template"
    )
    mode: Mode = Field(
        0o644, description="permissions in octal, as in 0644", json_schema_extra={"default": "0644"}
    )
    owner: Owner = Field("root", description="user[:group] that owns it in the image")
    when: str | None = Field(None, description=WHEN)

    @model_validator(mode="after")
    def _one_origin(self) -> File:
        origins = (self.content, self.template, self.source, self.url)
        if sum(x is not None for x in origins) != 1:
            raise ValueError(
                f"the file {self.path} needs one origin; "
                "write exactly one of content, template, source, url"
            )
        if self.url is not None and self.sha256 is None:
            raise ValueError(
                f"the file {self.path} has a url and no sha256: whoever answers could give anything; "
                "write sha256 with what `sha256sum FILE` prints for the right file"
            )
        if self.url is None and self.sha256 is not None:
            raise ValueError(f"the file {self.path} has a sha256 and no url; remove sha256")
        return self


class Services(Written):
    """systemd units by name."""

    enable: Many[UnitItem] = Field((), description="units that start at boot")
    disable: Many[UnitItem] = Field((), description="units that do not start by themselves")
    mask: Many[UnitItem] = Field((), description="units that cannot start at all")


class Run(Written):
    """A script, run by sh inside the image's tree; it fails on the first failing line."""

    name: str = Field(description="what it does, for progress and errors")
    script: str | None = Field(None, description="lines for sh -eu, a template over the parameters")
    template: Inside | None = Field(None, description="a jinja2 template below the recipe's folder")
    user: Login = Field("root", description="the user of the image who runs it")
    secrets: Many[Name] = Field(
        (), description="secrets of the build that it may read, each as /run/secrets/NAME"
    )
    when: str | None = Field(None, description=WHEN)

    @model_validator(mode="after")
    def _one_origin(self) -> Run:
        if (self.script is None) == (self.template is None):
            raise ValueError(
                f"'{self.name}' needs one script; write exactly one of script, template"
            )
        return self


class Hypervisor(Written):
    """What the kernel runs on, for the image of a Xen host: Xen, which boots first and starts the kernel as dom0."""

    package: PlainPackage = Field(description="the Debian package of Xen: xen-hypervisor-...")
    cmdline: str = Field("", description="its options, as in dom0_mem=1G,max:1G")


class Kernel(Written):
    """What boots the image."""

    package: PlainPackage = Field(description="the Debian kernel package")
    modules: Many[str] = Field((), description="drivers that the initrd loads, in this order")
    cmdline: str = Field("", description="kernel parameters, besides console and root")
    hypervisor: Hypervisor | None = Field(
        None, description="the hypervisor below the kernel: the image is that of a Xen host"
    )

    @property
    def packages(self) -> tuple[str, ...]:
        """What the first layer has because of it."""
        return (self.package, self.hypervisor.package) if self.hypervisor else (self.package,)


class Checks(Written):
    """Tests of the appliance, run on its tree and, those marked boot, on a guest of it."""

    files: Many[Inside] = Field(
        (), description="pytest files below the recipe's folder, over testinfra's host"
    )
    cluster: Inside | None = Field(
        None,
        description="a cluster file below the recipe's folder, for the boot tests; "
        "else one node of the image, and another where a test wants a peer",
    )


class Root(Written):
    """The root filesystem's kind."""

    format: Literal["ext4", "squashfs", "erofs"] = Field(
        "ext4", description="squashfs and erofs are read only, with an overlay for what changes"
    )
    changes: Literal["memory", "disk"] = Field(
        "memory",
        description="where changes of a read-only root go: memory, or the rest of the disk",
    )

    @model_validator(mode="after")
    def _read_only(self) -> Root:
        if self.format == "ext4" and self.changes == "disk":
            raise ValueError("'changes' is for a read-only root; write format: squashfs or erofs")
        return self


EXT4 = Root()
