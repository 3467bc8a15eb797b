"""The files of a projection: one for each time that it was built, and a link that names the one to be read.

`shop.db.projections/Funnel.db` is a symbolic link to `Funnel.3.db`; SQLite follows it before it opens what belongs to
the file. To put it on another file is one rename: a reader opens the old one or the new one, never half of it. A
greater number than the link's is being built; smaller ones are done with.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from ..errors import StoreLocked, StoreUnavailable

SUFFIXES = ("", "-wal", "-shm", "-journal")

_NAME = re.compile(r"(?P<name>[^.]+)\.(?P<number>[0-9]{1,12})\.db")


class Pause(Struct, frozen=True):
    """Who has paused a projection, when (seconds since 1970), and why."""

    by: str
    at: float
    why: str = ""


def directory_of(store: Path) -> Path:
    """Where the projections of a store lie that is this file."""
    store = store.resolve()
    return store.with_name(store.name + ".projections")


def names_in(directory: Path) -> list[str]:
    """The projections that have files there."""
    if not directory.is_dir():
        return []
    found = {match["name"] for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))}
    return sorted(found)


class Files:
    """Those of one projection."""

    def __init__(self, directory: Path, name: str) -> None:
        """Nothing is made yet."""
        self.directory = directory
        self.name = name
        self.link = directory / f"{name}.db"
        self.lock = directory / f"{name}.lock"
        self._pause = directory / f"{name}.paused"

    def make_directory(self) -> None:
        """For its owner only. Errors: OSError."""
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def path(self, number: int) -> Path:
        """The file of this number."""
        return self.directory / f"{self.name}.{number}.db"

    def current(self) -> int | None:
        """The number of the file to be read; None: there is none yet."""
        try:
            match = _NAME.fullmatch(os.readlink(self.link))
        except OSError:
            return None
        if match is None or match["name"] != self.name or not self.path(int(match["number"])).is_file():
            return None
        return int(match["number"])

    def numbers(self) -> list[int]:
        """Of all files that are there, the smallest first."""
        if not self.directory.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(match["number"]) for match in found if match and match["name"] == self.name)

    def switch(self, number: int) -> None:
        """Let readers find the file of this number from now on; it stays so after a power cut. Errors: OSError."""
        new = self.directory / f"{self.name}.link"
        new.unlink(missing_ok=True)
        new.symlink_to(self.path(number).name)
        new.replace(self.link)
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, number: int) -> None:
        """Remove the file of this number; who reads it still does."""
        for suffix in reversed(SUFFIXES):  # the file itself last: without it nobody would look for the others
            with suppress(FileNotFoundError):
                self.directory.joinpath(self.path(number).name + suffix).unlink()

    def paused(self) -> Pause | None:
        """Whether it is paused, and by whom."""
        try:
            return msgspec.json.decode(self._pause.read_bytes(), type=Pause)
        except OSError:
            return None
        except msgspec.DecodeError:
            return Pause("somebody", 0.0)  # the file says so by being there

    def pause(self, pause: Pause) -> None:
        """Pause it, until `unpause`. Errors: OSError."""
        new = self._pause.with_suffix(".pausing")
        new.write_bytes(msgspec.json.encode(pause))
        new.replace(self._pause)

    def unpause(self) -> None:
        """Let it go on."""
        self._pause.unlink(missing_ok=True)


class Claim:
    """The right to write the files of one projection, held until released or until the process is gone."""

    def __init__(self, files: Files) -> None:
        self._path = files.lock
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Errors: StoreLocked, with the process that has it; StoreUnavailable."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"cannot write {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StoreLocked(f"process {holder or 'unknown'} keeps this projection ({self._path})") from None
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it up; the file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
