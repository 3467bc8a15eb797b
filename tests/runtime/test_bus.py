"""Messages from and to a bus: acknowledged after the commit, published from the outbox, never lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from msgspec import Raw

from orchestrator.app import App
from orchestrator.edge import cloud_event, to_cloud_event
from orchestrator.errors import BusUnavailable
from orchestrator.machine.instance import Status
from orchestrator.memory import MemoryBus, MemoryStore
from orchestrator.messages import Message, encode, type_name
from orchestrator.ports import Delivered
from orchestrator.runtime.engine import Engine
from orchestrator.wire import Envelope, Kind

from .faulty import FaultyStore
from .shop import (
    CardDeclined,
    OrderFulfilment,
    OrderPlaced,
    StockReserved,
    World,
    event,
    order,
    send_mail,
    shop,
)
from .virtual import LoopClock

pytestmark = pytest.mark.anyio

BAD = b'{"specversion":"1.0","id":"x","source":"/t","type":"OrderPlaced","data":{"order_id":7}}'


class FlakyBus(MemoryBus):
    """Fails to publish as often as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = 0
        self.published: list[Envelope] = []

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        if self.fails:
            self.fails -= 1
            raise BusUnavailable("the broker is away")
        self.published += [cloud_event(body) for _, body in messages]
        await super().publish(messages)


@asynccontextmanager
async def others(bus: MemoryBus, *types: str) -> AsyncIterator[AsyncIterator[Sequence[Delivered]]]:
    """Another service on the same bus."""
    async with bus.subscribe(types, "others", 100) as batches:
        yield batches


async def test_an_event_from_the_bus_is_acknowledged_after_its_commit() -> None:
    store, bus = FaultyStore(), FlakyBus()
    store.slow = 5
    async with Engine(shop(World()), store, bus, clock=LoopClock()) as engine:
        await anyio.sleep(0.1)
        await bus.publish([("OrderPlaced", to_cloud_event(event(OrderPlaced("1")), "/test"))])
        await anyio.sleep(1)
        assert bus._groups["shop"].undelivered == 0
        assert store.transitions == []
        await anyio.sleep(5)
        assert (await engine.ended(order("1"))).status is Status.COMPLETED


async def test_what_was_not_acknowledged_comes_again() -> None:
    store, bus, clock = FaultyStore(), FlakyBus(), LoopClock()
    store.slow = 5
    app = shop(World())
    async with bus:
        async with Engine(app, store, KeptOpen(bus), clock=clock):
            await anyio.sleep(0.1)
            await bus.publish([("OrderPlaced", to_cloud_event(event(OrderPlaced("1")), "/test"))])
            await anyio.sleep(1)
        store.slow = 0
        async with Engine(app, store, KeptOpen(bus), clock=clock) as engine:
            await anyio.sleep(0.1)
            assert (await engine.ended(order("1"))).status is Status.COMPLETED


class KeptOpen(FlakyBus):
    """The same bus for several engines."""

    def __init__(self, bus: MemoryBus) -> None:
        super().__init__()
        self.bus = bus

    async def __aenter__(self) -> KeptOpen:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    def subscribe(self, types: Sequence[str], group: str, prefetch: int):  # type: ignore[no-untyped-def]
        return self.bus.subscribe(types, group, prefetch)

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        await self.bus.publish(messages)


async def test_what_nobody_can_use_is_a_dead_letter_and_the_stream_goes_on() -> None:
    store, bus = MemoryStore(), FlakyBus()
    async with Engine(shop(World(), listeners=[send_mail]), store, bus, clock=LoopClock()) as engine:
        await anyio.sleep(0.1)
        await MemoryBus.publish(
            bus,
            [
                ("OrderPlaced", b"{nonsense"),
                (
                    "OrderPlaced",
                    b'{"specversion":"1.0","id":"x","source":"/t","type":"OrderPlaced","data":{"order_id":7}}',
                ),
                (
                    "OrderPlaced",
                    b'{"specversion":"1.0","id":"x","source":"/t","type":"OrderPlaced","data":{"order_id":7}}',
                ),
                ("OrderPlaced", to_cloud_event(event(OrderPlaced("1")), "/test")),
            ],
        )
        await engine.until_idle()
        await anyio.sleep(0.1)
        await engine.ended(order("1"))
        raw, bad = await store.dead_letters()  # the same bad message twice is one dead letter
    assert raw.raw == b"{nonsense"
    assert bad.envelope is not None
    assert "order_id" in bad.reason


