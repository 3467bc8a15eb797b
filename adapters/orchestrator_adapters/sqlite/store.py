"""The store itself: opens and closes what the other files do, and says errors in the port's words."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import ClassVar, Self, TypeVar
from urllib.parse import unquote

import anyio
import anyio.to_thread

from orchestrator.errors import ConfigError, StoreCorrupt, StoreUnavailable
from orchestrator.event_log import EventStore
from orchestrator.machine.instance import Instance
from orchestrator.machine.transition import Entry, Transition
from orchestrator.ports import MAX_PAGE, Counts, Due, Find, Page, Result, Standing, Waiting
from orchestrator.recorded import Logged, Stretch
from orchestrator.wire import Address, DeadLetter

from . import log, reading, upkeep
from .commit import committing
from .connection import Database
from .errors import is_lost_fsync, store_errors
from .lock import FileLock, refuse_network
from .schema import connect_reader, connect_writer, no_store

T = TypeVar("T")


class SQLiteStore(EventStore):
    """A store in one file. The process that opens it for writing holds FILE.lock; others open it `read_only`.

    `path` is the file, absolute, its symbolic links followed.
    """

    database: ClassVar[type[Database]] = Database  # what runs the transactions; the simulation has one without a thread

    @classmethod
    def from_url(cls, url: str, *, read_only: bool = False) -> Self:
        """The store that `sqlite:///relative.db` or `sqlite:////absolute.db` names, not opened. Errors: ConfigError."""
        return cls(_path_of(url), read_only=read_only)

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path.resolve()
        self.read_only = read_only
        self._connect_reader = partial(connect_reader, self.path)
        self._reader: Database | None = None
        self._writer: Database | None = None
        self._pid = 0
        self._lost = ""
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Errors: NoStore, StoreLocked, StoreCorrupt, StoreUnavailable, ConfigError (a network file system)."""
        async with AsyncExitStack() as opening:
            with store_errors(self.path):
                if self.read_only:
                    immutable = await self._in_thread(_look, self.path)
                    self._connect_reader = partial(connect_reader, self.path, immutable=immutable)
                else:
                    lock = FileLock(self.path)
                    opening.callback(lock.release)
                    await self._in_thread(_claim, self.path, lock)
                    self._writer = await self.database.open(partial(connect_writer, self.path))
                    opening.push_async_callback(self._writer.close)
                self._reader = await self.database.open(self._connect_reader)
                opening.push_async_callback(self._reader.close)
            self._pid = os.getpid()
            self._lost = ""
            self._closing = opening.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        with store_errors(self.path):
            await self._closing.aclose()
        self._reader = self._writer = None

    async def commit(self, transitions: Sequence[Transition]) -> list[Result]:
        """All of them in one transaction, on disk when this returns; goes on to its end if the caller is cancelled."""
        work = committing(transitions)
        results: list[Result] = []
        with anyio.CancelScope(shield=True):
            results += await self._write(work)
        return results

    async def load(self, addresses: Sequence[Address]) -> list[Instance | None]:
        """The instances as last committed, in the order asked; None where there is none."""
        return await self._read(lambda connection: reading.load(connection, addresses))

    async def due(self, now: float, limit: int, after: int = 0) -> list[Due]:
        """Outbox rows that may go, by position."""
        return await self._read(lambda connection: reading.due(connection, now, limit, after))

    async def next_due(self) -> float | None:
        """The earliest `due_at` in the outbox."""
        return await self._read(reading.next_due)

    async def records(self, keys: Sequence[str]) -> list[bytes | None]:
        """What was kept last under these keys, in the order asked."""
        return await self._read(lambda connection: reading.records(connection, keys))

    async def wakes(self, now: float, limit: int) -> list[Address]:
        """Instances whose timer is due, the longest overdue first."""
        return await self._read(lambda connection: reading.wakes(connection, now, limit))

    async def next_wake(self) -> float | None:
        """The earliest timer of all instances."""
        return await self._read(reading.next_wake)

    async def waiting_for(self, limit: int) -> list[Waiting]:
        """Rows of the waiting room whose instance is open, or ended not before they came, oldest first."""
        return await self._read(lambda connection: reading.waiting_for(connection, limit))

    async def prune(self, now: float, ended_before: float) -> int:
        """Forget what ended before that moment (R14) and bury what waited too long (R11), in batches, so that commits
        come between.
        """
        while await self._write(lambda connection: upkeep.bury_expired(connection, now)):
            pass
        while await self._write(lambda connection: upkeep.prune_seen(connection, ended_before)):
            pass
        while await self._write(lambda connection: upkeep.prune_records(connection, ended_before)):
            pass
        went = 0
        while removed := await self._prune_once(ended_before):  # again, for the children of those that went
            went += removed
        return went

    async def _prune_once(self, ended_before: float) -> int:
        went = 0
        after = (float("-inf"), 0)
        while gone := await self._write(partial(upkeep.prune_instances, ended_before=ended_before, after=after)):
            went += len(gone)
            after = gone[-1]
        return went

    async def standing(self) -> list[Standing]:
        """Where all open instances stand, grouped (R18)."""
        return await self._read(reading.standing)

    async def find(self, query: Find) -> Page:
        """Instances by filter, the newest started first. Errors: BadMessage for a cursor that no page gave."""
        return await self._read(lambda connection: reading.find(connection, query))

    async def history(self, address: Address, after: int = 0, limit: int = MAX_PAGE) -> list[Entry]:
        """The transitions of an instance with a version greater than `after`, in order."""
        return await self._read(lambda connection: reading.history(connection, address, after, limit))

    async def dead_letters(self, after: int = 0, limit: int = MAX_PAGE) -> list[DeadLetter]:
        """Dead letters with an id greater than `after`, oldest first."""
        return await self._read(lambda connection: reading.dead_letters(connection, after, limit))

    async def waiting(self, after: int = 0, limit: int = MAX_PAGE) -> list[Waiting]:
        """The waiting room, oldest first."""
        return await self._read(lambda connection: reading.waiting(connection, after, limit))

    async def counts(self, now: float) -> Counts:
        """How many of everything, answered from indexes."""
        return await self._read(lambda connection: reading.counts(connection, now))

    async def stream(self, name: str, after: int = 0, limit: int = MAX_PAGE) -> list[Logged]:
        """The events of a stream after a version, in order."""
        return await self._read(lambda connection: log.stream(connection, name, after, limit))

    async def stream_version(self, name: str) -> int:
        """How many events a stream has."""
        return await self._read(lambda connection: log.stream_version(connection, name))

    async def log(self, after: int = 0, limit: int = MAX_PAGE, types: Sequence[str] = ()) -> Stretch:
        """The events after a position, of these types."""
        return await self._read(lambda connection: log.log(connection, after, limit, types))

    async def logged(self, id: str) -> Logged | None:
        """The event of this id."""
        return await self._read(lambda connection: log.logged(connection, id))

    async def last_position(self) -> int:
        """How many events the log has."""
        return await self._read(log.last_position)

    async def backup(self, path: Path) -> None:
        """Copy the store as it is now to a new file that only its owner can read. Errors: ConfigError if it exists."""
        with store_errors(self.path):
            await self._in_thread(upkeep.backup, self._connect_reader, path)

    async def integrity(self) -> tuple[str, ...]:
        """What is wrong with the file, a line each; empty if nothing. Reads all of it."""
        with store_errors(self.path):
            return await self._in_thread(upkeep.integrity, self._connect_reader)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with store_errors(self.path):
            return await self._ours(self._reader).run(work)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._lost:
            raise StoreCorrupt(self._lost)  # trying again would be told yes by a disk that has forgotten
        with store_errors(self.path):
            try:
                return await self._ours(self._writer).run(work)
            except sqlite3.Error as error:
                if is_lost_fsync(error):
                    self._lost = f"the disk did not keep what was written to {self.path} ({error}): start again"
                raise

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await anyio.to_thread.run_sync(function, *arguments)

    def _ours(self, database: Database | None) -> Database:
        if database is None:
            raise StoreUnavailable(f"{self.path} is not open" + (" for writing" if self._reader else ""))
        if self._pid != os.getpid():
            raise StoreUnavailable(f"{self.path} was opened before a fork: open it in the child process itself")
        return database


