"""Choreography: deliveries to listeners, each on its own, in order, with persisted backoff."""

from __future__ import annotations

import anyio
import pytest
from msgspec.structs import replace

from orchestrator.config import Limits
from orchestrator.errors import Fatal, RetryAfter
from orchestrator.machine.transition import Outcome
from orchestrator.memory import MemoryStore
from orchestrator.runtime.engine import Engine

from .shop import OrderFulfilled, OrderPlaced, World, count, event, send_mail, shop
from .virtual import LoopClock

pytestmark = pytest.mark.anyio

ALL = [send_mail, count]


async def test_what_a_saga_publishes_reaches_listeners_and_what_they_return_goes_on() -> None:
    world, store = World(), MemoryStore()
    async with Engine(shop(world, listeners=ALL), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await engine.until_idle()
    assert sorted(world.told) == ["count MailSent 1", "count OrderFulfilled 1", "mail 1 1"]
    assert (await store.counts(0)).outbox == 0


async def test_an_event_from_outside_is_delivered_once() -> None:
    world = World()
    async with Engine(shop(world, listeners=ALL), MemoryStore(), clock=LoopClock()) as engine:
        first = await engine.accept(event(OrderFulfilled("9")))
        await engine.until_idle()
        again = await engine.accept(event(OrderFulfilled("9")))
        await engine.until_idle()
    assert first.outcomes == (("send_mail", Outcome.APPLIED), ("count", Outcome.APPLIED))
    assert {outcome for _, outcome in again.outcomes} == {Outcome.DUPLICATE}
    assert sorted(world.told) == ["count MailSent 9", "count OrderFulfilled 9", "mail 9 1"]


async def test_a_failing_listener_is_tried_again_and_holds_nobody_up() -> None:
    world = World()
    world.will("mail", RuntimeError("smtp"))
    async with Engine(shop(world, listeners=ALL), MemoryStore(), clock=LoopClock()) as engine:
        await engine.accept(event(OrderFulfilled("1")))
        await anyio.sleep(1)
        assert "count OrderFulfilled 1" in world.told
        await engine.accept(event(OrderFulfilled("2")))
        await anyio.sleep(1)
        assert "mail 2 1" in world.told  # another lane
        await engine.until_idle()
    assert [told for told in world.told if told.startswith("mail 1")] == ["mail 1 1", "mail 1 2"]


async def test_deliveries_of_one_sender_are_in_order_even_when_one_fails() -> None:
    world = World()
    world.will("mail", RuntimeError("smtp"))
    async with Engine(shop(world, listeners=[send_mail]), MemoryStore(), clock=LoopClock()) as engine:
        for number in range(4):
            await engine.accept(replace(event(OrderFulfilled(str(number))), key="one sender"))
        await engine.until_idle()
    assert world.told == ["mail 0 1", "mail 0 2", "mail 1 1", "mail 2 1", "mail 3 1"]


@pytest.mark.parametrize("page", [1, 2, 500])
async def test_order_and_attempts_survive_a_restart(page: int) -> None:
    """What was tried before stands behind the others in the store, on another page."""
    world, store, clock = World(), MemoryStore(), LoopClock()
    world.will("mail", RetryAfter(1000))
    app = shop(world, listeners=[send_mail])
    async with Engine(app, store, clock=clock) as engine:
        for number in range(3):
            await engine.accept(
                replace(event(OrderFulfilled(str(number))), key="one sender", time=clock.now() + number)
            )
        await anyio.sleep(1)
    assert world.told == ["mail 0 1"]
    began = clock.now()
    async with Engine(app, store, clock=clock, limits=Limits(page=page)) as engine:
        assert engine.recovered.outbox == 3
        await engine.until_idle()
    assert world.told == ["mail 0 1", "mail 0 2", "mail 1 1", "mail 2 1"]
    assert clock.now() - began > 990


async def test_attempts_used_up_make_a_dead_letter_that_can_be_redriven() -> None:
    world, store = World(), MemoryStore()
    world.will("mail", *[RuntimeError("smtp")] * 3)
    async with Engine(shop(world, listeners=ALL), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderFulfilled("1")))
        await engine.until_idle()
        [letter] = await store.dead_letters()
        assert (letter.listener, letter.error) == ("send_mail", "RuntimeError: smtp")
        assert "3 times" in letter.reason
        await engine.redrive(letter.id)
        await engine.until_idle()
        assert await store.dead_letters() == []
    assert world.told[-2:] == ["mail 1 1", "count MailSent 1"]


async def test_one_that_fails_leaves_the_others_room_in_memory() -> None:
    world, store = World(), MemoryStore()
    world.will("mail", *[RetryAfter(600)] * 50)
    limits = Limits(handed=10, page=5)
    async with Engine(shop(world, listeners=ALL), store, clock=LoopClock(), limits=limits) as engine:
        for number in range(50):
            await engine.accept(event(OrderFulfilled(str(number))))
        await anyio.sleep(60)
        assert len([told for told in world.told if told.startswith("count OrderFulfilled")]) == 50
        assert engine.stats().outbox <= 10 + 5
        await engine.until_idle()
    assert len([told for told in world.told if told.startswith("mail") and told.endswith(" 2")]) >= 5
    assert (await store.counts(0)).outbox == 0


async def test_fatal_and_nonsense() -> None:
    world, store = World(), MemoryStore()
    world.will("mail", Fatal("no address"), lambda _: 42, lambda _: 42, lambda _: 42)
    async with Engine(shop(world, listeners=[send_mail]), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderFulfilled("1")))
        await engine.until_idle()
        await engine.accept(event(OrderFulfilled("2")))
        await engine.until_idle()
        first, second = await store.dead_letters()
    assert world.told == ["mail 1 1", "mail 2 1", "mail 2 2", "mail 2 3"]
    assert "for good" in first.reason
    assert "a listener returns Events" in second.error


async def test_a_listener_that_is_gone_leaves_a_dead_letter() -> None:
    world, store, clock = World(), MemoryStore(), LoopClock()
    world.will("mail", RetryAfter(1000))
    async with Engine(shop(world, listeners=[send_mail]), store, clock=clock) as engine:
        await engine.accept(event(OrderFulfilled("1")))
        await anyio.sleep(1)
    async with Engine(shop(world), store, clock=clock) as engine:
        await engine.until_idle()
        [letter] = await store.dead_letters()
    assert "no listener send_mail" in letter.reason


async def test_more_deliveries_than_memory_holds_are_left_in_the_store() -> None:
    world, store = World(), MemoryStore()
    limits = Limits(handed=3, page=2)
    async with Engine(shop(world, listeners=ALL), store, clock=LoopClock(), limits=limits) as engine:
        world.gate = anyio.Event()
        for number in range(30):
            await engine.accept(event(OrderFulfilled(str(number))))
        await anyio.sleep(5)
        assert engine.stats().outbox < 15
        assert (await store.counts(0)).outbox == 30  # `count` has had its own
        world.gate.set()
        await engine.until_idle()
    mails = [told for told in world.told if told.startswith("mail")]
    assert sorted(mails) == sorted(f"mail {number} 1" for number in range(30))
    assert len([told for told in world.told if told.startswith("count")]) == 60
    assert (await store.counts(0)).outbox == 0
