"""`audit`: whatever is falsified in a store or in the books is said, in one sentence, and nothing else is."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from orchestrator import App, Child, Command, Event, Orchestrator, Saga, step
from orchestrator.checking.audit import Audit, Books, Delivered, Effect, audit
from orchestrator.checking.judge import broken
from orchestrator.definition import definition_of
from orchestrator.edge import event_line
from orchestrator.machine import Do, Entry, Instance, Status, Transition, Undo, VisitState, replies
from orchestrator.machine import unwinding as machine_unwinding
from orchestrator.memory import MemoryStore
from orchestrator.messages import Done, encode
from orchestrator.participant import Call, participant
from orchestrator.ports import Counts, Due, Find, Page, Store, Waiting
from orchestrator.retry import Retry
from orchestrator.runtime.engine import Engine
from orchestrator.wire import Address, DeadLetter, Envelope, Kind, Outgoing, Route
from orchestrator_adapters.sqlite import SQLiteStore

from ..runtime.shop import (
    Approved,
    CardDeclined,
    ChargeCard,
    Napping,
    OrderFulfilment,
    OrderPlaced,
    RefundCard,
    ReleaseStock,
    ReserveStock,
    ShipOrder,
    StockReserved,
    order,
)
from ..runtime.virtual import LoopClock, VirtualLoop

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
COMMANDS = ("ReserveStock", "ReleaseStock", "ChargeCard", "RefundCard", "ShipOrder")


class ParcelWanted(Event):
    parcel: str


class BoxWanted(Event):
    box: str


class Pack(Command):
    box: str


class Unpack(Command):
    box: str


class Box(Saga, key="box", starts=BoxWanted):
    """A child: packed by a participant that a test may hold."""

    box: str

    @step(retry=Retry(attempts=1, timeout=1e6))
    def pack(self) -> Pack:
        return Pack(self.box)

    @pack.compensate
    def unpack(self) -> Unpack:
        return Unpack(self.box)


class Parcel(Saga, key="parcel", starts=ParcelWanted):
    """A parent."""

    parcel: str

    @step
    def make(self) -> Child[Box]:
        return Child(Box, BoxWanted(self.parcel))


class Chain(Saga, key="parcel", starts=ParcelWanted):
    """Three steps, the last of them refused."""

    parcel: str

    @step
    def first(self) -> ReserveStock:
        return ReserveStock(f"first {self.parcel}")

    @first.compensate
    def undo_first(self) -> ReleaseStock:
        return ReleaseStock(self.parcel)

    @step
    def second(self) -> ReserveStock:
        return ReserveStock(f"second {self.parcel}")

    @second.compensate
    def undo_second(self) -> ReleaseStock:
        return ReleaseStock(self.parcel)

    @step
    def third(self) -> ChargeCard:
        return ChargeCard(f"refused {self.parcel}", 1)

    @third.compensate
    def undo_third(self) -> RefundCard:
        return RefundCard(self.parcel)


class Desk:
    """Participants that keep R7, and the books. An order named refused... is declined, one named slow... has no end."""

    def __init__(self) -> None:
        self.delivered: list[Delivered] = []
        self.effects: list[Effect] = []
        self._undone: set[str] = set()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Desk]:
        yield self

    def books(self, *accepted: str | Envelope) -> Books:
        return Books(accepted, tuple(self.delivered), tuple(self.effects), COMMANDS)

    def effect(self, key: str, *, is_undo: bool = False) -> None:
        if Effect(key, is_undo) not in self.effects and (not is_undo or Effect(key) in self.effects):
            self.effects.append(Effect(key, is_undo))


@participant
async def desk(
    command: ReserveStock | ReleaseStock | ChargeCard | RefundCard | ShipOrder | Pack | Unpack, call: Call[Desk]
) -> StockReserved | CardDeclined | Done:
    books = call.resources
    books.delivered.append(Delivered(call.key, call.undoes, call.attempt, encode(command)))
    name = getattr(command, "order_id", "") or getattr(command, "box", "")
    if name.startswith("slow"):
        await anyio.sleep_forever()
    if isinstance(command, ChargeCard) and name.startswith("refused"):
        return CardDeclined("no")
    books.effect(call.undoes or call.key, is_undo=call.undoes is not None)
    return StockReserved("r1") if isinstance(command, ReserveStock) else Done()


def app(sagas: Sequence[type[Saga]] = (OrderFulfilment, Napping), at: Desk | None = None) -> App[Any]:
    return App("shop", sagas=sagas, participants=[desk], resources=(at or Desk()).open)


class Doctored(MemoryStore):
    """What another store holds, to be falsified."""

    instances: list[Instance]
    histories: dict[Address, list[Entry]]
    outbox: list[Outgoing]
    early: list[Waiting]
    letters: list[DeadLetter]
    counted: Counts | None = None

    async def counts(self, now: float) -> Counts:
        if self.counted is not None:
            return self.counted
        instances: dict[str, dict[str, int]] = {}
        for one in self.instances:
            of_saga = instances.setdefault(one.saga, {})
            of_saga[str(one.status)] = of_saga.get(str(one.status), 0) + 1
        return Counts(instances=instances)

    async def find(self, query: Find) -> Page:
        return Page(tuple(self.instances))

    async def load(self, addresses: Sequence[Address]) -> list[Instance | None]:
        return [next((one for one in self.instances if one.address == address), None) for address in addresses]

    async def history(self, address: Address, after: int = 0, limit: int = 500) -> list[Entry]:
        return [entry for entry in self.histories[address] if entry.version > after]

    async def due(self, now: float, limit: int, after: int = 0) -> list[Due]:
        return [Due(n, row) for n, row in enumerate(self.outbox, 1) if n > after]

    async def waiting(self, after: int = 0, limit: int = 500) -> list[Waiting]:
        return [row for row in self.early if row.id > after]

    async def dead_letters(self, after: int = 0, limit: int = 500) -> list[DeadLetter]:
        return [letter for letter in self.letters if letter.id > after]

    def one(self, address: Address) -> Instance:
        return next(one for one in self.instances if one.address == address)


async def copied(store: Store) -> Doctored:
    copy = Doctored()
    copy.instances = list((await store.find(Find(limit=500))).items)
    copy.histories = {one.address: await store.history(one.address) for one in copy.instances}
    copy.outbox = [due.outgoing for due in await store.due(1e12, 500)]
    copy.early = await store.waiting()
    copy.letters = await store.dead_letters()
    return copy


def run(main: Callable[[], Awaitable[T]]) -> T:
    return anyio.run(main, backend_options={"loop_factory": VirtualLoop})


def ran(
    *events: Event,
    at: Desk | None = None,
    sagas: Sequence[type[Saga]] = (OrderFulfilment, Napping),
    seconds: float = 100,
    then: Callable[[Orchestrator], Awaitable[None]] | None = None,
) -> Doctored:
    """The store after these events, each with its type and number as id."""

    async def main() -> Doctored:
        store = MemoryStore()
        async with Orchestrator(app(sagas, at), store, clock=LoopClock()) as orchestrator:
            for number, event in enumerate(events, 1):
                await orchestrator.emit(event, id=f"m{number}")
            await anyio.sleep(seconds)
            if then is not None:
                await then(orchestrator)
            return await copied(store)

    return run(main)


def audited(store: Store, books: Books | None = None, *, idle: bool = False, sagas: Sequence[type[Saga]] = ()) -> Audit:
    async def main() -> Audit:
        return await audit(app(sagas or (OrderFulfilment, Napping)), store, books, idle=idle)

    return run(main)


def wrong(
    store: Store, books: Books | None = None, *, idle: bool = False, sagas: Sequence[type[Saga]] = ()
) -> list[str]:
    return list(audited(store, books, idle=idle, sagas=sagas).violations)


def key(name: str, order_id: str = "1", run: str = "") -> str:
    return f"OrderFulfilment/{order_id}~{run}/{name}#1"


GOOD = OrderPlaced("1")
REFUSED = OrderPlaced("refused")


# Nothing is wrong.


def test_a_store_at_rest_is_sound() -> None:
    at = Desk()
    store = ran(GOOD, REFUSED, Approved("1"), Approved("early"), at=at)
    statuses = {str(one.address): one.status for one in store.instances}
    assert statuses["OrderFulfilment/1"] is Status.COMPLETED
    assert statuses["OrderFulfilment/refused"] is Status.COMPENSATED
    found = audited(store, at.books("m1", "m2", "m3", "m4"), idle=True)
    assert found.violations == ()
    assert (found.ok, found.instances, found.not_compared) == (True, 4, 0)
    assert found.transitions == sum(len(entries) for entries in store.histories.values())


@pytest.mark.parametrize("example", ["order_fulfilment", "loan_application", "trip_booking"])
def test_what_the_examples_leave_is_sound(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "sagas")
    for variable in ("SHOP_DATA", "LOANS_DATA", "TRIP_DATA"):
        monkeypatch.setenv(variable, str(tmp_path / "ledgers"))
    module = import_module(example)
    envelopes = list(_sample(module))

    async def main() -> Audit:
        async with Engine(module.app, SQLiteStore(tmp_path / "store.db")) as engine:
            for envelope in envelopes:
                await engine.accept(envelope)
            await engine.until_idle()
        async with SQLiteStore.from_url(f"sqlite:///{tmp_path / 'store.db'}", read_only=True) as store:
            return await audit(module.app, store, Books(tuple(envelopes)), idle=True)

    found = anyio.run(main)
    assert found.violations == ()
    assert found.transitions > len(envelopes) > 5


def _sample(module: Any) -> Iterator[Envelope]:
    if module.__name__ == "loan_application":
        with (ROOT / "sagas/sample_loans.jsonl").open() as log:
            yield from (event_line(line.encode(), module.app) for line in module.events(log))
        return
    name, path = {
        "order_fulfilment": ("OrderPlaced", "sample_orders.jsonl"),
        "trip_booking": ("TripRequested", "sample_trips.jsonl"),
    }[module.__name__]
    for number, line in enumerate((ROOT / "sagas" / path).read_text().splitlines()):
        yield Envelope(f"m{number}", Kind.EVENT, name, Raw(line.encode()))
        if name == "TripRequested":
            approved = {"trip_id": msgspec.json.decode(line)["trip_id"], "by": "Ines"}
            yield Envelope(f"a{number}", Kind.EVENT, "TripApproved", Raw(msgspec.json.encode(approved)))


# The store (I1-I5, I8, I9).


def test_a_message_twice_in_one_history() -> None:
    async def again(orchestrator: Orchestrator) -> None:
        await orchestrator.emit(GOOD, id="m2")
        await orchestrator.emit(GOOD, id="m3")

    store = ran(GOOD, sagas=[OrderFulfilment], then=again)
    last = store.histories[order("1")].pop()
    store.histories[order("1")].append(replace(last, message=replace(last.message, id="m2")))
    assert wrong(store) == ["I1 OrderFulfilment/1: message m2 is in its history twice"]


def test_a_message_in_two_places() -> None:
    store = ran(GOOD)
    letter = store.histories[order("1")][0].message
    store.early = [Waiting(1, letter, 0.0, 1e12)]
    assert wrong(store) == ["I1 OrderFulfilment/1: message m1 is in its history and in the waiting room"]


def test_a_message_that_was_accepted_and_is_nowhere() -> None:
    store = ran(GOOD)
    assert wrong(store, Books(("m1", "m2"))) == ["I10 message m2: it was accepted, and is nowhere"]
    store.letters = [DeadLetter(0.0, "no use", raw=b'{"id":"m2"', id=1)]
    assert wrong(store, Books(("m1", "m2"))) == []


def test_a_message_that_one_of_two_has_not_got() -> None:
    store = ran(GOOD, sagas=[OrderFulfilment])
    accepted = Envelope("m1", Kind.EVENT, "OrderPlaced", Raw(encode(GOOD)))
    assert wrong(store, Books(("m1",))) == []
    assert wrong(store, Books((accepted,))) == ["I10 Napping/1: message m1 was accepted, and is nowhere"]
    store.letters = [DeadLetter(0.0, "no use", accepted.to(Address("Napping", "1")), id=1)]
    assert wrong(store, Books((accepted,))) == []


def test_an_instance_that_is_not_what_its_history_leads_to() -> None:
    store = ran(GOOD)
    [place] = [n for n, one in enumerate(store.instances) if one.saga == "OrderFulfilment"]
    store.instances[place].state = Raw(b'{"order_id":"1","total":7,"reservation_id":"r1"}')
    assert wrong(store) == ["I2 OrderFulfilment/1: its history leads to another state.total than is stored"]


def test_a_history_that_goes_another_way_now() -> None:
    store = ran(GOOD)
    entries = store.histories[order("1")]
    entries[2] = replace(entries[2], message=replace(entries[2].message, reply_to="nobody"))
    [found] = wrong(store)
    assert found.startswith("I2 OrderFulfilment/1: its history leads to another status, ")
    assert found.endswith("than is stored, from transition 3 (yes Done) on")


def test_a_reply_that_was_for_another_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes a reply for whatever is awaited folds to what it stored, and is wrong all the same (R4)."""
    find = replies.find

    def whatever_is_awaited(turn: Any, reply_to: str) -> Any:
        return find(turn, reply_to.replace("nobody", "charge"))

    store = ran(GOOD)
    entries = store.histories[order("1")]
    reply = entries[2].message
    entries[2] = replace(entries[2], message=replace(reply, reply_to=reply.reply_to.replace("charge", "nobody")))
    monkeypatch.setattr(replies, "find", whatever_is_awaited)
    assert wrong(store) == ["I4 OrderFulfilment/1: charge#1 counts as done, and nobody answered it"]


