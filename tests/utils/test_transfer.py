"""Servers that do not do what they should: each gives one line, soon, and no file."""

from __future__ import annotations

import dataclasses
import os
import time

import pytest
import served
from served import DATA

from cm.errors import UserError
from cm.utils import fetch, files, transfer
from cm.utils.urls import check_url

SHA256 = files.sha256(DATA)
FAST = dataclasses.replace(transfer.LIMITS, idle_seconds=0.5, least_bytes=100, seconds=2.0, most_bytes=50_000)


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    monkeypatch.setattr(transfer, "LIMITS", FAST)


def refusal(match: str, url: str, **options) -> str:
    started = time.monotonic()
    with pytest.raises(UserError, match=match) as caught:
        fetch.fetch_file(url, **options)
    assert "\n" not in str(caught.value) and time.monotonic() - started < 4
    assert not fetch.place_of(url).exists()
    return str(caught.value)


def reply(status: int = 200, body: bytes = DATA, **headers: str):
    """An answer that states its length unless the headers say otherwise."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(handler: served.Handler) -> None:
        stated = {"Content-Length": str(len(body))} | named
        handler.reply(status, {name: value for name, value in stated.items() if value is not None}, body)

    return answer


# ---- slow, endless, cut off ----


def drip_headers(handler: served.Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Header: ")
    handler.drip()


def drip_body(handler: served.Handler) -> None:
    handler.reply(200, {"Content-Length": "1000000"})
    handler.drip()


def say_nothing(handler: served.Handler) -> None:
    time.sleep(5)


def stop_in_between(handler: served.Handler) -> None:
    handler.reply(200, {"Content-Length": str(len(DATA))}, DATA[:3000])
    time.sleep(5)


def send_slowly_but_steadily(handler: served.Handler) -> None:
    handler.reply(200, {"Content-Length": "1000000"})
    handler.drip(b"x" * 100)


def send_chunks_for_ever(handler: served.Handler) -> None:
    handler.reply(200, {"Transfer-Encoding": "chunked"})
    for _ in range(10_000):
        handler.wfile.write(b"400\r\n" + b"x" * 0x400 + b"\r\n")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (drip_headers, "sent less than 100 bytes in 0.5 s"),
        (drip_body, "sent less than 100 bytes in 0.5 s"),
        (say_nothing, "sent less than 100 bytes|timed out"),
        (stop_in_between, "sent less than 100 bytes|timed out"),
        (send_slowly_but_steadily, "not complete after 2 s"),
        (send_chunks_for_ever, "sent more than 50000 bytes"),
    ],
)
def test_no_server_keeps_the_caller_waiting(answer, message, server):
    server.answer = answer
    refusal(message, server.url)


def test_a_server_that_sends_quickly_and_never_ends_is_left(server, monkeypatch):
    def send(handler: served.Handler) -> None:
        handler.reply(200, {"Content-Length": str(1 << 40)})
        while not server.stopped:
            handler.wfile.write(bytes(1000))

    monkeypatch.setattr(transfer, "LIMITS", dataclasses.replace(FAST, seconds=1.0))
    monkeypatch.setattr(transfer, "_check_room", lambda *_: None)
    monkeypatch.setattr(transfer, "_write_block", lambda *_: time.sleep(0.01))  # there is always a next block
    server.answer = send
    refusal("not complete after 1 s", server.url)


def test_a_file_for_which_there_is_no_room_is_not_begun(server, cache):
    server.answer = lambda handler: handler.reply(200, {"Content-Length": str(1 << 60)})
    refusal("takes 1152921504606.8 MB more", server.url)
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [100, 49_999])
def test_nothing_beyond_the_expected_size_is_read(size, server):
    server.answer = send_chunks_for_ever
    refusal(f"sent more than {size} bytes", server.url, size=size)


def test_a_response_of_unknown_length_must_be_verifiable(server):
    server.answer = reply(Content_Length=None)
    refusal("does not say where the file ends", server.url)
    assert fetch.fetch_file(server.url, size=len(DATA)).read_bytes() == DATA


@pytest.mark.parametrize("known", [{"size": len(DATA)}, {"sha256": SHA256}])
def test_a_body_cut_off_without_a_length_is_noticed(known, server):
    server.answer = reply(body=DATA[:3000], Content_Length=None)
    refusal("truncated or another|damaged or another", server.url, **known)


def test_an_interrupted_response_in_chunks_leaves_no_file(server):
    server.chunked, server.cuts = True, [3000]
    refusal("broke", server.url)


# ---- another answer than was asked for ----


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (reply(body=b"<p>Please log in</p>", Content_Type="text/html; charset=utf-8"), "a page of HTML"),
        (reply(body=b"\n <!DOCTYPE html><title>x</title>"), "a page of HTML"),
        (reply(body=b"<HTML>", Content_Type="application/octet-stream"), "a page of HTML"),
        (reply(204, b""), "status 204"),
        (reply(206, Content_Range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}"), "another part"),
        (reply(500, b""), "Internal Server Error"),
        (reply(302, b"", Location="/folder/data.bin"), "infinite loop"),
    ],
)
def test_an_answer_that_is_not_the_file_is_refused(answer, message, server, cache):
    server.answer = answer
    refusal(message, server.url)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_another_size_than_is_expected_is_refused_before_it_is_read(server):
    refusal(f"offers {len(DATA)} bytes, not 7", server.url, size=7)


def interrupt(server: served.Server) -> None:
    """Leave the first 3000 bytes of the file."""
    server.cuts = [3000]
    refusal("broke after 3000", server.url)


@pytest.mark.parametrize("part", [None, "bytes 0-10239/10240", "bytes 2999-10239/10240", "bytes 3000-9/10240", "x"])
def test_another_part_of_the_file_is_refused_and_the_next_attempt_begins_anew(part, server):
    interrupt(server)
    server.answer = reply(206, DATA[3000:], Content_Range=part)
    refusal("another part of the file than from byte 3000 on", server.url)
    server.answer = None
    assert fetch.fetch_file(server.url).read_bytes() == DATA
    assert server.log[-1] is None


def test_a_file_that_changes_between_two_attempts_is_fetched_from_its_beginning(server):
    interrupt(server)
    server.default, server.tag = DATA[::-1], '"2"'
    assert fetch.fetch_file(server.url).read_bytes() == DATA[::-1]
    assert server.log == [None, "bytes=3000-"]


@pytest.mark.parametrize(("pinned", "asked"), [({}, None), ({"sha256": SHA256}, "bytes=3000-")])
def test_without_a_version_only_what_a_digest_verifies_is_resumed(pinned, asked, server):
    server.tag = ""
    server.cuts, server.chunked = [3010], True
    refusal("broke", server.url, **pinned)
    assert fetch.fetch_file(server.url, **pinned).read_bytes() == DATA
    assert (server.log[-1] is None) is (asked is None)


def test_a_server_without_ranges_starts_from_the_beginning(server):
    server.cuts, server.ranges = [3000], False
    refusal("broke", server.url)
    assert fetch.fetch_file(server.url, sha256=SHA256).read_bytes() == DATA


def test_a_complete_partial_file_is_downloaded_again(server):
    path = fetch.place_of(server.url)
    path.parent.mkdir(parents=True)
    path.with_name("data.bin.partial").write_bytes(DATA)
    assert fetch.fetch_file(server.url, sha256=SHA256).read_bytes() == DATA
    assert server.log == [f"bytes={len(DATA)}-", None]


def test_a_link_in_the_place_of_a_partial_file_is_not_followed(server, tmp_path):
    target, path = tmp_path / "target", fetch.place_of(server.url)
    path.parent.mkdir(parents=True)
    path.with_name("data.bin.partial").symlink_to(target)
    refusal("symbolic link", server.url)
    assert not target.exists()


# ---- addresses ----

BAD = {
    "file:///etc/passwd": "must begin with http:// or https://",
    "ftp://host/x": "must begin with",
    "data:text/plain,x": "must begin with",
    "gopher://host/x": "must begin with",
    "nonsense": "must begin with",
    "http:///x": "name a host",
    "http://user@host/x": "credentials",
    "https://user:secret@host/x": "credentials",
    "https://good.org\\@host/x": "credentials",
    "http://host/a b": "percent-encoded",
    "http://host/\r\nHost: other": "percent-encoded",
    "http://host/\x1b[2J": "percent-encoded",
    "http://host/\u202e": "percent-encoded",
    "http://h\u00f6st/x": "percent-encoded",
    "http://host:99999/x": "no URL",
    "http://[::1/x": "no URL",
}


@pytest.mark.parametrize("url", BAD)
def test_a_bad_url_is_one_line_without_secrets_and_nothing_is_opened(url, cache):
    for refuse in (check_url, fetch.fetch_file):
        with pytest.raises(UserError, match=BAD[url]) as caught:
            refuse(url)
        line = str(caught.value)
        assert line.isprintable() and "secret" not in line
    assert not cache.exists()


@pytest.mark.parametrize("url", ["http://host/x", "https://host:8080/a/b%20c?d=e&f", "https://[::1]/x"])
def test_a_good_url_is_admitted(url):
    check_url(url)


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://host/x", "data:,x", "gopher://host/x", "https://user:secret@host/x", "http://[::1/x"],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_elsewhere_is_refused(target, status, server):
    server.answer = reply(status, b"", Location=target)
    line = refusal("leads elsewhere|not allowed|no host|Invalid", server.url)
    assert "secret" not in line


def test_a_redirect_to_another_file_of_http_is_followed(server):
    server.files = {"/other": b"other"}
    server.answer = lambda handler: (
        handler.reply(302, {"Location": f"{server.home}/other"})
        if handler.path != "/other"
        else handler.reply(200, {"Content-Length": "5"}, b"other")
    )
    assert fetch.fetch_file(server.url).read_bytes() == b"other"


def test_https_does_not_lead_to_http():
    request = transfer.urllib.request.Request("https://host/x")
    with pytest.raises(OSError, match="must begin with https://"):
        transfer._Redirects().redirect_request(request, None, 302, "", {}, "http://host/x")


def test_control_characters_of_a_server_do_not_reach_the_terminal(server, capsys):
    from cm.cli import main

    server.answer = lambda handler: handler.wfile.write(b"HTTP/1.1 500 \x1b[31mred\x07\r\n\r\n")
    assert main(["prepare", "--dataset", "cifar10", "--source", server.url, "--out", os.devnull + "-x"]) == 2
    error = capsys.readouterr().err
    assert error.rstrip("\n").isprintable() and "red" in error
