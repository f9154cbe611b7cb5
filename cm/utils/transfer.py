"""One file over HTTP or HTTPS: within limits of time and size, and resumed where an earlier attempt stopped.

Nothing that a server does is trusted. It cannot lead to another scheme than HTTP and HTTPS, nor from HTTPS to HTTP; it
can neither keep the caller waiting nor fill the disk; and a page of HTML, another part of the file than was asked for,
or a response whose end nobody can tell from a broken connection are refused.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cm.errors import UserError
from cm.utils.progress_bar import ProgressBar
from cm.utils.urls import check_url

CHUNK = 1 << 20  # bytes read from a connection at a time
OK, PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 200, 206, 416
VERSION = re.compile(r"[ -~]{1,200}")  # an entity tag or a date
HTML = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Limits:
    """`least_bytes` must arrive within every `idle_seconds`, and all within `seconds`.

    `most_bytes`: the size of a file whose size neither the caller nor the server states.
    """

    idle_seconds: float = 60.0
    least_bytes: int = 60_000
    seconds: float = 24 * 3600.0
    most_bytes: int = 1 << 36


LIMITS = Limits()


class Unusable(OSError):
    """What the server sends is not the file, so nothing of it is kept."""


def download(url: str, partial: Path, *, size: int | None = None, pinned: bool = False) -> None:
    """Write what is at a URL to the file `partial`, from where an earlier attempt stopped if the server can do so.

    `size`: in bytes, if it is known. `pinned`: whether the caller knows the digest of the file and verifies it. Raises
    UserError for a URL that `check_url` refuses and for an error of the disk, and OSError for everything else that
    fails.
    """
    check_url(url)
    start, tag = _find_start(partial, pinned=pinned)
    try:
        _transfer(_Connection(url, start, tag), partial, size=size, pinned=pinned)
    except urllib.error.HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE or not start:
            raise
        partial.unlink()
        _transfer(_Connection(url, 0, ""), partial, size=size, pinned=pinned)
    except Unusable:
        partial.unlink(missing_ok=True)
        raise
    _tag_file(partial).unlink(missing_ok=True)


# ---- the connection -------------------------------------------------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects that `check_url` admits, and none from HTTPS to HTTP."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        try:
            check_url(newurl, ("https",) if req.full_url.startswith("https:") else ("http", "https"))
        except UserError as error:
            raise OSError(f"it leads elsewhere: {error}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _build_opener() -> urllib.request.OpenerDirector:
    """What opens URLs of HTTP and HTTPS, through a proxy if the environment names one, and no others."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