def test_a_handler_that_raises_now(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ran(GOOD)

    [step_] = [it for name, it in definition_of(OrderFulfilment).steps.items() if name == "charge"]

    def raises(saga: Any) -> None:
        raise ValueError("not today")

    charge = dataclasses.replace(step_, function=raises)
    steps = definition_of(OrderFulfilment).steps | {"charge": charge}
    angry = dataclasses.replace(definition_of(OrderFulfilment), steps=steps)
    monkeypatch.setattr(OrderFulfilment, "__definition__", angry)
    assert wrong(store) == [
        "I2 OrderFulfilment/1: transition 2 (yes StockReserved) of its history raises: ValueError: not today"
    ]


def test_an_instance_of_no_saga() -> None:
    store = ran(GOOD)
    assert wrong(store, sagas=[OrderFulfilment]) == ["I2 Napping/1: there is no saga Napping in this app"]


def test_a_history_with_a_hole() -> None:
    store = ran(GOOD)
    del store.histories[order("1")][2]
    assert wrong(store) == ["I3 OrderFulfilment/1: its history jumps from 2 to 4"]


def test_a_history_that_ends_too_early() -> None:
    store = ran(GOOD)
    last = store.histories[order("1")].pop()
    expected = f"I3 OrderFulfilment/1: its history ends with {last.version - 1}, and it is at version {last.version}"
    assert wrong(store) == [expected]


def test_a_row_that_was_lost_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    async def main() -> None:
        async with Orchestrator(app(), SQLiteStore(path)) as orchestrator:
            await orchestrator.emit(GOOD, id="m1")
            await orchestrator.until_idle()

    async def look() -> Audit:
        async with SQLiteStore.from_url(f"sqlite:///{path}", read_only=True) as store:
            return await audit(app(), store, Books(("m1",)))

    anyio.run(main)
    assert anyio.run(look).ok
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("DELETE FROM history WHERE message_id LIKE '%reserve%'")
    assert anyio.run(look).violations == ("I3 OrderFulfilment/1: its history jumps from 1 to 3",)


@pytest.mark.parametrize(
    ("order_id", "change", "expected"),
    [
        ("1", lambda one: _visit(one, "ship", state=VisitState.OPEN), "I4 {}: it is completed and ship is still open"),
        (
            "refused",
            lambda one: _call(one, "reserve", unwinding=Undo.ASKED),
            "I5 {}: it is compensated and the undo of reserve is not answered",
        ),
        (
            "refused",
            lambda one: _visit(one, "reserve", timeout_at=1.0),
            "I8 {}: it is compensated and still has a timer or a kept event",
        ),
        (
            "1",
            lambda one: _status(one, Status.RUNNING),
            "I9 {}: nothing will ever move it: it stands in no step",
        ),
    ],
)
def test_an_instance_that_may_not_be_so(order_id: str, change: Callable[[Instance], None], expected: str) -> None:
    store = ran(GOOD, REFUSED)
    change(store.one(order(order_id)))
    another, broken_rule = wrong(store)
    assert another.startswith(f"I2 {order(order_id)}: its history leads to another ")
    assert broken_rule == expected.format(order(order_id))


def _visit(instance: Instance, name: str, **fields: Any) -> None:
    for visit in instance.visits:
        for field, value in fields.items() if visit.step == name else ():
            setattr(visit, field, value)


def _call(instance: Instance, name: str, **fields: Any) -> None:
    for visit in instance.visits:
        for field, value in fields.items() if visit.step == name else ():
            setattr(visit.calls[0], field, value)


def _status(instance: Instance, status: Status) -> None:
    instance.status, instance.ended_at = status, None


def test_undos_in_the_wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_unwinding, "_ready", _all_at_once)
    store = ran(ParcelWanted("1"), sagas=[Chain])
    assert wrong(store, sagas=[Chain]) == ["I5 Chain/1: first is undone before what came after it"]


