"""A receiver of webhooks over real HTTP, which behaves as the first part of a path says."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MEGABYTES = 64


class Receiver:
    """What came, and where it listens. /500, /410 and the like answer so; /ok answers 204."""

    def __init__(self, port: int, scheme: str) -> None:
        self.port = port
        self.scheme = scheme
        self.came: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.sent_bytes = 0
        self.status = 0  # what all are answered with, if it is set
        self.stop = threading.Event()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"


@contextmanager
def receiver(context: ssl.SSLContext | None = None) -> Generator[Receiver]:
    """Serves in a thread of its own until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def setup(self) -> None:
            super().setup()
            found.connections += 1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.came.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            what = self.path.split("/")[1].partition("?")[0]
            try:
                if found.status:
                    self._say(found.status)
                else:
                    getattr(self, what, self._answer)()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _answer(self) -> None:
            status = self.path.split("/")[1]
            self._say(int(status) if status.isdigit() else 204)

        def _say(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if status != 204:
                self.send_header("content-length", "2")
            self.end_headers()
            if status != 204:
                self.wfile.write(b"{}")

        def busy(self) -> None:
            self._say(503, retry_after="120")

        def redirect(self) -> None:
            self._say(302, location="http://169.254.169.254/latest/meta-data/")

        def cookie(self) -> None:
            self._say(200, set_cookie="session=stolen")

        def hang(self) -> None:
            found.stop.wait(15)
            self.close_connection = True

        def megabytes(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(MEGABYTES << 20))
            self.end_headers()
            for _ in range(MEGABYTES):
                self.wfile.write(b"x" * (1 << 20))
                found.sent_bytes += 1 << 20

        def drip(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            while not found.stop.wait(0.2):
                self.wfile.write(b"x")

        def headers_drip(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not found.stop.wait(0.1):
                self.wfile.write(b"x-more: y\r\n")

        def nonsense(self) -> None:
            self.wfile.write(b"220 mail.example ESMTP\r\n")
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that goes away is what is tested

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    found = Receiver(server.server_port, "http" if context is None else "https")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        found.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
