"""A broker that is away, at the start or for long: it is said once, nothing is lost, memory stays as it is."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from msgspec import Raw

from orchestrator.app import App
from orchestrator.cloudevents import cloud_event, to_cloud_event
from orchestrator.config import Limits
from orchestrator.errors import BusUnavailable
from orchestrator.machine.instance import Status
from orchestrator.memory import MemoryBus, MemoryStore, MemorySubscription
from orchestrator.messages import encode
from orchestrator.ports import BusMessage, NotTaken, Topic
from orchestrator.runtime.engine import BusStats, Engine
from orchestrator.wire import Envelope, Kind

from .shop import OrderFulfilled, OrderFulfilment, OrderPlaced, ReserveStock, World, event, order, send_mail, shop
from .virtual import LoopClock

pytestmark = pytest.mark.anyio


class Away(MemoryBus):
    """Raises BusUnavailable from everything while it `is_away`; does not answer at all while it `is_stopped`."""

    is_away = True
    is_stopped = False

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        await self._look()
        return await super().publish(messages)

    @asynccontextmanager
    async def subscribe(self, topics: Sequence[Topic], group: str, prefetch: int) -> AsyncGenerator[MemorySubscription]:
        await self._look()
        async with super().subscribe(topics, group, prefetch) as subscription:
            yield Watched(self, subscription)

    async def healthy(self) -> bool:
        return not self.is_away

    async def _look(self) -> None:
        while self.is_stopped:  # noqa: ASYNC110 a broker says nothing of it
            await anyio.sleep(1)
        if self.is_away:
            raise BusUnavailable("the broker is away")


class Watched(MemorySubscription):
    """One of a bus that may be away."""

    def __init__(self, bus: Away, inner: MemorySubscription) -> None:
        self._bus = bus
        self._inner = inner

    async def __anext__(self):  # type: ignore[no-untyped-def]
        return await anext(self._inner)

    async def ack(self, delivered):  # type: ignore[no-untyped-def]
        await self._bus._look()
        await self._inner.ack(delivered)

    async def lag(self) -> int:
        await self._bus._look()
        return await self._inner.lag()


def bus_of(engine: Engine) -> BusStats:
    found = engine.stats().bus
    assert found is not None
    return found


async def test_what_is_to_go_grows_on_disk_and_what_goes_on_here_goes_on() -> None:
    world, store, bus = World(), MemoryStore(), Away()
    app = App("shop", sagas=[OrderFulfilment], listeners=[send_mail], resources=world.open)
    async with Engine(app, store, bus, clock=LoopClock(), limits=Limits(handed=50, page=20)) as engine:
        for number in range(300):
            await engine.accept(event(OrderPlaced(str(number))))
        await engine.accept(event(OrderFulfilled("x")))
        await anyio.sleep(1)
        assert world.told == ["mail x 1"]
        assert engine.stats().outbox <= 60
        assert bus_of(engine).unpublished <= 60
        assert bus_of(engine).has_left_some
        assert (await store.counts(0)).outbox >= 300
        assert engine.stats().accepting
        bus.is_away = False
        async with bus.subscribe([Topic("commands.ReserveStock")], "stock", 1000) as commands:
            seen: list[str] = []
            with anyio.move_on_after(7):
                async for batch in commands:
                    seen += [cloud_event(each.body).key for each in batch]
                    await commands.ack(batch)
        assert seen == [str(number) for number in range(300)]
        assert (bus_of(engine).unpublished, bus_of(engine).has_left_some, bus_of(engine).oldest) == (0, False, None)


async def test_a_message_published_while_memory_is_full_reaches_who_wants_it_here_at_once() -> None:
    world, bus = World(), Away()
    app = shop(world, listeners=[send_mail])
    async with Engine(app, MemoryStore(), bus, clock=LoopClock(), limits=Limits(handed=3, page=2)) as engine:
        for number in range(20):
            await engine.accept(event(OrderPlaced(str(number))))
        for number in range(20):
            assert (await engine.ended(order(str(number)))).status is Status.COMPLETED
        await anyio.sleep(1)
        assert sorted(world.told) == sorted(f"mail {number} 1" for number in range(20))
        bus.is_away = False
        await engine.until_idle()
        await anyio.sleep(1)
        assert len(world.told) == 20  # not a second time, when the events left


async def test_it_is_said_once_and_shown_for_as_long_as_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    bus = Away()
    with caplog.at_level(logging.INFO):
        async with Engine(shop(World()), MemoryStore(), bus, clock=LoopClock()) as engine:
            await anyio.sleep(600)
            assert bus_of(engine).problem == "the bus cannot be read: the broker is away"
            assert bus_of(engine).since is not None
            assert not bus_of(engine).is_connected
            assert engine.stats().accepting and not engine.stats().not_accepting
            bus.is_away = False
            await anyio.sleep(10)
            assert (bus_of(engine).problem, bus_of(engine).since, bus_of(engine).lag) == ("", None, 0)
            assert bus_of(engine).is_connected
            bus.is_away = True
            await anyio.sleep(10)
            assert "away" in bus_of(engine).problem  # though nothing is to go and nothing comes
    said = [record.message for record in caplog.records if "the broker is away" in record.message]
    assert said == [
        "the bus cannot be read: the broker is away",
        "over: the bus cannot be read: the broker is away",
        "the bus cannot be read: the broker is away",
    ]


async def test_a_broker_that_is_stopped_does_not_hold_up_who_asks_how_it_stands() -> None:
    bus = Away()
    bus.is_away = False
    async with Engine(shop(World()), MemoryStore(), bus, clock=LoopClock()) as engine:
        await anyio.sleep(3)
        assert bus_of(engine).lag == 0
        bus.is_stopped = True
        await anyio.sleep(20)
        assert bus_of(engine).problem == "the bus cannot be read: the broker has not answered within 5 s"
        assert bus_of(engine).lag is None
        bus.is_stopped = False
        await anyio.sleep(10)
        assert bus_of(engine).problem == ""


async def test_the_lag_is_what_the_broker_holds_and_what_is_not_settled_here() -> None:
    world, bus = World(), Away()
    bus.is_away = False
    world.gate = anyio.Event()
    limits = Limits(in_flight=4, prefetch=2)
    async with Engine(shop(world).work_only(), MemoryStore(), bus, clock=LoopClock(), limits=limits) as engine:
        await anyio.sleep(1)
        for number in range(30):
            body = to_cloud_event(_reserve(str(number)), "/test", reply_to="replies.test")
            await bus.publish([BusMessage("commands.ReserveStock", body)])
        await anyio.sleep(10)
        assert 20 <= (bus_of(engine).lag or 0) < 30
        assert not await engine.broker_is_empty()
        world.gate.set()
        await anyio.sleep(10)
        assert bus_of(engine).lag == 0
        assert await engine.broker_is_empty()


def _reserve(key: str) -> Envelope:
    return Envelope(id=key, kind=Kind.COMMAND, type="ReserveStock", data=Raw(encode(ReserveStock(key))), attempt=1)
