"""SQLite's errors, said as the port says them: the one place that knows both."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import BadMessage, StoreCorrupt, StoreError, StoreFull, StoreUnavailable

NO_ROOM_BYTES = 64 * 1024


@contextmanager
def store_errors(path: Path) -> Generator[None]:
    """Raise what the port promises in place of what SQLite and aiosqlite raise."""
    try:
        yield
    except sqlite3.Error as error:
        raise store_error(error, path) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"no room for {path}: {error.strerror}") from error
        raise StoreUnavailable(f"{path}: {error.strerror or error}") from error
    except UnicodeEncodeError as error:
        raise BadMessage(
            "half a surrogate pair is no character: nothing can be stored under it or found by it"
        ) from error
    except UnicodeDecodeError as error:  # in what SQLite says of a damaged schema
        raise StoreCorrupt(f"{path} is damaged: stop the daemon, keep the file, restore a backup") from error
    except ValueError as error:
        if str(error) in ("Connection closed", "no active connection"):  # aiosqlite's words
            raise StoreUnavailable(f"{path} is not open") from error
        raise


def store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """The port's error for one of SQLite's, by its extended result code."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith("SQLITE_FULL"):
        return StoreFull(f"no room for {path}: {error}")
    if name.startswith("SQLITE_NOTADB"):
        return StoreCorrupt(f"{path} is not a SQLite database: give another file with --store, or restore a backup")
    if name.startswith("SQLITE_CORRUPT") or "decode to UTF-8" in str(error):  # Python's words, without a code
        return StoreCorrupt(f"{path} is damaged ({error}): stop the daemon, keep the file, restore a backup")
    if name.startswith("SQLITE_IOERR") and _is_full(path):  # not every call of SQLite tells ENOSPC apart
        return StoreFull(f"no room for {path}: {error}")
    if name.startswith("SQLITE_READONLY"):
        return StoreUnavailable(f"{path} or its directory cannot be written: {error}")
    if name.startswith("SQLITE_BUSY"):
        return StoreUnavailable(f"another program holds {path} locked: {error}")
    if name.startswith("SQLITE_CANTOPEN"):
        return StoreUnavailable(f"{path}, or the -wal and -shm beside it, cannot be opened: {error}")
    return StoreUnavailable(f"{path}: {error} ({name or type(error).__name__})")


def is_lost_fsync(error: sqlite3.Error) -> bool:
    """Whether the disk did not take what was written: asking again would say yes without having written it."""
    name = getattr(error, "sqlite_errorname", "") or ""
    return name in ("SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC")


def _is_full(path: Path) -> bool:
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < NO_ROOM_BYTES
