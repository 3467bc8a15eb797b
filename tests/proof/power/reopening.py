"""What is found when the power is back: the real store opens an image, and every row is compared."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from msgspec import Struct

from orchestrator.errors import StoreError
from orchestrator_adapters.sqlite.schema import connect_writer

from .disk import Disk, Image
from .vfs import DiskVFS, opener
from .workload import PATH, State, state

MEMORY = Path("/dev/shm")


class Found(Struct, frozen=True):
    """The rows, or what kept us from them."""

    state: State | None = None
    problem: str = ""


@contextmanager
def room() -> Generator[Path]:
    """A directory, in memory where there is such a thing."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory)


@contextmanager
def place(image: Image, room: Path) -> Generator[Path]:
    """The image as files of that directory, for a while; the path of the store among them."""
    path = room / PATH.name
    _write(path, b"")  # the store makes it where it is not
    for name, content in image.items():
        _write(room / os.path.basename(name), content)
    try:
        yield path
    finally:
        for file in os.scandir(room):
            os.unlink(file)


def reopen(image: Image, room: Path) -> Found:
    """Open the image with Python's sqlite3 as the daemon would, and read all."""
    with place(image, room) as path:
        try:
            with closing(connect_writer(path)) as connection:
                return _read(connection)
        except (sqlite3.Error, StoreError) as error:
            return Found(problem=f"{type(error).__name__}: {error}")


def reopen_on(disk: Disk) -> Found:
    """The same on a disk that forgets, so that the power can fail once more."""
    if str(PATH) not in disk.names:
        disk.create(str(PATH))
    try:
        with closing(connect_writer(PATH, opener(DiskVFS(disk)))) as connection:
            return _read(connection)
    except (sqlite3.Error, StoreError) as error:
        return Found(problem=f"{type(error).__name__}: {error}")


def _read(connection: sqlite3.Connection) -> Found:
    rows = state(connection)
    said = connection.execute("PRAGMA integrity_check").fetchone()[0]
    return Found(rows, "" if said == "ok" else str(said))


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
