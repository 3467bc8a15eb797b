"""R7 at a participant: effect, tombstone and remembered answer of one key, in the participant's own transaction.

What is kept of a key, and what follows from it, is decided by plain functions (`_entered`, `_left`). A ledger only
reads, writes and excludes.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterable
from concurrent.futures import Future
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from threading import Lock
from typing import TYPE_CHECKING, Any, Never, Protocol, TypeVar, cast
from weakref import WeakValueDictionary

import anyio
import msgspec
from msgspec import Raw, Struct

from .errors import Fatal, OrchestratorError
from .messages import Done, Message, Refusal, decode, encode, type_name, type_version

TABLE = "orchestrator_calls"
BUSY_S = 30.0  # how long to wait for a database that somebody else holds

A = TypeVar("A", bound=Message)


class Ledger(Protocol):
    """What `call.once` needs of a database that is not SQLite: three methods, for one connection.

    `find` and `put` are called inside `transaction` only, and must be part of it together with the participant's own
    writes: all of them are there afterwards, or none.
    """

    def transaction(self, key: str) -> AbstractAsyncContextManager[object]:
        """Begin a transaction that excludes any other of the same key (in PostgreSQL `pg_advisory_xact_lock`); commit
        at the end of the block, roll back when an exception leaves it.
        """
        ...

    async def find(self, key: str) -> bytes | None:
        """The record put last under this key, or None."""
        ...

    async def put(self, key: str, record: bytes) -> None:
        """Keep a record (UTF-8 JSON, some hundred bytes) under this key, in place of an earlier one."""
        ...


class AsyncSQLite(Protocol):
    """What `call.once` uses of an aiosqlite connection."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    def execute_fetchall(self, sql: str, parameters: Iterable[Any] | None = None) -> Awaitable[Iterable[Any]]:
        """Run one statement and give all its rows."""
        ...


Database = sqlite3.Connection | AsyncSQLite | Ledger


class Asked(Struct, frozen=True):
    """One delivery of a command, as a ledger sees it; `undoes` is the do's key if it is an undo, else None."""

    key: str
    undoes: str | None
    digest: str  # of the payload as it came
    replies: tuple[type, ...]  # what its command declares, yes and no

    @property
    def do_key(self) -> str:
        """The key that a do and its undo exclude each other by."""
        return self.key if self.undoes is None else self.undoes


class First:
    """What `call.once` gives. True: this key was not carried out before, so do it, and say the answer with `answers`.
    False: it was, or (an undo) there is nothing to undo; `answer` is what to answer.
    """

    __slots__ = ("_answer", "_asked", "_is_first")

    def __init__(self, asked: Asked, is_first: bool, answer: Message | None = None) -> None:
        """Made by `call.once` only."""
        self._asked = asked
        self._is_first = is_first
        self._answer = answer

    def __bool__(self) -> bool:
        return self._is_first

    if TYPE_CHECKING:
        answer: Never  # to the checkers it fits whatever the participant says it answers
    else:

        @property
        def answer(self) -> Any:
            """The remembered answer, one of those that the command declares; `Done` for an undo of nothing.
            Errors: OrchestratorError on a first run before `answers`.
            """
            if self._answer is None:
                raise OrchestratorError(f"{self._asked.key} was not carried out before: there is no answer to repeat")
            return self._answer

    def answers(self, reply: A) -> A:
        """Remember this reply in the transaction, and give it back, so that it can be returned at once.

        Needed once in a first run, but for a command that is answered by Done alone. Errors: Fatal if the command
        does not declare the reply, or there is an answer already.
        """
        if not isinstance(reply, self._asked.replies):
            declared = ", ".join(cls.__name__ for cls in self._asked.replies)
            raise Fatal(f"{type(reply).__name__} is no answer to {self._asked.key}: its command declares {declared}")
        if self._answer is not None:
            raise Fatal(f"{self._asked.key} has an answer already: {type(self._answer).__name__}")
        self._answer = reply
        return reply

    def settled(self) -> Message:
        """The answer at the end of the block; Done of itself, where nothing else is declared. Errors: Fatal, if the
        participant gave none.
        """
        if self._answer is None and self._asked.replies == (Done,):
            return Done()
        if self._answer is None:
            raise Fatal(
                f"{self._asked.key} left its call.once block without an answer, so nothing was committed: "
                "write `return first.answers(...)` inside the block"
            )
        return self._answer


