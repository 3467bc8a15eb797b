"""Streams of events within an engine: who appends, what goes out, and what a failing store does to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from orchestrator import (
    App,
    Call,
    Command,
    Delivery,
    Event,
    NotAccepting,
    Orchestrator,
    OrchestratorError,
    Saga,
    StoreCorrupt,
    StoreUnavailable,
    VersionConflict,
    listener,
    participant,
    step,
)
from orchestrator.memory import MemoryBus, MemoryStore
from orchestrator.ports import Topic
from orchestrator.runtime.engine import Engine
from orchestrator_adapters.sqlite import SQLiteStore

from .faulty import Fault, FaultyStore
from .virtual import LoopClock

pytestmark = pytest.mark.anyio

TRIES = 100


class Asked(Event):
    key: str


class Counted(Event):
    key: str
    by: int


class Count(Command):
    key: str


class Counting(Saga, key="key", starts=Asked):
    key: str

    @step(undo=None)
    def count(self) -> Count:
        return Count(self.key)


class Place:
    """What an app's functions did."""

    def __init__(self) -> None:
        self.heard: list[Counted] = []
        self.fails = 0


def counting(place: Place, *, publish: bool = False) -> App[Any]:
    @participant
    async def count(command: Count, call: Call[object]) -> None:
        await call.events.append("counts", Counted(command.key, 1), key=call.key, publish=publish)
        if call.attempt <= place.fails:
            raise RuntimeError("its answer got lost")

    @listener
    async def hear(event: Counted, delivery: Delivery[object]) -> None:
        place.heard.append(event)
        await delivery.events.append(f"heard-{event.key}", event, key=delivery.id)

    return App("counting", sagas=[Counting], participants=[count], listeners=[hear])


async def read(log: Any, stream: str) -> list[Event]:
    return [recorded.event async for recorded in log.read(stream)]


async def test_a_participant_appends_once_however_often_it_is_called() -> None:
    place = Place()
    place.fails = 2
    async with Orchestrator(counting(place), MemoryStore(), clock=LoopClock()) as orchestrator:
        await (await orchestrator.start(Asked("1"))).end()
        [recorded] = [each async for each in orchestrator.events.read("counts")]
    assert recorded.event == Counted("1", 1) and place.heard == []
    about = recorded.metadata
    assert about.id.startswith("Counting/1~") and about.causation_id == about.id.removesuffix("#0")
    assert about.correlation_id and about.correlation_id != about.causation_id


async def test_what_is_published_is_heard_at_once_and_its_rows_go() -> None:
    place, store = Place(), MemoryStore()
    async with Orchestrator(counting(place, publish=True), store, clock=LoopClock()) as orchestrator:
        await (await orchestrator.start(Asked("1"))).end()
        await orchestrator.events.append("counts", Counted("2", 5), publish=True)
        await orchestrator.until_idle()
        assert place.heard == [Counted("1", 1), Counted("2", 5)]
        [first] = [each async for each in orchestrator.events.read("counts", 1, 1)]
        [heard] = [each async for each in orchestrator.events.read("heard-1")]
    assert heard.metadata.causation_id == first.metadata.id
    assert heard.metadata.correlation_id == first.metadata.correlation_id
    assert (await store.counts(0)).outbox == 0


async def test_what_nobody_wants_is_not_put_into_the_outbox_unless_there_is_a_bus() -> None:
    store, bus = FaultyStore(), MemoryBus()
    async with Orchestrator(App("nobody"), store, clock=LoopClock()) as orchestrator:
        await orchestrator.events.append("s", Counted("1", 1), publish=True)
    assert [one.put for one in store.transitions if one.appends] == [()]
    embedded = Orchestrator(App("nobody"), MemoryStore(), bus, clock=LoopClock())
    async with bus, bus.subscribe([Topic("Counted")], "g", 9) as batches, embedded as orchestrator:
        await orchestrator.events.append("s", Counted("1", 1), publish=True)
        [delivered] = await anext(batches)
        assert b'"Counted"' in delivered.body
        await batches.ack([delivered])


