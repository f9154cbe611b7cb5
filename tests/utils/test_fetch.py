"""Files from a server of our own, which can break off and go on, and from a package client of our own."""

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
    """Serves DATA at every path; `log` has the Range of each request."""

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
        """Nothing on the screen."""


@pytest.fixture
def server():
    """A server that may break off after some bytes of each answer (`cuts`), refuse ranges or fail."""
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.log, made.cuts, made.ranges, made.status, made.chunked = [], [], True, 200, False
    made.url = f"http://127.0.0.1:{made.server_port}/folder/data.bin"
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


def refused(match: str, url: str, **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        fetch.fetched(url, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    assert fetch.cache() == tmp_path / "cache"
    monkeypatch.delenv("CM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert fetch.cache() == tmp_path / "xdg" / "cm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert fetch.cache() == Path.home() / ".cache" / "cm"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("name", [None, "other.bin"])
def test_a_file_is_fetched_once(chunked, name, server, cache):
    server.chunked = chunked
    for _ in range(2):
        path = fetch.fetched(f"{server.url}?download=1", sha256=SHA256, size=len(DATA), name=name)
        assert path == cache / (name or "data.bin") and path.read_bytes() == DATA
    assert server.log == [None] and [file.name for file in cache.iterdir()] == [path.name]


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server, cache):
    server.cuts = [3000, 2000]
    for done in (3000, 5000):
        told = refused(f"broke after {done} of {len(DATA)} bytes", server.url, sha256=SHA256)
        assert server.url in told and str(cache / "data.bin") in told and not (cache / "data.bin").exists()
    assert fetch.fetched(server.url, sha256=SHA256).read_bytes() == DATA
    assert server.log == [None, "bytes=3000-", "bytes=5000-"]


def test_a_server_without_ranges_starts_from_the_beginning(server):
    server.cuts, server.ranges = [3000], False
    refused("broke", server.url)
    assert fetch.fetched(server.url, sha256=SHA256).read_bytes() == DATA


def test_a_whole_partial_file_is_fetched_again(server, cache):
    cache.mkdir()
    (cache / "data.bin.partial").write_bytes(DATA)
    assert fetch.fetched(server.url, sha256=SHA256).read_bytes() == DATA
    assert server.log == [f"bytes={len(DATA)}-", None]


def test_an_answer_of_unknown_length_that_breaks_off_is_no_file(server, cache):
    server.chunked, server.cuts = True, [3000]
    refused("broke", server.url)
    assert not (cache / "data.bin").exists()


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"size": 1}])
def test_another_file_than_the_right_one_is_removed_and_can_be_tried_again(wrong, server, cache):
    told = refused("damaged or another|truncated or another", server.url, **wrong)
    assert server.url in told and not list(cache.iterdir())
    assert fetch.fetched(server.url, sha256=SHA256).read_bytes() == DATA


@pytest.mark.parametrize("wrong", [{"sha256": SHA256}, {"size": len(DATA)}])
def test_a_wrong_file_that_the_user_put_there_is_told_and_left(wrong, server, cache):
    cache.mkdir()
    (cache / "data.bin").write_bytes(b"mine")
    assert str(cache / "data.bin") in refused("another file", server.url, **wrong)
    assert (cache / "data.bin").read_bytes() == b"mine" and not server.log


def test_a_server_that_fails_or_is_not_there_is_told_with_url_and_place(server, cache):
    server.status = 404
    told = refused("Not Found", server.url)
    assert server.url in told and f"put it at {cache / 'data.bin'}" in told
    server.shutdown()
    server.server_close()
    told = refused("refused", server.url)
    assert server.url in told and f"put it at {cache / 'data.bin'}" in told


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "nonsense", "http://127.0.0.1:9/a b"])
def test_a_url_that_is_none_is_told_in_one_line(url):
    assert url in refused("cannot be fetched|names no file", url)


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


def packed(**options) -> Path:
    return fetch.packed("npm", "thing@1.2.3", **{"sha256": SHA256, "name": "thing-1.2.3.tgz", **options})


def test_a_package_is_packed_once_and_none_of_its_scripts_run(npm, tmp_path, cache):
    (tmp_path / "packed").write_bytes(DATA)
    log = npm(f'cp "{tmp_path}/packed" "$5/thing-1.2.3.tgz"; echo thing-1.2.3.tgz')
    for _ in range(2):
        assert packed() == cache / "thing-1.2.3.tgz"
    assert (cache / "thing-1.2.3.tgz").read_bytes() == DATA
    called = log.read_text().splitlines()
    assert len(called) == 1 and called[0].startswith("pack ") and called[0].endswith(" thing@1.2.3")
    assert "--ignore-scripts" in called[0].split()


@pytest.mark.parametrize(
    "body, match",
    [
        ('echo other > "$5/thing-1.2.3.tgz"', "sha256 .* not"),
        ('echo one > "$5/a"; echo two > "$5/b"', "gave 2 files"),
        ("true", "gave 0 files"),
        ("echo 'npm error no such version' >&2; exit 1", r"npm error no such version"),
        ("exit 3", "exit status 3"),
    ],
)
def test_a_client_that_fails_leaves_nothing_and_is_told_in_one_line(body, match, npm, cache):
    npm(body)
    with pytest.raises(UserError, match=match) as caught:
        packed()
    assert "\n" not in str(caught.value) and not list(cache.iterdir())


def test_a_client_that_is_not_there_is_told(monkeypatch, tmp_path, cache):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"thing@1.2.3 .*no 'npm' here.*thing-1.2.3.tgz"):
        packed()


def test_an_archive_in_the_cache_is_checked(cache):
    cache.mkdir()
    (cache / "thing-1.2.3.tgz").write_bytes(b"other")
    with pytest.raises(UserError, match=r"thing-1.2.3.tgz has sha256"):
        packed()
