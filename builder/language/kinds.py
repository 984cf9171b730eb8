"""Kinds of value that people write in documents: checked texts and numbers, each with its JSON Schema for editors.

A wrong value raises ValueError("what is wrong; what to do"), which `builder.document` tells by line.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from builder import units
from builder.errors import shown

Value = str | int | bool
"""What a parameter holds."""
T = TypeVar("T")
Many = Annotated[tuple[T, ...], Field(strict=False)]


def name_of(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", text):
        raise ValueError(
            f"'{text}' is not a name; write at most 40 small letters, digits and dashes, a letter first"
        )
    return text


def _parameter(text: str) -> str:
    # A dash would be a minus to jinja2.
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", text):
        raise ValueError(
            f"'{text}' is not a parameter's name; "
            "write at most 40 small letters, digits and underscores, a letter first"
        )
    return text


def _fact(text: str) -> str:
    # A name in templates, in the environment of hooks, and of a file.
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", text):
        raise ValueError(
            f"'{text}' is not a fact's name; "
            "write at most 40 small letters, digits and underscores, a letter first"
        )
    return text


def _package(text: str) -> str:
    return text if "{{" in text else plain_package(text)


def plain_package(text: str) -> str:
    if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+~:-]+)?", text):
        return text
    raise ValueError(
        f"'{text}' is not a Debian package; write name or name=version, as in nginx or nginx=1.22.1-9"
    )


def _suite(text: str) -> str:
    return text if "{{" in text else plain_suite(text)


def plain_suite(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9._/-]*", text):
        return text
    raise ValueError(
        f"{shown(text)} is not a suite; write its name, as in stable, or ./ for an archive without suites"
    )


def _component(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", text):
        return text
    raise ValueError(f"{shown(text)} is not a component; write its name, as in main")


def _requirement(text: str) -> str:
    return text if "{{" in text else plain_requirement(text)


def plain_requirement(text: str) -> str:
    # No URL, no range, no marker: what is asked is a name, and at most one version.
    if re.fullmatch(
        rf"{_PYTHON_NAME}(\[{_PYTHON_NAME}(, *{_PYTHON_NAME})*])?(==[A-Za-z0-9.!+_-]+)?", text
    ):
        return text
    raise ValueError(
        f"{shown(text)} is not a Python package; "
        "write name or name==version, as in requests or requests==2.32.3, or {wheel: FILE}"
    )


_PYTHON_NAME = "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"


def _wheel(text: str) -> str:
    # PEP 427: name-version[-build]-python-abi-platform.whl
    if not re.fullmatch(
        r"[^/-]+-[^/-]+(-[0-9][^/-]*)?-[^/-]+-[^/-]+-[^/-]+\.whl", PurePosixPath(text).name
    ):
        raise ValueError(
            f"{shown(text)} is not a wheel's name; "
            "write NAME-VERSION-PYTHON-ABI-PLATFORM.whl, as `pip wheel` calls what it makes"
        )
    return _inside(text)


def _target(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or text.endswith("/") or "\0" in text:
        raise ValueError(
            f"'{text}' is not a place in the image; write an absolute path without '..'"
        )
    return str(path)


def _target_directory(text: str) -> str:
    return _target(text.rstrip("/") or text)


def _login_path(text: str) -> str:
    # /etc/passwd separates by colons and has one line for each user.
    if not re.fullmatch(r"[^:\s]+", text):
        raise ValueError(f"{shown(text)} cannot stand in /etc/passwd; write no colon and no space")
    return _target(text)


def _inside(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"'{text}' is outside the recipe; write a path below the recipe's folder")
    return str(path)


def _url(text: str) -> str:
    return text if "{{" in text else plain_url(text)


def plain_url(text: str) -> str:
    found = re.fullmatch(r"(https?|file)://([^/\s]*)(/\S*)?", text)
    if not found or not (found[2] if found[1] != "file" else found[3]):
        raise ValueError(
            f"{shown(text)} is not a URL to fetch from; "
            "write http://, https:// or file:// and where it is, without spaces"
        )
    if "@" in found[2]:
        raise ValueError(
            "a password has no place in a recipe, nor in its messages; fetch by hand what needs one"
        )
    return text


def _sha256(text: str) -> str:
    return text if "{{" in text else plain_sha256(text)


def _role(text: str) -> str:
    return text if "{{" in text else name_of(text)


def plain_sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError(
            f"{shown(text)} is not a sha256; write its 64 digits, as `sha256sum FILE` prints them"
        )
    return text


def _mode(value: object) -> int:
    # A document gives 0755 as text. A bare 755 is a number, the mode 01363: refused, not guessed at.
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3,4}", value):
        return int(value, 8)
    raise ValueError(f"{shown(value)} is not a file mode; write it in octal, as in 0644")


def _owner(text: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]*(:[a-z_][a-z0-9_-]*)?", text):
        raise ValueError(f"'{text}' is not an owner; write user or user:group, as in www-data")
    return text


def _login(text: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", text):
        raise ValueError(
            f"'{text}' is not a user's or group's name; "
            "write at most 32 small letters, digits, dashes and underscores, a letter first"
        )
    return text


def _comment(text: str) -> str:
    if re.search(r"[:\x00-\x1f\x7f]", text):
        raise ValueError(f"{shown(text)} cannot stand in /etc/passwd; write one line without colon")
    return text


def _text(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})


Name = Annotated[str, AfterValidator(name_of), _text("[a-z][a-z0-9-]{0,39}")]
Format = Literal[
    "raw", "qcow2", "vmdk", "vhd", "tar", "oci", "squashfs", "erofs",
    "bootable-raw", "bootable-qcow2", "bootable-vmdk", "bootable-vhd",
]  # fmt: skip
"""What an image can be written as."""
RoleName = Annotated[str, AfterValidator(_role), _text(r"([a-z][a-z0-9-]{0,39}|.*\{\{.*)")]
"""A role of the cluster file, or a template that gives one."""
FactName = Annotated[str, AfterValidator(_fact), _text("[a-z][a-z0-9_]{0,39}")]
ParameterName = Annotated[str, AfterValidator(_parameter), _text("[a-z][a-z0-9_]{0,39}")]
Package = Annotated[str, AfterValidator(_package)]
PlainPackage = Annotated[
    str, AfterValidator(plain_package), _text("[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+~:-]+)?")
]
Suite = Annotated[str, AfterValidator(_suite)]
Component = Annotated[str, AfterValidator(_component), _text("[A-Za-z0-9][A-Za-z0-9._/-]*")]
Requirement = Annotated[str, AfterValidator(_requirement)]
WheelFile = Annotated[str, AfterValidator(_wheel), _text(r"[^/].*\.whl")]
Target = Annotated[str, AfterValidator(_target), _text("/.*[^/]")]
TargetDirectory = Annotated[str, AfterValidator(_target_directory), _text("/.*[^/]/*")]
LoginPath = Annotated[str, AfterValidator(_login_path), _text(r"/[^:\s]*[^:/\s]")]
Inside = Annotated[str, AfterValidator(_inside), _text("[^/].*")]
Url = Annotated[str, AfterValidator(_url), _text(r"(https?|file)://\S.*")]
Sha256 = Annotated[str, AfterValidator(_sha256), _text(r"([0-9a-f]{64}|.*\{\{.*)")]
# Editors read YAML by other rules than we do: to some of them 0644 is a number.
Mode = Annotated[
    int,
    BeforeValidator(_mode),
    WithJsonSchema({"type": ["string", "integer"], "pattern": "^0?[0-7]{3,4}$"}),
]
Owner = Annotated[str, AfterValidator(_owner), _text("[a-z_][a-z0-9_-]*(:[a-z_][a-z0-9_-]*)?")]
Login = Annotated[str, AfterValidator(_login), _text("[a-z_][a-z0-9_-]{0,31}")]
Comment = Annotated[str, AfterValidator(_comment), _text("[^:\\n]*")]
Size = Annotated[int, BeforeValidator(units.size), _text(r"\s*[0-9]+\s*[KMGT]\s*")]
Throughput = Annotated[int, BeforeValidator(units.throughput), _text(r"\s*[0-9]+\s*[KMGT]/s\s*")]
Rate = Annotated[int, BeforeValidator(units.rate), _text(r"\s*[0-9]+\s*(kbit|Mbit|Gbit)\s*")]
Seconds = Annotated[int, BeforeValidator(units.duration), _text(r"\s*[0-9]+\s*[smhd]\s*")]
