"""Callers of a store that no engine has open share their commits; none is lost, whoever is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from orchestrator import Event, StoreUnavailable, VersionConflict
from orchestrator.machine.transition import Transition
from orchestrator.memory import MemoryStore
from orchestrator.ports import Result

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Happened(Event):
    n: int


class SlowStore(MemoryStore):
    """Commits when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[int] = []
        self.may_go = asyncio.Semaphore(0)
        self.faults: list[Exception | None] = []

    async def commit(self, transitions: Sequence[Transition]) -> list[Result]:
        self.groups.append(len(transitions))
        await self.may_go.acquire()
        if self.faults and (fault := self.faults.pop(0)):
            raise fault
        return await super().commit(transitions)


async def settled() -> None:
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


def appends(store: SlowStore, count: int, **more: Any) -> list[asyncio.Task[object]]:
    return [asyncio.create_task(_append(store, number, **more)) for number in range(count)]


async def _append(store: SlowStore, number: int, **more: Any) -> object:
    return await store.append(f"s{number}", Happened(number), **more)


async def test_what_gathers_while_one_commit_runs_is_the_next() -> None:
    store = SlowStore()
    tasks = appends(store, 10)
    await settled()
    assert store.groups == [1]
    store.may_go.release()
    await settled()
    assert store.groups == [1, 9] and tasks[0].done()
    store.may_go.release()
    await asyncio.gather(*tasks)
    assert await store.last_position() == 10


async def test_a_conflict_is_told_to_the_one_it_concerns() -> None:
    store = SlowStore()
    tasks = [asyncio.create_task(store.append("s", Happened(n), expected_version=0)) for n in range(5)]
    for _ in range(2):
        store.may_go.release()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) is VersionConflict for one in told] == [False, True, True, True, True]


async def test_a_store_that_is_away_is_told_to_all_of_the_group_and_the_next_goes_on() -> None:
    store = SlowStore()
    tasks = appends(store, 3)
    await settled()
    store.faults += [None, StoreUnavailable("away")]
    for _ in range(2):
        store.may_go.release()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one).__name__ for one in told] == ["Appended", "StoreUnavailable", "StoreUnavailable"]
    store.may_go.release()
    await store.append("t", Happened(1))


async def test_one_that_cannot_be_stored_does_not_take_the_others_with_it() -> None:
    store = SlowStore()
    tasks = appends(store, 3)
    await settled()
    store.faults += [None, TypeError("odd"), None, TypeError("odd")]
    for _ in range(4):
        store.may_go.release()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one).__name__ for one in told] == ["Appended", "Appended", "TypeError"]


@pytest.mark.parametrize("who", range(4))
@pytest.mark.parametrize("when", ["first commit", "second commit", "between"])
async def test_whoever_is_cancelled_the_others_are_stored_once(who: int, when: str) -> None:
    store = SlowStore()
    tasks = appends(store, 4)
    await settled()
    if when == "second commit":
        store.may_go.release()
        await settled()
    if when == "between":
        store.may_go.release()
    tasks[who].cancel()
    for _ in range(8):
        store.may_go.release()
        await settled()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one).__name__ for n, one in enumerate(told) if n != who] == ["Appended"] * 3
    events = [recorded.event async for recorded in store.read_all()]
    assert len(events) == len(set(events)) and set(events) >= {Happened(n) for n in range(4) if n != who}


async def test_who_comes_after_all_were_cancelled_is_served() -> None:
    store = SlowStore()
    tasks = appends(store, 5)
    await settled()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    store.may_go.release()
    with anyio.fail_after(5):
        assert (await store.append("t", Happened(1))).version == 1


async def test_ids_that_the_log_gives_grow_and_are_nobody_elses() -> None:
    first, second = MemoryStore(), MemoryStore()
    for store in (first, second, first):
        await store.append("s", [Happened(n) for n in range(300)])
        await store.append("t", Happened(0))
    mine = [recorded.metadata.id async for recorded in first.read_all()]
    others = [recorded.metadata.id async for recorded in second.read_all()]
    assert mine == sorted(mine) and len({*mine, *others}) == len(mine) + len(others) == 903
    assert {len(id) for id in mine} == {32}
