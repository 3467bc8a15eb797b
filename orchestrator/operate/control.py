"""The daemon's end of the socket beside the store: for its owner only, bounded, many asks under way at once."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream

from ..errors import ConfigError, OrchestratorError
from . import protocol
from .protocol import Answer, Ask, Problem

MAX_CLIENTS = 64
LOOK_S = 2.0  # how often it looks whether its socket is still there

logger = logging.getLogger(__name__)


class Control:
    """Listens at `path` (mode 0600) and has each ask answered by `answer(ask, who)`.

    A client is served only if the kernel says that it runs under the daemon's own user or root. Its answers come in
    the order of its asks; at most PREFETCH of them are under way, then it is not read further.
    """

    def __init__(self, path: Path, answer: Callable[[Ask, str], Awaitable[Answer]], body_bytes: int = 0) -> None:
        """Nothing is opened yet. `body_bytes`: the size of an event that an ask must have room for."""
        self._path = path
        self._body_bytes = body_bytes
        self._answer = answer
        self.ended = anyio.Event()
        """Set when all is answered, and the socket gone."""
        self._stopping = anyio.Event()
        self._reading: set[anyio.CancelScope] = set()

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`, and until what was asked is answered; a socket left behind by a dead daemon is replaced
        (the store's lock says that it is dead). Errors: ConfigError when something else is at the socket's place.
        """
        listener = self._bound()
        try:
            async with anyio.create_task_group() as clients:

                def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                    clients.start_soon(self._serve_client, reader, writer)

                server = await asyncio.start_unix_server(
                    connected, sock=listener, limit=protocol.max_ask(self._body_bytes)
                )
                task_status.started()
                while await self._is_missing():
                    server.close()
                    listener = self._bound()
                    logger.warning("the socket was gone and is made again", extra={"path": str(self._path)})
                    server = await asyncio.start_unix_server(
                        connected, sock=listener, limit=protocol.max_ask(self._body_bytes)
                    )
                server.close()
        finally:
            listener.close()
            self._path.unlink(missing_ok=True)
            self.ended.set()

    async def _is_missing(self) -> bool:
        """Wait until somebody has removed the socket (true), or the daemon stops (false)."""
        while self._is_there():
            with anyio.move_on_after(LOOK_S):
                await self._stopping.wait()
                return False
        return not self._stopping.is_set()

    def _is_there(self) -> bool:
        return os.path.lexists(self._path)

    def stop(self) -> None:
        """Take no more clients and read no more asks; what was read is still answered."""
        self._stopping.set()
        for scope in self._reading:
            scope.cancel()

    def _bound(self) -> socket.socket:
        if protocol.is_socket(self._path):
            self._path.unlink()
        elif os.path.lexists(self._path):
            raise ConfigError(f"{self._path} is in the way of the daemon's socket and is not a socket: move it away")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with protocol.short_address(self._path) as address:
                listener.bind(address)
                os.chmod(address, 0o600)  # before it listens
        except OSError as error:
            listener.close()
            raise ConfigError(f"{self._path}, the daemon's socket, cannot be made: {error.strerror or error}") from None
        listener.setblocking(False)
        return listener

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            uid = protocol.peer(writer.get_extra_info("socket")).uid
            if uid not in (os.geteuid(), 0):
                logger.warning("a client was turned away: it runs under another user", extra={"uid": uid})
            elif len(self._reading) >= MAX_CLIENTS or self._stopping.is_set():
                writer.write(protocol.encode(Problem("OrchestratorError", "the daemon has too many clients, or stops")))
            else:
                await self._converse(reader, writer, user_name(uid))
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, who: str) -> None:
        room = _Room()
        asked, to_answer = anyio.create_memory_object_stream[_Pending](protocol.PREFETCH)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_answer_in_order, writer, to_answer, room)
            with asked, anyio.CancelScope() as reading:
                self._reading.add(reading)
                try:
                    while line := await _next_line(reader, protocol.max_ask(self._body_bytes)):
                        await room.take(len(line))
                        pending = _Pending(len(line))
                        asked.send_nowait(pending)  # it is as long as there may be asks
                        tasks.start_soon(self._work, line, who, pending)
                finally:
                    self._reading.discard(reading)

    async def _work(self, line: bytes, who: str, pending: _Pending) -> None:
        try:
            pending.answer = await self._answer(protocol.decode_ask(line), who)
        except OrchestratorError as error:
            pending.answer = protocol.problem(error)
        except Exception:
            logger.exception("a request could not be answered")
            pending.answer = Problem("OrchestratorError", "internal error; the daemon's log has the details")
        pending.ready.set()


def user_name(uid: int) -> str:
    """The name of a user of this machine, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class _Pending:
    """An ask under way, of so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.ready = anyio.Event()
        self.answer: Answer = Problem("OrchestratorError", "not answered")


class _Room:
    """Bounds what is under way for one client, in asks and in bytes."""

    def __init__(self) -> None:
        self._asks = 0
        self._bytes = 0
        self._freed = anyio.Event()

    async def take(self, size: int) -> None:
        while self._asks >= protocol.PREFETCH or self._bytes >= protocol.PREFETCH_BYTES:
            self._freed = anyio.Event()
            await self._freed.wait()
        self._asks += 1
        self._bytes += size

    def give_back(self, size: int) -> None:
        self._asks -= 1
        self._bytes -= size
        self._freed.set()


async def _answer_in_order(
    writer: asyncio.StreamWriter, to_answer: MemoryObjectReceiveStream[_Pending], room: _Room
) -> None:
    is_gone = False
    with to_answer:
        async for pending in to_answer:
            await pending.ready.wait()
            if not is_gone:
                try:
                    writer.write(protocol.encode(pending.answer))
                    await writer.drain()
                except OSError:
                    is_gone = True  # nobody listens any more; what was asked is done all the same
            room.give_back(pending.size)


async def _next_line(reader: asyncio.StreamReader, limit: int) -> bytes:
    """The next whole line; nothing when the client has said all, has gone, or says too much without an end."""
    try:
        return await reader.readuntil()
    except asyncio.LimitOverrunError:
        logger.warning("a client was cut off: it sent a request of more than %d bytes", limit)
        return b""
    except (asyncio.IncompleteReadError, OSError):
        return b""
