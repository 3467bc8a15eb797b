from __future__ import annotations

import pytest

from orchestrator.errors import BadMessage
from orchestrator.machine.instance import Status
from orchestrator.machine.transition import Outcome
from orchestrator.memory import MemoryStore
from orchestrator.runtime.engine import Engine

from .shop import CardDeclined, OrderCancelled, OrderPlaced, World, event, order, shop
from .virtual import LoopClock

pytestmark = pytest.mark.anyio


async def test_an_order_is_fulfilled() -> None:
    world, store = World(), MemoryStore()
    async with Engine(shop(world), store, clock=LoopClock()) as engine:
        accepted = await engine.accept(event(OrderPlaced("1")))
        assert accepted.outcomes == (("OrderFulfilment/1", Outcome.APPLIED),)
        instance = await engine.ended(order("1"))
        await engine.until_idle()
        assert engine.stats().outbox == 0
    assert instance.status is Status.COMPLETED
    assert world.names("1") == ["ReserveStock 1", "ChargeCard 1", "ShipOrder 1"]
    assert (await store.counts(0)).outbox == 0


async def test_a_refusal_undoes_what_was_done() -> None:
    world = World()
    world.will("ChargeCard", CardDeclined())
    async with Engine(shop(world), MemoryStore(), clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        assert (await engine.ended(order("1"))).status is Status.COMPENSATED
    assert world.names("1") == ["ReserveStock 1", "ChargeCard 1", "ReleaseStock 1"]


async def test_the_same_message_twice_changes_nothing() -> None:
    world, store = World(), MemoryStore()
    async with Engine(shop(world), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await engine.until_idle()
        again = await engine.accept(event(OrderPlaced("1")))
        assert again.outcomes == (("OrderFulfilment/1", Outcome.DUPLICATE),)
    assert len(await store.history(order("1"))) == 4


async def test_an_event_nobody_wants_is_refused() -> None:
    async with Engine(shop(World()), MemoryStore(), clock=LoopClock()) as engine:
        with pytest.raises(BadMessage, match="wants"):
            await engine.accept(event(OrderPlaced("1")).__class__(id="x", kind="event", type="Nonsense"))  # type: ignore[arg-type]
        with pytest.raises(BadMessage, match="order_id is empty"):
            await engine.accept(event(OrderCancelled("")))
