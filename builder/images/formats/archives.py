"""A tree as an archive: a tar, or a container image in the layout of the Open Container Initiative.

Source: OCI image format 1.0 (image-layout, manifest, config, layer), for the single file as `skopeo` calls it,
oci-archive: the layout in a tar.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import shlex
import tarfile
from pathlib import Path
from typing import Any

from builder.chamber import Chamber
from builder.images.disk import sha256_of
from builder.images.manifest import Manifest

TIMEOUT = 1800.0
_OCI = "application/vnd.oci.image"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def tar_command(epoch: int) -> str:
    """A shell command that writes the tree `$m` to standard output: names sorted, nothing younger than the epoch."""
    return (
        # tar's own names of its extended headers hold the number of its process.
        "tar --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime --sort=name --numeric-owner "
        "--acls --xattrs --xattrs-include='user.*' --xattrs-include=security.capability "
        f'--mtime=@{epoch} --clamp-mtime -C "$m" -cf - .'
    )


def tar(chamber: Chamber, epoch: int, into: Path) -> None:
    chamber.outside(f"{tar_command(epoch)} > {shlex.quote(str(into))}", timeout=TIMEOUT)


def oci(chamber: Chamber, image: Manifest, into: Path) -> None:
    """One layer, gzip; the config says nothing that the manifest does not. Needs room for a compressed copy."""
    layer = chamber.work / "layer"
    sums = chamber.outside(
        f"mkfifo {chamber.work}/plain; sha256sum < {chamber.work}/plain & sum=$!\n"
        f"{tar_command(image.epoch)} | tee {chamber.work}/plain | gzip -n > {shlex.quote(str(layer))}\n"
        "wait $sum",
        timeout=TIMEOUT,
    ).text
    described = layout(image, sums.split()[0], sha256_of(layer), layer.stat().st_size)
    with tarfile.open(into, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in described.items():
            member = _member(
                name, image.epoch, len(data) if data is not None else layer.stat().st_size
            )
            if data is not None:
                archive.addfile(member, io.BytesIO(data))
                continue
            with layer.open("rb") as file:
                archive.addfile(member, file)


def layout(image: Manifest, plain: str, packed: str, size: int) -> dict[str, bytes | None]:
    """The files of the layout, sorted by name; None stands for the layer.

    plain, packed  sha256 of the layer's tar, and of its gzip of `size` bytes
    """
    created = (
        datetime.datetime.fromtimestamp(image.epoch, datetime.UTC)
        .isoformat()
        .replace("+00:00", "Z")
    )
    labels = {
        "org.opencontainers.image.title": image.name,
        "org.opencontainers.image.version": image.version,
        "org.opencontainers.image.description": image.summary,
        "org.opencontainers.image.revision": image.plan,
    }
    config = _json(
        {
            "created": created, "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain}"]},
            "config": {"Cmd": ["/sbin/init"], "Env": [_PATH], "StopSignal": "SIGRTMIN+3", "Labels": labels},
            "history": [{"created": created, "created_by": f"philoxenia, plan {image.plan}"}],
        }
    )  # fmt: skip
    layer = {"mediaType": f"{_OCI}.layer.v1.tar+gzip", "digest": f"sha256:{packed}", "size": size}
    manifest = _json(
        {
            "schemaVersion": 2, "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _told(config, f"{_OCI}.config.v1+json"),
            "layers": [layer], "annotations": labels,
        }
    )  # fmt: skip
    named = {"org.opencontainers.image.ref.name": image.version}
    index = _json({"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json",
                   "manifests": [_told(manifest, f"{_OCI}.manifest.v1+json") | {"annotations": named}]})  # fmt: skip
    files: dict[str, bytes | None] = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": index, f"blobs/sha256/{packed}": None,
    }  # fmt: skip
    files |= {
        f"blobs/sha256/{hashlib.sha256(data).hexdigest()}": data for data in (config, manifest)
    }
    return dict(sorted(files.items()))


def _told(data: bytes, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _member(name: str, epoch: int, size: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.mtime, made.mode = size, epoch, 0o644
    return made