class Once:
    """The block of `call.once(database)`: `async with`, or plain `with` in a participant that is a plain def."""

    def __init__(self, database: Database, asked: Asked, owner: object) -> None:
        """`owner` is the call: a second block of the same call inside the first would wait for itself."""
        self._database = database
        self._asked = asked
        self._owner = owner
        self._block: AbstractContextManager[First] | None = None
        self._async_block: AbstractAsyncContextManager[First] | None = None

    def __enter__(self) -> First:
        if not isinstance(self._database, sqlite3.Connection):
            raise Fatal(
                "call.once of this database is entered with `async with`; plain `with` is for a sqlite3.Connection"
            )
        if _in_event_loop():
            raise Fatal("an async participant enters call.once with `async with`: plain `with` would block the daemon")
        self._block = _once(_SQLite(self._database, self._owner), self._asked)
        return self._block.__enter__()

    def __exit__(self, *exc: Any) -> None:
        if self._block is not None:
            self._block.__exit__(*exc)

    async def __aenter__(self) -> First:
        self._async_block = _once_async(_ledger(self._database, self._owner), self._asked)
        return await self._async_block.__aenter__()

    async def __aexit__(self, *exc: Any) -> None:
        if self._async_block is not None:
            await self._async_block.__aexit__(*exc)


@contextmanager
def _once(ledger: _SQLite, asked: Asked) -> Generator[First]:
    with ledger.transaction():
        record = _decoded(ledger.find(asked.do_key))
        first, begun = _entered(asked, record)
        if begun is not None:
            ledger.put(asked.do_key, msgspec.json.encode(begun))
        yield first
        if begun is not None and first:
            ledger.put(asked.do_key, msgspec.json.encode(_left(asked, begun, first)))


@asynccontextmanager
async def _once_async(ledger: Ledger, asked: Asked) -> AsyncGenerator[First]:
    async with ledger.transaction(asked.do_key):
        record = _decoded(await ledger.find(asked.do_key))
        first, begun = _entered(asked, record)
        if begun is not None:
            await ledger.put(asked.do_key, msgspec.json.encode(begun))
        yield first
        if begun is not None and first:
            await ledger.put(asked.do_key, msgspec.json.encode(_left(asked, begun, first)))


# What is kept of a key, and what follows from it.


class _Answer(Struct, frozen=True, omit_defaults=True):
    type: str
    data: Raw
    version: int = 1


class _Record(Struct, frozen=True, omit_defaults=True):
    """All that is kept of one do's key. `do` and `undo` are the digests of what asked for them; an `undo` is the
    tombstone. A digest without its answer is committed only by a participant that ends the transaction itself.
    """

    do: str = ""
    answer: _Answer | None = None
    refused: bool = False  # nothing was done, so there is nothing to undo
    undo: str = ""
    undo_answer: _Answer | None = None


def _decoded(record: bytes | None) -> _Record | None:
    return None if record is None else msgspec.json.decode(record, type=_Record)


def _entered(asked: Asked, record: _Record | None) -> tuple[First, _Record | None]:
    """Whether this is the first time (R7), and what to keep of that before the effect."""
    if asked.undoes is None:
        return _entered_do(asked, record)
    return _entered_undo(asked, record or _Record())


def _entered_do(asked: Asked, record: _Record | None) -> tuple[First, _Record | None]:
    if record is None:
        return First(asked, True), _Record(do=asked.digest)
    if record.undo:
        raise Fatal(f"{asked.key} was undone already: what comes after its undo is not carried out")
    return First(asked, False, _remembered(asked, record.do, record.answer)), None


def _entered_undo(asked: Asked, record: _Record) -> tuple[First, _Record | None]:
    if record.undo:
        return First(asked, False, _remembered(asked, record.undo, record.undo_answer)), None
    if not record.do or record.refused:
        nothing = msgspec.structs.replace(record, undo=asked.digest, undo_answer=_kept(Done()))
        return First(asked, False, Done()), nothing
    return First(asked, True), msgspec.structs.replace(record, undo=asked.digest)


def _left(asked: Asked, begun: _Record, first: First) -> _Record:
    """What to keep after the effect."""
    answer = first.settled()
    if asked.undoes is not None:
        return msgspec.structs.replace(begun, undo_answer=_kept(answer))
    return msgspec.structs.replace(begun, answer=_kept(answer), refused=isinstance(answer, Refusal))


