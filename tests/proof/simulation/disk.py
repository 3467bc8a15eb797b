"""The real SQLite store without its threads, on a disk that keeps what it kept when its process is killed."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from orchestrator_adapters.sqlite import SQLiteStore
from orchestrator_adapters.sqlite.connection import Database

T = TypeVar("T")
SHM = Path("/dev/shm")


class InlineDatabase(Database):
    """Runs a transaction at once instead of in its thread."""

    @classmethod
    async def open(cls, connect: Callable[[], sqlite3.Connection]) -> InlineDatabase:
        return cls(connect())

    def __init__(self, connection: Any) -> None:
        self._inline: sqlite3.Connection = connection

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._inline.execute(work).fetchall()  # type: ignore[call-overload,no-any-return]

    async def close(self) -> None:
        self._inline.close()


class InlineSQLiteStore(SQLiteStore):
    """The store as it is, without threads."""

    database = InlineDatabase

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(*arguments)


class SQLiteDisk:
    """A directory a life: what a killed process had open is copied as it lies there, and never touched by it again."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="simulated", dir=SHM if SHM.is_dir() else None))
        self._lives = 0
        self._place().mkdir()
        template(self._place() / "saga.db")

    def _place(self) -> Path:
        return self._directory / str(self._lives)

    def store(self) -> SQLiteStore:
        return InlineSQLiteStore(self._place() / "saga.db")

    def crash(self) -> None:
        old = self._place()
        self._lives += 1
        self._place().mkdir()
        for name in ("saga.db", "saga.db-wal"):
            if (old / name).exists():
                shutil.copy(old / name, self._place() / name)

    def clean(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


_template: bytes = b""


def template(path: Path) -> None:
    """An empty store, made once."""
    global _template
    if not _template:
        from orchestrator_adapters.sqlite.schema import connect_writer

        path.touch()
        connect_writer(path).close()
        _template = path.read_bytes()
    path.write_bytes(_template)
