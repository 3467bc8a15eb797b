"""Messages from and to a bus: acknowledged after the commit, published from the outbox, never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import anyio
import msgspec
import pytest
from msgspec import Raw

from orchestrator.app import App
from orchestrator.cloudevents import cloud_event, received, to_cloud_event
from orchestrator.errors import BusUnavailable, NotFound
from orchestrator.machine.instance import Instance, Status
from orchestrator.memory import MemoryBus, MemoryStore
from orchestrator.messages import Message, encode, type_name
from orchestrator.ports import BusMessage, Delivered, NotTaken, Subscription, Topic
from orchestrator.runtime.engine import Engine
from orchestrator.topics import Plain, TopicSettings
from orchestrator.wire import Envelope, Kind, Request, Verb

from .faulty import FaultyStore
from .shop import (
    CardDeclined,
    OrderFulfilled,
    OrderFulfilment,
    OrderPlaced,
    ReserveStock,
    StockReserved,
    World,
    count,
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

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        if self.fails:
            self.fails -= 1
            raise BusUnavailable("the broker is away")
        told = await super().publish(messages)
        self.published += [cloud_event(each.body) for each, no in zip(messages, told, strict=True) if no is None]
        return told


@asynccontextmanager
async def others(bus: MemoryBus, *topics: str) -> AsyncIterator[Subscription]:
    """Another service on the same bus."""
    async with bus.subscribe([Topic(topic) for topic in topics], "others", 100) as subscription:
        yield subscription


def placed(*orders: str) -> list[BusMessage]:
    """Orders from somebody else."""
    return [
        BusMessage("OrderPlaced", to_cloud_event(event(OrderPlaced(each), f"placed {each}"), "/test"))
        for each in orders
    ]


async def test_an_event_from_the_bus_is_acknowledged_after_its_commit() -> None:
    store, bus = FaultyStore(), FlakyBus()
    store.slow = 5
    async with Engine(shop(World()), store, bus, clock=LoopClock()) as engine:
        await anyio.sleep(0.1)
        await bus.publish(placed("1"))
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
            await bus.publish(placed("1"))
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

    def subscribe(self, topics: Sequence[Topic], group: str, prefetch: int):  # type: ignore[no-untyped-def]
        return self.bus.subscribe(topics, group, prefetch)

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        return await self.bus.publish(messages)


async def test_what_nobody_can_use_is_a_dead_letter_and_the_stream_goes_on() -> None:
    store, bus = MemoryStore(), FlakyBus()
    async with Engine(shop(World(), listeners=[send_mail]), store, bus, clock=LoopClock()) as engine:
        await anyio.sleep(0.1)
        bad_ones = [BusMessage("OrderPlaced", body) for body in (b"{nonsense", BAD, BAD)]
        await MemoryBus.publish(bus, [*bad_ones, *placed("1")])
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
        async with others(bus, "commands.ReserveStock", "commands.ChargeCard", "commands.RefundCard") as batches:
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


async def test_what_has_gone_is_taken_out_by_the_next_commit_or_soon() -> None:
    store, bus = MemoryStore(), FlakyBus()
    async with (
        Engine(App("shop", sagas=[OrderFulfilment]), store, bus, clock=LoopClock()) as engine,
        others(bus, "commands.ReserveStock", "commands.ChargeCard") as batches,
    ):
        await anyio.sleep(0.1)
        await engine.accept(event(OrderPlaced("1")))
        reserve = await _next(batches)
        before = engine.stats().commits
        await bus.publish([_reply(reserve, StockReserved("r1"), Kind.YES)])
        await _next(batches)
        assert (engine.stats().commits, (await store.counts(0)).outbox) == (before + 1, 1)
        await anyio.sleep(0.1)
        assert (engine.stats().commits, (await store.counts(0)).outbox) == (before + 2, 0)


async def test_a_reply_from_the_bus_finds_a_key_that_holds_a_tilde() -> None:
    store, bus = MemoryStore(), FlakyBus()
    app: App[object] = App("shop", sagas=[OrderFulfilment])
    async with Engine(app, store, bus, clock=LoopClock()) as engine:
        await anyio.sleep(0.1)
        async with others(bus, "commands.ReserveStock", "commands.ChargeCard") as batches:
            await engine.accept(event(OrderPlaced("1~2/3")))  # as that of every child does
            await bus.publish([_reply(await _next(batches), StockReserved("r1"), Kind.YES)])
            assert (await _next(batches)).type == "ChargeCard"


async def test_a_command_without_an_answer_is_sent_again() -> None:
    bus = FlakyBus()
    app: App[object] = App("shop", sagas=[OrderFulfilment])
    async with Engine(app, MemoryStore(), bus, clock=LoopClock()) as engine, others(bus, "commands.ReserveStock"):
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


async def test_an_own_event_that_comes_back_is_passed_over() -> None:
    world, store, bus = World(), FaultyStore(), FlakyBus()
    async with Engine(shop(world, listeners=[count]), store, bus, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await engine.ended(order("1"))
        await anyio.sleep(1)
        await engine.until_idle()
    assert [envelope.type for envelope in bus.published] == ["OrderFulfilled"]
    assert len([one for one in store.transitions if any(name == "count" for name, _ in one.seen)]) == 1
    assert bus.undelivered == 0


async def test_a_command_nobody_carries_out_fails_in_words() -> None:
    store = MemoryStore()
    app: App[object] = App("shop", sagas=[OrderFulfilment])
    async with Engine(app, store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await engine.until_idle()
        [instance] = await store.load([order("1")])
    assert instance is not None
    assert "no participant here carries out" in instance.parked


async def test_a_command_that_nobody_takes_waits_until_somebody_does_and_holds_up_no_other() -> None:
    store, bus = MemoryStore(), FlakyBus()
    shop_without_stock = App("shop", sagas=[OrderFulfilment], listeners=[send_mail], resources=World().open)
    async with Engine(shop_without_stock, store, bus, clock=LoopClock()) as engine, others(bus, "MailSent") as mails:
        await engine.accept(event(OrderPlaced("1")))
        await anyio.sleep(0.1)
        assert "commands.ReserveStock" in engine.stats().problem
        await engine.accept(event(OrderFulfilled("7")))
        assert (await _next(mails)).type == "MailSent"
        async with others(bus, "commands.ReserveStock") as commands:
            assert (await _next(commands)).type == "ReserveStock"
        await anyio.sleep(0.1)
        assert engine.stats().problem == ""


async def test_a_command_that_is_given_up_before_anybody_took_it_is_not_sent_any_more() -> None:
    bus = FlakyBus()
    app: App[object] = App("shop", sagas=[OrderFulfilment])
    async with Engine(app, MemoryStore(), bus, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await anyio.sleep(100)
        await engine.verb(order("1"), Verb.CANCEL, Request(why="too late"), "me")
        async with others(bus, "commands.ReserveStock", "commands.ReleaseStock") as commands:
            assert (await _next(commands)).type == "ReleaseStock"
            await anyio.sleep(2)
        assert {envelope.type for envelope in bus.published} == {"ReleaseStock"}
        assert "ReserveStock" not in engine.stats().problem


class Away(FlakyBus):
    """A broker that is away until it is told to come."""

    is_away = True

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        if self.is_away:
            raise BusUnavailable("the broker is away")
        return await super().publish(messages)


async def test_while_the_broker_is_away_no_attempt_is_used_up() -> None:
    world, bus, stores = World(), Away(), (MemoryStore(), MemoryStore())
    app = shop(world)
    async with bus, Engine(app.sagas_only(), stores[0], KeptOpen(bus), clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await anyio.sleep(3600)
        [instance] = await stores[0].load([order("1")])
        assert instance is not None and instance.status is Status.RUNNING and not instance.parked
        assert (await stores[0].counts(0)).outbox == 1
        bus.is_away = False
        async with Engine(app.work_only(), stores[1], KeptOpen(bus), clock=LoopClock()):
            assert (await engine.ended(order("1"))).status is Status.COMPLETED
    assert world.names("1") == ["ReserveStock 1", "ChargeCard 1", "ShipOrder 1"]
    assert [call.attempt for call in world.calls] == [1, 1, 1]


class Cancelling(FlakyBus):
    """Its driver cancels what it waits for, and lets its caller feel that."""

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        waits = asyncio.get_running_loop().create_future()
        waits.cancel()
        await waits
        return []


async def test_a_driver_that_cancels_itself_ends_the_engine_in_words() -> None:
    app: App[object] = App("shop", sagas=[OrderFulfilment])
    with pytest.raises(RuntimeError, match="cancelled by nobody"):
        async with Engine(app, MemoryStore(), Cancelling(), clock=LoopClock()) as engine:
            await engine.accept(event(OrderPlaced("1")))
            await anyio.sleep(1)


class Small(FlakyBus):
    """A broker that takes nothing large."""

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        large = {each.id: NotTaken("over 600 bytes", is_final=True) for each in messages if len(each.body) > 600}
        told = dict(zip((each.id for each in messages), await super().publish(messages), strict=True)) | large
        return [told[each.id] for each in messages]


async def test_a_command_too_large_for_the_broker_fails_for_good() -> None:
    app: App[object] = App("shop", sagas=[OrderFulfilment])
    store = MemoryStore()
    async with Engine(app, store, Small(), clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1" * 600)))
        await anyio.sleep(1)
        [instance] = await store.load([order("1" * 600)])
    assert instance is not None
    assert instance.parked == "reserve: gave up after attempt 1: over 600 bytes"  # its undo is too large as well


async def test_a_reply_needs_no_more_than_the_command_it_answers() -> None:
    app: App[object] = App("shop", sagas=[OrderFulfilment])
    bus = FlakyBus()
    engine = Engine(app, MemoryStore(), bus, clock=LoopClock())
    async with engine, others(bus, "commands.ReserveStock", "commands.ChargeCard") as commands:
        await engine.accept(event(OrderPlaced("1")))
        [delivered] = await anext(commands)
        asked = received(delivered.body, delivered.headers, None)
        assert asked.reply_to == "replies.shop"
        reply = {
            "specversion": "1.0",
            "id": "any",
            "source": "/stock",
            "type": "StockReserved",
            "inreplyto": asked.envelope.id,
            "data": {"reservation_id": "r1"},
        }
        await bus.publish([BusMessage(asked.reply_to, msgspec.json.encode(reply))])
        await commands.ack([delivered])
        assert (await _next(commands)).type == "ChargeCard"


async def test_events_of_all_types_may_share_a_topic() -> None:
    topics = TopicSettings(prefix="eu.", routes={"*": "orders", "MailSent": "mails"})
    store, bus = MemoryStore(), MemoryBus()
    async with (
        Engine(shop(World(), listeners=[send_mail]), store, bus, clock=LoopClock(), topics=topics) as engine,
        others(bus, "eu.orders") as orders,
        others(bus, "eu.mails") as mails,
    ):
        await anyio.sleep(0.1)
        [message] = placed("1")
        foreign = to_cloud_event(Envelope(id="f", kind=Kind.EVENT, type="SomethingElse"), "/test")
        await bus.publish([BusMessage("eu.orders", message.body), BusMessage("eu.orders", foreign)])
        assert (await engine_end(engine)).status is Status.COMPLETED
        seen = [cloud_event(each.body).type async for batch in _until_silent(orders) for each in batch]
        assert seen == ["OrderPlaced", "SomethingElse", "OrderFulfilled"]
        assert (await _next(mails)).type == "MailSent"
    assert await store.dead_letters() == []


async def engine_end(engine: Engine) -> Instance:
    """The end of order 1, which begins soon."""
    while True:
        with suppress(NotFound):
            return await engine.ended(order("1"))
        await anyio.sleep(0.1)


async def test_plain_json_is_an_event_where_the_settings_say_so() -> None:
    plain = {"legacy.orders": Plain(type="OrderPlaced", id_field="nr"), "legacy.any": Plain(type_field="kind")}
    store, bus = MemoryStore(), MemoryBus()
    topics = TopicSettings(plain=plain)
    async with Engine(shop(World()), store, bus, clock=LoopClock(), topics=topics) as engine:
        await anyio.sleep(0.1)
        body = b'{"order_id":"1","nr":77}'
        await bus.publish([BusMessage("legacy.orders", body), BusMessage("legacy.orders", body)])
        await bus.publish([BusMessage("legacy.any", b'{"order_id":"2","kind":"OrderPlaced"}')])
        await bus.publish([BusMessage("legacy.any", b'{"order_id":"3"}'), BusMessage("legacy.any", b"[]")])
        assert (await engine_end(engine)).status is Status.COMPLETED
        assert (await engine.ended(order("2"))).status is Status.COMPLETED
    first = (await store.history(order("1")))[0].message
    assert (first.id, first.type) == ("77", "OrderPlaced")
    assert ["'kind'" in letter.reason for letter in await store.dead_letters()] == [True, True]


async def test_attributes_may_stand_in_headers() -> None:
    store, bus = MemoryStore(), MemoryBus()
    headers = {"ce_specversion": "1.0", "ce_id": "h1", "ce_source": "/s", "ce_type": "OrderPlaced"}
    async with Engine(shop(World()), store, bus, clock=LoopClock()) as engine:
        await anyio.sleep(0.1)
        message = BusMessage("OrderPlaced", b'{"order_id":"1"}', headers=headers | {"Content-Type": "application/json"})
        await bus.publish([message])
        assert (await engine_end(engine)).status is Status.COMPLETED


async def _until_silent(subscription: Subscription) -> AsyncIterator[Sequence[Delivered]]:
    with anyio.move_on_after(1):
        async for batch in subscription:
            yield batch


async def _next(subscription: Subscription) -> Envelope:
    with anyio.fail_after(10):
        batch = await anext(subscription)
    await subscription.ack(batch)
    return cloud_event(batch[0].body)


def _reply(command: Envelope, reply: Message, kind: Kind) -> BusMessage:
    name = type_name(type(reply))
    envelope = Envelope(
        id=f"{command.id}:{kind}:{command.attempt}",
        kind=kind,
        type=name,
        data=Raw(encode(reply)),
        reply_to=command.id,
        attempt=command.attempt,
    )
    return BusMessage("replies.shop", to_cloud_event(envelope, "/others"))


class Stalling(FlakyBus):
    """Takes what is published only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = anyio.Event()

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        await self.gate.wait()
        return await super().publish(messages)