def _kept(answer: Message) -> _Answer:
    return _Answer(type_name(type(answer)), Raw(encode(answer)), type_version(type(answer)))


def _remembered(asked: Asked, digest: str, answer: _Answer | None) -> Message:
    if digest != asked.digest:
        raise Fatal(f"{asked.key} came before with another payload: a key stands for one command")
    if answer is None:
        raise Fatal(
            f"{asked.key} began before and its participant ended the transaction inside call.once: it may have taken "
            f"effect without an answer; look at its row in {TABLE}"
        )
    for cls in (*asked.replies, Done):
        if type_name(cls) == answer.type:
            return cast("Message", decode(cls, answer.data, answer.version))
    raise Fatal(f"{asked.key} was answered by {answer.type}, which its command declares no more")


# SQLite: one transaction at a time for a file; within this process in order of arrival.

_CREATE = f"""CREATE TABLE IF NOT EXISTS {TABLE} (
    key TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL, at TEXT NOT NULL DEFAULT (datetime('now'))
) WITHOUT ROWID"""
_FIND = f"SELECT record FROM {TABLE} WHERE key = ?"
_PUT = f"INSERT INTO {TABLE} (key, record) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET record = excluded.record"
_PLACE = "SELECT file FROM pragma_database_list WHERE name = 'main'"

_ENDED_INSIDE = (
    "the transaction was ended inside call.once (by commit, rollback, executescript or `with connection:`): "
    "leave that to the block, which ends it together with the answer"
)
_BEGUN_OUTSIDE = (
    "the connection given to call.once is in a transaction already: commit what was begun on it before, "
    "and give each task its own connection if others write on this one without call.once"
)


class _SQLite:
    """The ledger in a sqlite3 database, for a thread."""

    def __init__(self, connection: sqlite3.Connection, owner: object) -> None:
        self._connection = connection
        self._owner = owner

    @contextmanager
    def transaction(self) -> Generator[None]:
        with _turn(_first_value(self._connection.execute(_PLACE)), self._connection).taken(self._owner):
            self.begin()
            with self.ending():
                yield

    def begin(self) -> None:
        if self._connection.in_transaction:
            raise OrchestratorError(_BEGUN_OUTSIDE)
        self._connection.execute("BEGIN IMMEDIATE")

    @contextmanager
    def ending(self) -> Generator[None]:
        """Commit, or roll back when an exception leaves the block."""
        try:
            self._connection.execute(_CREATE)
            yield
            if not self._connection.in_transaction:
                raise Fatal(_ENDED_INSIDE)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def find(self, key: str) -> bytes | None:
        return _as_bytes(_first_value(self._connection.execute(_FIND, (key,))))

    def put(self, key: str, record: bytes) -> None:
        if not self._connection.in_transaction:
            raise Fatal(_ENDED_INSIDE)
        self._connection.execute(_PUT, (key, record.decode()))


class _SQLiteInLoop:
    """The same for an async participant, which must not block the event loop while another process writes."""

    def __init__(self, connection: sqlite3.Connection, owner: object) -> None:
        self._ledger = _SQLite(connection, owner)
        self._connection = connection
        self._owner = owner

    @asynccontextmanager
    async def transaction(self, key: str) -> AsyncGenerator[None]:
        turn = _turn(_first_value(self._connection.execute(_PLACE)), self._connection)
        async with turn.taken_async(self._owner):
            await self._begin()
            with self._ledger.ending():
                yield

    async def _begin(self) -> None:
        pause, waited = 0.001, 0.0
        while not self._begun(last=waited >= BUSY_S):
            await anyio.sleep(pause)
            pause, waited = min(2 * pause, 0.05), waited + pause

    def _begun(self, last: bool) -> bool:
        patience = int(_first_value(self._connection.execute("PRAGMA busy_timeout")))
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            self._ledger.begin()
        except sqlite3.OperationalError as error:
            if last or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {patience}")
        return True

    async def find(self, key: str) -> bytes | None:
        return self._ledger.find(key)

    async def put(self, key: str, record: bytes) -> None:
        self._ledger.put(key, record)


