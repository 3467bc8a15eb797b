"""How loops sleep."""

from __future__ import annotations

import anyio
import pytest

from orchestrator.runtime.waking import Bell, Wakeup

from .virtual import LoopClock

pytestmark = pytest.mark.anyio


async def test_what_is_set_before_the_wait_is_not_forgotten() -> None:
    wakeup = Wakeup()
    wakeup.set()
    wakeup.set()
    await wakeup.wait()
    with anyio.move_on_after(1) as scope:
        await wakeup.wait()
    assert scope.cancelled_caught


async def test_a_nap_ends_when_it_is_set() -> None:
    wakeup, clock = Wakeup(), LoopClock()
    began = clock.now()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wakeup.wait_at_most, clock, 100)
        await anyio.sleep(10)
        wakeup.set()
    assert clock.now() - began == pytest.approx(10, abs=1)
    await wakeup.wait_at_most(clock, 5)
    assert clock.now() - began == pytest.approx(15, abs=1)
    await wakeup.wait_at_most(clock, -5)
    wakeup.set()
    await wakeup.wait_at_most(clock, 5)
    assert clock.now() - began == pytest.approx(15, abs=1)


async def test_a_cancelled_nap_is_cancelled() -> None:
    wakeup = Wakeup()
    with anyio.move_on_after(1) as scope:
        await wakeup.wait_at_most(LoopClock(), 100)
    assert scope.cancelled_caught


async def test_a_bell_wakes_all() -> None:
    bell = Bell()
    bell.ring()
    heard: list[int] = []

    async def listen(number: int) -> None:
        await bell.wait()
        heard.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(listen, number)
        await anyio.sleep(1)
        assert heard == []
        bell.ring()
    assert sorted(heard) == [0, 1, 2]
