"""All projections of an app, on one store."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable
from pathlib import Path

import anyio
from anyio import CapacityLimiter

from ..errors import NotFound, OrchestratorError
from ..ports import Clock
from ..projection import Projection
from ..runtime.clock import SystemClock
from ..runtime.waking import Bell
from .files import Files, directory_of
from .looking import Seen, look, read_projection
from .pace import Pace
from .projector import Projector
from .source import Log

AT_ONCE = 1  # projections that write at a time: their handlers take turns with everything else in this process


class Projections:
    """The projectors of an app's projections, in one thread beside the sagas."""

    def __init__(
        self, projections: Iterable[type[Projection]], log: Log, clock: Clock, pace: Pace, changed: Bell
    ) -> None:
        """Nothing is opened yet."""
        self.classes = {projection.__name__: projection for projection in projections}
        self.projectors: dict[str, Projector] = {}
        self._log = log
        self._clock = clock
        self._pace = pace
        self._changed = changed
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether all know what is in the log, or have stopped."""
        return all(projector.is_idle for projector in self.projectors.values())

    def wake(self) -> None:
        """There may be new events."""
        for projector in self.projectors.values():
            projector.wake()

    def begin(self) -> None:
        """From now on they can be asked for something; `run` does it."""
        if not self.classes:
            return
        directory = self._place()
        threads = CapacityLimiter(AT_ONCE)
        self.projectors = {
            name: Projector(
                projection, Files(directory, name), self._log, self._clock, threads, self._pace, self._changed
            )
            for name, projection in self.classes.items()
        }

    async def run(self) -> None:
        """Keep all of them, until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                for projector in self.projectors.values():
                    tasks.start_soon(projector.run)
        finally:
            if self._folder is not None:
                self._folder.cleanup()

    def _place(self) -> Path:
        """Beside the store's file; for a store in memory a folder that goes with it."""
        path = getattr(self._log, "path", None)
        if isinstance(path, Path):
            return directory_of(path)
        self._folder = tempfile.TemporaryDirectory(prefix="projections-")
        return Path(self._folder.name)

    def __getitem__(self, name: str) -> Projector:
        """Errors: NotFound; OrchestratorError, where nothing keeps projections."""
        if name not in self.classes:
            there = f"there are {', '.join(self.classes)}" if self.classes else "the app has none"
            raise NotFound(f"there is no projection {name}: {there}")
        projector = self.projectors.get(name)
        if projector is None:
            raise OrchestratorError("nothing keeps the projections here: the engine is not open, or does not act")
        return projector

    def read(self, name: str) -> sqlite3.Connection:
        """As `open_projection`."""
        return read_projection(self[name].files.directory, name)

    async def look(self, name: str) -> Seen:
        """How it stands."""
        return await look(self[name].files, self._log, self._clock.now())


def alone(projection: type[Projection], files: Files, log: Log, batch: int) -> Projector:
    """The projector of one projection, for a program that does nothing else."""
    pace = Pace(batch, lambda: False)
    return Projector(projection, files, log, SystemClock(), CapacityLimiter(1), pace, Bell())
