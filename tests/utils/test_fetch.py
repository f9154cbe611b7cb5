"""Downloads from a local server, which can interrupt and resume them, and from a local package client."""

from __future__ import annotations

import http.server
import os
import threading
from pathlib import Path

import pytest

from cm.errors import UserError
from cm.utils import fetch, files

DATA = bytes(range(256)) * 40
SHA256 = files.sha256(DATA)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves DATA at every path; the server's `log` records the Range of each request."""

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.log.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start >= len(DATA):
            self.send_error(416)
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        self._send(DATA[start:], start)

    def _send(self, body: bytes, start: int) -> None:
        self.send_response(206 if start else 200)
        if self.server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.wfile.write(body[:cut])

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server():
    """A server that may close the connection after some bytes of a response (`cuts`), ignore ranges or fail."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.log, server.cuts, server.ranges, server.status, server.chunked = [], [], True, 200, False
    server.url = f"http://127.0.0.1:{server.server_port}/folder/data.bin"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


def refusal(match: str, url: str, **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        fetch.fetch_file(url, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_user_chooses_the_cache_folder(monkeypatch, tmp_path):
    assert fetch.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert fetch.cache_folder() == tmp_path / "xdg" / "cm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert fetch.cache_folder() == Path.home() / ".cache" / "cm"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("name", [None, "other.bin"])
def test_a_file_is_fetched_once(chunked, name, server, cache):
    server.chunked = chunked
    for _ in range(2):
        path = fetch.fetch_file(f"{server.url}?download=1", sha256=SHA256, size=len(DATA), name=name)
        assert path == cache / (name or "data.bin") and path.read_bytes() == DATA
    assert server.log == [None] and [file.name for file in cache.iterdir()] == [path.name]


def test_an_interrupted_download_is_resumed(server, cache):
    server.cuts = [3000, 2000]
    for done in (3000, 5000):
        line = refusal(f"broke after {done} of {len(DATA)} bytes", server.url, sha256=SHA256)
        assert server.url in line and str(cache / "data.bin") in line and not (cache / "data.bin").exists()
    assert fetch.fetch_file(server.url, sha256=SHA256).read_bytes() == DATA
    assert server.log == [None, "bytes=3000-", "bytes=5000-"]


def test_a_server_without_ranges_starts_from_the_beginning(server):
    server.cuts, server.ranges = [3000], False
    refusal("broke", server.url)
    assert fetch.fetch_file(server.url, sha256=SHA256).read_bytes() == DATA


def test_a_complete_partial_file_is_downloaded_again(server, cache):
    cache.mkdir()
    (cache / "data.bin.partial").write_bytes(DATA)
    assert fetch.fetch_file(server.url, sha256=SHA256).read_bytes() == DATA
    assert server.log == [f"bytes={len(DATA)}-", None]


def test_an_interrupted_response_of_unknown_length_leaves_no_file(server, cache):
    server.chunked, server.cuts = True, [3000]
    refusal("broke", server.url)
    assert not (cache / "data.bin").exists()


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"size": 1}])
def test_a_wrong_download_is_removed_and_can_be_repeated(wrong, server, cache):
    line = refusal("damaged or another|truncated or another", server.url, **wrong)
    assert server.url in line and not list(cache.iterdir())
    assert fetch.fetch_file(server.url, sha256=SHA256).read_bytes() == DATA


@pytest.mark.parametrize("wrong", [{"sha256": SHA256}, {"size": len(DATA)}])
def test_a_wrong_file_of_the_user_is_reported_and_kept(wrong, server, cache):
    cache.mkdir()
    (cache / "data.bin").write_bytes(b"mine")
    assert str(cache / "data.bin") in refusal("another file", server.url, **wrong)
    assert (cache / "data.bin").read_bytes() == b"mine" and not server.log


def test_a_failing_or_missing_server_is_reported_with_url_and_place(server, cache):
    server.status = 404
    line = refusal("Not Found", server.url)
    assert server.url in line and f"put it at {cache / 'data.bin'}" in line
    server.shutdown()
    server.server_close()
    line = refusal("refused", server.url)
    assert server.url in line and f"put it at {cache / 'data.bin'}" in line


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "nonsense", "http://127.0.0.1:9/a b"])
def test_an_invalid_url_is_reported_in_one_line(url):
    assert url in refusal("cannot be fetched|names no file", url)


NPM = """#!/bin/sh
echo "$@" >> "{log}"
{body}
"""


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Makes an `npm` on PATH that runs some lines of shell, with $5 the folder to write; returns its log."""

    def make(body: str) -> Path:
        path, log = tmp_path / "bin" / "npm", tmp_path / "log"
        path.parent.mkdir(exist_ok=True)
        path.write_text(NPM.format(log=log, body=body))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
        return log

    return make


def fetch_thing(**options) -> Path:
    return fetch.fetch_package("npm", "thing@1.2.3", **{"sha256": SHA256, "name": "thing-1.2.3.tgz", **options})


def test_a_package_is_fetched_once_and_none_of_its_scripts_run(npm, tmp_path, cache):
    (tmp_path / "packed").write_bytes(DATA)
    log = npm(f'cp "{tmp_path}/packed" "$5/thing-1.2.3.tgz"; echo thing-1.2.3.tgz')
    for _ in range(2):
        assert fetch_thing() == cache / "thing-1.2.3.tgz"
    assert (cache / "thing-1.2.3.tgz").read_bytes() == DATA
    called = log.read_text().splitlines()
    assert len(called) == 1 and called[0].startswith("pack ") and called[0].endswith(" thing@1.2.3")
    assert "--ignore-scripts" in called[0].split()


@pytest.mark.parametrize(
    "body, match",
    [
        ('echo other > "$5/thing-1.2.3.tgz"', "sha256 .* not"),
        ('echo one > "$5/a"; echo two > "$5/b"', "left 2 files"),
        ("true", "left 0 files"),
        ("echo 'npm error no such version' >&2; exit 1", r"npm error no such version"),
        ("exit 3", "exit status 3"),
    ],
)
def test_a_failing_client_leaves_nothing_and_is_reported_in_one_line(body, match, npm, cache):
    npm(body)
    with pytest.raises(UserError, match=match) as caught:
        fetch_thing()
    assert "\n" not in str(caught.value) and not list(cache.iterdir())


def test_a_missing_client_is_reported(monkeypatch, tmp_path, cache):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"thing@1.2.3 .*no 'npm' here.*thing-1.2.3.tgz"):
        fetch_thing()


def test_an_archive_in_the_cache_is_checked(cache):
    cache.mkdir()
    (cache / "thing-1.2.3.tgz").write_bytes(b"other")
    with pytest.raises(UserError, match=r"thing-1.2.3.tgz has sha256"):
        fetch_thing()