async def test_commands_go_out_by_the_bus_and_replies_come_back() -> None:
    store, bus, clock = MemoryStore(), FlakyBus(), LoopClock()
    bus.fails = 3
    app: App[object] = App("shop", sagas=[OrderFulfilment])
    async with Engine(app, store, bus, clock=clock) as engine:
        await anyio.sleep(0.1)
        async with others(bus, "ReserveStock", "ChargeCard", "RefundCard") as batches:
            await engine.accept(event(OrderPlaced("1")))
            await anyio.sleep(0.1)
            assert "away" in engine.stats().problem
            reserve = await _next(batches)
            assert (reserve.type, reserve.kind, reserve.attempt) == ("ReserveStock", Kind.COMMAND, 1)
            await anyio.sleep(0.1)
            assert (await store.counts(0)).outbox == 0
            assert engine.stats().problem == ""
            await bus.publish([_reply(reserve, StockReserved("r1"), Kind.YES)])
            charge = await _next(batches)
            await bus.publish([_reply(charge, CardDeclined(), Kind.REFUSAL)])
            refund = await _next(batches)  # elsewhere nobody vouches that the refusal is clean (R6)
            assert refund.type == "RefundCard"
            assert (await store.load([order("1")]))[0].status is Status.COMPENSATING  # type: ignore[union-attr]


async def test_a_reply_from_the_bus_finds_a_key_that_holds_a_tilde() -> None:
    store, bus = MemoryStore(), FlakyBus()
    app: App[object] = App("shop", sagas=[OrderFulfilment])
    async with Engine(app, store, bus, clock=LoopClock()) as engine:
        await anyio.sleep(0.1)
        async with others(bus, "ReserveStock", "ChargeCard") as batches:
            await engine.accept(event(OrderPlaced("1~2/3")))  # as that of every child does
            await bus.publish([_reply(await _next(batches), StockReserved("r1"), Kind.YES)])
            assert (await _next(batches)).type == "ChargeCard"


async def test_a_command_without_an_answer_is_sent_again() -> None:
    bus = FlakyBus()
    app: App[object] = App("shop", sagas=[OrderFulfilment])
    async with Engine(app, MemoryStore(), bus, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await anyio.sleep(15)
        assert [envelope.attempt for envelope in bus.published] == [1, 2]
        assert len({envelope.id for envelope in bus.published}) == 1


async def test_published_events_go_to_the_bus_and_to_listeners_here() -> None:
    world, store, bus = World(), MemoryStore(), FlakyBus()
    async with Engine(shop(world, listeners=[send_mail]), store, bus, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await engine.ended(order("1"))
        await engine.until_idle()
        await anyio.sleep(1)
        await engine.until_idle()
    assert [envelope.type for envelope in bus.published] == ["OrderFulfilled", "MailSent"]
    assert world.told == ["mail 1 1"]  # once, though it came back by the bus
    assert (await store.counts(0)).outbox == 0


async def test_a_command_nobody_carries_out_fails_in_words() -> None:
    store = MemoryStore()
    app: App[object] = App("shop", sagas=[OrderFulfilment])
    async with Engine(app, store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await engine.until_idle()
        [instance] = await store.load([order("1")])
    assert instance is not None
    assert "no participant here carries out" in instance.parked


async def _next(batches: AsyncIterator[Sequence[Delivered]]) -> Envelope:
    with anyio.fail_after(10):
        batch = await anext(batches)
    for each in batch:
        await each.ack()
    return cloud_event(batch[0].body)


def _reply(command: Envelope, reply: Message, kind: Kind) -> tuple[str, bytes]:
    name = type_name(type(reply))
    envelope = Envelope(
        id=f"{command.id}:{kind}:{command.attempt}",
        kind=kind,
        type=name,
        data=Raw(encode(reply)),
        reply_to=command.id,
        attempt=command.attempt,
    )
    return name, to_cloud_event(envelope, "/others")