def _all_at_once(turn: Any) -> list[Any]:
    return [v for v in turn.instance.visits if any(call.unwinding is Undo.WANTED for call in v.calls)]


def test_an_undo_that_is_sent_after_the_pivot() -> None:
    store = ran(GOOD)
    before = store.one(order("1"))
    after = msgspec.json.decode(msgspec.json.encode(before), type=Instance)
    _call(after, "reserve", unwinding=Undo.ASKED)
    said = list(broken(definition_of(OrderFulfilment), before, Transition(at=0.0, instance=after)))
    assert ("I6", "reserve is undone after its pivot") in said


# What ended, and what is idle (I8, I9).


def test_a_command_of_an_ended_instance() -> None:
    store = ran(GOOD)
    name = store.one(order("1")).command_id(store.one(order("1")).visits[0], store.one(order("1")).visits[0].calls[0])
    letter = Envelope(name, Kind.COMMAND, "ReserveStock", saga="OrderFulfilment", key="1")
    store.outbox = [Outgoing(name, Route.COMMAND, letter, sender=order("1"))]
    assert wrong(store) == [f"I8 OrderFulfilment/1: it is completed, and {name} is still to be sent"]
    assert wrong(store, idle=True)[1:] == [f"I9 OrderFulfilment/1: {name} is still in the outbox"]


