"""A bus in a SQLite file, for processes of tests; it is away while `FILE.away` is there."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import anyio
from anyio.lowlevel import checkpoint

from orchestrator.errors import BusUnavailable
from orchestrator.ports import BusMessage, Delivered, NotTaken, Place, Topic, Topology

LOOK_S = 0.02

SCHEMA = """
CREATE TABLE IF NOT EXISTS place (grp TEXT, topic TEXT, PRIMARY KEY (grp, topic));
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY, grp TEXT, topic TEXT, body BLOB, headers TEXT, owner INTEGER
);
"""


class FileBus:
    """At least once, for one member a group at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def from_url(cls, url: str) -> Self:
        return cls(Path(url.removeprefix("file://")))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    def _open(self) -> sqlite3.Connection:
        if self._path.with_name(self._path.name + ".away").exists():
            raise BusUnavailable("the broker is away")
        db = sqlite3.connect(self._path, timeout=10)
        db.executescript(SCHEMA)
        return db

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        await checkpoint()
        told: list[NotTaken | None] = []
        db = self._open()
        with db:
            for each in messages:
                groups = db.execute("SELECT grp FROM place WHERE topic = ?", (each.topic,)).fetchall()
                row = (each.topic, each.body, json.dumps(dict(each.headers)))
                db.executemany(
                    "INSERT INTO message (grp, topic, body, headers) VALUES (?, ?, ?, ?)",
                    [(group, *row) for (group,) in groups],
                )
                told.append(NotTaken(f"nobody is there for {each.topic}") if each.expected and not groups else None)
        db.close()
        return told

    @asynccontextmanager
    async def subscribe(self, topics: Sequence[Topic], group: str, prefetch: int) -> AsyncGenerator[FileSubscription]:
        self._make(topics, group)
        yield FileSubscription(self, [topic.name for topic in topics], group, prefetch)

    def _make(self, topics: Sequence[Topic], group: str) -> None:
        db = self._open()
        with db:
            db.executemany("INSERT OR IGNORE INTO place VALUES (?, ?)", [(group, topic.name) for topic in topics])
            db.execute("UPDATE message SET owner = NULL WHERE grp = ?", (group,))
        db.close()

    async def healthy(self) -> bool:
        try:
            self._open().close()
        except BusUnavailable:
            return False
        return True

    async def survey(self, topology: Topology) -> list[Place]:
        db = self._open()
        there = set(db.execute("SELECT grp, topic FROM place"))
        db.close()
        return [Place("queue", topic.name, (topology.group, topic.name) in there) for topic in topology.takes]

    async def set_up(self, topology: Topology) -> None:
        self._make(topology.takes, topology.group)


class FileSubscription:
    """Looks again and again."""

    def __init__(self, bus: FileBus, topics: list[str], group: str, prefetch: int) -> None:
        self._bus = bus
        self._topics = topics
        self._group = group
        self._prefetch = prefetch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Delivered]:
        while True:
            db = self._bus._open()
            with db:
                marks = ", ".join("?" for _ in self._topics)
                found = db.execute(
                    "SELECT id, topic, body, headers FROM message WHERE grp = ? AND owner IS NULL"
                    f" AND topic IN ({marks}) ORDER BY id LIMIT ?",
                    (self._group, *self._topics, self._prefetch),
                ).fetchall()
                db.executemany("UPDATE message SET owner = ? WHERE id = ?", [(os.getpid(), row[0]) for row in found])
            db.close()
            if found:
                return [Delivered(topic, body, json.loads(headers), id) for id, topic, body, headers in found]
            await anyio.sleep(LOOK_S)

    async def ack(self, delivered: Sequence[Delivered]) -> None:
        db = self._bus._open()
        with db:
            db.executemany("DELETE FROM message WHERE id = ?", [(each.token,) for each in delivered])
        db.close()

    async def lag(self) -> int:
        db = self._bus._open()
        [(count,)] = db.execute("SELECT count(*) FROM message WHERE grp = ?", (self._group,))
        db.close()
        return int(count)
