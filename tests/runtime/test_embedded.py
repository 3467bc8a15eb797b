"""The orchestrator inside a program of one's own."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from orchestrator.config import Limits
from orchestrator.errors import BadMessage, NotFound, OrchestratorError, Refused
from orchestrator.machine.instance import Status
from orchestrator.memory import MemoryStore
from orchestrator.ports import Find
from orchestrator.runtime.embedded import End, Orchestrator
from orchestrator.saga import Saga, Wait, step
from orchestrator_adapters.sqlite import SQLiteStore

from .shop import (
    Approved,
    CardDeclined,
    Napping,
    OrderFulfilment,
    OrderPlaced,
    StockReserved,
    World,
    shop,
)
from .virtual import LoopClock

pytestmark = pytest.mark.anyio


async def test_start_and_end() -> None:
    world = World()
    world.will("ChargeCard", None, CardDeclined())
    async with Orchestrator(shop(world), MemoryStore(), clock=LoopClock()) as orchestrator:
        run = await orchestrator.start(OrderPlaced("1"), OrderFulfilment)
        end: End[OrderFulfilment] = await run.end()
        assert (end.status, end.state.reservation_id, str(end.address)) == ("completed", "r1", "OrderFulfilment/1")
        second = await (await orchestrator.start(OrderPlaced("2"))).end(timeout=10)
        assert second.status is Status.COMPENSATED
        assert await orchestrator.get(OrderFulfilment, "2").status() == "compensated"
        page = await orchestrator.find(Find(status=Status.COMPLETED))
        assert [instance.key for instance in page.items] == ["1"]
        again = await (await orchestrator.start(OrderPlaced("1"))).end()  # R13: a second start is that run
        assert again.state == end.state
    assert world.names("1") == ["ReserveStock 1", "ChargeCard 1", "ShipOrder 1"]


async def test_an_event_that_starts_several_asks_whose_run_is_wanted() -> None:
    app = shop(World(), sagas=[OrderFulfilment, Napping])
    async with Orchestrator(app, MemoryStore(), clock=LoopClock()) as orchestrator:
        with pytest.raises(OrchestratorError, match="OrderFulfilment and Napping: say which"):
            await orchestrator.start(OrderPlaced("1"))
        run = await orchestrator.start(OrderPlaced("1"), saga=Napping)
        assert await run.status() == "running"
        assert (await orchestrator.get(OrderFulfilment, "1").end()).status == "completed"
        with pytest.raises(OrchestratorError, match="Approved does not start"):
            await orchestrator.start(Approved("1"))
        await orchestrator.emit(Approved("1"))
        assert (await run.end()).state.approved
        with pytest.raises(BadMessage, match="wants"):
            await orchestrator.emit(StockReserved("r"))


async def test_an_end_that_takes_too_long() -> None:
    app = shop(World(), sagas=[Napping])
    async with Orchestrator(app, MemoryStore(), clock=LoopClock()) as orchestrator:
        run = await orchestrator.start(OrderPlaced("1"))
        with pytest.raises(TimeoutError, match="has not ended within 5 s"):
            await run.end(timeout=5)
        assert (await run.end(timeout=4000)).status is Status.COMPENSATED
        with pytest.raises(NotFound):
            await orchestrator.get(Napping, "2").end()


async def test_verbs_of_a_run() -> None:
    world = World()
    world.will("ShipOrder", *[RuntimeError("strike")] * 20)
    app = shop(world)
    async with Orchestrator(app, MemoryStore(), clock=LoopClock()) as orchestrator:
        run = await orchestrator.start(OrderPlaced("1"))
        await orchestrator.until_idle()
        with pytest.raises(Refused, match="pivot"):
            await run.cancel("too late")
        await run.retry("ship", "they are back")
        await orchestrator.until_idle()
        await run.done("ship", why="by hand")
        assert (await run.end()).status is Status.COMPLETED
        other = await orchestrator.start(OrderPlaced("2"))
        await other.pause()
        await other.resume()
        await other.kill("test")
        assert (await other.end()).status is Status.KILLED
        with pytest.raises(Refused):
            await other.skip("ship", "over")


async def test_several_may_wait_for_one_end_and_leave() -> None:
    app = shop(World(), sagas=[Napping])
    ends: list[str] = []

    async def wait(seconds: float) -> None:
        try:
            ends.append(str((await run.end(seconds)).status))
        except TimeoutError:
            ends.append("late")

    async with Orchestrator(app, MemoryStore(), clock=LoopClock()) as orchestrator:
        run = await orchestrator.start(OrderPlaced("1"))
        async with anyio.create_task_group() as tasks:
            for seconds in (10, 5000, 20, 5000):
                tasks.start_soon(wait, seconds)
        assert ends == ["late", "late", "compensated", "compensated"]
        assert orchestrator._engine._ends == {}


async def test_leaving_finishes_what_runs() -> None:
    world, store = World(), MemoryStore()

    async def slow(_command: object) -> StockReserved:
        await anyio.sleep(3)
        return StockReserved("slow")

    world.will("ReserveStock", slow)
    async with Orchestrator(shop(world), store, clock=LoopClock(), limits=Limits(drain_s=5)) as orchestrator:
        await orchestrator.start(OrderPlaced("1"))
        await anyio.sleep(0.1)
    [instance] = await store.load([orchestrator.get(OrderFulfilment, "1").address])
    assert instance is not None
    assert b"slow" in bytes(instance.state)


class Resting(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step
    def rest(self) -> Wait:
        return Wait(0.05)


class TestOnSQLite:
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    async def test_two_programs_one_after_the_other(self, tmp_path: Path) -> None:
        world = World()
        app = shop(world, sagas=[OrderFulfilment, Resting])
        async with Orchestrator(app, SQLiteStore(tmp_path / "shop.db")) as orchestrator:
            for number in range(20):
                await orchestrator.start(OrderPlaced(str(number)), OrderFulfilment)
            assert (await orchestrator.get(OrderFulfilment, "19").end(20)).status is Status.COMPLETED
        async with Orchestrator(app, SQLiteStore(tmp_path / "shop.db")) as orchestrator:
            assert (await orchestrator.get(Resting, "19").end(20)).status is Status.COMPLETED
            await orchestrator.until_idle()
            counts = await orchestrator._engine.store.counts(0)
        assert counts.instances == {"OrderFulfilment": {"completed": 20}, "Resting": {"completed": 20}}
        assert counts.outbox == 0