def test_a_child_that_is_waited_for_in_vain() -> None:
    store = ran(ParcelWanted("slow"), sagas=[Parcel, Box])
    [box] = [one for one in store.instances if one.saga == "Box"]
    assert wrong(store, sagas=[Parcel, Box]) == []
    store.instances.remove(box)
    assert wrong(store, sagas=[Parcel, Box]) == [
        f"I9 Parcel/slow: make waits for {box.address}, which is neither open nor about to answer"
    ]
    store.instances.append(box)
    [name] = [row.name for row in store.outbox]
    assert wrong(store, sagas=[Parcel, Box], idle=True) == [
        f"I9 {box.address}: {name} is still in the outbox",
        f"I9 {box.address}: it still waits for an answer or a retry of pack",
    ]


def test_an_early_message_that_was_never_delivered() -> None:
    store = ran(GOOD)
    early = Envelope("m9", Kind.EVENT, "Approved", saga="Napping", key="1", via="order_id")
    store.early = [Waiting(1, early, 0.0, 1e12), Waiting(2, replace(early, key="2"), 0.0, 1e12)]
    assert wrong(store) == []
    assert wrong(store, idle=True) == ["I9 Napping/1: message m9 is still in the waiting room"]


# The books (I4-I7).


def _of(books: Books, name: str) -> str:
    return next(each.key for each in books.delivered if each.key.endswith(f"/{name}#1"))


