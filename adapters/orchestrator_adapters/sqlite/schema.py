"""The tables, and the gate before them: which files this version may open, and how an older one is brought up."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from orchestrator.errors import NoStore, StoreCorrupt, StoreUnavailable

from . import log
from .connection import ReadingConnection, TxConnection

APPLICATION_ID = 0x53414741  # "SAGA"

BUSY_TIMEOUT_S = 5.0
WAL_LIMIT_BYTES = 64 * 1024 * 1024
CACHED_STATEMENTS = 256

# Why it looks like this. Row ids grow, so that new rows fill pages at the end instead of splitting pages everywhere.
# An instance is one row, its body last, so that its columns are read without it. A new run is a new row: the order
# of ids is the order of starts. History is in the order of time; its one index finds the rows of an instance (their
# order is that of their ids) and is the inbox at the same time. Flags that few rows have are partial indexes. The
# tally says how many instances stand where, so that nobody counts a million rows to start or to ask for the status.
SCHEMA_1 = (
    """
    CREATE TABLE instance (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        saga TEXT NOT NULL,
        key TEXT NOT NULL,
        run TEXT NOT NULL,
        version INTEGER NOT NULL,
        status TEXT NOT NULL,
        parked INTEGER NOT NULL,
        paused INTEGER NOT NULL,
        busy INTEGER NOT NULL,
        retrying INTEGER NOT NULL,
        wake_at REAL,
        updated_at REAL NOT NULL,
        ended_at REAL,
        parent_saga TEXT,
        parent_key TEXT,
        stands_in TEXT NOT NULL,
        crc INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT
    """,
    "CREATE UNIQUE INDEX instance_address ON instance (key, saga)",
    "CREATE INDEX instance_status ON instance (saga, status)",
    "CREATE INDEX instance_updated ON instance (updated_at)",
    "CREATE INDEX instance_ended ON instance (ended_at) WHERE ended_at IS NOT NULL",
    "CREATE INDEX instance_wake ON instance (wake_at) WHERE wake_at IS NOT NULL",
    "CREATE INDEX instance_parked ON instance (parked) WHERE parked = 1",
    "CREATE INDEX instance_paused ON instance (paused) WHERE paused = 1",
    "CREATE INDEX instance_busy ON instance (busy) WHERE busy = 1",
    "CREATE INDEX instance_retrying ON instance (updated_at) WHERE retrying = 1",
    """
    CREATE TABLE tally (
        saga TEXT NOT NULL,
        status TEXT NOT NULL,
        stands_in TEXT NOT NULL,
        instances INTEGER NOT NULL,
        PRIMARY KEY (saga, status, stands_in)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        instance INTEGER NOT NULL,
        version INTEGER NOT NULL,
        message_id TEXT NOT NULL,
        at REAL NOT NULL,
        outcome TEXT NOT NULL,
        notes TEXT NOT NULL,
        crc INTEGER NOT NULL,
        message BLOB NOT NULL
    ) STRICT
    """,
    "CREATE UNIQUE INDEX history_message ON history (instance, message_id)",
    """
    CREATE TABLE outbox (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        due_at REAL,
        crc INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT
    """,
    "CREATE UNIQUE INDEX outbox_name ON outbox (name)",
    "CREATE INDEX outbox_due ON outbox (due_at)",
    """
    CREATE TABLE waiting (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        saga TEXT NOT NULL,
        key TEXT NOT NULL,
        message_id TEXT NOT NULL,
        since REAL NOT NULL,
        until REAL NOT NULL,
        crc INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT
    """,
    "CREATE UNIQUE INDEX waiting_message ON waiting (key, saga, message_id)",
    "CREATE INDEX waiting_until ON waiting (until)",
    """
    CREATE TABLE dead (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        crc INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT
    """,
    "CREATE INDEX dead_at ON dead (at)",
    """
    CREATE TABLE seen (
        consumer TEXT NOT NULL,
        message_id TEXT NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (consumer, message_id)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX seen_at ON seen (at)",
)

SCHEMA_2 = (
    """
    CREATE TABLE record (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        at REAL NOT NULL,
        crc INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT
    """,
    "CREATE UNIQUE INDEX record_key ON record (key)",
    "CREATE INDEX record_at ON record (at)",
)

# The n-th entry brings a file from schema n to n + 1. Entries are never changed once released, only added.
MIGRATIONS: tuple[tuple[str, ...], ...] = (SCHEMA_1, SCHEMA_2, log.SCHEMA)


def connect_writer(path: Path, factory: type[TxConnection] = TxConnection) -> TxConnection:
    """A connection that may write, to a file that exists (it may be empty), of the newest schema when this returns.

    `factory` makes it, as for sqlite3.connect.
    Errors: StoreCorrupt for a file of another program or a newer version, StoreUnavailable, sqlite3.Error.
    """
    connection = _connect(path, "mode=rw", factory)
    try:
        _gate(connection, path)
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreUnavailable(f"{path}: this file system does not let SQLite keep a write-ahead log")
        connection.execute("PRAGMA synchronous = FULL")  # what is acknowledged is on the disk
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        connection.execute(_migrate)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path, *, immutable: bool = False) -> TxConnection:
    """A connection that cannot write. `immutable`: nobody writes, and SQLite may not even make its -shm file.

    Errors: NoStore for an empty file, StoreCorrupt for any but the newest schema, sqlite3.Error.
    """
    connection = _connect(path, "immutable=1" if immutable else "mode=ro", ReadingConnection)
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        version = _gate(connection, path)
        if version == 0:
            raise no_store(path)
        if version < len(MIGRATIONS):
            raise StoreCorrupt(
                f"{path} has schema {version}, this version reads {len(MIGRATIONS)}: run `orchestrator run` on it once"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def no_store(path: Path) -> NoStore:
    """What to say when there is nothing to read."""
    return NoStore(f"no store at {path}: has `orchestrator run` been started there once?")


def _connect(path: Path, option: str, factory: type[TxConnection]) -> TxConnection:
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?{option}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,  # an abandoned connection is closed by another thread than the one that opened it
        factory=factory,
        cached_statements=CACHED_STATEMENTS,
    )
    try:
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _gate(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version of a file that is ours, 0 for an empty one."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if application == 0 and version == 0 and connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is None:
        return 0
    if application != APPLICATION_ID:
        raise StoreCorrupt(f"{path} is a database of another program: give another file with --store")
    if version > len(MIGRATIONS):
        raise StoreCorrupt(
            f"{path} was written by a newer version (schema {version}, this one knows {len(MIGRATIONS)}): "
            "run that version, or give another file with --store"
        )
    return version


def _migrate(connection: sqlite3.Connection) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version == len(MIGRATIONS):
        return
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
