"""The command line's end of the socket beside the store: plain, synchronous, quick to import."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec

from . import protocol
from .protocol import Answer, Ask, Ping, Pong

ANSWER_TIMEOUT_S = 60.0
PING_TIMEOUT_S = 2.0


class Desk(Protocol):
    """Where a verb's asks are answered: by the daemon, or by this process itself."""

    def ask_all(self, asks: Iterable[Ask]) -> Iterator[Answer]:
        """Have many asks answered, in their order, several under way at once."""
        ...


class Daemon:
    """A connection to the daemon. Errors of all that it does: ConnectionError, TimeoutError (it may still be done)."""

    def __init__(self, connection: socket.socket) -> None:
        """Talk over a connected socket, which is closed with this."""
        self._connection = connection
        self._lines = connection.makefile("rb")

    @property
    def pid(self) -> int:
        """The daemon's process, as the kernel says; 0 where it cannot."""
        return protocol.peer(self._connection).pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lines.close()
        self._connection.close()

    def ask_all(self, asks: Iterable[Ask]) -> Iterator[Answer]:
        """The answers, in the order of the asks; a window of asks, in number and in bytes, is ahead of its answers."""
        sizes: deque[int] = deque()
        ahead = 0
        for ask in asks:
            sizes.append(self._send(ask))
            ahead += sizes[-1]
            while len(sizes) >= protocol.WINDOW or ahead >= protocol.WINDOW_BYTES:
                ahead -= sizes.popleft()
                yield self._receive()
        for _ in sizes:
            yield self._receive()

    def ask(self, ask: Ask) -> Answer:
        """The answer to one ask."""
        self._send(ask)
        return self._receive()

    def _send(self, ask: Ask) -> int:
        line = protocol.encode(ask)
        try:
            self._connection.sendall(line)
        except TimeoutError:
            raise _silent() from None
        except OSError:
            raise _gone() from None
        return len(line)

    def _receive(self) -> Answer:
        try:
            line = self._lines.readline(protocol.MAX_ANSWER)
        except TimeoutError:
            raise _silent() from None
        except OSError:
            raise _gone() from None
        if not line.endswith(b"\n"):
            raise _gone()
        return protocol.decode_answer(line)


def connect(store_path: str | os.PathLike[str], timeout_s: float = ANSWER_TIMEOUT_S) -> Daemon | None:
    """The daemon of the store at this path, or None when none listens. Errors: ConnectionError when one listens that
    is not to be trusted or does not let us in, TimeoutError.
    """
    path = protocol.socket_beside(store_path)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        with protocol.short_address(path) as address:
            connection.connect(address)
        _check_owner(connection, path, store_path)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        return None
    except PermissionError:
        connection.close()
        raise ConnectionError(f"the daemon's socket {path} belongs to another user") from None
    except BaseException:
        connection.close()
        raise
    return Daemon(connection)


def ping(store_path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What the daemon of a store says of itself: the fields of `protocol.Pong`; `pid` and `problem` alone when it
    listens but does not answer within PING_TIMEOUT_S. None: there is no daemon.
    """
    try:
        daemon = connect(store_path, PING_TIMEOUT_S)
        if daemon is None:
            return None
        with daemon:
            return _pinged(daemon)
    except OSError:
        return None


def _pinged(daemon: Daemon) -> dict[str, Any] | None:
    try:
        answer = daemon.ask(Ping())
    except TimeoutError:
        return {"pid": daemon.pid, "problem": f"it has not answered for {PING_TIMEOUT_S:g} s: its loop is held up"}
    if not isinstance(answer, Pong):
        return None
    fields: dict[str, Any] = msgspec.structs.asdict(answer)
    return fields


def _check_owner(connection: socket.socket, path: Path, store_path: str | os.PathLike[str]) -> None:
    """In a shared folder anybody could listen: it must run under our user, root, or the owner of the store."""
    trusted = {os.geteuid(), 0}
    if os.path.exists(store_path):
        trusted.add(os.stat(store_path).st_uid)
    if protocol.peer(connection).uid not in trusted:
        raise ConnectionError(f"what listens at {path} is not the daemon of {store_path}: it runs under another user")


def _gone() -> ConnectionError:
    return ConnectionError(
        "the daemon went away before it answered: look whether it was done; events can be sent again safely"
    )


def _silent() -> TimeoutError:
    return TimeoutError("the daemon has not answered in time; it may still do what was asked")