def with_books(*events: Event, **options: Any) -> tuple[Doctored, Books]:
    at = Desk()
    store = ran(*events, at=at, **options)
    assert wrong(store, at.books()) == []
    return store, at.books()


@pytest.mark.parametrize(
    ("order_id", "effects", "expected"),
    [
        ("1", ["reserve", "charge", "ship", "ship"], ["I7 {}: ship#1 took effect twice"]),
        ("1", ["reserve", "charge"], ["I7 {}: ship#1 was answered yes, and never took effect"]),
        (
            "1",
            ["-reserve", "reserve", "charge", "ship"],
            ["I7 {}: reserve#1 was undone, and had not taken effect", "I7 {}: reserve#1 took effect after its undo"],
        ),
        ("1", ["reserve", "charge", "-reserve", "ship"], ["I6 {}: reserve#1 was undone after the pivot"]),
        ("refused", ["reserve"], ["I5 {}: reserve#1/undo was answered yes, and its effect remains"]),
        ("refused", ["reserve", "-reserve", "-reserve"], ["I7 {}: reserve#1 was undone twice"]),
        (
            "refused",
            ["reserve", "-reserve", "reserve"],
            [
                "I7 {}: reserve#1 took effect after its undo",
                "I5 {}: reserve#1/undo was answered yes, and its effect remains",
            ],
        ),
        (
            "refused",
            ["reserve", "-reserve", "charge"],
            ["I5 {}: charge#1 took effect, which remains, and it is compensated"],
        ),
    ],
)
def test_effects_that_may_not_be_so(order_id: str, effects: list[str], expected: list[str]) -> None:
    store, books = with_books(OrderPlaced(order_id), sagas=[OrderFulfilment])
    of = {name: _of(books, name) for name in ("reserve", "charge")}
    of["ship"] = of["charge"].replace("charge", "ship")
    changed = tuple(Effect(of[name.removeprefix("-")], name.startswith("-")) for name in effects)
    assert wrong(store, replace(books, effects=changed)) == [it.format(order(order_id)) for it in expected]


