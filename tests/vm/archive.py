"""A small signed archive of Debian packages, made by hand: what a vendor, a mirror or a snapshot serves."""

from __future__ import annotations

import email.utils
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path


class Signer:
    """A key pair of this test's own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.env = {**os.environ, "GNUPGHOME": str(folder)}
        self.gpg("--passphrase", "", "--quick-gen-key", "invented", "ed25519", "sign", "never")
        self.public = self.gpg("--armor", "--export")

    def gpg(self, *words: str, stdin: str = "") -> str:
        argv = ["gpg", "--batch", "--quiet", *words]
        done = subprocess.run(argv, env=self.env, input=stdin, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


class Archive:
    """Suite `stable`, component main, in a folder. `write` publishes exactly the packages that it is given."""

    def __init__(self, root: Path, signer: Signer) -> None:
        self.root, self.signer = root, signer
        self.index = root / "dists/stable/main/binary-amd64/Packages"
        self.uri = f"file://{root}"

    def write(self, *packages: tuple[str, str, bytes], until: float | None = None) -> None:
        """Packages as (name, version, file); `until`, when its Release runs out."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.index.parent.mkdir(parents=True)
        stanzas = []
        for name, version, data in packages:
            path = self.root / f"{name}_{version}_all.deb"
            path.write_bytes(data)
            control = subprocess.run(
                ["dpkg-deb", "--field", path], capture_output=True, text=True
            ).stdout
            stanzas.append(
                f"{control.strip()}\nFilename: {path.name}\nSize: {len(data)}\n"
                f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
            )
        self.index.write_text("\n".join(stanzas))
        self.sign(until)

    def sign(self, until: float | None = None) -> None:
        text = self.index.read_bytes()
        dates = [("Date", min(time.time(), until - 9 if until else time.time()))]
        dates += [("Valid-Until", until)] if until else []
        release = "Suite: stable\nCodename: stable\nArchitectures: amd64 all\nComponents: main\n"
        release += "".join(f"{n}: {email.utils.formatdate(t, usegmt=True)}\n" for n, t in dates)
        release += (
            f"SHA256:\n {hashlib.sha256(text).hexdigest()} {len(text)} main/binary-amd64/Packages\n"
        )
        signed = self.signer.gpg("--clearsign", stdin=release)
        (self.root / "dists/stable/InRelease").write_text(signed)
