"""What a store may do to the engine: nothing is lost and nothing happens twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import anyio
import pytest

from orchestrator import App
from orchestrator.config import Limits
from orchestrator.errors import NotAccepting, StoreCorrupt, StoreFull, StoreUnavailable
from orchestrator.machine import fold
from orchestrator.machine.instance import Instance, Status
from orchestrator.machine.transition import Transition
from orchestrator.ports import MAX_PAGE, Counts, Result, Waiting
from orchestrator.runtime.engine import Engine
from orchestrator.saga import definition_of
from orchestrator.wire import Address, Request, Verb

from .faulty import Fault, FaultyStore
from .shop import CardDeclined, Napping, OrderFulfilment, OrderPlaced, World, event, order, send_mail, shop
from .virtual import LoopClock

pytestmark = pytest.mark.anyio


async def test_a_full_store_stops_accepting_and_resumes_by_itself() -> None:
    world, store = World(), FaultyStore()
    full = True
    store.choose = lambda: StoreFull("no room") if full else ""
    async with Engine(shop(world), store, clock=LoopClock(), limits=Limits(store_full_s=5)) as engine:
        with pytest.raises(NotAccepting, match="no room"):
            await engine.accept(event(OrderPlaced("1")))
        assert not engine.stats().accepting
        assert "no room" in engine.stats().problem
        with pytest.raises(NotAccepting):
            await engine.accept(event(OrderPlaced("2")))
        full = False
        await anyio.sleep(6)
        assert (await engine.accept(event(OrderPlaced("1")))).outcomes  # it was taken, and is known
        assert (await engine.ended(order("1"))).status is Status.COMPLETED
        assert engine.stats().accepting
        assert engine.stats().problem == ""
    assert world.names("1") == ["ReserveStock 1", "ChargeCard 1", "ShipOrder 1"]
    assert world.names("2") == []


async def test_a_store_full_for_a_moment_is_not_noticed() -> None:
    world, store = World(), FaultyStore()
    store.faults = [StoreFull("no room"), StoreFull("no room")]
    async with Engine(shop(world), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        assert (await engine.ended(order("1"))).status is Status.COMPLETED


@pytest.mark.parametrize("fault", ["after", StoreUnavailable("gone")])
@pytest.mark.parametrize("number", range(5))
async def test_a_commit_of_which_nothing_is_known(fault: Fault, number: int) -> None:
    world, store = World(), FaultyStore()
    store.faults = [*[""] * number, fault]
    async with Engine(shop(world), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        assert (await engine.ended(order("1"))).status is Status.COMPLETED
        await engine.until_idle()
    assert Counter(world.names("1")) == Counter(["ReserveStock 1", "ChargeCard 1", "ShipOrder 1"])
    assert (await store.counts(0)).outbox == 0
    assert [entry.version for entry in await store.history(order("1"))] == [1, 2, 3, 4]


async def test_a_load_that_fails_is_tried_again() -> None:
    world, store = World(), FaultyStore()
    store.load_fails = 3
    async with Engine(shop(world), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        assert (await engine.ended(order("1"))).status is Status.COMPLETED


async def test_a_store_that_is_away_is_said_and_waited_for() -> None:
    store = FaultyStore()
    store.load_fails = 20
    async with Engine(shop(World()), store, clock=LoopClock()) as engine:
        with pytest.raises(NotAccepting, match="the disk is away"):
            await engine.accept(event(OrderPlaced("1")))
        assert not engine.stats().accepting
        await anyio.sleep(120)
        assert (await engine.ended(order("1"))).status is Status.COMPLETED
        assert engine.stats().accepting


async def test_an_unknown_commit_of_nothing_more_is_asked_about() -> None:
    """What is decided again may have become nothing; the engine still notices that the store is back."""
    store = FaultyStore()
    async with Engine(shop(World()), store, clock=LoopClock(), acting=False) as engine:
        store.faults = [StoreUnavailable("gone"), StoreUnavailable("gone")]
        with anyio.move_on_after(0.01):
            await engine.accept(event(OrderPlaced("1")))
        await anyio.sleep(10)
        assert engine.stats().accepting


async def test_a_corrupt_store_stops_the_engine_with_its_error() -> None:
    store = FaultyStore()
    with pytest.raises(StoreCorrupt, match="damaged"):
        async with Engine(shop(World()), store, clock=LoopClock()) as engine:
            store.faults = [StoreCorrupt("damaged")]
            await engine.accept(event(OrderPlaced("1")))


async def test_who_waits_in_another_task_is_told_that_the_engine_stopped() -> None:
    store = FaultyStore()
    told: list[BaseException] = []

    async def client() -> None:
        try:
            await engine.accept(event(OrderPlaced("1")))
        except StoreCorrupt as error:
            told.append(error)

    engine = Engine(shop(World()), store, clock=LoopClock())
    async with anyio.create_task_group() as outside:
        with pytest.raises(StoreCorrupt):
            async with engine:
                store.faults = [StoreCorrupt("damaged")]
                outside.start_soon(client)
                await anyio.sleep_forever()
    assert len(told) == 1


async def test_somebody_elses_version_is_loaded_and_decided_again() -> None:
    """The fence behind the mailbox: another writer moved the instance (R2)."""
    world, store = World(), FaultyStore()
    world.gate = anyio.Event()
    async with Engine(shop(world), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        await anyio.sleep(1)
        [instance] = await store.load([order("1")])
        assert instance is not None
        instance.version += 1
        message = event(OrderPlaced("1"), "a message of another process")
        first = store.transitions[0]
        await store.commit([type(first)(at=0, instance=instance, message=message)])
        world.gate.set()
        assert (await engine.ended(order("1"))).status is Status.COMPLETED
    assert [entry.version for entry in await store.history(order("1"))] == [1, 2, 3, 4, 5]


async def test_what_no_store_takes_is_set_aside_and_the_others_are_stored() -> None:
    world, store = World(), FaultyStore()
    store.slow = 0.1

    original = store.commit

    async def commit(transitions: Sequence[Transition]) -> list[Result]:
        bad = [t for t in transitions if t.message is not None and t.message.id == "bad" and t.message.kind == "event"]
        if bad:
            raise TypeError("cannot encode this")
        return await original(transitions)

    store.commit = commit  # type: ignore[method-assign]
    async with Engine(shop(world), store, clock=LoopClock()) as engine:
        async with anyio.create_task_group() as clients:
            clients.start_soon(engine.accept, event(OrderPlaced("1")))
            clients.start_soon(engine.accept, event(OrderPlaced("2"), "bad"))
            clients.start_soon(engine.accept, event(OrderPlaced("3")))
        await engine.until_idle()
        instances = await store.load([order("1"), order("2"), order("3")])
    assert [each.status for each in instances if each] == ["completed", "running", "completed"]
    assert instances[1] is not None
    assert "cannot be stored" in instances[1].parked


async def test_many_transitions_share_a_commit() -> None:
    world, store = World(), FaultyStore()
    store.slow = 0.05
    async with Engine(shop(world), store, clock=LoopClock(), limits=Limits(group=64)) as engine:
        async with anyio.create_task_group() as clients:
            for number in range(300):
                clients.start_soon(engine.accept, event(OrderPlaced(str(number))))
        await engine.until_idle()
    assert max(store.groups) <= 65  # and one for rows that were carried out
    assert len(store.groups) < 60
    assert store.groups[0] == 64  # what came in the same moment, not waiting for company


async def test_those_that_go_on_together_share_each_commit() -> None:
    world, store = World(), FaultyStore()
    store.slow = 0.05
    async with Engine(shop(world), store, clock=LoopClock()) as engine:
        async with anyio.create_task_group() as clients:
            for number in range(40):
                clients.start_soon(engine.accept, event(OrderPlaced(str(number))))
        await engine.until_idle()
        assert store.groups == [40] * 4
        store.groups.clear()
        await engine.accept(event(OrderPlaced("alone")))
        await engine.until_idle()
        assert store.groups == [1] * 4


@pytest.mark.parametrize("seed", range(20))
async def test_any_faults_in_any_order(seed: int) -> None:
    """Commits fail before, after, or for lack of room; participants fail, hang, refuse; engines die. All ends well."""
    rng = random.Random(seed)
    world, store = World(), FaultyStore()
    store.slow = 0.01
    clock = LoopClock()
    keys = [str(number) for number in range(12)]
    app = shop(world, listeners=[send_mail])

    def fault() -> Fault:
        draw = rng.random()
        if draw < 0.1:
            return "after"
        if draw < 0.15:
            return StoreUnavailable("gone")
        return StoreFull("full") if draw < 0.2 else ""

    store.choose = fault
    store.load_fails = 2
    for name in ("ReserveStock", "ChargeCard", "ReleaseStock", "RefundCard", "ShipOrder", "mail"):
        for _ in range(10):
            world.will(name, RuntimeError("no") if rng.random() < 0.5 else lambda _: anyio.sleep(rng.choice([1, 30])))
    world.will("ChargeCard", CardDeclined(), CardDeclined())
    for _ in range(4):
        async with Engine(app, store, clock=clock, limits=Limits(store_full_s=60, handed=5, page=3)) as engine:
            for key in keys:
                await engine.accept(event(OrderPlaced(key)))
            await anyio.sleep(rng.random() * 20)
    store.choose = lambda: ""
    async with Engine(app, store, clock=clock) as engine:
        await engine.until_idle()
        for _ in range(50):
            parked = [key for key in keys if (await _instance(store, key)).parked]
            if not parked:
                break
            for key in parked:
                await engine.verb(order(key), Verb.RETRY, Request(), "test")
            await engine.until_idle()
    assert (await store.counts(clock.now())).outbox == 0
    for key in keys:
        instance = await _instance(store, key)
        assert instance.status.is_end, key
        entries = await store.history(order(key), limit=MAX_PAGE)
        assert [entry.version for entry in entries] == list(range(1, len(entries) + 1))
        assert fold(definition_of(OrderFulfilment), entries) == instance
        asked = world.names(key)
        if instance.status is Status.COMPLETED:
            assert {"ReserveStock", "ChargeCard", "ShipOrder"} <= {name.split()[0] for name in asked}
        else:
            assert f"ReleaseStock {key}" in asked


async def _instance(store: FaultyStore, key: str) -> Instance:
    [instance] = await store.load([order(key)])
    assert instance is not None
    return instance


async def test_an_engine_that_cannot_look_into_the_waiting_room_says_so_itself() -> None:
    class Away(FaultyStore):
        async def waiting_for(self, limit: int) -> list[Waiting]:
            raise StoreUnavailable("the disk is away")

    with pytest.raises(StoreUnavailable, match="the disk is away"):  # not in a group
        async with Engine(shop(World()), Away(), clock=LoopClock()):
            pytest.fail("it has opened")


async def test_a_store_away_for_a_moment_does_not_end_the_wait_until_all_is_idle() -> None:
    class Counting(FaultyStore):
        away = 0

        async def counts(self, now: float) -> Counts:
            if self.away:
                self.away -= 1
                raise StoreUnavailable("the disk is away")
            return await super().counts(now)

    store = Counting()
    async with Engine(shop(World()), store, clock=LoopClock()) as engine:
        await engine.accept(event(OrderPlaced("1")))
        store.away = 2
        await engine.until_idle()
        assert store.away == 0
        assert (await engine.ended(order("1"))).status is Status.COMPLETED


async def test_who_loses_a_race_for_a_timer_loads_again_and_does_not_try_for_ever() -> None:
    """Two engines on one store (R2): both know when the time is over, one of them is told that it is done already."""
    app = App("naps", sagas=[Napping])
    store = FaultyStore()
    async with Engine(app, store, clock=LoopClock()) as one:
        await one.accept(event(OrderPlaced("1")))
        async with Engine(app, store, clock=LoopClock()) as other:
            store.slow = 0.01  # the second to write has decided before the first has written
            await anyio.sleep(3_700)
            nap = Address("Napping", "1")
            for engine in (one, other):
                assert (await engine.ended(nap)).status is Status.COMPENSATED
            await anyio.sleep(60)
    assert len(store.groups) < 10
