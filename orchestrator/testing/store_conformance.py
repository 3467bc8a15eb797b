"""What every store must do, as tests: the docstrings of its port, sentence by sentence.

A third party's adapter inherits the suite and fills one hole:

    class TestMyStore(StoreConformance):
        def open_store(self, place: Path) -> AbstractAsyncContextManager[Store]:
            return MyStore(place / "x.db")

Needs pytest and anyio's pytest plugin, which anyio brings along.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import Raw, structs

from ..errors import BadMessage, DuplicateMessage, VersionConflict
from ..machine.instance import Call, CallKind, Do, Instance, Payload, Status, Visit, VisitState
from ..machine.transition import Outcome, Record, Transition
from ..ports import MAX_PAGE, Committed, Find, Result, Standing, Store, Waiting
from ..wire import Address, DeadLetter, Envelope, Kind, Outgoing, Route

PATIENCE_S = 10.0
NOW = 1_700_000_000.0

ODD_KEYS = ("", " ", "a/b~c#1", "~", "=", "%2F", "naïve 键 🔑", "x" * 10_000, "' OR 1=1 --", "a\nb\tc\x1b[31m")


def made(key: str = "1", saga: str = "Order", run: str = "r1", **fields: Any) -> Instance:
    """An instance at version 1 that started now."""
    instance = Instance(saga=saga, key=key, run=run, version=1, started_at=NOW, updated_at=NOW)
    return structs.replace(instance, **fields)


def after(instance: Instance, **fields: Any) -> Instance:
    """The same, one version on."""
    return structs.replace(instance, **{"version": instance.version + 1, **fields})


def ended(instance: Instance, at: float = NOW) -> Instance:
    """The same, one version on and completed."""
    return after(instance, status=Status.COMPLETED, ended_at=at)


def event(id: str, saga: str = "Order", key: str = "1", data: bytes = b'{"n":1}') -> Envelope:
    """A message for an instance."""
    return Envelope(id, Kind.EVENT, "Happened", Raw(data), time=NOW, saga=saga, key=key)


def moved(instance: Instance, message: str | Envelope = "", **fields: Any) -> Transition:
    """The transition that stores this instance; its message's id is of the run and version unless given."""
    if isinstance(message, str):
        message = event(message or f"{instance.run}:{instance.version}", instance.saga, instance.key)
    return structs.replace(Transition(at=NOW, instance=instance, message=message), **fields)


def going(name: str, due_at: float | None = None) -> Outgoing:
    """A row for the outbox."""
    return Outgoing(name, Route.COMMAND, event(name), due_at=due_at, deadline=NOW + 60, sender=Address("Order", "1"))


def put(*rows: Outgoing, remove: tuple[str, ...] = ()) -> Transition:
    """A transition without an instance that changes the outbox."""
    return Transition(at=NOW, put=rows, remove=remove)


def early(id: str, key: str = "1", until: float = NOW + 100, saga: str = "Order") -> Transition:
    """A transition that puts a message into the waiting room."""
    return Transition(at=NOW, message=event(id, saga, key), outcome=Outcome.WAITING, wait_until=until)


def dead(reason: str) -> Transition:
    """A transition that only buries something."""
    return Transition(at=NOW, dead=(DeadLetter(NOW, reason, event("e"), raw=b"\xff\x00", listener="l", error="e"),))


async def stored(store: Store, *transitions: Transition) -> list[Result]:
    """Commit what must succeed."""
    results = await store.commit(transitions)
    assert [type(result) for result in results] == [Committed] * len(transitions), results
    return results


async def names(store: Store, now: float = NOW, limit: int = 100, after: int = 0) -> list[str]:
    """The outbox rows that may go."""
    return [row.outgoing.name for row in await store.due(now, limit, after)]


def keys(instances: Sequence[Instance]) -> list[str]:
    """For comparing pages."""
    return [instance.key for instance in instances]


def first_waiting(result: Result) -> tuple[Waiting, ...]:
    """What waited for a new instance."""
    assert isinstance(result, Committed)
    return result.waiting