class _AioSQLite:
    """The ledger over an aiosqlite connection. A cancelled await there leaves its statement running, so what begins
    and ends the transaction is shielded.
    """

    def __init__(self, connection: AsyncSQLite, owner: object) -> None:
        self._connection = connection
        self._owner = owner

    @asynccontextmanager
    async def transaction(self, key: str) -> AsyncGenerator[None]:
        turn = _turn(_first_value(await self._connection.execute_fetchall(_PLACE)), self._connection)
        async with turn.taken_async(self._owner):
            if self._connection.in_transaction:
                raise OrchestratorError(_BEGUN_OUTSIDE)
            try:
                await self._run("BEGIN IMMEDIATE")
                await self._run(_CREATE)
                yield
                if not self._connection.in_transaction:
                    raise Fatal(_ENDED_INSIDE)
                await self._run("COMMIT")
            except BaseException:
                with suppress(sqlite3.OperationalError):  # when there is nothing to roll back
                    await self._run("ROLLBACK")
                raise

    async def find(self, key: str) -> bytes | None:
        return _as_bytes(_first_value(await self._run(_FIND, key)))

    async def put(self, key: str, record: bytes) -> None:
        if not self._connection.in_transaction:
            raise Fatal(_ENDED_INSIDE)
        await self._run(_PUT, key, record.decode())

    async def _run(self, sql: str, *parameters: str) -> Iterable[Any]:
        rows: Iterable[Any] = ()  # returned outside: to the checkers a scope could swallow a return
        with anyio.CancelScope(shield=True):
            rows = await self._connection.execute_fetchall(sql, parameters)
        return rows  # noqa: RET504


def _ledger(database: Database, owner: object) -> Ledger:
    if isinstance(database, sqlite3.Connection):
        return _SQLiteInLoop(database, owner)
    if hasattr(database, "execute_fetchall"):
        return _AioSQLite(cast("AsyncSQLite", database), owner)
    if hasattr(database, "transaction") and hasattr(database, "find") and hasattr(database, "put"):
        return cast("Ledger", database)  # type: ignore[redundant-cast]  # pyright does not narrow so far
    raise Fatal(
        f"call.once takes a sqlite3 or aiosqlite connection, or a Ledger for another database, "
        f"not {type(database).__name__}"
    )


def _first_value(rows: Iterable[Any]) -> Any:
    """The only column of the first row, whatever the connection's row factory makes of rows; None if there is none."""
    row: Any = next(iter(rows), None)
    if row is None:
        return None
    columns: Iterable[Any] = cast("dict[str, Any]", row).values() if isinstance(row, dict) else row
    return next(iter(columns))


def _as_bytes(record: str | bytes | None) -> bytes | None:
    return record.encode() if isinstance(record, str) else record


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Turn:
    """Who may use a database file now: one at a time, coroutines and threads alike, in order of arrival."""

    def __init__(self) -> None:
        self._mutex = Lock()
        self._holder: object = None
        self._waiters: deque[tuple[Future[None], object]] = deque()

    @contextmanager
    def taken(self, owner: object) -> Generator[None]:
        future = self._ask(owner)
        try:
            future.result(BUSY_S)
        except TimeoutError:
            self._withdraw(future)
            raise TimeoutError(f"another participant held this database in call.once for {BUSY_S:g} s") from None
        try:
            yield
        finally:
            self._release()

    @asynccontextmanager
    async def taken_async(self, owner: object) -> AsyncGenerator[None]:
        future = self._ask(owner)
        if not future.done():
            try:
                await asyncio.wrap_future(future)
            except BaseException:
                self._withdraw(future)
                raise
        try:
            yield
        finally:
            self._release()

    def _ask(self, owner: object) -> Future[None]:
        future: Future[None] = Future()
        with self._mutex:
            if self._holder is owner:
                raise Fatal("a call.once block inside another of the same call and database would wait for itself")
            if self._holder is None:
                self._holder = owner
                future.set_result(None)
            else:
                self._waiters.append((future, owner))
        return future

    def _withdraw(self, future: Future[None]) -> None:
        if not future.cancel():  # granted in this moment
            self._release()

    def _release(self) -> None:
        with self._mutex:
            self._holder = None
            while self._waiters:
                future, owner = self._waiters.popleft()
                if future.set_running_or_notify_cancel():
                    self._holder = owner
                    future.set_result(None)
                    return


_turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()
_turns_lock = Lock()


def _turn(place: str | bytes | None, connection: object) -> _Turn:
    name = os.fsdecode(place) if place else f"in memory: {id(connection)}"  # SQLite gives the place without links
    with _turns_lock:
        return _turns.setdefault(name, _Turn())
