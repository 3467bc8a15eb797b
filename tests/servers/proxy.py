"""A TCP proxy that spoils connections: cuts them, refuses them, or swallows what goes through."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Self

CHUNK = 64 * 1024
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Listens on `port` of loopback and hands everything on to a server, until it is told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        """In front of the server there; it need not run yet."""
        self.port = 0
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._refuses = False
        self._stalls = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()
        await self._server.wait_closed()

    @property
    def connections(self) -> int:
        """How many go through it."""
        return len(self._links)

    async def cut(self) -> None:
        """Reset all connections, on both sides."""
        links = list(self._links)
        for link in links:
            link.reset()
        for link in links:
            await link.ended.wait()

    def refuse(self) -> None:
        """Reset each new connection at once."""
        self._refuses = True

    def accept(self) -> None:
        """Take new connections again."""
        self._refuses = False

    def stall(self) -> None:
        """From now on swallow every byte: both sides hear nothing more, and no end of the connection either."""
        self._stalls = True
        for link in self._links:
            link.swallows = True

    def flow(self) -> None:
        """Hand on again what new connections send; one that has lost bytes stays silent."""
        self._stalls = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(reader, writer, self._stalls)
        self._links.add(link)
        try:
            if self._refuses:
                link.reset()
            else:
                await link.run(*self._target)
        finally:
            self._links.discard(link)
            link.ended.set()


class _Link:
    """One connection through the proxy: two sockets and who reads from which."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallows: bool) -> None:
        self.swallows = swallows
        self.ended = asyncio.Event()
        self._client = reader, writer
        self._writers = [writer]

    async def run(self, host: str, port: int) -> None:
        """Until one side ends."""
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            self.reset()
            return
        self._writers.append(writer)
        if self._client[1].is_closing():  # it was cut meanwhile
            self.reset()
        pumps = [
            asyncio.ensure_future(self._pump(self._client[0], writer)),
            asyncio.ensure_future(self._pump(reader, self._client[1])),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for writer in self._writers:
                writer.close()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if not self.swallows:
                    writer.write(chunk)
                    await writer.drain()

    def reset(self) -> None:
        """End both sides as a crash of the machine between them does."""
        for writer in self._writers:
            with suppress(OSError):
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            writer.transport.abort()
