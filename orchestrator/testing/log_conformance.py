"""What the log of every store must do, as tests: the sentences of the Store port about appends and streams.

    class TestMyLog(EventLogConformance):
        def open_store(self, place: Path) -> AbstractAsyncContextManager[EventStore]:
            return MyStore(place / "x.db")

Needs pytest and anyio's pytest plugin, which anyio brings along.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest
from msgspec import Raw
from msgspec.structs import replace

from ..errors import BadMessage, DuplicateMessage, VersionConflict
from ..event_log import EventStore
from ..machine.instance import Instance
from ..machine.transition import Transition
from ..messages import Event, Refusal
from ..ports import MAX_PAGE, Committed, Result
from ..recorded import Append, Appended, Cause, Logged, Stretch
from ..wire import Envelope, Kind, Outgoing, Route

NOW = 1_700_000_000.0
MANY = 100

ODD_NAMES = ("a/b~c#1", "~", "=", "naïve 键 🔑", "x" * 10_000, "' OR 1=1 --", "a", "A", "a ")
ODD_IDS = ("0" * 32, "A" * 32, "a" * 32, "g" * 32, "a" * 31, "é", "' --", "1", "01", "k#0", "0123456789abcdef" * 2)


class Opened(Event, type="conformance.opened"):
    """An event of the tests."""

    n: int


class Refused(Refusal, type="conformance.refused"):
    """No event."""


class Closed(Event, type="conformance.closed"):
    """Another."""

    why: str


def happened(id: str, type: str = "Happened", data: bytes = b'{"n":1}', **more: str) -> Envelope:
    """An event for the log."""
    return Envelope(id, Kind.EVENT, type, Raw(data), time=NOW, **more)  # type: ignore[arg-type]


def to(stream: str, *ids: str, expected: int | None = None) -> Append:
    """Events of these ids for the end of a stream."""
    return Append(stream, expected, tuple(map(happened, ids)))


def appending(*appends: Append, put: tuple[Outgoing, ...] = (), seen: tuple[tuple[str, str], ...] = ()) -> Transition:
    """A transition that appends."""
    return Transition(at=NOW, appends=appends, put=put, seen=seen)


def going(name: str) -> Outgoing:
    """A row of the outbox."""
    return Outgoing(name, Route.EVENT, happened(name))


async def appended(store: EventStore, *appends: Append) -> tuple[Appended, ...]:
    """What became of appends that must succeed, in one transition."""
    [result] = await store.commit([appending(*appends)])
    assert isinstance(result, Committed), result
    return result.appended


async def ids_of(store: EventStore, stream: str) -> list[str]:
    """The ids of a stream's events."""
    return [row.envelope.id for row in await store.stream(stream)]


async def all_rows(store: EventStore, limit: int = MAX_PAGE, types: Sequence[str] = ()) -> list[Logged]:
    """The whole log, by pages."""
    rows: list[Logged] = []
    after = 0
    while (stretch := await store.log(after, limit, types)).until > after:
        assert len(stretch.rows) <= limit
        rows += stretch.rows
        after = stretch.until
    assert not stretch.rows
    return rows


def kinds(results: Sequence[Result]) -> list[type]:
    """For comparing."""
    return [type(result) for result in results]


