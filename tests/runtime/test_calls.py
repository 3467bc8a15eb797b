"""What participants may do to the daemon, and what it makes of it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest

from orchestrator.app import App
from orchestrator.config import Limits
from orchestrator.errors import Fatal, RetryAfter
from orchestrator.machine.instance import Instance, Status
from orchestrator.memory import MemoryStore
from orchestrator.messages import Done
from orchestrator.participant import participant
from orchestrator.runtime.engine import Engine

from .shop import (
    ChargeCard,
    OrderFulfilment,
    OrderPlaced,
    OutOfStock,
    RefundCard,
    ReleaseStock,
    ReserveStock,
    ShipOrder,
    StockReserved,
    World,
    event,
    order,
    shop,
)
from .virtual import LoopClock

pytestmark = pytest.mark.anyio


async def run_one(world: World, store: MemoryStore | None = None) -> Instance:
    async with Engine(shop(world), store or MemoryStore(), clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        instance = await engine.ended(order("1"))
        await engine.until_idle()
        return instance


async def forever(_command: Any) -> Any:
    await anyio.sleep_forever()


async def test_a_failure_is_tried_again_after_a_pause() -> None:
    world = World()
    world.will("ReserveStock", RuntimeError("db is down"), RuntimeError("still"))
    began = anyio.current_time()
    assert (await run_one(world)).status is Status.COMPLETED
    assert [call.attempt for call in world.calls[:3]] == [1, 2, 3]
    assert len({call.key for call in world.calls[:3]}) == 1
    assert 1.5 < anyio.current_time() - began < 4  # pauses of 1 and 2 s, less up to a quarter


async def test_attempts_used_up_unwind_and_undo_what_is_in_doubt() -> None:
    world = World()
    world.will("ReserveStock", *[RuntimeError("no")] * 3)
    instance = await run_one(world)
    assert instance.status is Status.COMPENSATED
    assert world.names("1") == ["ReserveStock 1"] * 3 + ["ReleaseStock 1"]
    assert world.calls[-1].undoes == world.calls[0].key


async def test_an_attempt_that_hangs_is_cut_off_and_tried_again() -> None:
    world = World()
    world.will("ReserveStock", forever)
    began = anyio.current_time()
    assert (await run_one(world)).status is Status.COMPLETED
    assert world.names("1")[:2] == ["ReserveStock 1"] * 2
    assert anyio.current_time() - began > 10


async def test_retry_after_asks_for_its_own_pause() -> None:
    world = World()
    world.will("ReserveStock", RetryAfter(500, "rate limit"))
    began = anyio.current_time()
    assert (await run_one(world)).status is Status.COMPLETED
    assert 500 <= anyio.current_time() - began < 510


async def test_fatal_is_not_tried_again() -> None:
    world = World()
    world.will("ReserveStock", Fatal("no such warehouse"))
    assert (await run_one(world)).status is Status.COMPENSATED
    assert world.names("1") == ["ReserveStock 1", "ReleaseStock 1"]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise TypeError("no text")


class OwnBaseException(BaseException):
    pass


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda _: 42, "declares"),
        (lambda _: OutOfStock, "declares"),
        (SystemExit(3), "exit"),
        (asyncio.CancelledError(), "cancelled"),
        (BaseExceptionGroup("two", [SystemExit(1), ValueError("x")]), "two"),
        (ValueError("a lone \ud800 and a \0"), "\\ud800"),
        (Unspeakable(), "its text cannot be made"),
        (OwnBaseException("mine"), "mine"),
        (lambda _: StockReserved("\ud800"), "cannot be stored"),
    ],
)
async def test_whatever_a_participant_does_is_a_failure_of_its_attempt(answer: Any, text: str) -> None:
    world = World()
    world.will("ReserveStock", answer, answer, answer)
    instance = await run_one(world)
    assert instance.status is Status.COMPENSATED
    assert text in instance.last_error


async def test_a_refusal_of_the_first_run_is_clean() -> None:
    world = World()
    world.will("ReserveStock", OutOfStock())
    assert (await run_one(world)).status is Status.COMPENSATED
    assert world.names("1") == ["ReserveStock 1"]


async def test_a_refusal_after_an_earlier_attempt_is_undone() -> None:
    world = World()
    world.will("ReserveStock", RuntimeError("lost"), OutOfStock())
    assert (await run_one(world)).status is Status.COMPENSATED
    assert world.names("1") == ["ReserveStock 1"] * 2 + ["ReleaseStock 1"]


async def test_a_refusal_after_a_restart_is_undone() -> None:
    world, store = World(), MemoryStore()
    world.will("ReserveStock", forever)
    async with Engine(shop(world), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await anyio.sleep(1)
    world.will("ReserveStock", OutOfStock())
    async with Engine(shop(world), store, clock=LoopClock()) as engine:
        assert engine.recovered.outbox == 1
        assert (await engine.ended(order("1"))).status is Status.COMPENSATED
    assert world.names("1") == ["ReserveStock 1"] * 2 + ["ReleaseStock 1"]
    assert [call.attempt for call in world.calls[:2]] == [1, 1]


async def test_backoff_survives_a_restart() -> None:
    world, store = World(), MemoryStore()
    world.will("ReserveStock", RetryAfter(1000))
    clock = LoopClock()
    async with Engine(shop(world), store, clock=clock) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await anyio.sleep(1)
    began = clock.now()
    async with Engine(shop(world), store, clock=clock) as engine:
        assert (await engine.ended(order("1"))).status is Status.COMPLETED
    assert 990 < clock.now() - began < 1010


async def test_a_cancelled_attempt_and_its_undo_do_not_run_at_the_same_time() -> None:
    """An attempt that takes its time to be cancelled holds up the next one of its key, not others."""
    world = World()
    over: list[str] = []

    async def stubborn(_command: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(15)
            over.append(f"attempt over, {len(world.names('1'))} begun")

    world.will("ReserveStock", stubborn)
    assert (await run_one(world)).status is Status.COMPLETED
    assert over == ["attempt over, 1 begun"]


async def test_calls_are_bounded_and_one_hanging_participant_leaves_room() -> None:
    world = World()
    world.gate = anyio.Event()

    @participant
    async def ship(command: ShipOrder) -> None:
        shipped.append(command.order_id)

    @participant
    async def others(command: ReserveStock | ReleaseStock | ChargeCard | RefundCard) -> StockReserved | Done:
        return StockReserved("r") if isinstance(command, ReserveStock) else Done()

    shipped: list[str] = []
    app = App("shop", sagas=[OrderFulfilment], participants=[ship, others])
    async with Engine(app, MemoryStore(), clock=LoopClock(), limits=Limits(in_flight=4)) as engine:
        for number in range(20):
            await engine.accept(event(OrderPlaced(str(number))))
        await engine.until_idle()
    assert len(shipped) == 20

    async with Engine(shop(world), MemoryStore(), clock=LoopClock(), limits=Limits(in_flight=4)) as engine:
        for number in range(20):
            await engine.accept(event(OrderPlaced(str(number))))
        await anyio.sleep(1)
        assert world.running == world.most == 2  # its share is half of the pool
        world.gate.set()
        await engine.until_idle()
    assert world.most == 2


async def test_a_plain_function_runs_in_a_thread_and_may_hang_there() -> None:
    release = threading.Event()
    threads: list[str] = []
    attempts: list[int] = []

    @participant
    def reserve(command: ReserveStock) -> StockReserved:
        threads.append(threading.current_thread().name)
        attempts.append(1)
        if len(attempts) == 1:
            release.wait(10)
        return StockReserved("r1")

    @participant
    async def others(command: ReleaseStock | ChargeCard | RefundCard | ShipOrder) -> None:
        return None

    app = App("shop", sagas=[OrderFulfilment], participants=[reserve, others])
    async with Engine(app, MemoryStore(), clock=LoopClock(), limits=Limits(threads=2)) as engine:
        await engine.accept(event(OrderPlaced("1")))
        instance = await engine.ended(order("1"))
        release.set()
    assert instance.status is Status.COMPLETED
    assert len(attempts) == 2
    assert threading.current_thread().name not in threads


async def test_the_call_knows_its_attempt_deadline_and_resources() -> None:
    world = World()
    await run_one(world)
    call = world.calls[0]
    assert call.key.startswith("OrderFulfilment/1~")
    assert call.resources is world
    assert call.deadline is not None
    assert call.sender == order("1")