async def test_an_attempt_that_arrives_late_at_the_broker_does_not_take_the_next_one_with_it() -> None:
    bus = Stalling()
    app: App[object] = App("shop", sagas=[OrderFulfilment])
    async with Engine(app, MemoryStore(), bus, clock=LoopClock()) as engine, others(bus, "commands.ReserveStock"):
        await engine.accept(event(OrderPlaced("1")))
        await anyio.sleep(12)  # the first attempt, on its way, has timed out, and the second one was put
        bus.gate.set()
        await anyio.sleep(1)
        assert [envelope.attempt for envelope in bus.published] == [1, 2]


class Picky(FlakyBus):
    """A broker that has no such topic, and never will."""

    async def publish(self, messages: Sequence[BusMessage]) -> list[NotTaken | None]:
        told = await super().publish(messages)
        return [
            NotTaken("no such topic", is_final=True) if message.topic == "nowhere" else no
            for message, no in zip(messages, told, strict=True)
        ]


async def test_a_reply_to_nowhere_is_given_up() -> None:
    store, bus = MemoryStore(), Picky()
    app = shop(World()).work_only()
    async with Engine(app, store, bus, clock=LoopClock()) as engine:
        await anyio.sleep(0.1)
        for id, key in (("k", "1"), ("m", "a key that is of no account")):
            command = Envelope(id=id, kind=Kind.COMMAND, type="ReserveStock", data=Raw(encode(ReserveStock(key))))
            body = to_cloud_event(command, "/test", reply_to="nowhere")
            await bus.publish([BusMessage("commands.ReserveStock", body)])
        await anyio.sleep(60)
        await engine.until_idle()
        assert (await store.counts(0)).outbox == 0
        assert engine.stats().outbox == 0
    assert {letter.reason for letter in await store.dead_letters()} == {"not published: no such topic"}
    assert len(await store.dead_letters()) <= 4