@pytest.mark.anyio
class EventLogConformance:
    """Inherit, and say how a store is opened. Set `keeps` to False if what is stored does not outlive the object."""

    keeps = True

    def open_store(self, place: Path) -> AbstractAsyncContextManager[EventStore]:
        """A store of which everything lies in this empty folder; asked for the same folder again, the same store."""
        raise NotImplementedError

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The event loop that the suite runs on."""
        return "asyncio"

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncGenerator[EventStore]:
        """An empty, open store."""
        async with self.open_store(tmp_path) as store:
            yield store

    # --- appending ---

    async def test_an_event_comes_back_as_it_was_appended(self, store: EventStore) -> None:
        plain = happened("1")
        full = Envelope(
            "2",
            Kind.EVENT,
            "Moved",
            Raw(b'{"total":"12.50","note":"\\u00e9","deep":[1,{"a":null}]}'),
            time=NOW + 0.123456,
            version=3,
            user="ann",
            correlation_id="c",
            causation_id="d",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        assert await appended(store, Append("s", 0, (plain, full))) == (Appended(2, 2),)
        assert await store.stream("s") == [Logged(1, "s", 1, plain), Logged(2, "s", 2, full)]

    async def test_there_is_nothing_in_an_empty_log(self, store: EventStore) -> None:
        assert await store.stream("s") == []
        assert await store.stream_version("s") == 0
        assert await store.log() == await store.log(types=["Happened"]) == Stretch((), 0)
        assert await store.logged("1") is None
        assert await store.last_position() == 0

    async def test_versions_count_in_the_stream_and_positions_in_the_log(self, store: EventStore) -> None:
        assert await appended(store, to("a", "1", "2", expected=0)) == (Appended(2, 2),)
        assert await appended(store, to("b", "3", expected=0)) == (Appended(1, 3),)
        assert await appended(store, to("a", "4", expected=2)) == (Appended(3, 4),)
        assert [(row.stream, row.version, row.position) for row in await all_rows(store)] == [
            ("a", 1, 1),
            ("a", 2, 2),
            ("b", 1, 3),
            ("a", 3, 4),
        ]
        assert [await store.stream_version(name) for name in "abc"] == [3, 1, 0]
        assert await store.last_position() == 4

    @pytest.mark.parametrize("expected", [0, 1, 3, 99])
    async def test_another_version_than_expected_is_a_conflict_that_says_both(
        self, store: EventStore, expected: int
    ) -> None:
        await appended(store, to("s", "1", "2"))
        [conflict] = await store.commit([appending(to("s", "3", expected=expected))])
        assert isinstance(conflict, VersionConflict)
        assert (conflict.stream, conflict.expected, conflict.actual) == ("s", expected, 2)
        assert "s" in str(conflict) and str(expected) in str(conflict) and "2" in str(conflict)
        assert await ids_of(store, "s") == ["1", "2"]

    async def test_a_stream_that_is_not_there_is_at_version_zero(self, store: EventStore) -> None:
        [conflict] = await store.commit([appending(to("s", "1", expected=1))])
        assert isinstance(conflict, VersionConflict) and conflict.actual == 0
        assert await appended(store, to("s", "1", expected=0)) == (Appended(1, 1),)

    async def test_without_an_expected_version_it_goes_to_the_end(self, store: EventStore) -> None:
        for number in range(1, 4):
            assert await appended(store, to("s", str(number))) == (Appended(number, number),)

    async def test_appends_of_one_transition_follow_each_other(self, store: EventStore) -> None:
        appends = to("a", "1", expected=0), to("b", "2", "3", expected=0), to("a", "4", expected=1)
        assert await appended(store, *appends) == (Appended(1, 1), Appended(2, 3), Appended(2, 4))
        assert (await ids_of(store, "a"), await ids_of(store, "b")) == (["1", "4"], ["2", "3"])

    async def test_an_append_without_events_asks_for_the_version(self, store: EventStore) -> None:
        await appended(store, to("a", "1", expected=0))
        assert await appended(store, to("a", expected=1), to("b", "2")) == (Appended(1, 1), Appended(1, 2))
        results = await store.commit([appending(to("a", expected=0), to("b", "3")), appending(to("c", expected=0))])
        assert kinds(results) == [VersionConflict, Committed]
        assert [row.stream for row in await all_rows(store)] == ["a", "b"]
        assert await store.stream_version("c") == 0

    async def test_one_stale_append_keeps_all_of_its_transition_out(self, store: EventStore) -> None:
        await appended(store, to("b", "0"))
        transition = appending(
            to("a", "1", expected=0), to("b", "2", expected=0), put=(going("o"),), seen=(("l", "m"),)
        )
        assert kinds(await store.commit([transition])) == [VersionConflict]
        assert await store.stream("a") == [] and await store.due(NOW, 10) == []
        again = appending(to("a", "1", expected=0), to("b", "2", expected=1), put=(going("o"),), seen=(("l", "m"),))
        assert kinds(await store.commit([again])) == [Committed]
        assert [row.outgoing.name for row in await store.due(NOW, 10)] == ["o"]

    async def test_neighbours_in_a_group_are_decided_one_after_the_other(self, store: EventStore) -> None:
        results = await store.commit(
            [
                appending(to("s", "1", expected=0)),
                appending(to("s", "2", expected=0)),
                appending(to("s", "3", expected=1)),
                appending(to("s", "4")),
                appending(to("t", "5", expected=0)),
            ]
        )
        assert kinds(results) == [Committed, VersionConflict, Committed, Committed, Committed]
        assert await ids_of(store, "s") == ["1", "3", "4"]
        assert [row.position for row in await all_rows(store)] == [1, 2, 3, 4]

    async def test_an_append_stays_out_when_its_transition_does(self, store: EventStore) -> None:
        stale = Instance(saga="Order", key="1", run="r", version=7, started_at=NOW, updated_at=NOW)
        await store.commit([Transition(at=NOW, seen=(("l", "m"),))])
        results = await store.commit(
            [
                appending(to("s", "1"), seen=(("l", "m"),)),
                Transition(at=NOW, instance=stale, message=happened("x"), appends=(to("s", "2"),)),
                appending(to("s", "3", expected=0)),
            ]
        )
        assert kinds(results) == [DuplicateMessage, VersionConflict, Committed]
        assert await store.stream("s") == [Logged(1, "s", 1, happened("3"))]

    async def test_an_instance_and_events_go_in_together(self, store: EventStore) -> None:
        instance = Instance(saga="Order", key="1", run="r", version=1, started_at=NOW, updated_at=NOW)
        message = Envelope("m", Kind.EVENT, "Placed", time=NOW, saga="Order", key="1")
        transition = Transition(at=NOW, instance=instance, message=message, appends=(to("s", "1"),))
        assert await store.commit([transition]) == [Committed(appended=(Appended(1, 1),))]
        assert await store.load([instance.address]) == [instance]

    # --- twice ---

    async def test_an_id_that_is_in_the_log_makes_it_a_duplicate(self, store: EventStore) -> None:
        await appended(store, to("s", "1", "2"))
        results = await store.commit(
            [
                appending(to("s", "1", "2", expected=0)),  # and not a conflict
                appending(to("s", "2", expected=2)),
                appending(to("other", "1")),
                appending(to("s", "3", "1", expected=2)),
                appending(to("other", "4"), to("s", "2")),
            ]
        )
        assert kinds(results) == [DuplicateMessage] * 5
        assert (await ids_of(store, "s"), await ids_of(store, "other")) == (["1", "2"], [])

    async def test_an_id_twice_in_one_group(self, store: EventStore) -> None:
        results = await store.commit(
            [appending(to("a", "1")), appending(to("b", "1")), appending(to("c", "2", "2")), appending(to("c", "2"))]
        )
        assert kinds(results) == [Committed, DuplicateMessage, DuplicateMessage, Committed]
        assert [(row.stream, row.position) for row in await all_rows(store)] == [("a", 1), ("c", 2)]

    async def test_the_id_of_what_was_refused_is_free(self, store: EventStore) -> None:
        assert kinds(await store.commit([appending(to("s", "1", expected=5))])) == [VersionConflict]
        await appended(store, to("s", "1"))

    async def test_ids_of_any_form_are_kept_apart(self, store: EventStore) -> None:
        await appended(store, to("s", *ODD_IDS))
        assert await ids_of(store, "s") == list(ODD_IDS)
        for version, id in enumerate(ODD_IDS, 1):
            assert await store.logged(id) == Logged(version, "s", version, happened(id))
        assert await store.logged("nobody") is None

    # --- reading ---

    async def test_names_of_any_form_are_kept_apart(self, store: EventStore) -> None:
        for number, name in enumerate(ODD_NAMES):
            await appended(store, to(name, str(number), expected=0))
        for number, name in enumerate(ODD_NAMES):
            assert await store.stream(name) == [Logged(number + 1, name, 1, happened(str(number)))]

    async def test_a_stream_is_read_in_pages(self, store: EventStore) -> None:
        await appended(store, *(to(name, *(f"{name}{n}" for n in range(5))) for name in "ab"))
        assert [row.version for row in await store.stream("a", 0, 2)] == [1, 2]
        assert [row.version for row in await store.stream("a", 2, 2)] == [3, 4]
        assert [row.version for row in await store.stream("a", 4, 2)] == [5]
        assert await store.stream("a", 5, 2) == [] == await store.stream("a", 99)
        assert [row.version for row in await store.stream("b", -3, 1)] == [1]

    async def test_the_log_is_read_in_pages(self, store: EventStore) -> None:
        for number in range(10):
            await appended(store, to("ab"[number % 2], str(number)))
        assert [row.envelope.id for row in await all_rows(store, 3)] == [str(number) for number in range(10)]
        stretch = await store.log(4, 3)
        assert ([row.position for row in stretch.rows], stretch.until) == ([5, 6, 7], 7)
        assert await store.log(10) == Stretch((), 10)

    async def test_the_log_of_some_types_ends_where_the_log_does(self, store: EventStore) -> None:
        types = ("A", "B", "C")
        for number in range(30):
            await appended(store, Append("s", None, (happened(str(number), types[number % 3]),)))
        for limit in (1, 4, 10, MAX_PAGE):
            rows = await all_rows(store, limit, ["C", "A", "A"])
            assert [row.position for row in rows] == [n + 1 for n in range(30) if n % 3 != 1]
        assert (await store.log(0, MAX_PAGE, ["A"])).until == 30
        assert (await store.log(0, MAX_PAGE, ["Nobody"])).until == 30
        assert await store.log(30, MAX_PAGE, ["A"]) == Stretch((), 30)

    async def test_many_events_in_one_append(self, store: EventStore) -> None:
        ids = [str(number) for number in range(2 * MAX_PAGE + 1)]
        assert await appended(store, to("s", *ids, expected=0)) == (Appended(len(ids), len(ids)),)
        assert len(await store.stream("s", 0, 10 * MAX_PAGE)) == MAX_PAGE
        assert [row.envelope.id for row in await all_rows(store)] == ids

    async def test_a_large_event(self, store: EventStore) -> None:
        event = happened("1", data=b'{"text":"' + b"x" * 1_000_000 + b'"}')
        await appended(store, Append("s", 0, (event,)))
        assert (await store.stream("s"))[0].envelope == event

    # --- with others ---

    async def test_of_many_who_expect_one_version_one_wins(self, store: EventStore) -> None:
        results: list[Result] = []

        async def attempt(number: int, version: int) -> None:
            results.extend(await store.commit([appending(to("s", f"{version}.{number}", expected=version))]))

        for version in range(3):
            results.clear()
            async with anyio.create_task_group() as tasks:
                for number in range(MANY):
                    tasks.start_soon(attempt, number, version)
            assert kinds(results).count(Committed) == 1
            assert kinds(results).count(VersionConflict) == MANY - 1
        assert await store.stream_version("s") == 3

    async def test_a_reader_beside_writers_never_sees_a_gap(self, store: EventStore) -> None:
        seen: list[int] = []

        async def write(writer: int) -> None:
            for number in range(MANY // 4):
                stale = appending(to(f"s{writer}", f"{writer}.{number}.x", expected=-1))
                await store.commit([appending(to(f"s{writer}", f"{writer}.{number}")), stale])

        async def look() -> None:
            while len(seen) < MANY:
                stretch = await store.log(seen[-1] if seen else 0, 7)
                seen.extend(row.position for row in stretch.rows)
                await anyio.lowlevel.checkpoint()

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(look)
                for writer in range(4):
                    tasks.start_soon(write, writer)
        assert seen == list(range(1, MANY + 1))

    async def test_pruning_leaves_the_log_alone(self, store: EventStore) -> None:
        await appended(store, to("s", "1"))
        await store.prune(NOW + 1e9, NOW + 1e9)
        assert await ids_of(store, "s") == ["1"]

    async def test_the_log_outlives_the_process(self, tmp_path: Path) -> None:
        if not self.keeps:
            pytest.skip("it does not")
        async with self.open_store(tmp_path) as store:
            await appended(store, to("s", "1"), to("t", "2"))
        async with self.open_store(tmp_path) as store:
            assert kinds(await store.commit([appending(to("s", "1"))])) == [DuplicateMessage]
            assert await appended(store, to("s", "3", expected=1)) == (Appended(2, 3),)
            assert [row.stream for row in await all_rows(store)] == ["s", "t", "s"]

    # --- as users see it ---

    async def test_what_is_appended_is_read(self, store: EventStore) -> None:
        cause = Cause(user="ann", correlation_id="c", causation_id="d", traceparent="t")
        told = await store.append("s", [Opened(1), Closed("late")], expected_version=0, cause=cause)
        assert told == Appended(2, 2)
        first, second = [recorded async for recorded in store.read("s")]
        assert (first.event, second.event) == (Opened(1), Closed("late"))
        assert (first.stream, first.version, first.position, first.type) == ("s", 1, 1, "conformance.opened")
        assert (second.version, second.position, second.data) == (2, 2, b'{"why":"late"}')
        assert first.metadata.id != second.metadata.id
        assert (first.metadata.user, first.metadata.correlation_id) == ("ann", "c")
        assert (first.metadata.causation_id, first.metadata.traceparent) == ("d", "t")
        assert await store.due(NOW + 1e9, 10) == []

    async def test_a_stale_append_raises_and_stores_nothing(self, store: EventStore) -> None:
        await store.append("s", Opened(1))
        with pytest.raises(VersionConflict) as caught:
            await store.append("s", Opened(2), expected_version=0, publish=True)
        assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("s", 0, 1)
        assert await store.last_position() == 1 and await store.due(NOW + 1e9, 10) == []

    async def test_parts_of_streams_and_of_the_log(self, store: EventStore) -> None:
        for number in range(6):
            await store.append("ab"[number % 2], Opened(number) if number < 4 else Closed("x"))
        assert [row.version async for row in store.read("a", 2)] == [2, 3]
        assert [row.version async for row in store.read("a", 1, 2)] == [1, 2]
        assert [row.version async for row in store.read("a", 2, 1)] == []
        assert [row.version async for row in store.read("a", types=[Closed])] == [3]
        assert [row.position async for row in store.read_all(3)] == [3, 4, 5, 6]
        assert [row.event async for row in store.read_all(types=[Opened])] == [Opened(n) for n in range(4)]
        assert [row.position async for row in store.read_all(4, ["conformance.opened", Closed])] == [4, 5, 6]
        assert [row async for row in store.read("nobody")] == []

    async def test_a_key_makes_a_second_append_harmless(self, store: EventStore) -> None:
        first = await store.append("s", [Opened(1), Opened(2)], expected_version=0, key="k", publish=True)
        await store.append("s", Opened(3))
        assert await store.append("s", [Opened(1), Opened(2)], expected_version=0, key="k", publish=True) == first
        assert await store.stream_version("s") == 3
        with pytest.raises(BadMessage, match="key"):
            await store.append("s", [Opened(1), Opened(9)], key="k")
        with pytest.raises(BadMessage, match="key"):
            await store.append("other", [Opened(1), Opened(2)], key="k")
        assert await store.last_position() == 3

    async def test_what_is_published_is_in_the_outbox_by_the_same_commit(self, store: EventStore) -> None:
        await store.append("s", [Opened(1), Closed("late")], publish=True, cause=Cause(correlation_id="c"))
        rows = [row.outgoing for row in await store.due(NOW + 1e9, 10)]
        logged = await store.stream("s")
        assert [row.envelope for row in rows] == [replace(row.envelope, key="s") for row in logged]  # stays in order
        assert [(row.name, row.route) for row in rows] == [(row.envelope.id, Route.EVENT) for row in logged]
        assert rows[0].envelope.correlation_id == "c"

    @pytest.mark.parametrize("stream", ["", "a\nb", "a\x00b", "\ud800"])
    async def test_what_is_no_name_of_a_stream(self, store: EventStore, stream: str) -> None:
        with pytest.raises(BadMessage, match="stream"):
            await store.append(stream, Opened(1))

    async def test_only_events_are_appended(self, store: EventStore) -> None:
        with pytest.raises(BadMessage, match="str is no Event"):
            await store.append("s", "an event")  # type: ignore[arg-type]
        with pytest.raises(BadMessage, match="Refused is no"):
            await store.append("s", [Refused()])  # type: ignore[list-item]

    async def test_no_events_are_no_append(self, store: EventStore) -> None:
        with pytest.raises(BadMessage, match="0 events"):
            await store.append("s", [])
