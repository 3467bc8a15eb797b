"""Housekeeping: forgetting what is old, copying the file, checking it, taking it over."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

from orchestrator.errors import ConfigError, StoreUnavailable

from . import rows
from .bulk import read_many, write_many
from .commit import TALLY, tally_place
from .errors import store_errors
from .inspection import problems
from .rows import Row

PRUNE_BATCH = 500
MOST_PROBLEMS = 20
PIECE_BYTES = 1024 * 1024

PRUNABLE = """
    SELECT ended_at, id FROM instance AS old INDEXED BY instance_ended
    WHERE ended_at < ? AND (ended_at, id) > (?, ?) AND NOT EXISTS (
        SELECT 1 FROM instance AS parent INDEXED BY instance_address
        WHERE parent.key = old.parent_key AND parent.saga = old.parent_saga
    )
    ORDER BY ended_at, id LIMIT ?
"""
STATUS_OF = "SELECT saga, status, count(*) FROM instance WHERE id IN (VALUES *) GROUP BY saga, status"


def prune_instances(
    connection: sqlite3.Connection, ended_before: float, after: tuple[float, int]
) -> list[tuple[float, int]]:
    """Remove a batch of old instances and give their (ended_at, id); those whose parent is there stay (R14)."""
    gone = connection.execute(PRUNABLE, (ended_before, *after, PRUNE_BATCH)).fetchall()
    ids = [(id,) for _, id in gone]
    tally: Counter[Row] = Counter()
    for saga, status, number in read_many(connection, STATUS_OF, ids):
        tally[tally_place(saga, status, "")] -= number
    write_many(connection, TALLY, [(*place, number) for place, number in tally.items()])
    write_many(connection, "DELETE FROM history WHERE instance IN (VALUES *)", ids)
    write_many(connection, "DELETE FROM instance WHERE id IN (VALUES *)", ids)
    return gone


def prune_seen(connection: sqlite3.Connection, before: float) -> int:
    """Remove a batch of old inbox entries that have no instance."""
    sql = "SELECT consumer, message_id FROM seen INDEXED BY seen_at WHERE at < ? LIMIT ?"
    old = connection.execute(sql, (before, PRUNE_BATCH)).fetchall()
    connection.executemany("DELETE FROM seen WHERE consumer = ? AND message_id = ?", old)
    return len(old)


def prune_records(connection: sqlite3.Connection, before: float) -> int:
    """Remove a batch of old records."""
    sql = "SELECT id FROM record INDEXED BY record_at WHERE at < ? LIMIT ?"
    old = connection.execute(sql, (before, PRUNE_BATCH)).fetchall()
    write_many(connection, "DELETE FROM record WHERE id IN (VALUES *)", old)
    return len(old)


def bury_expired(connection: sqlite3.Connection, now: float) -> int:
    """Turn a batch of what waited too long into dead letters (R11)."""
    sql = (
        "SELECT id, since, until, crc, body FROM waiting INDEXED BY waiting_until WHERE until <= ? ORDER BY id LIMIT ?"
    )
    expired = [rows.waiting_of(*row) for row in connection.execute(sql, (now, PRUNE_BATCH)).fetchall()]
    write_many(
        connection, "INSERT INTO dead (at, crc, body) VALUES *", [rows.dead_row(each.expired(now)) for each in expired]
    )
    write_many(connection, "DELETE FROM waiting WHERE id IN (VALUES *)", [(each.id,) for each in expired])
    return len(expired)


def backup(connect: Callable[[], sqlite3.Connection], target: Path) -> None:
    """Copy a store as it is at one moment, while it is written. Errors: ConfigError, StoreFull, StoreUnavailable."""
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise ConfigError(f"{target} exists already: a backup does not overwrite, name another file") from None
    except OSError as error:
        raise ConfigError(f"cannot write the backup {target}: {error.strerror}") from error
    try:
        with closing(connect()) as source, store_errors(target), closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, complete without a -wal beside it
        sync(target)
        sync(target.parent)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def write_again(log: Path) -> None:
    """Put the log that an unclean stop left onto the disk, by writing the same bytes: the cache may hold what the disk
    does not, and after a failed fsync another one would not say so. Errors: OSError, StoreUnavailable.
    """
    try:
        descriptor = os.open(log, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        at = 0
        while piece := os.pread(descriptor, PIECE_BYTES, at):
            at += os.pwrite(descriptor, piece, at)
    finally:
        os.close(descriptor)
    sync(log)
    sync(log.parent)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a directory. Errors: StoreUnavailable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise StoreUnavailable(f"{path} did not reach the disk: {error.strerror}") from error
    finally:
        os.close(descriptor)


def integrity(connect: Callable[[], sqlite3.Connection]) -> tuple[str, ...]:
    """What is wrong with the file, by SQLite's own check and by ours; empty if nothing. Errors: sqlite3.Error."""
    with closing(connect()) as reader:
        found = [str(row[0]) for row in reader.execute(f"PRAGMA integrity_check({MOST_PROBLEMS})")]
        if found == ["ok"]:
            found = list(islice(problems(reader), MOST_PROBLEMS))
    return tuple(found)
