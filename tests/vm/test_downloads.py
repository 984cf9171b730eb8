"""Files from a web server on the loopback: resumed, tried again, refused, and written into an image."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import downloads
from builder.errors import WorkFailed
from tests.vm.conftest import Phx
from tests.vm.test_build import debugfs, folder

pytestmark = pytest.mark.root

DATA = os.urandom(3 << 20)  # of each run its own: no earlier run has fetched it
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves DATA at every path, in the way that its `mood` says; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mood, self.asked = "well", list[str]()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/a/file"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        mood, wanted = self.server.mood, self.headers.get("Range", "")
        self.server.asked.append(wanted)
        first = int(wanted[len("bytes=") : -1]) if wanted and mood != "no ranges" else 0
        if mood in ("404", "503") or first >= len(DATA):
            self.send_error(int(mood) if mood.isdigit() else 416)
            return
        if mood == "elsewhere":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(DATA) - first))
        self.end_headers()
        body = DATA[first:]
        # Each answer breaks off after a megabyte.
        self.wfile.write(body[: 1 << 20] if mood in ("breaks", "no ranges once") else body)
        if mood == "no ranges once":
            self.server.mood = "no ranges"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def fetch(server: Server, cache: Path, sha256: str = SHA256) -> None:
    downloads.fetch(server.url, sha256, cache, "recipe.yaml:7", lambda _: None)


def test_a_broken_answer_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.mood = "breaks"
    fetch(server, tmp_path)
    assert (tmp_path / SHA256).read_bytes() == DATA
    assert server.asked == ["", "bytes=1048576-", "bytes=2097152-"]


def test_a_server_without_ranges_gives_it_all_again(server: Server, tmp_path: Path) -> None:
    server.mood = "no ranges once"
    fetch(server, tmp_path)
    assert (tmp_path / SHA256).read_bytes() == DATA
    assert len(server.asked) == 2


@pytest.mark.parametrize("left", [b"of another file", DATA + b"too long"])
def test_a_part_of_something_else_is_begun_anew(
    server: Server, tmp_path: Path, left: bytes
) -> None:
    (tmp_path / f"{SHA256}.part").write_bytes(left)
    fetch(server, tmp_path)
    assert (tmp_path / SHA256).read_bytes() == DATA
    assert [p.name for p in tmp_path.iterdir()] == [SHA256]


@pytest.mark.parametrize(
    ("mood", "said", "asked"),
    [
        ("404", "cannot be fetched: 404 Not Found", 1),
        ("503", "cannot be fetched: 503 Service Unavailable", downloads.ATTEMPTS),
        ("elsewhere", "cannot be fetched: 302 Found", 1),
    ],
)
def test_a_server_that_does_not_give_it(
    server: Server, tmp_path: Path, mood: str, said: str, asked: int
) -> None:
    server.mood = mood
    with pytest.raises(WorkFailed, match=said):
        fetch(server, tmp_path)
    assert len(server.asked) == asked
    assert not (tmp_path / SHA256).exists()


def test_nobody_answers(server: Server, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(WorkFailed, match="cannot be fetched: Connection refused"):
        fetch(server, tmp_path)


def test_an_image_with_a_fetched_file(
    server: Server, library: Callable[..., Phx], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    text = f"""from: base
parameters: {{name: {{default: file}}}}
directories: [{{path: /srv/here, owner: daemon}}]
files:
  - path: /srv/new/folder/data
    url: '{server.url.replace("file", "{{ name }}")}'
    sha256: {SHA256}
    owner: daemon:adm
    mode: "4750"
  - {{path: /srv/here/text, content: beside}}
run: [{{name: '{time.time()}', script: 'ln -s {outside} /srv/evil'}}]
"""
    evil = f"from: fetched\nfiles: [{{path: /srv/evil/x, url: {server.url}, sha256: {SHA256}}}]\n"
    phx = library(fetched=text, evil=evil)
    phx.run("build", "fetched")
    disk = folder(phx, "fetched") / "disk.raw"
    copy = tmp_path / "copy"
    debugfs(disk, f"dump /srv/new/folder/data {copy}")
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == SHA256
    said = debugfs(disk, "stat /srv/new/folder/data")
    assert "Mode:  04750" in said
    assert "User:     1   Group:     4" in said
    assert debugfs(disk, "cat /srv/here/text") == "beside"
    assert server.asked == [""]

    # Neither the URL nor a server that is gone matters to a layer that is there, nor to a file that is.
    server.shutdown()
    server.server_close()
    recipe = (phx.recipes or Path()) / "fetched/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("/a/", "/b/"))
    assert "is up to date" in phx.run("build", "fetched").stdout
    said = phx.run("build", "evil", status=1).stderr
    assert "cannot create directory ‘/srv/evil’" in said, "in the tree the link leads nowhere"
    assert list(outside.iterdir()) == []

    recipe.write_text(recipe.read_text().replace(SHA256, "0" * 64))
    said = phx.run("build", "fetched", status=1).stderr
    assert "fetched/recipe.yaml:9: files[0].url: http://127.0.0.1" in said
    assert "cannot be fetched: Connection refused" in said
