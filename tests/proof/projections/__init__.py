"""The log of the BPI Challenge 2012, projected under kill -9: the tables are always a plain count of the events."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import msgspec

from orchestrator import open_projection
from orchestrator.errors import NotFound
from orchestrator.projecting.files import Files, directory_of
from orchestrator.projecting.rows import connect_reader
from orchestrator.recorded import Logged
from orchestrator_adapters.sqlite import SQLiteStore

from ..proved import Proved
from . import applications
from .applications import APPLICATIONS, COLUMNS, DATA, EVENTS, NAMES, STORE

ROOT = Path(__file__).resolve().parents[3]
KILLS = 40
LAST_KILL = 0.7  # of the log; what is left then takes longer than LATER_S
LATER_S = 0.15
POLL_S = 0.01
LOOK_S = 0.4  # between two looks at what a living program lets readers see
PATIENCE_S = 600.0

Row = tuple[Any, ...]


def prove(*, seed: int, share: float) -> Proved:
    """Append and project the file, killed at random moments; `share` of it, up to the whole."""
    if not DATA.exists():
        return Proved("projections", {"left out": f"{DATA.name} is not here"})
    limit = min(EVENTS, round(share * EVENTS))
    with tempfile.TemporaryDirectory(prefix="projections-") as folder:
        return project_and_kill(Path(folder), random.Random(seed), limit, max(3, round(min(1.0, share) * KILLS)))


def project_and_kill(directory: Path, rng: random.Random, limit: int, kills: int) -> Proved:
    """Live and be killed so many times, then live to the end; look at the tables all the time."""
    books = Books(directory)
    began = time.monotonic()
    moments = sorted(rng.randrange(round(LAST_KILL * limit)) for _ in range(kills))
    killed = 0
    for position in moments:
        if _life(directory, limit, books, position, rng.uniform(0, LATER_S)) == -signal.SIGKILL:
            killed += 1
        books.look_at_files()
    code = _life(directory, limit, books, limit + 1, 0.0)
    books.look_at_files()
    if code != 0:
        books.wrong.append(f"a program that was not killed ended with {code}")
    books.compare_with_file(limit)
    figures: dict[str, int | float | str] = {
        "events": limit,
        "kills": killed,
        "looks at a living program": books.looks,
        "files that were looked at after a kill": books.files,
        "rebuilds": max(Files(directory_of(directory / STORE), name).current() or 0 for name in ("Funnel", "Progress")),
        "seconds": round(time.monotonic() - began),
    }
    return Proved("projections", figures, tuple(books.wrong))


def _life(directory: Path, limit: int, books: Books, position: int, later_s: float) -> int:
    """The exit code; a negative one if it was killed, so long after the log had so many events."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.proof.projections.victim", str(directory), str(limit)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
    )
    began = looked = time.monotonic()
    try:
        while process.poll() is None and time.monotonic() - began < PATIENCE_S:
            if books.head() >= position:
                time.sleep(later_s)
                break
            if time.monotonic() - looked > LOOK_S:
                books.look_as_reader()
                looked = time.monotonic()
            time.sleep(POLL_S)
    finally:
        process.kill()
    return process.wait()


class Books:
    """The log as it is read beside the program, and what the tables must be at any position of it."""

    def __init__(self, directory: Path) -> None:
        self.wrong: list[str] = []
        self.looks = 0
        self.files = 0
        self._store = directory / STORE
        self._directory = directory_of(directory / STORE)
        self._log: list[Row] = []  # application, activity as the tables have it, column of the funnel, at
        self._seen = {"Funnel": 0, "Progress": 0}

    def head(self) -> int:
        """How many events the log has."""
        if not self._store.exists():
            return 0
        with closing(connect_reader(self._store)) as db:
            try:
                return int(db.execute("SELECT coalesce(max(position), 0) FROM log").fetchone()[0])
            except sqlite3.OperationalError:  # it is being made
                return 0

    def look_as_reader(self) -> None:
        """What anybody reads at this moment, beside the program."""
        for name in self._seen:
            try:
                db = open_projection(self._store, name)
            except NotFound:
                continue
            with closing(db):
                position = self._compare(name, db, "read")
            self.looks += 1
            if position < self._seen[name]:
                self.wrong.append(f"{name} went back from position {self._seen[name]} to {position}")
            self._seen[name] = position

    def look_at_files(self) -> None:
        """Every file that a kill left, finished or not."""
        for name in self._seen:
            files = Files(self._directory, name)
            for number in files.numbers():
                with closing(connect_reader(files.path(number))) as db:
                    try:
                        self._compare(name, db, f"file {number}")
                    except sqlite3.OperationalError as error:
                        if "no such table" not in str(error) or number <= (files.current() or 0):
                            raise  # else it was killed before the file was one
                self.files += 1

    def compare_with_file(self, limit: int) -> None:
        """In the end: with the lines of the file, and without any of our code between."""
        for name, rows_of, expected in (
            ("Funnel", applications.funnel, applications.counted(limit)),
            ("Progress", applications.progress, applications.progressed(limit)),
        ):
            with closing(open_projection(self._store, name)) as db:
                if rows_of(db) != expected:
                    self.wrong.append(f"{name} is not a plain count of the file")
        if limit == EVENTS and len(expected) != APPLICATIONS:
            self.wrong.append(f"the file has {len(expected)} applications, not {APPLICATIONS}")

    def _compare(self, name: str, db: sqlite3.Connection, what: str) -> int:
        """With a plain count of the log up to where the table says that it is; that position."""
        db.execute("BEGIN")
        (position,) = db.execute("SELECT position FROM orchestrator_projection").fetchone()
        rows = applications.funnel(db) if name == "Funnel" else applications.progress(db)
        db.execute("COMMIT")
        self._read_log()
        if position > len(self._log):
            self.wrong.append(f"{name}, {what}: it stands at {position}, the log at {len(self._log)}")
        elif rows != _EXPECTED[name](self._log[:position]):
            self.wrong.append(f"{name}, {what}: it is not a count of the first {position} events")
        return int(position)

    def _read_log(self) -> None:
        anyio.run(self._read_on)

    async def _read_on(self) -> None:
        async with SQLiteStore(self._store, read_only=True) as store:
            while rows := (await store.log(len(self._log))).rows:
                self._log += map(_entry, rows)


class _Said(msgspec.Struct):
    application_id: str
    at: str
    activity: str = ""


_decode = msgspec.json.Decoder(_Said).decode
_COLUMN_OF = {cls.__name__: column for cls, column in COLUMNS.values()}


def _entry(row: Logged) -> Row:
    said = _decode(row.envelope.data)
    return said.application_id, said.activity or row.envelope.type, _COLUMN_OF.get(row.envelope.type), said.at


def _funnel(log: Sequence[Row]) -> list[Row]:
    counts = Counter((at[:7], column) for _, _, column, at in log if column)
    return [(month, *(counts[month, name] for name in NAMES)) for month in sorted({month for month, _ in counts})]


def _progress(log: Sequence[Row]) -> list[Row]:
    last: dict[str, Row] = {}
    for application, activity, _, at in log:
        last[application] = (last[application][0] + 1 if application in last else 1, activity, at)
    return [(application, *rest) for application, rest in sorted(last.items())]


_EXPECTED: dict[str, Callable[[Sequence[Row]], list[Row]]] = {"Funnel": _funnel, "Progress": _progress}
