"""Participants in another process: commands come by the bus, are carried out once, and answered there (R7)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from msgspec import Raw
from msgspec.structs import replace

from orchestrator.cloudevents import cloud_event, to_cloud_event
from orchestrator.config import Limits
from orchestrator.errors import StoreUnavailable
from orchestrator.machine.instance import Status
from orchestrator.memory import MemoryBus, MemoryStore
from orchestrator.messages import Command, encode, type_name
from orchestrator.ports import BusMessage, Subscription, Topic
from orchestrator.runtime.engine import Engine
from orchestrator.wire import Envelope, Kind

from .faulty import FaultyStore
from .shop import (
    ChargeCard,
    OrderFulfilled,
    OrderPlaced,
    OutOfStock,
    RefundCard,
    ReleaseStock,
    ReserveStock,
    StockReserved,
    World,
    event,
    order,
    send_mail,
    shop,
)
from .virtual import LoopClock

pytestmark = pytest.mark.anyio

ANSWERS = "replies.test"


class Kept(MemoryBus):
    """A bus that outlives the engines on it."""

    async def __aexit__(self, *exc: object) -> None: ...


def order_command(
    command: Command[Any, Any],
    id: str,
    *,
    attempt: int = 1,
    undoes: str = "",
    reply_to: str = ANSWERS,
    until: float = 0,
) -> BusMessage:
    """A command from a saga somewhere."""
    wire_type = type_name(type(command))
    envelope = Envelope(id=id, kind=Kind.COMMAND, type=wire_type, data=Raw(encode(command)), attempt=attempt)
    body = to_cloud_event(envelope, "/test", undoes=undoes, deadline=until or None, reply_to=reply_to)
    return BusMessage(f"commands.{wire_type}", body)


class Elsewhere:
    """A worker, and who asks it."""

    def __init__(self) -> None:
        self.world = World()
        self.bus = Kept()
        self.store = FaultyStore()
        self.clock = LoopClock()
        self.answers: Subscription

    @asynccontextmanager
    async def works(self) -> AsyncIterator[Engine]:
        app = shop(self.world, listeners=[send_mail]).work_only()
        async with Engine(app, self.store, self.bus, clock=self.clock) as engine:
            await anyio.sleep(0.1)
            yield engine

    async def ask(self, *messages: BusMessage) -> None:
        assert await self.bus.publish(messages) == [None] * len(messages)

    async def answer(self) -> Envelope:
        with anyio.fail_after(60):
            [delivered, *more] = await anext(self.answers)
        assert not more
        await self.answers.ack([delivered])
        return cloud_event(delivered.body)

    async def silent(self) -> bool:
        with anyio.move_on_after(30):
            await anext(self.answers)
            return False
        return True


@pytest.fixture
async def elsewhere() -> AsyncIterator[Elsewhere]:
    """A bus on which somebody waits for answers."""
    there = Elsewhere()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(there.bus)
        there.answers = await stack.enter_async_context(there.bus.subscribe([Topic(ANSWERS)], "test", 1))
        yield there


async def test_sagas_and_their_participants_in_two_processes() -> None:
    world, bus = World(), Kept()
    world.will("ChargeCard", RuntimeError("the bank is away"))
    app = shop(world, listeners=[send_mail])
    stores = MemoryStore(), MemoryStore()
    async with (
        bus,
        Engine(app.work_only(), stores[1], bus, clock=LoopClock()) as worker,
        Engine(app.sagas_only(), stores[0], bus, clock=LoopClock()) as engine,
    ):
        await anyio.sleep(0.1)
        await engine.accept(event(OrderPlaced("1")))
        assert (await engine.ended(order("1"))).status is Status.COMPLETED
        await anyio.sleep(1)
        await worker.until_idle()
        await engine.until_idle()
    assert world.names("1") == ["ReserveStock 1", "ChargeCard 1", "ChargeCard 1", "ShipOrder 1"]
    assert world.told == ["mail 1 1"]
    assert [(await store.counts(0)).outbox for store in stores] == [0, 0]
    assert [(await store.counts(0)).dead for store in stores] == [0, 0]


async def test_the_same_key_gets_the_same_answer_again(elsewhere: Elsewhere) -> None:
    async with elsewhere.works() as engine:
        await elsewhere.ask(order_command(ReserveStock("1"), "k"))
        first = await elsewhere.answer()
        await elsewhere.ask(order_command(ReserveStock("1"), "k", attempt=2))
        second = await elsewhere.answer()
        await engine.until_idle()  # else the answer that has just gone goes once more
    async with elsewhere.works():
        await elsewhere.ask(order_command(ReserveStock("1"), "k", attempt=3))
        third = await elsewhere.answer()
    assert elsewhere.world.asked == ["ReserveStock 1"]
    assert [(each.type, each.reply_to, each.attempt) for each in (first, second, third)] == [
        ("StockReserved", "k", 1),
        ("StockReserved", "k", 2),
        ("StockReserved", "k", 3),
    ]
    assert first.data == second.data == third.data


async def test_copies_that_come_together_are_carried_out_once(elsewhere: Elsewhere) -> None:
    async with elsewhere.works():
        await elsewhere.ask(*(order_command(ReserveStock("1"), "k", attempt=n % 3 + 1) for n in range(12)))
        await elsewhere.answer()
        while not await elsewhere.silent():
            pass
    assert elsewhere.world.asked == ["ReserveStock 1"]


async def test_a_failure_is_tried_again_by_the_next_attempt(elsewhere: Elsewhere) -> None:
    elsewhere.world.will("ReserveStock", RuntimeError("away"))
    async with elsewhere.works():
        await elsewhere.ask(order_command(ReserveStock("1"), "k"))
        assert (await elsewhere.answer()).kind is Kind.FAILURE
        await elsewhere.ask(order_command(ReserveStock("1"), "k", attempt=2))
        assert (await elsewhere.answer()).type == "StockReserved"


async def test_a_refusal_across_a_bus_is_never_clean(elsewhere: Elsewhere) -> None:
    elsewhere.world.will("ReserveStock", OutOfStock())
    async with elsewhere.works():
        await elsewhere.ask(order_command(ReserveStock("1"), "k"))
        refusal = await elsewhere.answer()
    assert (refusal.kind, refusal.clean) == (Kind.REFUSAL, False)


async def test_a_do_after_its_undo_is_not_carried_out(elsewhere: Elsewhere) -> None:
    async with elsewhere.works() as engine:
        await elsewhere.ask(order_command(ReleaseStock("1"), "k/undo", undoes="k"))
        assert (await elsewhere.answer()).type == "Done"
        await engine.until_idle()
    async with elsewhere.works():
        await elsewhere.ask(order_command(ReserveStock("1"), "k"))
        refused = await elsewhere.answer()
    assert refused.kind is Kind.FAILURE
    assert b"fatal" in bytes(refused.data)
    assert elsewhere.world.asked == ["ReleaseStock 1"]


async def test_an_undo_in_the_same_batch_as_its_do_comes_after_it_or_instead_of_it(elsewhere: Elsewhere) -> None:
    async with elsewhere.works():
        do, undo = order_command(ChargeCard("1", 5), "k"), order_command(RefundCard("1"), "k/undo", undoes="k")
        await elsewhere.ask(do, undo, do)
        seen = [(await elsewhere.answer()).reply_to for _ in range(2)]
        await elsewhere.silent()
    assert "k/undo" in seen
    assert elsewhere.world.asked in (["ChargeCard 1", "RefundCard 1"], ["RefundCard 1"])


async def test_an_undo_waits_for_the_do_that_runs(elsewhere: Elsewhere) -> None:
    elsewhere.world.gate = anyio.Event()
    async with elsewhere.works():
        await elsewhere.ask(order_command(ChargeCard("1", 5), "k"))
        await anyio.sleep(1)
        await elsewhere.ask(order_command(RefundCard("1"), "k/undo", undoes="k"))
        await anyio.sleep(1)
        assert elsewhere.world.asked == ["ChargeCard 1"]
        elsewhere.world.gate.set()
        assert {(await elsewhere.answer()).reply_to for _ in range(2)} == {"k", "k/undo"}
    assert elsewhere.world.asked == ["ChargeCard 1", "RefundCard 1"]


async def test_a_command_is_acknowledged_when_it_is_on_disk_and_goes_on_after_a_crash(elsewhere: Elsewhere) -> None:
    elsewhere.world.gate = anyio.Event()
    async with elsewhere.works():
        await elsewhere.ask(order_command(ReserveStock("1"), "k"))
        await anyio.sleep(1)
    assert elsewhere.bus.undelivered == 0
    elsewhere.world.gate = None
    async with elsewhere.works():
        assert (await elsewhere.answer()).type == "StockReserved"
    assert elsewhere.world.asked == ["ReserveStock 1"] * 2


async def test_nothing_is_acknowledged_before_it_is_on_disk(elsewhere: Elsewhere) -> None:
    elsewhere.store.slow = 5
    async with elsewhere.works():
        await elsewhere.ask(order_command(ReserveStock("1"), "k"))
        await anyio.sleep(1)
        assert elsewhere.world.asked == []
    assert elsewhere.bus.undelivered == 1


async def test_a_key_with_another_payload_is_refused(elsewhere: Elsewhere) -> None:
    async with elsewhere.works():
        await elsewhere.ask(order_command(ChargeCard("1", 5), "k"))
        assert (await elsewhere.answer()).kind is Kind.YES
        await elsewhere.ask(order_command(ChargeCard("1", 6), "k", attempt=2))
        misuse = await elsewhere.answer()
    assert misuse.kind is Kind.FAILURE
    assert b"another payload" in bytes(misuse.data)


async def test_a_command_whose_time_is_over_is_passed_over(elsewhere: Elsewhere) -> None:
    async with elsewhere.works():
        await elsewhere.ask(order_command(ReserveStock("1"), "k", until=1.0))
        assert await elsewhere.silent()
    assert elsewhere.bus.undelivered == 0
    assert elsewhere.world.asked == []


async def test_who_does_not_say_where_the_answer_goes_is_not_served(elsewhere: Elsewhere) -> None:
    async with elsewhere.works():
        await elsewhere.ask(order_command(ReserveStock("1"), "k", reply_to=""))
        assert await elsewhere.silent()
    [letter] = await elsewhere.store.dead_letters()
    assert "replyto" in letter.reason


async def test_a_command_that_no_participant_here_carries_out_is_told_of_once(
    elsewhere: Elsewhere, caplog: pytest.LogCaptureFixture
) -> None:
    known = order_command(ReserveStock("1"), "known")
    strangers = [replace(known, body=known.body.replace(b"ReserveStock", b"PaintStock")) for _ in range(2)]
    async with elsewhere.works():
        await elsewhere.ask(*strangers, known)
        assert (await elsewhere.answer()).type == "StockReserved"
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == ["PaintStock comes"]


async def test_a_payload_that_is_not_what_its_type_says_fails_for_good(elsewhere: Elsewhere) -> None:
    bad = Envelope(id="k", kind=Kind.COMMAND, type="ReserveStock", data=Raw(b'{"order_id":7}'), attempt=1)
    async with elsewhere.works():
        await elsewhere.ask(BusMessage("commands.ReserveStock", to_cloud_event(bad, "/test", reply_to=ANSWERS)))
        failure = await elsewhere.answer()
    assert failure.kind is Kind.FAILURE
    assert b"order_id" in bytes(failure.data)


async def test_more_commands_than_there_is_room_for_wait_at_the_broker(elsewhere: Elsewhere) -> None:
    elsewhere.world.gate = anyio.Event()
    async with elsewhere.works():
        for n in range(30):
            await elsewhere.ask(*(order_command(ReserveStock(f"{n}/{m}"), f"k{n}/{m}") for m in range(100)))
        await anyio.sleep(10)
        held = (await elsewhere.store.counts(0)).outbox
        assert held < 1600
        elsewhere.world.gate.set()
        await anyio.sleep(60)
        assert elsewhere.bus._groups["shop.work"].undelivered == 0
    assert len(elsewhere.world.asked) == 3000


async def test_listeners_work_without_the_sagas(elsewhere: Elsewhere) -> None:
    async with elsewhere.works() as worker:
        await elsewhere.bus.publish(
            [BusMessage("OrderFulfilled", to_cloud_event(event(OrderFulfilled("1")), "/orchestrator/shop"))]
        )
        await anyio.sleep(1)
        await worker.until_idle()
    assert elsewhere.world.told == ["mail 1 1"]


async def test_an_attempt_that_ran_out_of_time_leaves_nothing_behind(elsewhere: Elsewhere) -> None:
    elsewhere.world.gate = anyio.Event()
    async with elsewhere.works() as worker:
        now = elsewhere.clock.now()
        await elsewhere.ask(order_command(ReserveStock("1"), "k", until=now + 5))
        assert await elsewhere.silent()
        assert (await elsewhere.store.counts(0)).outbox == 0
        await worker.until_idle()
        assert worker.stats().outbox == 0


async def test_an_attempt_whose_time_was_over_before_its_turn_leaves_nothing_behind(elsewhere: Elsewhere) -> None:
    elsewhere.world.gate = anyio.Event()
    until = elsewhere.clock.now() + 5
    async with elsewhere.works():
        await elsewhere.ask(order_command(ReserveStock("1"), "k", until=until))
        await anyio.sleep(1)
    await anyio.sleep(10)
    async with elsewhere.works():
        await anyio.sleep(1)
        assert (await elsewhere.store.counts(0)).outbox == 0
    assert elsewhere.world.asked == ["ReserveStock 1"]


async def test_a_late_failure_does_not_take_the_next_attempt_with_it() -> None:
    """The next attempt stands behind others in the queue while the failure is stored."""
    bus, world, store = Kept(), World(), MemoryStore()
    failing, others = anyio.Event(), anyio.Event()

    async def fails(command: object) -> None:
        await failing.wait()
        raise RuntimeError("away")

    async def waits(command: object) -> StockReserved:
        await others.wait()
        return StockReserved("r")

    world.will("ReserveStock", fails, *[waits] * 3)
    engine = Engine(shop(world).work_only(), store, bus, clock=LoopClock(), limits=Limits(in_flight=6))
    async with bus, engine, bus.subscribe([Topic(ANSWERS)], "test", 10) as answers:
        await anyio.sleep(0.1)
        await bus.publish([order_command(ReserveStock(id), id) for id in ("k", "1", "2", "3")])
        await anyio.sleep(1)
        await bus.publish([order_command(ReserveStock("k"), "k", attempt=2)])
        await anyio.sleep(1)
        failing.set()
        await anyio.sleep(1)
        others.set()
        await anyio.sleep(1)
        said = [cloud_event(each.body) for each in await anext(answers)]
        assert (await store.counts(0)).outbox == 0
    assert [(it.kind, it.attempt) for it in said if it.reply_to == "k"] == [(Kind.FAILURE, 1), (Kind.YES, 2)]


async def test_an_answer_that_is_given_while_another_attempt_is_looked_up_is_the_answer_to_that_too() -> None:
    """The read began before the answer was stored, and ends after the row of the attempt before was."""
    store, bus, world = SlowToRead(), Kept(), World()
    world.gate = anyio.Event()
    async with bus, Engine(shop(world).work_only(), store, bus, clock=LoopClock()):
        await anyio.sleep(0.1)
        async with bus.subscribe([Topic(ANSWERS)], "test", 10) as answers:
            await bus.publish([order_command(ReserveStock("1"), "k")])
            await anyio.sleep(1)
            store.read_s, store.slow = 5, 2
            await bus.publish([order_command(ReserveStock("2"), "other")])  # stored while the next one is looked up
            await anyio.sleep(5.5)
            await bus.publish([order_command(ReserveStock("2"), "other", attempt=2)])
            await anyio.sleep(1)
            world.gate.set()
            store.slow = 30
            await anyio.sleep(4)
            store.read_s = 0
            await bus.publish([order_command(ReserveStock("2"), "other", attempt=3)])
            await anyio.sleep(200)
            kinds = {cloud_event(each.body).type for each in await anext(answers)}
    assert kinds == {"StockReserved"}
    assert world.asked.count("ReserveStock 2") == 1


class SlowToRead(FaultyStore):
    """Gives what was there when it was asked, so many seconds later."""

    read_s = 0.0

    async def records(self, keys: Sequence[str]) -> list[bytes | None]:
        found = await super().records(keys)
        if self.read_s:
            await anyio.sleep(self.read_s)
        return found


async def test_what_is_stored_while_another_command_is_looked_up_is_known_to_that() -> None:
    """The read began before the answer was stored, and the row of the first attempt is gone when it ends."""
    store, bus, world = SlowToRead(), Kept(), World()
    world.gate = anyio.Event()
    async with bus, Engine(shop(world).work_only(), store, bus, clock=LoopClock()):
        await anyio.sleep(0.1)
        async with bus.subscribe([Topic(ANSWERS)], "test", 10) as answers:
            await bus.publish([order_command(ReserveStock("1"), "k")])
            await anyio.sleep(1)
            store.read_s = 5
            await bus.publish([order_command(ReserveStock("1"), "k", attempt=2)])
            await anyio.sleep(1)
            world.gate.set()
            await anyio.sleep(10)
            attempts = [cloud_event(each.body).attempt for each in await anext(answers)]
    assert attempts == [1, 2]
    assert world.asked == ["ReserveStock 1"]


async def test_a_do_that_waits_is_not_begun_once_its_undo_has_come() -> None:
    bus, world, store = Kept(), World(), MemoryStore()
    world.gate = anyio.Event()
    engine = Engine(shop(world).work_only(), store, bus, clock=LoopClock(), limits=Limits(in_flight=6))
    async with bus, engine:
        await anyio.sleep(0.1)
        async with bus.subscribe([Topic(ANSWERS)], "test", 10):
            await bus.publish([order_command(ReserveStock(f"{n}"), f"k{n}") for n in range(4)])
            await anyio.sleep(1)
            assert len(world.asked) == 3  # half of what may be in flight
            await bus.publish([order_command(ReleaseStock("3"), "k3/undo", undoes="k3")])
            await anyio.sleep(1)
            world.gate.set()
            await anyio.sleep(1)
            await engine.until_idle()
    assert world.names("3") == ["ReleaseStock 3"]
    assert (await store.counts(0)).outbox == 0


async def test_what_the_store_did_not_take_is_stored_before_what_came_later(elsewhere: Elsewhere) -> None:
    """A do and then its undo: the other way round the do would be carried out after it."""
    async with elsewhere.works():
        elsewhere.store.slow = 2
        elsewhere.store.faults = [StoreUnavailable("the disk is away")]
        await elsewhere.ask(order_command(ReserveStock("1"), "k"))
        await anyio.sleep(1)
        await elsewhere.ask(order_command(ReleaseStock("1"), "k/undo", undoes="k"))
        assert (await elsewhere.answer()).reply_to == "k/undo"
        assert await elsewhere.silent()
    assert elsewhere.world.asked == ["ReleaseStock 1"]


async def test_an_answer_that_is_given_while_a_worker_drains_leaves_before_its_end(elsewhere: Elsewhere) -> None:
    elsewhere.world.gate = anyio.Event()
    async with elsewhere.works() as worker:
        await elsewhere.ask(order_command(ReserveStock("1"), "k"))
        await anyio.sleep(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.drain, 8.0)
            await anyio.sleep(1)
            elsewhere.world.gate.set()
        assert (await elsewhere.store.counts(0)).outbox == 0
    assert (await elsewhere.answer()).type == "StockReserved"