def _path_of(url: str) -> Path:
    scheme, separator, rest = url.partition(":///")
    if scheme != "sqlite" or not separator or not rest:
        raise ConfigError(f"store {url!r}: write sqlite:///relative.db or, with four slashes, sqlite:////absolute.db")
    name, question, options = rest.partition("?")
    if question:
        raise ConfigError(f"store {url!r}: there is no option {options!r}, a SQLite store has none")
    path = unquote(name)
    if path == ":memory:":
        raise ConfigError(f"store {url!r}: to keep nothing, use memory://")
    if not path or "\0" in path or path.endswith("/"):
        raise ConfigError(f"store {url!r}: this does not name a file")
    return Path(path)


def _claim(path: Path, lock: FileLock) -> None:
    """Take the right to write, and see to it that the file is there and only ours to read."""
    if not path.parent.is_dir():
        raise StoreUnavailable(f"cannot make {path}: there is no directory {path.parent}")
    refuse_network(path)
    if path.is_dir():
        raise StoreUnavailable(f"{path} is a directory: name a file in it")
    lock.acquire()
    try:
        # Closing it here drops nobody's locks: it is new, so that SQLite has not opened it yet.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        _keep_private(path)
        upkeep.write_again(path.with_name(path.name + "-wal"))


def _keep_private(path: Path) -> None:
    if not os.access(path, os.R_OK | os.W_OK):
        raise StoreUnavailable(f"{path} cannot be read and written by this user")
    if path.stat().st_nlink > 1:
        raise StoreUnavailable(f"{path} has a second name (a hard link), by which SQLite loses data: remove one")
    for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        if name.exists() and name.stat().st_uid == os.geteuid():
            name.chmod(0o600)


def _look(path: Path) -> bool:
    """Whether a file to be read must be opened as one that nobody writes. Errors: NoStore."""
    if not path.is_file():
        raise no_store(path)
    refuse_network(path)
    if not os.access(path, os.R_OK):
        raise StoreUnavailable(f"{path} cannot be read by this user")
    return not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