async def test_what_a_store_without_engine_published_goes_out_with_the_next_one() -> None:
    place, store = Place(), MemoryStore()
    async with store:
        await store.append("s", Counted("1", 1), publish=True)
    async with Orchestrator(counting(place), store, clock=LoopClock()) as orchestrator:
        await orchestrator.until_idle()
    assert place.heard == [Counted("1", 1)]


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
async def test_of_a_hundred_writers_one_wins_each_version_and_no_event_is_lost(url: str, tmp_path: Path) -> None:
    store = MemoryStore() if url == "memory://" else SQLiteStore(tmp_path / "x.db")
    won: list[tuple[int, int]] = []
    lost: list[VersionConflict] = []

    async def write(log: Any, writer: int, version: int) -> None:
        try:
            await log.append("s", Counted(str(writer), version), expected_version=version)
            won.append((version, writer))
        except VersionConflict as conflict:
            lost.append(conflict)

    async with Orchestrator(App("writers"), store) as orchestrator:
        for version in range(5):
            async with anyio.create_task_group() as tasks:
                for writer in range(TRIES):
                    tasks.start_soon(write, orchestrator.events, writer, version)
        events = await read(orchestrator.events, "s")
    assert len(won) == 5 and len(lost) == 5 * (TRIES - 1)
    assert events == [Counted(str(writer), version) for version, writer in sorted(won)]
    assert all(conflict.actual == conflict.expected + 1 for conflict in lost)


async def test_two_writers_that_try_again_both_get_all_of_theirs_in(tmp_path: Path) -> None:
    async def write(log: Any, writer: int) -> None:
        done = version = 0
        while done < TRIES:
            try:
                version = (await log.append("s", Counted(str(writer), done), expected_version=version)).version
                done += 1
            except VersionConflict as conflict:
                version = conflict.actual

    async with Orchestrator(App("writers"), SQLiteStore(tmp_path / "x.db")) as orchestrator:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, orchestrator.events, 1)
            tasks.start_soon(write, orchestrator.events, 2)
        rows = [each async for each in orchestrator.events.read("s")]
    assert [row.version for row in rows] == [row.position for row in rows] == list(range(1, 2 * TRIES + 1))
    for writer in "12":
        mine = [row.event for row in rows if getattr(row.event, "key", "") == writer]
        assert mine == [Counted(writer, number) for number in range(TRIES)]


@pytest.mark.parametrize(
    "faults", [["after"], [StoreUnavailable("away")], [StoreUnavailable("away"), "after", "after"]]
)
async def test_an_append_of_which_nothing_is_known_is_made_again_and_is_there_once(faults: list[Fault]) -> None:
    store = FaultyStore()
    async with Engine(App("faults"), store, clock=LoopClock()) as engine:
        store.faults += faults
        told = await engine.events.append("s", [Counted("1", 1), Counted("1", 2)], expected_version=0)
        assert (told.version, told.position) == (2, 2)
        assert await read(engine.events, "s") == [Counted("1", 1), Counted("1", 2)]


async def test_an_engine_that_is_not_open_takes_no_append() -> None:
    engine = Engine(App("closed"), MemoryStore(), clock=LoopClock())
    with pytest.raises(NotAccepting):
        await engine.events.append("s", Counted("1", 1))
    async with engine:
        await engine.events.append("s", Counted("1", 1))
    with pytest.raises(NotAccepting):
        await engine.events.append("s", Counted("1", 1))


async def test_whoever_waits_for_an_append_is_told_when_the_engine_stops() -> None:
    store = FaultyStore()
    errors: list[Exception] = []

    async def append(engine: Engine) -> None:
        try:
            await engine.events.append("s", Counted("1", 1))
        except StoreCorrupt as error:
            errors.append(error)

    with pytest.raises(StoreCorrupt):
        async with Engine(App("broken"), store, clock=LoopClock()) as engine, anyio.create_task_group() as tasks:
            store.faults.append(StoreCorrupt("broken"))
            tasks.start_soon(append, engine)
            await anyio.sleep_forever()
    assert len(errors) == 1


async def test_a_call_that_runs_while_the_engine_drains_may_append() -> None:
    begun, store = anyio.Event(), MemoryStore()

    @participant
    async def count(command: Count, call: Call[object]) -> None:
        begun.set()
        await anyio.sleep(1)
        await call.events.append("s", Counted(command.key, 1))

    app = App("draining", sagas=[Counting], participants=[count])
    async with Orchestrator(app, store, clock=LoopClock()) as orchestrator:
        await orchestrator.start(Asked("1"))
        await begun.wait()
    assert await store.stream_version("s") == 1


@pytest.mark.parametrize(
    "made",
    [
        lambda: Call(Count("1"), key="k", resources=None).events,
        lambda: Delivery(id="1", type="t", time=None, resources=None).events,  # type: ignore[arg-type]
    ],
)
def test_one_that_was_made_without_a_log_says_how_to_give_it_one(made: Callable[[], object]) -> None:
    with pytest.raises(OrchestratorError, match="events=MemoryStore"):
        made()


async def test_in_a_test_any_store_is_the_log() -> None:
    store = MemoryStore()
    call = Call(Count("1"), key="k", resources=None, events=store)
    await call.events.append("s", Counted("1", 1))
    [recorded] = [each async for each in store.read("s")]
    assert recorded.metadata.causation_id == "k"
