"""SQLite on such a disk, and Python's sqlite3 on such a SQLite."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import apsw

from orchestrator_adapters.sqlite.connection import TxConnection
from orchestrator_adapters.sqlite.schema import WAL_LIMIT_BYTES

from .disk import Disk

NO_DIRECTORY = apsw.SQLITE_OPEN_MAIN_DB  # the unix VFS does not sync the directory with its first sync
CHECKPOINT_PAGES = 40  # instead of 1000, and
LIMIT_BYTES = 96 * 1024  # instead of 64 MiB: so that a small workload comes to them
Fault = Callable[[str], str]  # the name of an act, such as "read", to the name of a result code, or nothing

# What connect_writer says, and what is said here before it.
WAL = "PRAGMA journal_mode = WAL"
FULL = "PRAGMA synchronous = FULL"
LOCKING = "PRAGMA locking_mode = EXCLUSIVE"
LIMIT = f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}"

_numbers = itertools.count()


def no_fault(_act: str) -> str:
    """The disk plays along."""
    return ""


class DiskVFS(apsw.VFS):
    """Files of a Disk, as the unix VFS would treat them. `fault` is asked before each act what is wrong with it."""

    def __init__(self, disk: Disk, fault: Fault = no_fault) -> None:
        self.name = f"disk {next(_numbers)}"
        self.disk = disk
        self.fault = fault
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:
        assert name is not None, "temporary files are in memory"
        self.check("open")
        path = name if isinstance(name, str) else name.filename()
        flags[1] = flags[0]
        may_create = bool(flags[0] & apsw.SQLITE_OPEN_CREATE)
        if path not in self.disk.names:
            if not may_create:
                raise failure("SQLITE_CANTOPEN")
            self.disk.create(path)
        return _File(self, self.disk.names[path], is_new=may_create and not flags[0] & NO_DIRECTORY)

    def xDelete(self, name: str, sync_directory: bool) -> None:
        self.check("delete")
        if name not in self.disk.names:
            raise failure("SQLITE_IOERR_DELETE_NOENT")
        self.disk.delete(name, and_directory=sync_directory)

    def xAccess(self, name: str, _flags: int) -> bool:
        file = self.disk.names.get(name)
        return file is not None and len(self.disk.bytes[file]) > 0

    def xFullPathname(self, name: str) -> str:
        return name

    def check(self, act: str) -> None:
        if name := self.fault(act):
            raise failure(name)


class _File:
    def __init__(self, vfs: DiskVFS, file: int, *, is_new: bool = False) -> None:
        self._vfs = vfs
        self._disk = vfs.disk
        self._file = file
        self._bytes = vfs.disk.bytes[file]
        self._is_new = is_new

    def xRead(self, amount: int, offset: int) -> bytes:
        self._vfs.check("read")
        return bytes(self._bytes[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        self._vfs.check("write")
        self._disk.write(self._file, offset, bytes(data))

    def xTruncate(self, size: int) -> None:
        self._vfs.check("truncate")
        self._disk.truncate(self._file, size)

    def xSync(self, _flags: int) -> None:
        try:
            self._vfs.check("sync")
        except apsw.Error as error:
            if error.extendedresult == apsw.SQLITE_IOERR_FSYNC:
                self._disk.lose_sync(self._file)
            raise
        self._disk.sync(self._file, and_directory=self._is_new)
        self._is_new = False

    def xFileSize(self) -> int:
        self._vfs.check("size")
        return len(self._bytes)

    def xSectorSize(self) -> int:
        return 4096

    def xDeviceCharacteristics(self) -> int:
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE

    def xFileControl(self, _op: int, _pointer: int) -> bool:
        return False

    def xCheckReservedLock(self) -> bool:
        return False

    def xLock(self, _level: int) -> None: ...
    def xUnlock(self, _level: int) -> None: ...
    def xClose(self) -> None: ...


def failure(name: str) -> apsw.Error:
    """What a VFS raises to make SQLite see a result code."""
    code = int(getattr(apsw, name))
    error = apsw.exception_for(code)
    error.extendedresult = code
    return cast(apsw.Error, error)


def opener(vfs: DiskVFS, instead: Mapping[str, str] | None = None) -> type[TxConnection]:
    """A TxConnection class whose connections live on a VFS. `instead`: statements it runs in place of others."""
    settings = {"_vfs": vfs, "_instead": {LIMIT: f"PRAGMA journal_size_limit = {LIMIT_BYTES}", **(instead or {})}}
    return cast(type[TxConnection], type("PoweredConnection", (TxConnection, _OverApsw), settings))


class _OverApsw(sqlite3.Connection):
    """Behind TxConnection in the order of methods: its `super()` finds these instead of sqlite3's."""

    _vfs: DiskVFS
    _instead: Mapping[str, str]

    def __init__(self, database: str, **_options: Any) -> None:
        super().__init__(":memory:")
        self._committed = 0
        with _sqlite_errors():
            self._apsw = apsw.Connection(
                database, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI, vfs=self._vfs.name
            )
            self._run(LOCKING, ())  # a VFS in Python has no shared memory
            self._apsw.set_wal_hook(self._checkpoint)

    def execute(self, sql: str, parameters: Any = (), /) -> Any:  # type: ignore[override]
        committed = self._committed
        try:
            with _sqlite_errors():
                return _Rows(self._run(sql, parameters))
        except sqlite3.Error:
            if self._committed > committed:  # SQLite said yes: apsw raises errors that SQLite itself disregards
                return _Rows([])
            raise

    def executemany(self, sql: str, parameters: Any, /) -> Any:  # type: ignore[override]
        for each in parameters:
            self.execute(sql, each)

    @property
    def in_transaction(self) -> bool:  # type: ignore[override]
        return self._apsw.in_transaction

    def close(self) -> None:
        with suppress(apsw.Error):  # SQLite disregards them too: what is not checkpointed is in the log
            self._apsw.close()
        super().close()

    def _run(self, sql: str, parameters: Any) -> list[tuple[Any, ...]]:
        rows = list(self._apsw.execute(self._instead.get(sql, sql), parameters))
        return [("wal",)] if sql == WAL and sql in self._instead else rows

    def _checkpoint(self, connection: apsw.Connection, database: str, pages: int) -> int:
        """What SQLite's own hook does, which disregards errors as well."""
        self._committed += 1
        if pages >= CHECKPOINT_PAGES:
            with suppress(apsw.Error):
                connection.wal_checkpoint(database, apsw.SQLITE_CHECKPOINT_PASSIVE)
        return apsw.SQLITE_OK


@contextmanager
def _sqlite_errors() -> Generator[None]:
    """Raise sqlite3's error for apsw's."""
    try:
        yield
    except apsw.Error as error:
        code = error.extendedresult
        name = apsw.mapping_extended_result_codes.get(code) or apsw.mapping_result_codes.get(code & 0xFF, "")
        kind = sqlite3.OperationalError if (code & 0xFF) in OPERATIONAL else sqlite3.DatabaseError
        said = kind(str(error) or str(name))
        said.sqlite_errorcode, said.sqlite_errorname = code, str(name)
        raise said from error


OPERATIONAL = {
    apsw.SQLITE_ERROR,
    apsw.SQLITE_BUSY,
    apsw.SQLITE_FULL,
    apsw.SQLITE_IOERR,
    apsw.SQLITE_CANTOPEN,
    apsw.SQLITE_READONLY,
}


class _Rows:
    """Looks like a cursor."""

    def __init__(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._rows = iter(rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(self._rows, None)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._rows)
