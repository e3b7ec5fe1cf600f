"""A server on loopback that hands out files, well or badly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Behaviour:
    """How the server answers. Each connection sends at most `limit` bytes of the file.

    claim: what Content-Length says beyond the truth. ranges: whether it can go on in the middle. statuses: answers
    before the first good one. unsized: no length at all. stall: seconds of silence in the middle. shift: a
    Content-Range that begins elsewhere. target: where it redirects to.
    """

    content: bytes
    limit: int | None = None
    claim: int = 0
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    unsized: bool = False
    stall: float = 0.0
    shift: int = 0
    target: str | None = None
    requests: list[str | None] = field(default_factory=list)  # the Range headers that came


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """The address of a running server, without a path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            b = behaviour
            asked = self.headers.get("Range")
            b.requests.append(asked)
            if b.statuses:
                self.send_error(b.statuses.pop(0))
                return
            if b.target is not None:
                self.send_response(302)
                self.send_header("Location", b.target)
                self.end_headers()
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and b.ranges else 0
            if asked and b.ranges and start >= len(b.content):
                self.send_error(416)
                return
            rest = b.content[start:]
            self.send_response(206 if asked and b.ranges else 200)
            if asked and b.ranges:
                end = len(b.content) - 1
                self.send_header("Content-Range", f"bytes {start + b.shift}-{end + b.shift}/{len(b.content) + b.claim}")
            if not b.unsized:
                self.send_header("Content-Length", str(len(rest) + b.claim))
            self.end_headers()
            part = rest if b.limit is None else rest[: b.limit]
            self.wfile.write(part[: len(part) // 2])
            if b.stall:
                self.wfile.flush()
                time.sleep(b.stall)
            self.wfile.write(part[len(part) // 2 :])

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client went away
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
