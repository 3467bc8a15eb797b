"""One SQLite connection in a thread of its own, used one whole transaction at a time."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import aiosqlite
import anyio
import anyio.to_thread

T = TypeVar("T")


class TxConnection(sqlite3.Connection):
    """Executes a function where SQL is expected: all of it in one transaction, begun and ended around it.

    So a transaction is one item in the queue of aiosqlite's thread: nothing comes between its statements, and a caller
    that is cancelled leaves nothing open behind it.
    """

    begin = "BEGIN IMMEDIATE"

    def execute(self, sql: str | Callable[[sqlite3.Connection], Any], parameters: Any = (), /) -> sqlite3.Cursor:
        """Run SQL, or a function of this connection whose value `fetchall` of the result then gives."""
        if isinstance(sql, str):
            return super().execute(sql, parameters)
        super().execute(self.begin)
        try:
            value = sql(self)
            super().execute("COMMIT")
        except BaseException:
            if self.in_transaction:  # a full disk may have rolled back already
                super().execute("ROLLBACK")
            raise
        return cast(sqlite3.Cursor, _Value(value))


class ReadingConnection(TxConnection):
    """The same for reading: a function sees the store at one moment."""

    begin = "BEGIN"


class _Value:
    """Looks like a cursor to aiosqlite, which hands on what `fetchall` returns."""

    def __init__(self, value: object) -> None:
        self._value = value

    def fetchall(self) -> object:
        return self._value


class Database:
    """An open connection and its thread. To be closed, or the interpreter does not exit."""

    @classmethod
    async def open(cls, connect: Callable[[], sqlite3.Connection]) -> Database:
        """Call `connect` in a new thread. Leaves no thread and no connection behind when that fails or is cancelled."""
        opening = _Opening(connect)
        connection = aiosqlite.Connection(opening, iter_chunk_size=64)
        try:
            with anyio.CancelScope(shield=True):
                await connection
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(opening.abandon)
            raise
        return cls(connection)

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, once its transaction is committed. `work` runs in the thread; it runs to its end even
        when the caller is cancelled.
        """
        return cast(T, await self._connection.execute_fetchall(cast(str, work)))

    async def close(self) -> None:
        """Close the connection when what is queued is done, and end the thread."""
        with anyio.CancelScope(shield=True):
            await self._connection.close()


class _Opening:
    """Remembers thread and connection, which aiosqlite forgets when opening fails or is cancelled."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._begun = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None

    def __call__(self) -> sqlite3.Connection:
        self._thread = threading.current_thread()
        self._begun.set()
        self._connection = self._connect()
        return self._connection

    def abandon(self) -> None:
        """Wait until aiosqlite's thread, which has been told to stop, is gone, and close what it opened."""
        self._begun.wait()
        assert self._thread is not None
        self._thread.join()
        if self._connection is not None:
            self._connection.close()
