"""A local server of files over HTTP, which a test can make misbehave."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator

DATA = bytes(range(256)) * 40


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's `files`, from the byte on that the request names, or does what `answer` does."""

    def do_GET(self) -> None:
        """Note the Range of the request in the server's log, and answer."""
        server, wanted = self.server, self.headers.get("Range")
        server.log.append(wanted)
        if server.answer is not None:
            server.answer(self)
            return
        data = server.files.get(self.path.split("?")[0], server.default)
        same = self.headers.get("If-Range") in (None, server.tag)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges and same else 0
        if server.status != 200 or data is None:
            self.send_error(server.status if server.status != 200 else 404)
        elif start and start >= len(data):
            self.send_error(416)
        else:
            self._send(data, start)

    def _send(self, data: bytes, start: int) -> None:
        server, body = self.server, data[start:]
        headers = {"Content-Length": str(len(body)), "ETag": server.tag} if server.tag else {}
        headers |= {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        if server.chunked:
            headers["Transfer-Encoding"] = "chunked"
            headers.pop("Content-Length", None)
            body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        cut = server.cuts.pop(0) if server.cuts else len(body)
        self.reply(206 if start else 200, headers, body[:cut])

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Send a response and end the connection."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, data: bytes = b"x", *, seconds: float = 20.0) -> None:
        """Send `data` again and again, ten times a second."""
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while time.monotonic() < end and not self.server.stopped:
                self.wfile.write(data)
                self.wfile.flush()
                time.sleep(0.1)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Server(http.server.ThreadingHTTPServer):
    """`files`: by their paths; `default`: what every other path has. `log`: the Range of each request.

    `cuts`: after how many bytes the connection of each response ends. `answer`: what is done instead of serving files.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, default: bytes | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.default, self.tag = default, '"1"'
        self.log: list[str | None] = []
        self.cuts: list[int] = []
        self.ranges, self.status, self.chunked, self.stopped = True, 200, False, False
        self.answer: Callable[[Handler], None] | None = None
        self.home = f"http://127.0.0.1:{self.server_port}"
        self.url = f"{self.home}/folder/data.bin"

    def handle_error(self, *_: object) -> None:
        """Ignore clients that end a connection."""


@contextlib.contextmanager
def serve(default: bytes | None = None) -> Iterator[Server]:
    """A context with a running server."""
    server = Server(default)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.stopped = True
        server.shutdown()
        server.server_close()
