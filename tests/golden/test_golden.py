"""All that was ever stored is read by the code of today: decoded, lifted, folded, and gone on with."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from orchestrator import Repository, Secret
from orchestrator.catalog import Breaks, aggregates_beside, catalog_of, changes
from orchestrator.checking.audit import audit
from orchestrator.checking.auditing.stored import rows, stories
from orchestrator.event_log import EventLog
from orchestrator.messages import decode
from orchestrator.runtime.admission import problems
from orchestrator.runtime.engine import Engine
from orchestrator.saga import decode_state, migrated
from orchestrator.topics import Topics
from orchestrator.wire import Address, Envelope, Kind
from orchestrator_adapters.sqlite import SQLiteStore

from .generations import GENERATIONS, LAST
from .generations.second import Approved, Charge, Deposited, Line, Placed, Purse, Spent
from .writing import KEPT, PAYLOADS, STORE, event, line

pytestmark = pytest.mark.anyio

FOLDERS = sorted(KEPT.iterdir(), key=lambda folder: int(folder.name))
EVERY = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"generation {folder.name}")


class Kept(msgspec.Struct):
    """A line of the payloads."""

    type: str
    version: int
    data: msgspec.Raw


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Later:
    """A clock that stands so many seconds after a moment, and goes on from there."""

    def __init__(self, moment: float, seconds: float) -> None:
        self._ahead = moment + seconds - time.time()

    def now(self) -> float:
        return time.time() + self._ahead

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


def payloads(folder: Path) -> Iterator[Kept]:
    for text in (folder / PAYLOADS).read_bytes().splitlines():
        yield msgspec.json.decode(text, type=Kept)


def store_of(folder: Path, place: Path, *, read_only: bool = False) -> SQLiteStore:
    path = place / "store.db"
    path.write_bytes(gzip.decompress((folder / STORE).read_bytes()))
    return SQLiteStore(path, read_only=read_only)


def classes() -> dict[str, Any]:
    return {cls.__wire__.type: cls for cls in [*LAST.app.types.values(), *Purse.__kind__.handlers]}


def test_every_generation_is_kept() -> None:
    assert {int(folder.name) for folder in FOLDERS} == set(GENERATIONS)
    for folder in FOLDERS:
        assert sum(file.stat().st_size for file in folder.iterdir()) < 20_000


def test_the_last_generation_writes_what_is_kept() -> None:
    """Else it has changed: write the next one."""
    assert (FOLDERS[-1] / PAYLOADS).read_bytes().splitlines() == [line(message) for message in LAST.PAYLOADS]


@EVERY
def test_every_payload_is_read(folder: Path) -> None:
    found = [decode(classes()[kept.type], kept.data, kept.version) for kept in payloads(folder)]
    assert found[0] == Placed("done", Decimal(20), "EUR", Secret("4111"), (Line("tea", 2),))
    assert {Charge("1", Decimal(20)), Deposited(Decimal(5)), Spent(Decimal(2))} <= set(found)


@EVERY
async def test_every_instance_message_and_row_is_read(folder: Path, tmp_path: Path) -> None:
    types, sagas = LAST.app.types, LAST.app.sagas
    async with store_of(folder, tmp_path, read_only=True) as store:
        assert [problem for each in await store.standing() for problem in problems(sagas, each)] == []
        states = {}
        async for story in stories(store):
            it = story.instance
            state = migrated(sagas[it.saga], it.state, it.definition_version)
            states[it.key] = decode_state(sagas[it.saga], state)
            for entry in story.entries:
                read(types, entry.message)
        assert {(it.amount, it.currency, it.card.reveal()) for it in states.values()} == {(Decimal(20), "EUR", "4111")}
        assert {key for key, it in states.items() if it.place == "shelf 3"} == {"done", "waits", "retried"}
        others = await rows(store)
        assert [it.envelope.key for it in others.waiting] == ["early"]
        assert [it.envelope.id for it in others.dead if it.envelope] == ["bad"]
        assert [it.envelope.type for it in others.outbox] == ["Reserve"]
        for envelope in (*(it.envelope for it in others.waiting), *(it.envelope for it in others.outbox)):
            read(types, envelope)


def read(types: dict[str, Any], envelope: Envelope) -> None:
    if envelope.type in types and envelope.kind not in (Kind.TIMER, Kind.VERB):
        decode(types[envelope.type], envelope.data, envelope.version)


@EVERY
async def test_every_history_folds_to_what_is_stored_or_is_of_another_version(folder: Path, tmp_path: Path) -> None:
    async with store_of(folder, tmp_path, read_only=True) as store:
        found = await audit(GENERATIONS[int(folder.name)].app, store)
        assert (found.instances, found.violations) == (5, ())
        assert (await audit(LAST.app, store)).violations == ()


@EVERY
async def test_every_stream_folds_to_its_aggregate(folder: Path, tmp_path: Path) -> None:
    async with store_of(folder, tmp_path, read_only=True) as store:
        assert isinstance(store, EventLog)
        for id, every in (("a", 0), ("b", 2)):
            purse = await Repository(Purse, store, snapshot_every=every).load(id)
            assert (purse.amount, purse.version) == (Decimal(10), 3)
            assert (await Repository(Purse, store).load(id, at_version=1)).amount == Decimal(5)
        assert [it.event async for it in store.read("Purse-a", types=Purse.__kind__.handlers)] == [
            Deposited(Decimal(5)),
            Deposited(Decimal(7)),
            Spent(Decimal(2)),
        ]


@EVERY
async def test_every_open_instance_goes_on_to_its_end(folder: Path, tmp_path: Path) -> None:
    """Three retries later, and before any wait is over."""
    async with store_of(folder, tmp_path, read_only=True) as store:
        last = max([story.instance.updated_at async for story in stories(store)])
    async with Engine(LAST.app, SQLiteStore(store.path), clock=Later(last, 3 * LAST.LATER_S)) as engine:
        early = Placed("early", Decimal(1), "EUR", Secret(""))
        for message in (early, *map(Approved, ("waits", "retried", "asked"))):
            await engine.accept(event(message))
        ended = {
            key: (await engine.ended(Address("Order", key))).status for key in ("waits", "retried", "asked", "early")
        }
        assert set(ended.values()) == {"completed"}, ended
        await engine.until_idle()
    async with SQLiteStore(store.path, read_only=True) as store:
        assert (await audit(LAST.app, store, idle=True)).violations == ()


def test_what_the_generations_changed_breaks_nothing_stored() -> None:
    catalogs = [
        catalog_of(it.app, Topics(it.app), [cls for cls in aggregates_beside(it.app) if cls.__module__ == it.__name__])
        for it in GENERATIONS.values()
    ]
    for old, new in pairwise(catalogs):
        assert [str(it) for it in changes(old, new) if Breaks.STORED in it.breaks] == []