def test_an_effect_of_a_step_that_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    store, books = with_books(GOOD, sagas=[OrderFulfilment])
    steps = definition_of(OrderFulfilment).steps
    monkeypatch.setitem(steps, "ship", dataclasses.replace(steps["ship"], past_pivot=False))
    _call(store.one(order("1")), "ship", do=Do.CLEAN)
    expected = "ship#1 took effect, which remains though the step was left, and it is completed"
    assert wrong(store, books)[1:] == [f"I4 OrderFulfilment/1: {expected}"]


def test_what_nobody_tells_of_is_not_judged() -> None:
    store, books = with_books(REFUSED, sagas=[OrderFulfilment])
    reserve = Effect(_of(books, "reserve"))
    assert wrong(store, Books(effects=(reserve,))) == []  # of no undo there is a word
    assert wrong(store, Books(effects=(reserve,), complete=("ReleaseStock",))) == [
        "I7 OrderFulfilment/refused: reserve#1/undo was answered, and never delivered",
        "I5 OrderFulfilment/refused: reserve#1/undo was answered yes, and its effect remains",
    ]


def test_an_operator_may_leave_an_effect_standing() -> None:
    async def skip(orchestrator: Orchestrator) -> None:
        await orchestrator.get(Box, "slow").cancel("not wanted")
        await orchestrator.get(Box, "slow").skip("pack", "never mind")

    store = ran(BoxWanted("slow"), sagas=[Box], then=skip)
    [box] = store.instances
    assert box.status is Status.COMPENSATED
    books = Books(effects=(Effect(box.command_id(box.visits[0], box.visits[0].calls[0])),), complete=("Unpack",))
    assert wrong(store, books, sagas=[Box]) == []
    _call(box, "pack", unwinding=Undo.NOTHING, do=Do.CLEAN)
    assert wrong(store, books, sagas=[Box])[1:] == [
        "I5 Box/slow: pack#1 took effect, which remains, and it is compensated"
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda it: [*it, replace(it[0], attempt=2, data=b"{}")], "I7 {}: reserve#1 was delivered with different data"),
        (
            lambda it: [*it, replace(it[0], attempt=2, undoes="x")],
            "I7 {}: reserve#1 was delivered as an undo of different commands",
        ),
        (lambda it: [replace(it[0], undoes="x"), *it[1:]], "I7 {}: reserve#1 was delivered as an undo of x"),
        (lambda it: it[1:], "I7 {}: reserve#1 was answered, and never delivered"),
        (
            lambda it: [*it, Delivered(it[0].key + "/undo", it[0].key, 1, b"{}")],
            "I6 {}: reserve#1/undo was delivered, and was never asked for",
        ),
        (
            lambda it: [*it, replace(it[0], key=it[0].key.replace("reserve", "resell"))],
            "I7 {}: OrderFulfilment/1~RUN/resell#1 reached a participant, and no history asks for it",
        ),
    ],
)
def test_deliveries_that_may_not_be_so(change: Callable[[list[Delivered]], list[Delivered]], expected: str) -> None:
    store, books = with_books(GOOD, sagas=[OrderFulfilment])
    found = wrong(store, replace(books, delivered=tuple(change(list(books.delivered)))))
    assert found == [expected.format(order("1")).replace("RUN", store.one(order("1")).run)]


