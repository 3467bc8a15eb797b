"""Writes what a generation stores: a store with instances at their ends and under way, and its payloads as lines."""

from __future__ import annotations

import gzip
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import msgspec
from msgspec import Raw

from orchestrator.machine import Transition
from orchestrator.messages import Message, encode, type_name, type_version
from orchestrator.runtime.engine import Engine
from orchestrator.wire import DeadLetter, Envelope, Kind
from orchestrator_adapters.sqlite import SQLiteStore

KEPT = Path(__file__).parent / "kept"
STORE, PAYLOADS = "store.db.gz", "payloads.jsonl"


def write(generation: ModuleType, folder: Path) -> None:
    """Both files, into a new folder."""
    folder.mkdir(parents=True)
    lines = [line(message) for message in generation.PAYLOADS]
    (folder / PAYLOADS).write_bytes(b"".join(each + b"\n" for each in lines))
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "store.db"
        anyio.run(stored, generation, path)
        (folder / STORE).write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def line(message: Message) -> bytes:
    """A payload with what is needed to read it."""
    cls = type(message)
    return msgspec.json.encode({"type": type_name(cls), "version": type_version(cls), "data": Raw(encode(message))})


async def stored(generation: ModuleType, path: Path) -> None:
    """Run the generation's app until nothing happens for a while: one order waits, one is between two attempts."""
    async with SQLiteStore(path) as store:
        await generation.append(store)
        bad = msgspec.structs.replace(event(generation.EVENTS[0]), id="bad", data=Raw(b'{"order":7}'))
        await store.commit([Transition(at=time.time(), dead=(DeadLetter(time.time(), "it cannot be read", bad),))])
    async with Engine(generation.app, SQLiteStore(path)) as engine:
        for message in generation.EVENTS:
            await engine.accept(event(message))
            await anyio.sleep(0.5)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = DELETE")  # one file, whole
        database.execute("VACUUM")


def event(message: Any) -> Envelope:
    """An event from outside."""
    cls = type(message)
    name = type_name(cls)
    data = Raw(encode(message))
    return Envelope(
        id=f"{name}-{message.order}",
        kind=Kind.EVENT,
        type=name,
        data=data,
        version=type_version(cls),
        key=message.order,
    )
