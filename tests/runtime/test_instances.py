"""The waiting room, bugs, operators' verbs, dead letters, timers and children, as the runtime carries them."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest
from msgspec import Raw
from msgspec.structs import replace

from orchestrator.app import App
from orchestrator.config import Limits
from orchestrator.errors import AppError, BadMessage, NotAccepting, NotFound, StoreUnavailable
from orchestrator.machine.instance import Instance, Status
from orchestrator.machine.transition import Outcome
from orchestrator.memory import MemoryStore
from orchestrator.messages import Event
from orchestrator.runtime.engine import Engine
from orchestrator.saga import Child, Saga, Wait, days, migrate, step
from orchestrator.wire import Address, Request, Verb

from .faulty import FaultyStore
from .shop import (
    Approved,
    Napping,
    OrderCancelled,
    OrderFulfilment,
    OrderPlaced,
    StockReserved,
    World,
    event,
    order,
    shop,
)
from .virtual import START, LoopClock

pytestmark = pytest.mark.anyio


def napping(key: str) -> Address:
    return Address("Napping", key)


async def stored(store: MemoryStore, address: Address) -> Instance:
    [instance] = await store.load([address])
    assert instance is not None
    return instance


# The waiting room.


async def test_an_early_message_waits_for_its_instance() -> None:
    store = MemoryStore()
    async with Engine(shop(World(), sagas=[Napping]), store, clock=LoopClock()) as engine:
        early = await engine.accept(event(Approved("1")))
        assert early.outcomes == (("Napping/1", Outcome.WAITING),)
        again = await engine.accept(event(Approved("1")))
        assert again.outcomes == (("Napping/1", Outcome.DUPLICATE),)
        await engine.accept(event(Approved("1"), "second"))
        await engine.accept(event(OrderPlaced("1")))
        instance = await engine.ended(napping("1"))
        await engine.until_idle()
    assert instance.status is Status.COMPLETED
    assert [entry.message.id for entry in await store.history(napping("1"))] == [
        "OrderPlaced-1",
        "Approved-1",
        "second",
    ]
    assert await store.waiting() == []


async def test_what_waited_is_delivered_after_a_crash() -> None:
    """The start is on disk, the messages that waited for it are not delivered yet."""
    store, clock = FaultyStore(), LoopClock()
    app = shop(World(), sagas=[Napping])
    async with Engine(app, store, clock=clock) as engine:
        await engine.accept(event(Approved("1")))
        [row] = await store.waiting()
        await engine.accept(event(OrderPlaced("1"), "start"))
        await engine.until_idle()
    store2 = MemoryStore()
    starting = next(each for each in store.transitions if each.message and each.message.id == "start")
    waiting = next(each for each in store.transitions if each.outcome is Outcome.WAITING)
    await store2.commit([waiting, starting])
    async with Engine(app, store2, clock=clock) as engine:
        assert engine.recovered.waiting == 1
        assert (await engine.ended(napping("1"))).status is Status.COMPLETED
    assert await store2.waiting() == []
    assert row.envelope.id == "Approved-1"


async def test_what_waits_too_long_is_a_dead_letter() -> None:
    store = MemoryStore()
    limits = Limits(waiting_room_s=600)
    async with Engine(shop(World(), sagas=[Napping]), store, clock=LoopClock(), limits=limits) as engine:
        await engine.accept(event(Approved("1")))
        await engine.accept(event(Approved("2")))
        await anyio.sleep(700)
        letters = await store.dead_letters()
        assert [letter.envelope.id for letter in letters if letter.envelope] == ["Approved-1", "Approved-2"]
        await engine.redrive(letters[0].id)  # it waits once more
        assert len(await store.waiting()) == 1
        assert await engine.drop_waiting([row.id for row in await store.waiting()] + [4711]) == 1
        assert await engine.drop_dead([letters[1].id, 4711]) == 1
        assert await store.dead_letters() == []
        with pytest.raises(NotFound):
            await engine.redrive(letters[1].id)


async def test_ended_instances_are_forgotten_after_their_time() -> None:
    store = MemoryStore()
    limits = Limits(retention_s=days(1))
    async with Engine(shop(World()), store, clock=LoopClock(), limits=limits) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await engine.ended(order("1"))
        await anyio.sleep(days(1) - 100)
        assert await store.load([order("1")]) != [None]
        await anyio.sleep(200)
        assert await store.load([order("1")]) == [None]


# Bugs.


async def test_a_handler_that_raises_parks_its_instance_only() -> None:
    world, store = World(), MemoryStore()
    bugs = ["a bug", "a bug", "a bug"]

    class Buggy(Saga, key="order_id", starts=OrderPlaced):
        order_id: str

        @step
        def approval(self) -> Wait:
            return Wait(3600)

        @approval.on
        def decided(self, event: Approved) -> None:
            if bugs and self.order_id == "1":
                raise RuntimeError(bugs.pop())

    limits = Limits(handler_tries=3)
    async with Engine(shop(world, sagas=[Buggy]), store, clock=LoopClock(), limits=limits) as engine:
        for key in ("1", "2"):
            await engine.accept(event(OrderPlaced(key)))
            await engine.accept(event(Approved(key)))
        await engine.until_idle()
        assert (await stored(store, Address("Buggy", "2"))).status is Status.COMPLETED
        parked = await stored(store, Address("Buggy", "1"))
        assert "RuntimeError: a bug" in parked.parked
        assert bugs == []  # tried three times
        queued = await engine.accept(event(Approved("1"), "later"))
        assert queued.outcomes[0][1] is Outcome.QUEUED
        retried = await engine.verb(Address("Buggy", "1"), Verb.RETRY, Request(why="fixed"), "anna")
        assert retried.outcome is Outcome.APPLIED
        assert (await engine.ended(Address("Buggy", "1"))).status is Status.COMPLETED
        await engine.until_idle()


# Operators.


async def test_verbs() -> None:
    world, store = World(), MemoryStore()
    app = shop(world, sagas=[Napping])
    async with Engine(app, store, clock=LoopClock()) as engine:
        with pytest.raises(NotFound, match="there is no Napping/1"):
            await engine.verb(napping("1"), Verb.CANCEL, Request(), "anna")
        with pytest.raises(NotFound, match="no saga"):
            await engine.verb(Address("Nope", "1"), Verb.CANCEL, Request(), "anna")
        await engine.accept(event(OrderPlaced("1")))
        preview = await engine.verb(napping("1"), Verb.CANCEL, Request(), "anna", preview=True)
        assert preview.instance is not None
        assert preview.instance.status is Status.COMPENSATED
        assert (await stored(store, napping("1"))).status is Status.RUNNING
        refused = await engine.verb(napping("1"), Verb.KILL, Request(), "anna")
        assert refused.outcome is Outcome.REFUSED
        assert "reason" in refused.notes[-1]
        killed = await engine.verb(napping("1"), Verb.KILL, Request(why="test"), "anna", id="k1")
        assert killed.outcome is Outcome.APPLIED
        again = await engine.verb(napping("1"), Verb.KILL, Request(why="test"), "anna", id="k1")
        assert again.outcome is Outcome.DUPLICATE
        assert (await stored(store, napping("1"))).status is Status.KILLED
        last = (await store.history(napping("1")))[-1]
        assert (last.message.user, last.message.type) == ("anna", "kill")


async def test_verbs_overtake() -> None:
    store = FaultyStore()
    async with Engine(shop(World(), sagas=[Napping]), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        store.slow = 1
        async with anyio.create_task_group() as clients:
            for number in range(5):
                clients.start_soon(engine.accept, event(OrderPlaced("1"), f"again {number}"))
                await anyio.sleep(0.01)
            await engine.verb(napping("1"), Verb.PAUSE, Request(), "anna")
        kinds = [str(entry.message.kind) for entry in await store.history(napping("1"))]
    assert kinds == ["event", "event", "verb", "event", "event", "event", "event"]


async def test_a_killed_instance_takes_back_what_was_not_begun() -> None:
    world = World()
    world.gate = anyio.Event()
    async with Engine(shop(world), MemoryStore(), clock=LoopClock(), limits=Limits(in_flight=2)) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await engine.accept(event(OrderPlaced("2")))  # its turn has not come
        await anyio.sleep(1)
        await engine.verb(order("2"), Verb.KILL, Request(why="test"), "anna")
        world.gate.set()
        await engine.until_idle()
    assert world.names("2") == []


# Timers.


async def test_instances_wake_when_their_time_has_come() -> None:
    store, clock = MemoryStore(), LoopClock()
    async with Engine(shop(World(), sagas=[Napping]), store, clock=clock) as engine:
        await engine.accept(event(OrderPlaced("1")))
        assert (await engine.ended(napping("1"))).status is Status.COMPENSATED
        assert clock.now() - START == pytest.approx(3600, abs=5)


async def test_a_timer_storm_is_let_out_slowly_and_new_messages_are_served() -> None:
    world, store, clock = World(), FaultyStore(), LoopClock()
    app = shop(world, sagas=[Napping])
    async with Engine(app, store, clock=clock) as engine:
        for number in range(500):
            await engine.accept(event(OrderPlaced(str(number))))
    await anyio.sleep(7200)
    store.slow = 0.05
    store.groups.clear()
    async with Engine(app, store, clock=clock, limits=Limits(timer_batch=20)) as engine:
        assert engine.recovered.overdue == 500
        await anyio.sleep(0.2)
        began = clock.now()
        await engine.accept(event(OrderPlaced("new")))
        assert clock.now() - began < 0.2
        await engine.until_idle()
        counts = await store.counts(clock.now())
    assert max(store.groups) <= 21
    assert counts.instances == {"Napping": {"compensated": 500, "running": 1}}


async def test_sleeping_instances_are_idle_and_cost_no_memory() -> None:
    store = MemoryStore()
    limits = Limits(hot_instances=10)
    async with Engine(shop(World(), sagas=[Napping]), store, clock=LoopClock(), limits=limits) as engine:
        for number in range(50):
            await engine.accept(event(OrderPlaced(str(number))))
        await engine.until_idle()
        assert engine.stats().mailboxes == 0
        assert len(engine._supervisor._hot) == 10
        assert (await stored(store, napping("0"))).status is Status.RUNNING


# Limits, starting and stopping.


async def test_who_brings_too_much_waits() -> None:
    store = FaultyStore()
    store.slow = 1
    done: list[int] = []

    async def client(number: int) -> None:
        await engine.accept(event(OrderPlaced("1"), str(number)))
        done.append(number)

    engine = Engine(shop(World(), sagas=[Napping]), store, clock=LoopClock(), limits=Limits(mailbox=3, in_flight=5))
    async with engine, anyio.create_task_group() as clients:
        for number in range(20):
            clients.start_soon(client, number)
        await anyio.sleep(0.5)
        assert engine._supervisor.pending == 3
    assert sorted(done) == list(range(20))


async def test_too_much_at_once_is_bounded_by_what_is_in_flight() -> None:
    store = FaultyStore()
    store.slow = 1
    engine = Engine(shop(World(), sagas=[Napping]), store, clock=LoopClock(), limits=Limits(in_flight=5))
    async with engine, anyio.create_task_group() as clients:
        for number in range(20):
            clients.start_soon(engine.accept, event(OrderPlaced(str(number))))
        await anyio.sleep(0.5)
        assert engine._supervisor.pending == 5
    assert max(store.groups) <= 5


async def test_commands_beyond_memory_are_left_in_the_store() -> None:
    world, store = World(), MemoryStore()
    world.gate = anyio.Event()
    limits = Limits(handed=4, page=3, in_flight=4)
    async with Engine(shop(world), store, clock=LoopClock(), limits=limits) as engine:
        for number in range(40):
            await engine.accept(event(OrderPlaced(str(number))))
        await anyio.sleep(1)
        assert engine._calls.waiting <= 10
        assert (await store.counts(0)).outbox == 40
        world.gate.set()
        await engine.until_idle()
        counts = await store.counts(0)
    assert counts.instances == {"OrderFulfilment": {"completed": 40}}
    assert len(world.asked) == 120  # each once


async def test_draining_finishes_what_runs_and_leaves_the_rest_for_later() -> None:
    world, store, clock = World(), MemoryStore(), LoopClock()
    world.will("ReserveStock", lambda _: _slow_yes(3))
    async with Engine(shop(world), store, clock=clock) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await anyio.sleep(1)
        await engine.drain(10)
        assert engine.stats().in_flight == 0
        with pytest.raises(NotAccepting, match="stopping"):
            await engine.accept(event(OrderPlaced("2")))
    assert len(await store.history(order("1"))) == 2  # the answer is on disk, the next command is not begun
    assert world.names("1") == ["ReserveStock 1"]
    async with Engine(shop(world), store, clock=clock) as engine:
        assert (await engine.ended(order("1"))).status is Status.COMPLETED
    assert world.names("1") == ["ReserveStock 1", "ChargeCard 1", "ShipOrder 1"]


async def _slow_yes(seconds: float) -> Any:
    await anyio.sleep(seconds)
    return StockReserved("r1")


async def test_draining_has_an_end() -> None:
    world, clock = World(), LoopClock()
    world.will("ReserveStock", lambda _: anyio.sleep(8))
    async with Engine(shop(world), MemoryStore(), clock=clock) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await anyio.sleep(1)
        began = clock.now()
        await engine.drain(2)
        assert 2 <= clock.now() - began < 2.5
        assert engine.stats().in_flight == 1


async def test_an_exception_of_the_body_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with Engine(shop(World()), MemoryStore(), clock=LoopClock()):
            raise KeyError("mine")


async def test_a_cancelled_engine_closes() -> None:
    with anyio.move_on_after(1):
        async with Engine(shop(World()), MemoryStore(), clock=LoopClock()) as engine:
            await engine.accept(event(OrderPlaced("1")))
            await anyio.sleep_forever()


async def test_resources_are_opened_and_closed_and_what_they_raise_comes_out() -> None:
    class Broken(World):
        def open(self) -> Any:
            raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        async with Engine(shop(Broken()), MemoryStore(), clock=LoopClock()):
            pass


async def test_without_acting_nothing_runs() -> None:
    world, store = World(), MemoryStore()
    async with Engine(shop(world), store, clock=LoopClock(), acting=False) as engine:
        accepted = await engine.accept(event(OrderPlaced("1")))
        assert accepted.outcomes[0][1] is Outcome.APPLIED
        await engine.until_idle()
        await anyio.sleep(100)
    assert world.asked == []
    assert (await store.counts(0)).outbox == 1
    async with Engine(shop(world), store, clock=LoopClock()) as engine:
        assert str(engine.recovered).startswith("1 open instances, 1 messages to go")
        assert (await engine.ended(order("1"))).status is Status.COMPLETED


async def test_until_idle_waits_for_retries_but_not_for_sleepers() -> None:
    world, clock = World(), LoopClock()
    world.will("ReserveStock", RuntimeError("no"))
    async with Engine(shop(world, sagas=[OrderFulfilment, Napping]), MemoryStore(), clock=clock) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await engine.until_idle()
        assert world.names("1")[-1] == "ShipOrder 1"
        assert clock.now() - START < 10


async def test_an_event_without_a_key_is_refused_and_nothing_is_stored() -> None:
    store = MemoryStore()
    async with Engine(shop(World()), store, clock=LoopClock()) as engine:
        with pytest.raises(BadMessage):
            await engine.accept(replace(event(OrderCancelled("1")), data=Raw(b'{"order_id":7}')))
    assert (await store.counts(0)).waiting == 0


# Code that does not fit what is stored (R18).


async def test_an_open_instance_that_does_not_fit_the_code_refuses_the_start() -> None:
    store = MemoryStore()
    async with Engine(shop(World(), sagas=[OrderFulfilment, Napping]), store, clock=LoopClock()) as engine:
        for key in ("1", "2"):
            await engine.accept(event(OrderPlaced(key)))
        await engine.until_idle()

    class Renamed(Saga, key="order_id", starts=OrderPlaced):
        order_id: str

        @step
        def nap(self) -> Wait:
            return Wait(1)

    Renamed.__name__ = "Napping"
    other = App("shop", sagas=[Renamed])
    definition = next(iter(other.sagas.values()))
    other.sagas = {"Napping": definition}
    with pytest.raises(AppError, match=r"Napping/1 and 1 more: stands in step approval, which Napping does not have"):
        async with Engine(other, store, clock=LoopClock()):
            pass
    with pytest.raises(AppError, match="there is no saga Napping"):
        async with Engine(App("shop"), store, clock=LoopClock()):
            pass


def nap_of_version_1() -> type[Saga]:
    class Nap(Saga, key="order_id", starts=OrderPlaced):
        order_id: str

        @step
        def pause(self) -> Wait:
            return Wait(3600)

    return Nap


def nap_of_version_2() -> type[Saga]:
    class Nap(Saga, key="order_id", starts=OrderPlaced, version=2):
        order_id: str
        lifted: str = "no"

        @staticmethod
        @migrate(from_version=1)
        def add(state: dict[str, Any]) -> dict[str, Any]:
            return state | {"lifted": "yes"}

        @step
        def pause(self) -> Wait:
            return Wait(3600)

    return Nap


async def test_a_state_of_an_older_version_is_lifted_when_it_is_needed() -> None:
    store, clock = MemoryStore(), LoopClock()
    async with Engine(App("shop", sagas=[nap_of_version_1()]), store, clock=clock) as engine:
        await engine.accept(event(OrderPlaced("1")))
    async with Engine(App("shop", sagas=[nap_of_version_2()]), store, clock=clock) as engine:
        instance = await engine.ended(Address("Nap", "1"))
    assert instance.definition_version == 2
    assert b'"lifted":"yes"' in bytes(instance.state)
    with pytest.raises(AppError, match="newer than this code"):
        await _open_again(store, clock)


async def _open_again(store: MemoryStore, clock: LoopClock) -> None:
    async with Engine(App("shop", sagas=[nap_of_version_2()]), store, clock=clock) as engine:
        await engine.accept(event(OrderPlaced("2")))
    async with Engine(App("shop", sagas=[nap_of_version_1()]), store, clock=clock):
        pass


# Children.


class DiskWanted(Event):
    order_id: str


async def test_a_child_is_started_and_answers() -> None:
    class Part(Saga, key="order_id", starts=DiskWanted):
        order_id: str

        @step
        def pause(self) -> Wait:
            return Wait(10)

    class Machine(Saga, key="order_id", starts=OrderPlaced):
        order_id: str

        @step
        def part(self) -> Child[Part]:
            return Child(Part, DiskWanted(self.order_id))

    store = MemoryStore()
    async with Engine(App("shop", sagas=[Machine]), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        assert (await engine.ended(Address("Machine", "1"))).status is Status.COMPLETED
        await engine.until_idle()
        counts = await store.counts(0)
    assert counts.instances == {"Machine": {"completed": 1}, "Part": {"completed": 1}}
    assert counts.outbox == 0


async def test_a_burst_for_one_instance_holds_up_nobody_else_and_keeps_its_order() -> None:
    store = FaultyStore()
    store.slow = 0.01
    clock = LoopClock()
    approved: list[int] = []

    async def approve(number: int) -> None:
        await engine.accept(event(Approved("1"), str(number)))
        approved.append(number)

    async with Engine(shop(World(), sagas=[Napping]), store, clock=clock) as engine, anyio.create_task_group() as burst:
        await engine.accept(event(OrderPlaced("1")))
        for number in range(1_500):
            burst.start_soon(approve, number)
        await anyio.sleep(0.1)
        began = clock.now()
        for number in range(5):
            await engine.accept(event(OrderPlaced(f"other {number}")))
        assert clock.now() - began < 0.5
        assert len(approved) < 1_000
    assert approved == sorted(approved)


@pytest.mark.parametrize("fault", ["", "after", StoreUnavailable("away"), ValueError("no store takes it")])
async def test_what_waits_for_one_instance_is_stored_in_few_commits(fault: Exception | str) -> None:
    """In the order it came, each message once, though one comes twice among them and a commit goes wrong."""
    store = FaultyStore()
    store.slow = 0.01
    ids = [str(number) for number in range(100)]
    coming = [*ids[:50], ids[20], *ids[50:]]
    outcomes: list[Outcome] = []

    async def approve(id: str) -> None:
        accepted = await engine.accept(event(Approved("1"), id))
        outcomes.append(accepted.outcomes[0][1])

    async with Engine(shop(World(), sagas=[Napping]), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        store.faults = ["", "", fault]
        before = len(store.groups)
        async with anyio.create_task_group() as burst:
            for id in coming:
                burst.start_soon(approve, id)
    assert fault or len(store.groups) - before < 10
    assert max(store.groups) > 20
    assert len(outcomes) == len(coming)
    entries = await store.history(napping("1"))
    assert [entry.message.id for entry in entries] == ["OrderPlaced-1", *ids]


async def test_what_came_together_with_the_start_does_not_overtake_what_waited_for_it() -> None:
    store = MemoryStore()
    async with Engine(shop(World(), sagas=[Napping]), store, clock=LoopClock()) as engine:
        await engine.accept(event(Approved("1"), "early"))
        async with anyio.create_task_group() as together:
            together.start_soon(engine.accept, event(OrderPlaced("1")))
            together.start_soon(engine.accept, event(Approved("1"), "later"))
        await engine.until_idle()
    entries = await store.history(napping("1"))
    assert [entry.message.id for entry in entries] == ["OrderPlaced-1", "early", "later"]


async def test_a_preview_is_not_built_on_what_is_not_stored_yet() -> None:
    store = FaultyStore()
    store.slow = 0.01
    previewed: list[tuple[int, int]] = []

    async def ask(verb: Verb, *, preview: bool) -> None:
        transition = await engine.verb(napping("1"), verb, Request(), "ada", preview=preview)
        if preview:
            assert transition.instance is not None
            previewed.append((transition.instance.version, (await stored(store, napping("1"))).version))

    async with Engine(shop(World(), sagas=[Napping]), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        async with anyio.create_task_group() as together:
            together.start_soon(engine.accept, event(Approved("1")))
            together.start_soon(partial(ask, Verb.PAUSE, preview=False))
            together.start_soon(partial(ask, Verb.CANCEL, preview=True))
    assert previewed == [(4, 3)]