@pytest.mark.anyio
class StoreConformance:
    """Inherit, and say how a store is opened. Set `keeps` to False if what is stored does not outlive the object."""

    keeps = True

    def open_store(self, place: Path) -> AbstractAsyncContextManager[Store]:
        """A store of which everything lies in this empty folder; asked for the same folder again, the same store."""
        raise NotImplementedError

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The event loop that the suite runs on."""
        return "asyncio"

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncGenerator[Store]:
        """An empty, open store."""
        async with self.open_store(tmp_path) as store:
            yield store

    # --- commit: one transition ---

    async def test_no_transitions_no_results(self, store: Store) -> None:
        assert await store.commit([]) == []

    async def test_a_new_instance_is_loaded_as_it_was_stored(self, store: Store) -> None:
        call = Call(kind=CallKind.COMMAND, command=Payload("Reserve", Raw(b'{"n":1}')), do=Do.ASKED, attempt=1)
        instance = made(
            state=Raw(b'{"order_id":"1","total":"12.50","note":"\\u00e9"}'),
            visits=[Visit(serial=1, step="reserve", number=1, entered_at=NOW, calls=[call])],
            numbers={"reserve": 1},
            kept=[event("k")],
            answer_to=Address("Parent", "p"),
            deadline_at=NOW + 5,
        )
        assert await store.commit([moved(instance)]) == [Committed()]
        assert await store.load([instance.address]) == [instance]

    async def test_what_the_caller_does_to_its_instance_later_is_not_stored(self, store: Store) -> None:
        instance = made(numbers={"a": 1})
        await stored(store, moved(instance))
        instance.numbers["b"] = 1
        (loaded,) = await store.load([instance.address])
        assert loaded is not None and loaded.numbers == {"a": 1}
        loaded.numbers["c"] = 1
        (again,) = await store.load([instance.address])
        assert again is not None and again.numbers == {"a": 1}

    async def test_the_next_version_takes_the_place_of_the_last(self, store: Store) -> None:
        first = made()
        second = after(first, state=Raw(b'{"x":2}'), updated_at=NOW + 1)
        await stored(store, moved(first))
        await stored(store, moved(second))
        assert await store.load([first.address]) == [second]

    async def test_a_transition_is_stored_whole(self, store: Store) -> None:
        await stored(store, put(going("old")), early("w"), dead("first"))
        (waiting,) = await store.waiting()
        (letter,) = await store.dead_letters()
        await stored(
            store,
            moved(
                made(deadline_at=NOW + 9),
                notes=("one", "two: 2"),
                outcome=Outcome.APPLIED,
                put=(going("new"),),
                remove=("old",),
                dead=(DeadLetter(NOW, "second"),),
                dead_remove=(letter.id,),
                waiting_remove=(waiting.id,),
                seen=(("listener", "m1"),),
            ),
        )
        (entry,) = await store.history(Address("Order", "1"))
        assert (entry.version, entry.at, entry.outcome, entry.notes) == (1, NOW, Outcome.APPLIED, ("one", "two: 2"))
        assert entry.message == event("r1:1")
        assert await names(store) == ["new"]
        assert [each.reason for each in await store.dead_letters()] == ["second"]
        assert await store.waiting() == []
        assert await store.next_wake() == NOW + 9
        again = await store.commit([Transition(at=NOW, put=(going("x"),), seen=(("listener", "m1"),))])
        assert isinstance(again[0], DuplicateMessage)

    async def test_one_that_fails_leaves_nothing_of_itself(self, store: Store) -> None:
        await stored(store, moved(made()), put(going("old")), early("w", "2"), dead("first"))
        (waiting,) = await store.waiting()
        (letter,) = await store.dead_letters()
        rest: dict[str, Any] = {
            "put": (going("new"),),
            "remove": ("old",),
            "dead": (DeadLetter(NOW, "second"),),
            "dead_remove": (letter.id,),
            "waiting_remove": (waiting.id,),
            "seen": (("listener", "m1"),),
        }
        results = await store.commit([moved(after(made(), version=3), **rest), moved(after(made()), "r1:1", **rest)])
        assert [type(result) for result in results] == [VersionConflict, DuplicateMessage]
        assert await store.load([made().address]) == [made()]
        assert len(await store.history(made().address)) == 1
        assert await names(store) == ["old"]
        assert await store.dead_letters() == [letter]
        assert await store.waiting() == [waiting]
        await stored(store, Transition(at=NOW, seen=(("listener", "m1"),)))

    async def test_a_transition_without_an_instance_touches_none(self, store: Store) -> None:
        await stored(store, moved(made()), put(going("a")))
        assert await store.load([made().address]) == [made()]
        assert len(await store.history(made().address)) == 1

    # --- commit: versions and duplicates ---

    @pytest.mark.parametrize("version", [0, 1, 2, 4, 5])
    async def test_any_version_but_the_next_is_a_conflict(self, store: Store, version: int) -> None:
        second = after(made())
        await stored(store, moved(made()), moved(second))
        (result,) = await store.commit([moved(structs.replace(second, version=version), message="new")])
        assert isinstance(result, VersionConflict)
        assert await store.load([second.address]) == [second]

    @pytest.mark.parametrize("version", [0, 2, 3])
    async def test_an_instance_begins_at_version_1(self, store: Store, version: int) -> None:
        (result,) = await store.commit([moved(made(version=version))])
        assert isinstance(result, VersionConflict)
        assert await store.load([made().address]) == [None]
        assert await store.history(made().address) == []

    async def test_a_message_id_counts_once_in_a_run(self, store: Store) -> None:
        second = after(made())
        await stored(store, moved(made(), "a"), moved(second, "b"))
        for version in (2, 3, 4):  # whoever decided on an old state with an old message has a duplicate, not a conflict
            for id in ("a", "b"):
                (result,) = await store.commit([moved(structs.replace(second, version=version), id)])
                assert isinstance(result, DuplicateMessage), (version, id)
        assert await store.load([second.address]) == [second]
        assert [entry.message.id for entry in await store.history(second.address)] == ["a", "b"]

    async def test_a_start_that_comes_twice_is_a_duplicate(self, store: Store) -> None:
        await stored(store, moved(made(), "start"))
        assert isinstance((await store.commit([moved(made(), "start")]))[0], DuplicateMessage)
        await stored(store, moved(ended(made()), "end"))
        assert isinstance((await store.commit([moved(made(), "start")]))[0], DuplicateMessage)

    async def test_the_same_message_counts_for_each_instance(self, store: Store) -> None:
        await stored(store, moved(made("1"), "m"), moved(made("2"), "m"), moved(made("1", saga="Other"), "m"))

    async def test_ids_differ_by_every_character(self, store: Store) -> None:
        instance = made("a/b", run="k3")
        own = "Order/a%2Fb~k3/"
        ids = [
            "m",
            "M",
            "m ",
            "=m",
            "~m",
            "==m",
            own,
            own + "charge#1",
            "~charge#1",
            "=" + own,
            own + own,
            "é",
            "e\u0301",
        ]
        for id in ids:
            await stored(store, moved(instance, id))
            instance = after(instance)
        assert [entry.message.id for entry in await store.history(instance.address)] == ids

    async def test_a_new_run_over_an_open_one_is_a_conflict(self, store: Store) -> None:
        await stored(store, moved(made()))
        for instance in (made(run="r2"), made(run="r2", version=2)):
            (result,) = await store.commit([moved(instance)])
            assert isinstance(result, VersionConflict)
        assert await store.load([made().address]) == [made()]

    @pytest.mark.parametrize("status", [Status.COMPLETED, Status.COMPENSATED, Status.KILLED])
    async def test_a_new_run_replaces_an_ended_one_and_its_history(self, store: Store, status: Status) -> None:
        await stored(store, moved(made(), "a", put=(going("still leaving"),)))
        await stored(store, moved(after(made(), status=status, ended_at=NOW), "b"))
        new = made(run="r2", state=Raw(b'{"new":1}'))
        await stored(store, moved(new, "a"))  # known to the old run only
        assert await store.load([new.address]) == [new]
        assert [(entry.version, entry.message.id) for entry in await store.history(new.address)] == [(1, "a")]
        assert await names(store) == ["still leaving"]
        assert (await store.counts(NOW)).instances == {"Order": {"running": 1}}

    async def test_the_old_run_cannot_go_on_beside_the_new(self, store: Store) -> None:
        old = ended(made())
        await stored(store, moved(made()), moved(old), moved(made(run="r2")))
        (result,) = await store.commit([moved(after(old))])
        assert isinstance(result, VersionConflict)

    async def test_an_ended_run_may_note_what_came_late(self, store: Store) -> None:
        old = ended(made())
        await stored(store, moved(made()), moved(old), moved(after(old), outcome=Outcome.LATE))
        assert [entry.outcome for entry in await store.history(old.address)][-1] is Outcome.LATE

    async def test_a_record_takes_the_place_of_the_one_before_it(self, store: Store) -> None:
        assert await store.records([]) == []
        assert await store.records(["a/b", ""]) == [None, None]
        first = Transition(at=NOW, records=(Record("a/b", b"1"), Record("", b"{}"), Record(ODD_KEYS[6], b"odd")))
        again = Transition(at=NOW, records=(Record("a/b", b"2"), Record("a/b", b"3")))
        await stored(store, first, again)
        assert await store.records(["a/b", "", "a", ODD_KEYS[6], "a/b"]) == [b"3", b"{}", None, b"odd", b"3"]

    async def test_a_transition_that_is_not_stored_keeps_no_record(self, store: Store) -> None:
        await stored(store, Transition(at=NOW, seen=(("mailer", "e1"),), records=(Record("k", b"1"),)))
        [result] = await store.commit([Transition(at=NOW, seen=(("mailer", "e1"),), records=(Record("k", b"2"),))])
        assert isinstance(result, DuplicateMessage)
        assert await store.records(["k"]) == [b"1"]

    async def test_old_records_are_pruned(self, store: Store) -> None:
        old = [Transition(at=NOW, records=(Record(f"old {n}", b"1"),)) for n in range(3)]
        await stored(store, *old, Transition(at=NOW + 10, records=(Record("old 1", b"2"), Record("new", b"1"))))
        await store.prune(NOW + 20, NOW + 5)
        assert await store.records(["old 0", "old 1", "old 2", "new"]) == [None, b"2", None, b"1"]

    async def test_a_pair_seen_makes_the_whole_transition_a_duplicate(self, store: Store) -> None:
        await stored(store, Transition(at=NOW, seen=(("mailer", "e1"),), put=(going("a"),)))
        results = await store.commit(
            [
                Transition(at=NOW, seen=(("mailer", "e2"), ("mailer", "e1")), put=(going("b"),)),
                moved(made(), seen=(("mailer", "e1"),)),
            ]
        )
        assert [type(result) for result in results] == [DuplicateMessage, DuplicateMessage]
        assert await names(store) == ["a"]
        assert await store.load([made().address]) == [None]
        await stored(store, Transition(at=NOW, seen=(("other", "e1"),)), Transition(at=NOW, seen=(("mailer", "e2"),)))

    async def test_a_pair_named_twice_in_one_transition_is_one(self, store: Store) -> None:
        await stored(store, Transition(at=NOW, seen=(("mailer", "e1"), ("mailer", "e1"))))

    # --- commit: several transitions ---

    async def test_results_stand_in_the_order_of_the_transitions(self, store: Store) -> None:
        await stored(store, moved(made("b"), "m"))
        results = await store.commit(
            [
                moved(made("a")),
                moved(after(made("b"), version=9), "n"),
                put(going("x")),
                moved(after(made("b")), "m"),
                moved(made("c")),
            ]
        )
        assert [type(result) for result in results] == [
            Committed,
            VersionConflict,
            Committed,
            DuplicateMessage,
            Committed,
        ]

    async def test_a_failure_leaves_its_neighbours_alone(self, store: Store) -> None:
        await stored(store, moved(made("b")))
        await store.commit(
            [
                moved(made("a"), put=(going("a"),)),
                moved(made("b"), "again", put=(going("b"),)),
                moved(made("c"), put=(going("c"),)),
            ]
        )
        assert await names(store) == ["a", "c"]
        found = await store.load([Address("Order", key) for key in "abc"])
        assert [instance is not None and instance.version for instance in found] == [1, 1, 1]

    async def test_each_transition_sees_those_before_it(self, store: Store) -> None:
        first, second = made(), after(made())
        third = ended(second)
        results = await store.commit(
            [
                moved(first, "a"),
                moved(second, "b"),
                moved(second, "c"),  # too late: a conflict
                moved(third, "b"),  # known: a duplicate
                moved(third, "d"),
                moved(made(run="r2"), "e"),
                Transition(at=NOW, seen=(("l", "m"),)),
                Transition(at=NOW, seen=(("l", "m"),)),
                early("w", "2"),
                early("w", "2"),
                moved(made("2")),
            ]
        )
        kinds = [type(result).__name__[0] for result in results]
        assert "".join(kinds) == "CC" + "VD" + "CC" + "CD" + "CD" + "C"
        assert [row.envelope.id for row in first_waiting(results[-1])] == ["w"]
        assert [entry.message.id for entry in await store.history(first.address)] == ["e"]
        (loaded,) = await store.load([first.address])
        assert loaded is not None and loaded.run == "r2"

    async def test_one_instance_may_move_many_times_in_one_commit(self, store: Store) -> None:
        first = made()
        second, third = after(first), after(after(first), why="third")
        last = ended(third)
        await stored(store, moved(first, "a", put=(going("x"), going("y"))), moved(made("2"), "a"))
        results = await store.commit(
            [
                moved(second, "b", remove=("x",)),
                moved(after(made("2")), "b"),
                moved(third, "c", put=(going("z"),)),
                moved(last, "d", remove=("y", "z"), put=(going("end"),)),
                moved(after(last), "c"),  # known: a duplicate
            ]
        )
        assert "".join(type(result).__name__[0] for result in results) == "CCCCD"
        assert await store.load([first.address]) == [last]
        history = await store.history(first.address)
        assert [(entry.version, entry.message.id) for entry in history] == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]
        assert await names(store) == ["end"]
        counts = await store.counts(NOW)
        assert counts.instances == {"Order": {"completed": 1, "running": 1}}

    async def test_a_new_run_may_follow_the_end_of_another_in_one_commit(self, store: Store) -> None:
        first, again = made(), made(run="r2")
        second = after(first)
        last = ended(second)
        await stored(store, moved(first, "a", put=(going("x"),)))
        await stored(store, moved(second, "b", put=(going("x"),)), moved(last, "c", remove=("x",)), moved(again, "d"))
        assert await store.load([first.address]) == [again]
        assert [entry.message.id for entry in await store.history(first.address)] == ["d"]
        assert (await store.counts(NOW)).instances == {"Order": {"running": 1}}
        assert await names(store) == []

    async def test_what_was_built_on_a_refused_one_is_refused(self, store: Store) -> None:
        first = made()
        other, stale = after(first, why="somebody else's"), after(first, why="mine")
        await stored(store, moved(first, "a"), moved(other, "b"))
        third = after(stale)
        results = await store.commit([moved(stale, "b"), moved(third, "c"), moved(after(third), "d")])
        assert "".join(type(result).__name__[0] for result in results) == "DVV"
        assert await store.load([first.address]) == [other]
        await stored(store, moved(after(other), "c"))

    async def test_of_many_moves_in_one_commit_those_before_a_refused_one_are_stored(self, store: Store) -> None:
        first = made()
        second = after(first, why="second")
        await stored(store, moved(first, "a"))
        results = await store.commit([moved(second, "b"), moved(after(second, why="third"), "a")])
        assert "".join(type(result).__name__[0] for result in results) == "CD"
        assert await store.load([first.address]) == [second]
        assert [found.why for found in (await store.find(Find())).items] == ["second"]

    async def test_many_at_once(self, store: Store) -> None:
        count = 300
        await stored(store, *(moved(made(str(n)), put=(going(f"out {n}"),)) for n in range(count)))
        await stored(store, *(moved(after(made(str(n))), remove=(f"out {n}",)) for n in range(count)))
        found = await store.load([Address("Order", str(n)) for n in range(count)])
        assert [instance and instance.version for instance in found] == [2] * count
        assert await names(store) == []

    async def test_of_two_tasks_with_the_same_version_one_wins(self, store: Store) -> None:
        await stored(store, moved(made()))
        results: list[Result] = []

        async def race(name: str) -> None:
            results.extend(await store.commit([moved(after(made(), why=name), name, put=(going(name),))]))

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(race, f"task {number}")
        assert sorted(type(result).__name__ for result in results) == ["Committed"] + ["VersionConflict"] * 4
        (winner,) = await store.load([made().address])
        assert winner is not None and await names(store) == [winner.why]

    async def test_a_cancelled_commit_is_whole_or_nothing(self, store: Store) -> None:
        for number in range(10):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    group = [moved(made(f"{number} {n}"), put=(going(f"{number} {n}"),)) for n in range(20)]
                    tasks.start_soon(store.commit, group)
                    for _ in range(number):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            found = await store.load([Address("Order", f"{number} {n}") for n in range(20)])
            out = [name for name in await names(store, limit=MAX_PAGE) if name.startswith(f"{number} ")]
            assert (found.count(None), len(out)) in ((20, 0), (0, 20))
        await stored(store, moved(made("afterwards")))

    async def test_odd_keys(self, store: Store) -> None:
        addresses = [Address(saga, key) for key in ODD_KEYS for saga in ("Order", "Bestellung/ß")]
        for address in addresses:
            await stored(store, early("waits", address.key, saga=address.saga))
            instance = made(address.key, address.saga)
            (result,) = await stored(store, moved(instance))
            assert len(first_waiting(result)) == 1
            await stored(store, moved(after(instance, deadline_at=NOW), put=(going(f"{address}/charge#1"),)))
            assert len(await store.history(address)) == 2
            found = await store.find(Find(saga=address.saga, key=address.key))
            assert address in [instance.address for instance in found.items]
        loaded = await store.load(addresses)
        assert [instance and instance.address for instance in loaded] == addresses
        assert sorted(await store.wakes(NOW, 100)) == sorted(addresses)

    # --- load ---

    async def test_load_keeps_the_order_asked(self, store: Store) -> None:
        await stored(store, *(moved(made(key)) for key in "abc"))
        found = await store.load([Address("Order", key) for key in "cxaab"])
        assert [instance and instance.key for instance in found] == ["c", None, "a", "a", "b"]
        assert await store.load([]) == []
        assert await store.load([Address("order", "a")]) == [None]

    # --- outbox ---

    async def test_due_rows_come_by_position(self, store: Store) -> None:
        await stored(store, put(going("a"), going("later", NOW + 1), going("b", NOW)), put(going("c", NOW - 5)))
        rows = await store.due(NOW, 10)
        assert [row.outgoing for row in rows] == [going("a"), going("b", NOW), going("c", NOW - 5)]
        assert [row.position for row in rows] == sorted({row.position for row in rows})
        assert await names(store, NOW + 1) == ["a", "later", "b", "c"]
        assert await names(store, limit=2) == ["a", "b"]
        assert await names(store, after=rows[0].position) == ["b", "c"]
        assert await names(store, after=rows[1].position) == ["c"]
        assert await names(store, after=rows[2].position) == []

    async def test_a_row_of_the_same_name_replaces_the_other(self, store: Store) -> None:
        await stored(store, put(going("a"), going("b")))
        last = (await store.due(NOW, 10))[-1].position
        await stored(store, put(going("a", NOW + 5)))
        assert await names(store) == ["b"]
        rows = await store.due(NOW + 5, 10)
        assert [row.outgoing for row in rows] == [going("b"), going("a", NOW + 5)]
        assert rows[-1].position > last
        assert (await store.counts(NOW)).outbox == 2

    async def test_positions_grow_also_when_the_last_row_is_gone(self, store: Store) -> None:
        await stored(store, put(going("a"), going("b")))
        last = (await store.due(NOW, 10))[-1].position
        await stored(store, put(remove=("b",)), put(going("c")))
        assert (await store.due(NOW, 10))[-1].position > last

    async def test_remove_takes_rows_out_before_others_are_put(self, store: Store) -> None:
        await stored(store, put(going("a"), going("b")))
        await stored(store, put(going("b", NOW - 1), remove=("a", "b", "never there")))
        assert [row.outgoing for row in await store.due(NOW, 10)] == [going("b", NOW - 1)]

    async def test_next_due(self, store: Store) -> None:
        assert await store.next_due() is None
        await stored(store, put(going("at once")))
        assert await store.next_due() is None
        await stored(store, put(going("a", NOW + 9), going("b", NOW + 3)))
        assert await store.next_due() == NOW + 3
        await stored(store, put(remove=("b",)))
        assert await store.next_due() == NOW + 9

    # --- timers ---

    async def test_the_longest_overdue_wakes_first(self, store: Store) -> None:
        assert await store.next_wake() is None
        for key, moment in (("c", NOW), ("a", NOW - 9), ("b", NOW - 3), ("d", NOW + 1), ("none", None)):
            await stored(store, moved(made(key, deadline_at=moment)))
        assert [address.key for address in await store.wakes(NOW, 10)] == ["a", "b", "c"]
        assert [address.key for address in await store.wakes(NOW, 2)] == ["a", "b"]
        assert await store.wakes(NOW - 10, 10) == []
        assert await store.next_wake() == NOW - 9

    async def test_a_timer_is_the_one_last_committed(self, store: Store) -> None:
        instance = made(deadline_at=NOW)
        await stored(store, moved(instance))
        later = after(instance, deadline_at=NOW + 5)
        await stored(store, moved(later))
        assert await store.wakes(NOW, 10) == []
        assert await store.next_wake() == NOW + 5
        await stored(store, moved(ended(later)))
        assert await store.next_wake() is None
        assert await store.wakes(NOW + 99, 10) == []

    # --- the waiting room ---

    async def test_who_waits_is_handed_to_the_new_instance_oldest_first(self, store: Store) -> None:
        await stored(store, early("b"), early("other", "2"), early("a", until=NOW + 7))
        rows = await store.waiting()
        assert [(row.envelope, row.since, row.until) for row in rows] == [
            (event("b"), NOW, NOW + 100),
            (event("other", key="2"), NOW, NOW + 100),
            (event("a"), NOW, NOW + 7),
        ]
        (result,) = await stored(store, moved(made(), "start"))
        assert first_waiting(result) == (rows[0], rows[2])
        assert await store.waiting() == rows  # until the transition that handles them
        second = after(made())
        (result,) = await stored(store, moved(second, "b", waiting_remove=(rows[0].id,)))
        assert first_waiting(result) == ()
        assert await store.waiting() == rows[1:]

    async def test_who_waits_is_handed_to_a_new_run_too(self, store: Store) -> None:
        await stored(store, moved(made()), moved(ended(made())), early("w"))
        (result,) = await stored(store, moved(made(run="r2")))
        assert [row.envelope.id for row in first_waiting(result)] == ["w"]

    async def test_the_same_message_waits_once(self, store: Store) -> None:
        await stored(store, early("w"), early("w", "2"), early("w", saga="Other"))
        (result,) = await store.commit([early("w")])
        assert isinstance(result, DuplicateMessage)
        assert len(await store.waiting()) == 3

    async def test_waiting_for_finds_those_whose_instance_is_open(self, store: Store) -> None:
        before = moved(made("ended")), moved(ended(made("ended"), NOW - 1))
        await stored(store, *before, moved(made("open")), moved(made("undo")))
        await stored(store, moved(after(made("undo"), status=Status.COMPENSATING)))
        await stored(store, *(early(f"{key} {n}", key) for n in (2, 1) for key in ("none", "undo", "ended", "open")))
        found = [row.envelope.id for row in await store.waiting_for(10)]
        assert found == ["undo 2", "open 2", "undo 1", "open 1"]
        assert [row.envelope.id for row in await store.waiting_for(1)] == found[:1]

    async def test_what_is_no_more_in_the_waiting_room_is_a_duplicate(self, store: Store) -> None:
        await stored(store, early("e1"))
        [row] = await store.waiting()
        begun, delivered = moved(made()), structs.replace(moved(after(made()), "e1"), waiting_remove=(row.id,))
        again = structs.replace(moved(after(made(), version=3), "e1 again"), waiting_remove=(row.id,))
        results = await store.commit([begun, delivered, again])
        assert [type(result) for result in results] == [Committed, Committed, DuplicateMessage]
        [instance] = await store.load([made().address])
        assert instance is not None and instance.version == 2

    async def test_what_waits_may_be_put_back_to_wait_on(self, store: Store) -> None:
        await stored(store, early("e1"))
        [row] = await store.waiting()
        await stored(store, structs.replace(early("e1", until=NOW + 900), at=NOW + 5, waiting_remove=(row.id,)))
        [later] = await store.waiting()
        assert (later.envelope.id, later.since, later.until) == ("e1", NOW + 5, NOW + 900)

    async def test_waiting_for_finds_those_whose_instance_has_ended_since(self, store: Store) -> None:
        await stored(store, early("before", "brief"), early("never", "none"))
        await stored(store, moved(made("brief")), moved(ended(made("brief"), NOW + 5), "end"))
        await stored(store, structs.replace(early("with it", "brief"), at=NOW + 5))  # in the same commit, perhaps
        await stored(store, structs.replace(early("behind", "brief"), at=NOW + 6))
        assert [row.envelope.id for row in await store.waiting_for(10)] == ["before", "with it"]

    async def test_the_waiting_room_by_pages(self, store: Store) -> None:
        await stored(store, *(early(str(n), str(n)) for n in range(5)))
        first = await store.waiting(limit=2)
        rest = await store.waiting(after=first[-1].id)
        assert [row.envelope.id for row in (*first, *rest)] == ["0", "1", "2", "3", "4"]
        assert [row.id for row in (*first, *rest)] == sorted(row.id for row in (*first, *rest))

    # --- prune ---

    async def test_prune_removes_what_ended_before_with_its_history_and_inbox(self, store: Store) -> None:
        for key, at in (("old", NOW - 1), ("edge", NOW), ("new", NOW + 1)):
            await stored(store, moved(made(key), "start"), moved(ended(made(key), at), "end"))
        await stored(store, moved(made("open", updated_at=NOW - 99)))
        assert await store.prune(NOW, NOW) == 1
        found = await store.load([Address("Order", key) for key in ("old", "edge", "new", "open")])
        assert [instance is not None for instance in found] == [False, True, True, True]
        assert await store.history(Address("Order", "old")) == []
        assert len(await store.history(Address("Order", "edge"))) == 2
        assert (await store.counts(NOW)).instances == {"Order": {"completed": 2, "running": 1}}
        await stored(store, moved(made("old"), "start"))
        assert await store.prune(NOW, NOW) == 0

    async def test_counts_follow_every_start_end_new_run_and_prune(self, store: Store) -> None:
        await stored(store, *(moved(made(key)) for key in ("a", "b", "c")))
        await stored(store, *(moved(ended(made(key), NOW - 9), "end") for key in ("a", "b")))
        assert (await store.counts(NOW)).instances == {"Order": {"completed": 2, "running": 1}}
        await stored(store, moved(made("a", run="r2"), "again"))
        assert (await store.counts(NOW)).instances == {"Order": {"completed": 1, "running": 2}}
        assert await store.prune(NOW, NOW) == 1
        assert (await store.counts(NOW)).instances == {"Order": {"running": 2}}
        assert [(each.count, each.saga) for each in await store.standing()] == [(2, "Order")]

    async def test_prune_keeps_a_child_as_long_as_its_parent(self, store: Store) -> None:
        def family(name: str, parent_ended_at: float | None) -> list[Transition]:
            parent = made(name, saga="Parent")
            child = made(name, saga="Child", answer_to=parent.address)
            grandchild = made(name, saga="Grandchild", answer_to=child.address)
            made_all = [moved(one) for one in (parent, child, grandchild)]
            ends = [moved(ended(grandchild, NOW - 9)), moved(ended(child, NOW - 8))]
            return [*made_all, *ends, *([moved(ended(parent, parent_ended_at))] if parent_ended_at else [])]

        await stored(store, *family("old", NOW - 7), *family("new", NOW + 7), *family("open", None))
        orphan = made("orphan", answer_to=Address("Parent", "long gone"))
        await stored(store, moved(orphan), moved(ended(orphan, NOW - 9)))
        assert await store.prune(NOW, NOW) == 4
        addresses = [Address(saga, key) for saga in ("Parent", "Child", "Grandchild") for key in ("old", "new", "open")]
        found = await store.load(addresses)
        assert [instance is not None for instance in found] == [False, True, True] * 3
        assert await store.load([orphan.address]) == [None]

    async def test_prune_forgets_old_inbox_entries(self, store: Store) -> None:
        await stored(store, *(Transition(at=NOW + n, seen=(("l", str(n)),)) for n in (1, -1, 0, -2)))
        await store.prune(NOW, NOW)
        results = await store.commit([Transition(at=NOW, seen=(("l", str(n)),)) for n in (-2, -1, 0, 1)])
        assert [type(result) for result in results] == [Committed, Committed, DuplicateMessage, DuplicateMessage]

    async def test_prune_buries_what_waited_too_long(self, store: Store) -> None:
        await stored(store, early("later", until=NOW + 1), early("b", until=NOW), early("a", until=NOW - 1))
        assert await store.prune(NOW, 0.0) == 0
        assert [row.envelope.id for row in await store.waiting()] == ["later"]
        letters = await store.dead_letters()
        assert sorted(letter.envelope.id for letter in letters if letter.envelope) == ["a", "b"]
        assert all(letter.at == NOW and letter.reason and letter.id for letter in letters)

    async def test_prune_takes_any_number(self, store: Store) -> None:
        count = 1200
        parent = made("parent")
        children = [made(str(n), saga="Child", answer_to=parent.address) for n in range(count)]
        for part in (children[:600], children[600:]):
            await stored(store, *map(moved, part), *(moved(ended(child, NOW - 9)) for child in part))
        await stored(store, moved(parent))
        assert await store.prune(NOW, NOW) == 0
        await stored(store, moved(ended(parent, NOW - 1)))
        await stored(store, *(early(str(n), "none", NOW - 1) for n in range(count)))
        await stored(store, *(Transition(at=NOW - 1, seen=(("l", str(n)),)) for n in range(count)))
        assert await store.prune(NOW, NOW) == count + 1
        counts = await store.counts(NOW)
        assert (counts.instances, counts.waiting, counts.dead) == ({}, 0, count)

    # --- standing ---

    async def test_standing_groups_open_instances_by_version_and_steps(self, store: Store) -> None:
        def visit(serial: int, step: str, state: VisitState = VisitState.OPEN, undo: bool = False) -> Visit:
            call = Call(kind=CallKind.COMMAND, undo_kind=CallKind.COMMAND if undo else None, do=Do.YES)
            return Visit(serial=serial, step=step, number=1, entered_at=NOW, state=state, calls=[call])

        past = [visit(1, "asked", VisitState.DONE), visit(2, "reserve", VisitState.DONE, undo=True)]
        charging = [*past, visit(3, "charge")]
        assert await store.standing() == []
        await stored(
            store,
            moved(made("b", visits=charging)),
            moved(made("c", visits=[visit(1, "charge")])),
            moved(made("old", definition_version=0, visits=charging)),
            moved(made("other", saga="Other")),
            moved(made("done", visits=charging)),
            moved(made("moves on", visits=[visit(1, "reserve")])),
        )
        await stored(
            store,
            moved(ended(made("done", visits=charging))),
            moved(made("a")),
            moved(after(made("a", visits=charging), status=Status.COMPENSATING)),
            moved(after(made("moves on"), visits=charging)),
        )
        standing = await store.standing()
        assert standing[2].key in ("a", "b", "moves on")
        assert standing == [
            Standing("Order", 0, ("reserve", "charge"), 1, "old"),
            Standing("Order", 1, ("charge",), 1, "c"),
            Standing("Order", 1, ("reserve", "charge"), 3, standing[2].key),
            Standing("Other", 1, (), 1, "other"),
        ]

    # --- find ---

    async def test_find_gives_the_newest_started_first_in_pages(self, store: Store) -> None:
        for n in range(7):
            await stored(store, moved(made(str(n))))
        await stored(store, moved(after(made("2"), updated_at=NOW + 9)))  # does not move it up
        first = await store.find(Find(limit=3))
        assert keys(first.items) == ["6", "5", "4"] and first.next
        await stored(store, moved(made("new")))  # between two pages: neither shown twice nor one left out
        second = await store.find(Find(limit=3, cursor=first.next))
        assert keys(second.items) == ["3", "2", "1"] and second.next
        assert second.items[1].version == 2
        third = await store.find(Find(limit=3, cursor=second.next))
        assert keys(third.items) == ["0"] and not third.next

    async def test_a_page_that_is_just_full_is_the_last(self, store: Store) -> None:
        await stored(store, *(moved(made(str(n))) for n in range(4)))
        first = await store.find(Find(limit=2))
        second = await store.find(Find(limit=2, cursor=first.next))
        assert keys(second.items) == ["1", "0"] and not second.next
        assert await store.find(Find(saga="None")) == await store.find(Find(key="none"))

    async def test_a_run_that_replaced_another_is_new(self, store: Store) -> None:
        await stored(store, moved(made("1")), moved(made("2")), moved(ended(made("1"))), moved(made("1", run="r2")))
        assert keys((await store.find(Find())).items) == ["1", "2"]

    async def test_find_filters(self, store: Store) -> None:
        parked = [Visit(serial=1, step="s", number=1, entered_at=NOW, parked="stuck")]
        running = made("running")
        undoing = made("undoing", visits=parked, updated_at=NOW + 5)
        done = made("done")
        killed = made("killed", saga="Other", updated_at=NOW + 7)
        await stored(store, moved(running), moved(undoing), moved(done), moved(killed))
        await stored(
            store,
            moved(after(undoing, status=Status.COMPENSATING)),
            moved(ended(done)),
            moved(after(killed, status=Status.KILLED, ended_at=NOW)),
        )
        everything = ["killed", "done", "undoing", "running"]
        expected: list[tuple[Find, list[str]]] = [
            (Find(), everything),
            (Find(saga="Order"), ["done", "undoing", "running"]),
            (Find(saga="Order", key="done"), ["done"]),
            (Find(saga="Other", key="done"), []),
            (Find(key="killed"), ["killed"]),
            (Find(status=Status.RUNNING), ["running"]),
            (Find(status=Status.COMPENSATING), ["undoing"]),
            (Find(saga="Order", status=Status.COMPLETED), ["done"]),
            (Find(saga="Order", status=Status.KILLED), []),
            (Find(parked=True), ["undoing"]),
            (Find(parked=False), ["killed", "done", "running"]),
            (Find(parked=True, saga="Other"), []),
            (Find(parked=False, is_open=True), ["running"]),
            (Find(is_open=True), ["undoing", "running"]),
            (Find(is_open=False), ["killed", "done"]),
            (Find(is_open=False, saga="Order"), ["done"]),
            (Find(is_open=True, status=Status.COMPLETED), []),
            (Find(since=NOW), everything),
            (Find(since=NOW + 5), ["killed", "undoing"]),
            (Find(since=NOW + 5, saga="Order"), ["undoing"]),
            (Find(since=NOW + 5, parked=False), ["killed"]),
            (Find(since=NOW + 5, is_open=False), ["killed"]),
            (Find(since=NOW + 8), []),
        ]
        for query, wanted in expected:
            assert keys((await store.find(query)).items) == wanted, query
            by_one: list[str] = []
            cursor, more = "", True
            while more:
                page = await store.find(structs.replace(query, limit=1, cursor=cursor))
                by_one += keys(page.items)
                cursor, more = page.next, bool(page.next)
            assert by_one == wanted, query

    async def test_a_page_holds_at_most_500(self, store: Store) -> None:
        await stored(store, *(moved(made(str(n))) for n in range(MAX_PAGE + 1)))
        page = await store.find(Find(limit=10_000))
        assert len(page.items) == MAX_PAGE and page.next

    async def test_a_cursor_from_elsewhere_is_refused(self, store: Store) -> None:
        for cursor in ("garbage", "-1", "1.5", "²"):
            with pytest.raises(BadMessage, match="cursor"):
                await store.find(Find(cursor=cursor))

    # --- history ---

    async def test_history_in_pages(self, store: Store) -> None:
        instance = made()
        for number in range(1, 8):
            await stored(store, moved(structs.replace(instance, version=number)), moved(made(f"beside {number}")))
        assert [entry.version for entry in await store.history(instance.address)] == [1, 2, 3, 4, 5, 6, 7]
        assert [entry.version for entry in await store.history(instance.address, after=3, limit=2)] == [4, 5]
        assert await store.history(instance.address, after=7) == []
        assert await store.history(Address("Order", "none")) == []

    async def test_history_has_the_messages_as_they_came(self, store: Store) -> None:
        instance = made("a/b", saga="Ord er", run="k3")
        command = "Ord%20er/a%2Fb~k3/charge#1"
        messages = [
            Envelope(
                f"{command}:yes:2",
                Kind.YES,
                "Charged",
                Raw(b'{ "n" : 1.50, "text":"\\u00e9 \\ud83d\\ude00 \xc3\xa9" }'),
                time=NOW + 0.123456,
                saga="Ord er",
                key="a/b",
                reply_to=command,
                attempt=2,
                clean=True,
                version=3,
                user="eve",
                correlation_id="c",
                causation_id=command,
                traceparent="00-1",
            ),
            Envelope("x", Kind.START, "Start", saga="Ord er", key="a/b", via="f", answer_to=Address("P", "k")),
            Envelope("for nobody", Kind.EVENT, "Happened"),
            Envelope(
                "for another", Kind.EVENT, "Happened", saga="Ord er", key="else", reply_to="~x", causation_id="=x"
            ),
        ]
        notes = [("one", "two"), (), ("",), ("a: b, c",)]
        for version, (message, noted) in enumerate(zip(messages, notes, strict=True), start=1):
            await stored(store, moved(structs.replace(instance, version=version), message, notes=noted))
        entries = await store.history(instance.address)
        assert [entry.message for entry in entries] == messages
        assert [entry.notes for entry in entries] == notes

    @pytest.mark.parametrize("outcome", list(Outcome))
    async def test_every_outcome(self, store: Store, outcome: Outcome) -> None:
        await stored(store, moved(made(), outcome=outcome))
        assert [entry.outcome for entry in await store.history(made().address)] == [outcome]

    # --- dead letters ---

    async def test_dead_letters_as_they_were_buried(self, store: Store) -> None:
        full = DeadLetter(NOW, "why", event("e"), raw=b"\xff\x00{", listener="mailer", error="Traceback")
        await stored(store, Transition(at=NOW, dead=(full, DeadLetter(NOW + 1, "empty"))))
        letters = await store.dead_letters()
        assert [structs.replace(letter, id=0) for letter in letters] == [full, DeadLetter(NOW + 1, "empty")]

    async def test_ids_of_dead_letters_grow_and_are_never_given_again(self, store: Store) -> None:
        await stored(store, dead("a"), dead("b"))
        first = await store.dead_letters()
        assert 0 < first[0].id < first[1].id
        await stored(store, Transition(at=NOW, dead_remove=(first[1].id, 12345)))
        await stored(store, dead("c"), structs.replace(dead("d"), dead=(structs.replace(first[1], id=first[1].id),)))
        letters = await store.dead_letters(after=first[0].id)
        assert [letter.reason for letter in letters] == ["c", "b"]
        assert first[1].id < letters[0].id < letters[1].id
        assert [letter.id for letter in await store.dead_letters(limit=1)] == [first[0].id]

    # --- counts ---

    async def test_counts_of_an_empty_store(self, store: Store) -> None:
        counts = await store.counts(NOW)
        assert counts.instances == {} and counts.next_wake_at is None and counts.oldest_retry is None
        assert counts.parked == counts.paused == counts.busy == counts.outbox == counts.waiting == counts.dead == 0

    async def test_counts(self, store: Store) -> None:
        def asking(key: str, updated_at: float, **fields: Any) -> Instance:
            call = Call(kind=CallKind.COMMAND, do=Do.ASKED, attempt=1, timeout_at=NOW + 60)
            visit = Visit(serial=1, step="s", number=1, entered_at=NOW, calls=[structs.replace(call, **fields)])
            return made(key, updated_at=updated_at, visits=[visit])

        parked = asking("parked", NOW - 4, timeout_at=None, parked="stuck")

        await stored(
            store,
            moved(asking("busy", NOW - 5)),
            moved(asking("second attempt", NOW - 2, attempt=2)),
            moved(asking("backoff", NOW - 3, timeout_at=None, retry_at=NOW + 5)),
            moved(parked),
            moved(made("paused", paused=True, updated_at=NOW - 9)),
            moved(made("overdue", deadline_at=NOW - 31)),
            moved(made("just due", deadline_at=NOW - 29)),
            moved(made("done", saga="Other")),
            moved(ended(made("done", saga="Other"))),
            put(going("a"), going("b", NOW + 5)),
            early("w", "none"),
            dead("d"),
        )
        counts = await store.counts(NOW)
        assert counts.instances == {"Order": {"running": 7}, "Other": {"completed": 1}}
        assert (counts.parked, counts.paused, counts.busy) == (1, 1, 3)
        assert (counts.outbox, counts.waiting, counts.dead, counts.overdue) == (2, 1, 1, 1)
        assert counts.next_wake_at == NOW - 31
        assert counts.oldest_retry == Address("Order", "backoff")
        await stored(store, moved(after(parked, visits=[], updated_at=NOW)))
        counts = await store.counts(NOW)
        assert (counts.parked, counts.busy, counts.oldest_retry) == (0, 3, Address("Order", "backoff"))

    # --- closing ---

    async def test_what_was_stored_is_there_again(self, tmp_path: Path) -> None:
        if not self.keeps:
            pytest.skip("what this store holds ends with it")
        async with self.open_store(tmp_path) as store:
            await stored(store, moved(made(deadline_at=NOW), "a", put=(going("x"), going("y"))), put(remove=("y",)))
            await stored(store, early("w", "2"), dead("d"), dead("e"), Transition(at=NOW, seen=(("l", "m"),)))
            positions = [row.position for row in await store.due(NOW, 10)]
            letters = await store.dead_letters()
            await stored(store, Transition(at=NOW, dead_remove=(letters[1].id,)))
            before = (await store.find(Find()), await store.history(made().address), await store.waiting())
        async with self.open_store(tmp_path) as store:
            assert (await store.find(Find()), await store.history(made().address), await store.waiting()) == before
            assert await store.load([made().address]) == [made(deadline_at=NOW)]
            assert [row.position for row in await store.due(NOW, 10)] == positions
            assert await store.wakes(NOW, 10) == [made().address]
            results = await store.commit(
                [Transition(at=NOW, seen=(("l", "m"),)), moved(after(made()), "a"), early("w", "2")]
            )
            assert [type(result) for result in results] == [DuplicateMessage] * 3
            await stored(store, moved(after(made())), put(going("z")), dead("f"))
            assert (await store.due(NOW, 10))[-1].position > positions[-1] + 1
            assert (await store.dead_letters())[-1].id > letters[1].id
            assert [instance.version for instance in (await store.find(Find())).items] == [2]