def test_a_delivery_of_what_was_never_sent() -> None:
    store, books = with_books(OrderPlaced("slow"), sagas=[OrderFulfilment], seconds=1)
    _call(store.one(order("slow")), "reserve", do=Do.WAITING)
    assert wrong(store, books)[1:] == ["I7 OrderFulfilment/slow: reserve#1 was delivered, and was never sent"]


# Older versions (R18).


@pytest.mark.parametrize("stored", [1, 2])
def test_what_other_code_made_is_not_compared(stored: int) -> None:
    store = ran(GOOD, sagas=[Napping])
    napping = store.one(Address("Napping", "1"))
    napping.definition_version, napping.state = stored, Raw(b'{"order_id":"1","approved":true}')
    newer = app([Napping])
    newer.sagas["Napping"] = dataclasses.replace(definition_of(Napping), version=2)

    async def main() -> Audit:
        return await audit(newer, store)

    found = run(main)
    assert (found.violations, found.not_compared) == ((), 1)


def test_a_count_that_is_not_what_there_is() -> None:
    store = ran(OrderPlaced("1"))
    store.counted = Counts(instances={"OrderFulfilment": {"completed": 2}})
    wrong = run(lambda: audit(app(), store)).violations
    assert "I1 OrderFulfilment: 2 are counted as completed, and there are 1" in wrong
    assert len(wrong) == 2  # the other saga, which the same event begins, is not counted at all