class _Connection:
    """The response of a server from byte `start` on, read by a thread, so that no server can keep the caller waiting.

    `tag`: what the server said of the version of the file of which there are `start` bytes already.
    """

    def __init__(self, url: str, start: int, tag: str) -> None:
        headers = {"User-Agent": "cm"} | ({"Range": f"bytes={start}-"} if start else {})
        headers |= {"If-Range": tag} if start and tag else {}
        self.start = start
        self._request = urllib.request.Request(url, headers=headers)
        self._items: queue.Queue[Any] = queue.Queue(maxsize=4)
        self._given_up = threading.Event()
        self._end = time.monotonic() + LIMITS.seconds
        threading.Thread(target=self._read, daemon=True).start()

    def open(self) -> tuple[Any, int | None]:
        """The response and, if the server states it, the number of bytes of its body; OSError if none comes."""
        response = self._next(LIMITS.idle_seconds)
        if response is None:
            raise self._too_slow()
        return response

    def blocks(self) -> Iterator[bytes]:
        """The body; OSError if it breaks off, or comes too slowly."""
        while True:
            arrived, window = 0, time.monotonic() + LIMITS.idle_seconds
            while (block := self._next(window - time.monotonic())) is not None:
                if not block:
                    return
                yield block
                arrived += len(block)
            if arrived < LIMITS.least_bytes:
                raise self._too_slow()

    def close(self) -> None:
        """Let the thread end as soon as it hears of the server again."""
        self._given_up.set()

    def _next(self, seconds: float) -> Any:
        """What the thread has read next, None if that is nothing for so many seconds."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise self._too_slow()
        try:
            item = self._items.get(timeout=max(0.0, min(seconds, left)))
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        return item

    def _too_slow(self) -> OSError:
        if time.monotonic() >= self._end:
            return OSError(f"it is not complete after {LIMITS.seconds:g} s; try again to resume")
        return OSError(f"the server sent less than {LIMITS.least_bytes} bytes in {LIMITS.idle_seconds:g} s")

    def _read(self) -> None:
        try:
            with _build_opener().open(self._request, timeout=LIMITS.idle_seconds) as response:
                left = response.length
                self._put((response, left))
                while left != 0 and not self._given_up.is_set() and (block := response.read1(CHUNK)):
                    self._put(block)
                    left = None if left is None else max(0, left - len(block))
                self._put(b"")
        except OSError as error:
            self._put(error)
        except Exception as error:  # http.client has many names for a broken connection
            self._put(OSError(f"the connection broke: {type(error).__name__} {error}".strip()))

    def _put(self, item: Any) -> None:
        while not self._given_up.is_set():
            try:
                return self._items.put(item, timeout=0.2)
            except queue.Full:
                continue


# ---- the file -------------------------------------------------------------------------------------------------------


def _tag_file(partial: Path) -> Path:
    """The file that says which version of the file the bytes in `partial` belong to."""
    return partial.with_name(f"{partial.name}.version")


def _find_start(partial: Path, *, pinned: bool) -> tuple[int, str]:
    """How many bytes an earlier attempt has left, and of which version of the file.

    None count if that is unknown, unless a digest will show whether the parts fit together.
    """
    tag = _tag_file(partial)
    version = tag.read_text(errors="replace") if tag.is_file() else ""
    present = partial.stat().st_size if partial.is_file() else 0
    if not VERSION.fullmatch(version):
        version = ""
    return (present, version) if version or pinned else (0, "")


def _transfer(connection: _Connection, partial: Path, *, size: int | None, pinned: bool) -> None:
    try:
        response, length = connection.open()
        start, total = _check_response(response, length, connection.start, size)
        if total is None and not response.chunked and size is None and not pinned:
            raise Unusable("the server does not say where the file ends, so nobody can tell whether it is whole")
        most = total or size or LIMITS.most_bytes
        _check_room(partial, (total or size or 0) - start)
        _write_version(partial, response)
        done = _write(connection.blocks(), partial, start=start, total=total or size, most=most)
    finally:
        connection.close()
    if total and done != total:
        raise OSError(f"the connection broke after {done} of {total} bytes; try again to resume")


def _check_response(response: Any, length: int | None, asked: int, size: int | None) -> tuple[int, int | None]:
    """The byte at which a response of `length` bytes starts, and the size of the whole file if the server states it.

    `asked`: the byte that was asked for. Raises Unusable for a response that is not what was asked for.
    """
    if response.status not in (OK, PARTIAL_CONTENT):
        raise OSError(f"the server answered with status {response.status}")
    start = asked if response.status == PARTIAL_CONTENT else 0
    total = None if length is None else start + length
    if response.status == PARTIAL_CONTENT:
        part = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if not asked or not part or int(part[1]) != asked or part[3] not in ("*", str(int(part[2]) + 1)):
            raise Unusable(f"the server sent another part of the file than from byte {asked} on")
        total = int(part[2]) + 1
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise Unusable("the server answered with a page of HTML in place of the file")
    if size is not None and total not in (None, size):
        raise Unusable(f"the server offers {total} bytes, not {size}")
    return start, total


def _check_room(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise UserError(f"{partial} takes {needed / 1e6:.1f} MB more, and {free / 1e6:.1f} MB are free")


def _write_version(partial: Path, response: Any) -> None:
    """Note which version of the file the server sends, by its entity tag, or else by its date."""
    tag = response.headers.get("ETag", "")
    version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
    _tag_file(partial).unlink(missing_ok=True)
    if VERSION.fullmatch(version):
        with open(_tag_file(partial), "x") as file:
            file.write(version)


def _write(blocks: Iterator[bytes], partial: Path, *, start: int, total: int | None, most: int) -> int:
    """Write the blocks behind the first `start` bytes of a file; returns the size of the file.

    Raises Unusable for more than `most` bytes, and for HTML.
    """
    progress = ProgressBar(partial.stem, total / 1e6, start=start / 1e6, unit="MB") if total else None
    done = start
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_APPEND if start else os.O_TRUNC)
    with open(os.open(partial, flags, 0o666), "ab") as file:
        for block in blocks:
            if not done and HTML.match(block):
                raise Unusable("the server answered with a page of HTML in place of the file")
            if done + len(block) > most:
                raise Unusable(f"the server sent more than {most} bytes")
            _write_block(file, block, partial)
            done += len(block)
            if progress:
                progress.update(len(block) / 1e6)
    if progress:
        progress.close()
    return done


def _write_block(file: Any, block: bytes, partial: Path) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        raise UserError(f"{partial}: {error.strerror}; with room again, the same command resumes") from None
