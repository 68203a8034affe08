"""An HTTP proxy in front of a Tiled server that misbehaves on demand: a test instrument."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Trouble = Literal["", "slow", "status", "reset", "reset after", "half an answer"]
_OWN_HEADERS = {"transfer-encoding", "connection", "content-length", "keep-alive", "date", "server"}


@dataclass(frozen=True)
class Mode:
    """What happens to a request: it waits ``seconds``, gets ``status``, or its connection breaks."""

    trouble: Trouble = ""
    status: int = 200
    seconds: float = 0.0


class FaultyProxy:
    """Pass requests on to ``127.0.0.1:port``; ``hits`` counts what was spoilt."""

    def __init__(self, port: int) -> None:
        self.hits = 0
        self._mode = Mode()
        self._lasts_s = self._until = 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, port))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        """Address of the API behind the proxy."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/api/v1"

    def spoil(self, mode: Mode, seconds: float) -> None:
        """Spoil the next request, and all others for so long after it."""
        self.hits, self._mode, self._lasts_s = 0, mode, seconds

    def take(self) -> Mode:
        """Return what is to happen to a request."""
        if not self._mode.trouble:
            return self._mode
        if self.hits == 0:
            self._until = time.monotonic() + self._lasts_s
        elif time.monotonic() > self._until:
            self._mode = Mode()
            return self._mode
        self.hits += 1
        return self._mode

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _handler(proxy: FaultyProxy, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the client has gone, or the connection was reset on purpose
                self.close_connection = True

        def _forward(self) -> None:
            mode = proxy.take()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if mode.trouble == "slow":
                time.sleep(mode.seconds)
            if mode.trouble == "reset":
                self._reset()
                return
            if mode.trouble == "status":
                self._answer(mode.status, [("Content-Type", "application/json")], b'{"detail": "out of order"}')
                return
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                upstream.request(self.command, self.path, body or None, dict(self.headers.items()))
                answer = upstream.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                self._reset()
                return
            finally:
                upstream.close()
            if mode.trouble == "reset after":
                self._reset()
            elif mode.trouble == "half an answer" and content:
                self._answer(answer.status, answer.getheaders(), content, cut=len(content) // 2)
            else:
                self._answer(answer.status, answer.getheaders(), content)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = _forward

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: int | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in _OWN_HEADERS:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[:cut])
            if cut is not None:
                self._reset()

        def _reset(self) -> None:
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    return Handler
