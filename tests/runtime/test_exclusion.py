"""At a participant of this process, all attempts and the undo of one key exclude each other (R7)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from orchestrator.machine.instance import Status
from orchestrator.memory import MemoryStore
from orchestrator.runtime.engine import Engine

from .shop import OrderPlaced, World, event, order, shop
from .virtual import LoopClock

pytestmark = pytest.mark.anyio


async def test_an_undo_waits_until_a_cancelled_attempt_is_over() -> None:
    world = World()
    under_way: list[str] = []
    beside: list[str] = []

    async def stubborn(_command: Any) -> None:
        under_way.append("do")
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(15)
            under_way.remove("do")

    async def released(_command: Any) -> None:
        beside.extend(under_way)

    world.will("ReserveStock", stubborn, stubborn, stubborn)
    world.will("ReleaseStock", released)
    async with Engine(shop(world), MemoryStore(), clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        assert (await engine.ended(order("1"))).status is Status.COMPENSATED
    assert "ReleaseStock 1" in world.names("1")
    assert beside == []
