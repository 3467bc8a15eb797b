"""How projections stand, and their rows, from their files alone: beside the process that keeps them, or without one."""

from __future__ import annotations

import sqlite3
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote

from msgspec import Struct

from ..errors import ConfigError, NotFound
from ..projection import Projection
from .files import Files, Pause, directory_of
from .rows import Bookmark, bookmark_of, connect_reader
from .source import Log


class State(StrEnum):
    """How a projection stands."""

    LIVE = "live"  # kept up to date, while something runs it
    BUILDING = "building"  # for the first time: nothing can be read yet
    STOPPED = "stopped"  # at an event that fails; that a rebuild has stopped leaves it live
    PAUSED = "paused"


class Built(Struct, frozen=True):
    """A file of a projection: how far in the log, and how much of the log it lacks.

    behind     events of the log after its position
    behind_s   seconds since the first of them was appended; 0 if there is none
    """

    number: int
    bookmark: Bookmark
    behind: int
    behind_s: float


class Seen(Struct, frozen=True):
    """A projection. `current` is what readers get, `building` what is to take its place; None: there is no such."""

    name: str
    path: Path
    current: Built | None
    building: Built | None
    pause: Pause | None

    @property
    def state(self) -> State:
        """In one word."""
        if self.pause is not None:
            return State.PAUSED
        held = self.current or self.building
        if held is not None and held.bookmark.reason:
            return State.STOPPED
        return State.LIVE if self.current is not None else State.BUILDING

    @property
    def problem(self) -> Bookmark | None:
        """What has stopped: what readers get, else what is being built."""
        built = [it.bookmark for it in (self.current, self.building) if it is not None]
        return next((bookmark for bookmark in built if bookmark.reason), None)


async def look(files: Files, log: Log, now: float) -> Seen:
    """One projection, beside a store that is open for reading."""
    current = files.current()
    begun = [number for number in files.numbers() if number > (current or 0)]
    return Seen(
        files.name,
        files.link,
        await _built(files, current, log, now) if current is not None else None,
        await _built(files, begun[-1], log, now) if begun else None,
        files.paused(),
    )


async def _built(files: Files, number: int, log: Log, now: float) -> Built | None:
    bookmark = bookmark_of(files.path(number))
    if bookmark is None:
        return None
    following = (await log.log(bookmark.position, 1)).rows
    behind = max(0, await log.last_position() - bookmark.position)
    return Built(number, bookmark, behind, max(0.0, now - following[0].envelope.time) if following else 0.0)


def open_projection(store: str | Path, name: str | type[Projection]) -> sqlite3.Connection:
    """A connection for reading the tables of a projection, as they are at the first question that is put to it; the one
    who opened it closes it.

    `store` is the URL or the file of a store, and the program that keeps it may run meanwhile. After the projection was
    built anew this connection still reads what was there before: open it for each piece of work.
    Errors: NotFound, if it is not built; ConfigError, for a store that is no file.
    """
    name = name if isinstance(name, str) else name.__name__
    return read_projection(directory_of(_file_of(store)), name)


def read_projection(directory: Path, name: str) -> sqlite3.Connection:
    """The same, by the directory of the projections."""
    files = Files(directory, name)
    while True:
        number = files.current()
        if number is None:
            raise NotFound(f"projection {name} has not been built in {directory}")
        connection = connect_reader(files.path(number))
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # now it has all that belongs to it
        except sqlite3.Error:
            connection.close()
            if files.current() == number:
                raise
            continue
        if files.current() == number:
            return connection
        connection.close()  # another one took its place meanwhile


def _file_of(store: str | Path) -> Path:
    if isinstance(store, Path):
        return store
    scheme, _, rest = store.partition(":///")
    name = unquote(rest.partition("?")[0])
    if scheme != "sqlite" or not name:
        raise ConfigError(f"store {store!r} is no file: of a store in memory ask the Orchestrator for its projections")
    return Path(name)
