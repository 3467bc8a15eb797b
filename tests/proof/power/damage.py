"""Bits that flip in a closed file, and logs cut off: noticed, or without consequence."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

import msgspec
from msgspec import Struct

from orchestrator.errors import StoreError
from orchestrator.ports import MAX_PAGE, Find
from orchestrator_adapters.sqlite import reading, upkeep
from orchestrator_adapters.sqlite.errors import store_errors
from orchestrator_adapters.sqlite.schema import connect_reader, connect_writer

from .disk import Disk, Image
from .reopening import place, reopen, room
from .workload import PATH, PoweredStore, State, run, state

LATE = 1e12  # everything is due by then
NOT_READ = "sqlite_sequence"  # which ids come next: of use to nobody but SQLite
TALLY = "tally"  # where it counts none, it says nothing, under whatever name
LOG_HEADER_BYTES, FRAME_BYTES = 32, 24 + 4096


class Flips(Struct):
    """What became of the flipped bits."""

    flips: int = 0
    refused: int = 0  # by reading
    noticed: int = 0  # by the check of the whole file alone
    same: int = 0
    silent: int = 0
    wrong: list[str] = []


class Logs(Struct):
    """What became of the logs that were cut off or had a bit flipped: an older state of the store, never another."""

    images: int = 0
    older: int = 0
    wrong: list[str] = []


def flip(seed: int, number: int) -> Flips:
    """Flip one bit at a time of a closed file that has rows in every table."""
    flips = Flips()
    chance = Random(f"flips {seed}")
    with room() as directory:
        with place(_rich(), directory) as path:
            with closing(connect_writer(path)) as connection:
                good = state(connection)
            with closing(connect_reader(path)) as connection:
                answers = _answers(connection)
            content = path.read_bytes()
        for _ in range(number):
            bit = chance.randrange(len(content) * 8)
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            flips.flips += 1
            with place({str(PATH): bytes(damaged)}, directory) as path:
                _judge(flips, path, good, answers, f"seed {seed}, bit {bit} flipped")
    return flips


def _rich() -> Image:
    """The files of a store with rows in every table, its log not checkpointed."""
    store = PoweredStore(Disk())
    run(store)
    most = max(range(len(store.states)), key=lambda number: _wealth(store.states[number]))
    again = Disk()
    again.play(op for op in store.disk.log if op.acked < most)
    return again.contents()


def _wealth(rows: State) -> tuple[int, int]:
    return (sum(bool(table) for table in rows.values()), sum(len(table) for table in rows.values()))


def _answers(connection: sqlite3.Connection) -> bytes:
    """All that the store says when it is asked all there is to ask."""
    page = reading.find(connection, Find(limit=MAX_PAGE))
    addresses = [instance.address for instance in page.items]
    return msgspec.json.encode(
        [
            page,
            [reading.history(connection, address, 0, MAX_PAGE) for address in addresses],
            reading.load(connection, addresses),
            reading.due(connection, LATE, MAX_PAGE, 0),
            reading.wakes(connection, LATE, MAX_PAGE),
            reading.waiting(connection, 0, MAX_PAGE),
            reading.waiting_for(connection, MAX_PAGE),
            reading.dead_letters(connection, 0, MAX_PAGE),
            reading.standing(connection),
            reading.counts(connection, LATE),
        ]
    )


def _judge(flips: Flips, path: Path, good: State, answers: bytes, name: str) -> None:
    connect = partial(connect_reader, path)
    try:
        with store_errors(path):
            problems = upkeep.integrity(connect)
        with store_errors(path), closing(connect()) as connection:
            answered, rows = _answers(connection), state(connection)
    except StoreError:
        flips.refused += 1
        return
    except Exception as error:
        flips.wrong.append(f"{name}: {error!r} instead of a StoreError")
        return
    is_same, differs = answered == answers, _difference(rows, good)
    if problems:
        flips.noticed += 1
    elif is_same and not differs:
        flips.same += 1
    else:
        flips.silent += 1
        flips.wrong.append(f"{name}: nobody notices {differs or 'that the answers differ'}")


def _difference(rows: State, good: State) -> str:
    """The first row that is not as it was."""
    if set(rows) != set(good):
        return "the tables"
    for table in sorted(set(good) - {NOT_READ}):
        there, before = ([row for row in each[table] if table != TALLY or row[-1]] for each in (rows, good))
        if len(there) != len(before):
            return f"how many rows {table} has"
        for row, was in zip(there, before, strict=True):
            if row != was:
                column = next(number for number, (new, old) in enumerate(zip(row, was, strict=True)) if new != old)
                return f"column {column} of {table}"
    return ""


def cut_logs(seed: int, share: float) -> Logs:
    """Cut a log off at every frame, and flip bits in it."""
    logs = Logs()
    chance = Random(f"logs {seed}")
    store = PoweredStore(Disk())
    run(store)
    end = _first_checkpoint(store)
    again = Disk()
    again.play(store.disk.log[:end])
    acked, image = store.disk.log[end].acked, again.contents()
    log = image[f"{PATH}-wal"]
    ends = [end for end in range(LOG_HEADER_BYTES, len(log), FRAME_BYTES) if chance.random() < share]
    damaged = [log[:end] for end in ends]
    for _ in ends:
        bit = chance.randrange(len(log) * 8)
        damaged.append(log[: bit // 8] + bytes([log[bit // 8] ^ 1 << bit % 8]) + log[bit // 8 + 1 :])
    with room() as directory:
        for content in damaged:
            found = reopen({**image, f"{PATH}-wal": content}, directory)
            logs.images += 1
            logs.older += found.state != store.states[acked]
            if found.problem or found.state not in store.states[: acked + 2]:
                logs.wrong.append(f"seed {seed}, a log of {len(content)} bytes: {found.problem or 'what never was'}")
    return logs


def _first_checkpoint(store: PoweredStore) -> int:
    """Where the log is long, and the file has nothing of it yet; that of an empty store says nothing."""
    database, states = store.disk.log[0].file, store.states
    ops = enumerate(store.disk.log)
    return next(index for index, op in ops if op.file == database and states[op.acked] != states[0])
