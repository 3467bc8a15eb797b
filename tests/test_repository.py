"""Aggregates are loaded from their streams and saved to them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import (
    Aggregate,
    BadMessage,
    Cause,
    DuplicateMessage,
    Event,
    EventLog,
    NotFound,
    Repository,
    VersionConflict,
    apply,
    open_store,
    upcast,
)
from orchestrator.memory import MemoryStore
from tests.test_aggregate import EVENTS, Account, Deposited, Opened, TooLittle

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[EventLog]:
    store = open_store("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/x.db")
    async with store:
        yield store


async def opened(accounts: Repository[Account], id: str = "42", amount: int = 10) -> Account:
    account = Account.new(id)
    account.open("ann")
    account.deposit(Decimal(amount))
    await accounts.save(account)
    return account


async def test_what_was_saved_is_loaded(log: EventLog) -> None:
    accounts = Repository(Account, log)
    saved = await opened(accounts)
    assert (saved.recorded, saved.version) == ((), 2)
    loaded = await accounts.load("42")
    assert loaded == saved and (loaded.id, loaded.version, loaded.recorded) == ("42", 2, ())
    assert [row.event async for row in log.read("Account-42", types=(Opened, Deposited))] == [
        Opened("ann"),
        Deposited(Decimal(10)),
    ]


async def test_a_saved_one_goes_on(log: EventLog) -> None:
    accounts = Repository(Account, log)
    account = await opened(accounts)
    account.withdraw(Decimal(1))
    await accounts.save(account)
    await accounts.save(account)  # nothing recorded, nothing to do
    assert (await accounts.load("42")).balance == 9


async def test_one_that_is_not_there(log: EventLog) -> None:
    accounts = Repository(Account, log)
    with pytest.raises(NotFound, match="Account-42"):
        await accounts.load("42")
    with pytest.raises(NotFound, match="Account-42"):
        await accounts.update("42", lambda account: account.deposit(Decimal(1)))


async def test_the_slower_of_two_is_told_both_versions_and_changes_nothing(log: EventLog) -> None:
    accounts = Repository(Account, log)
    await opened(accounts)
    first, second = await accounts.load("42"), await accounts.load("42")
    first.withdraw(Decimal(7))
    second.withdraw(Decimal(8))
    await accounts.save(first)
    with pytest.raises(VersionConflict) as caught:
        await accounts.save(second)
    assert (caught.value.expected, caught.value.actual) == (2, 3)
    assert (await accounts.load("42")).balance == 3


async def test_two_new_ones_of_one_id(log: EventLog) -> None:
    accounts = Repository(Account, log)
    await opened(accounts)
    with pytest.raises(VersionConflict):
        await opened(accounts)


async def test_an_update_decides_again_after_a_conflict(log: EventLog) -> None:
    accounts = Repository(Account, log)
    await opened(accounts)
    seen: list[Decimal] = []

    async def interfere(account: Account) -> None:
        other = await accounts.load("42")
        other.withdraw(Decimal(1))
        await accounts.save(other)

    class Slow(Repository[Account]):
        async def save(self, aggregate: Account, *, key: str = "") -> None:
            if len(seen) < 3:
                await interfere(aggregate)
            await super().save(aggregate, key=key)

    def decide(account: Account) -> str:
        seen.append(account.balance)
        account.withdraw(Decimal(2))
        return "done"

    assert await Slow(Account, log).update("42", decide) == "done"
    assert seen == [10, 9, 8]
    seen.clear()
    with pytest.raises(VersionConflict):
        await Slow(Account, log).update("42", decide, attempts=2)
    assert len(seen) == 2


async def test_events_of_one_key_are_stored_once_in_whatever_stream(log: EventLog) -> None:
    accounts = Repository(Account, log)
    await accounts.update("1", lambda account: account.open("ann"), key="k", new=True)
    with pytest.raises(DuplicateMessage, match="k"):  # it did not look whether it knows the key
        await accounts.update("1", lambda account: account.record(Opened("ann")), key="k")
    with pytest.raises(BadMessage, match="k"):
        await accounts.update("2", lambda account: account.open("ann"), key="k", new=True)
    assert (await accounts.load("1")).version == 1


async def test_what_a_decision_refuses_is_not_tried_again(log: EventLog) -> None:
    accounts = Repository(Account, log)
    await opened(accounts)
    with pytest.raises(TooLittle):
        await accounts.update("42", lambda account: account.withdraw(Decimal(99)))
    assert (await accounts.load("42")).version == 2


async def test_a_hundred_updates_at_once_are_all_there(log: EventLog) -> None:
    accounts = Repository(Account, log)
    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(lambda n=number: accounts.update("7", lambda a: a.deposit(Decimal(n)), new=True))
    account = await accounts.load("7")
    assert (account.version, account.balance) == (100, sum(range(100)))
    amounts = [row.event.amount async for row in log.read("Account-7")]  # type: ignore[attr-defined]
    assert sorted(amounts) == list(range(100))


async def test_as_it_was_after_each_event(log: EventLog) -> None:
    accounts = Repository(Account, log)
    account = await opened(accounts)
    account.withdraw(Decimal(4))
    await accounts.save(account)
    assert [(await accounts.load("42", n)).balance for n in (1, 2, 3)] == [0, 10, 6]
    with pytest.raises(NotFound, match="@4"):
        await accounts.load("42", 4)
    old = await accounts.load("42", 2)
    old.withdraw(Decimal(1))
    with pytest.raises(VersionConflict):
        await accounts.save(old)


@given(EVENTS, st.sampled_from([0, 1, 2, 3, 5]), st.integers(1, 4))
def test_at_any_version_it_is_the_fold_of_so_many_events(events: list[Event], every: int, at_once: int) -> None:
    """Whatever is saved at once, and wherever snapshots are."""

    async def check() -> None:
        async with MemoryStore() as log:
            accounts = Repository(Account, log, snapshot_every=every)
            account = Account.new("1")
            for number, event in enumerate(events, 1):
                account.record(event)
                if number % at_once == 0:
                    await accounts.save(account)
                    account = await accounts.load("1")
            await accounts.save(account)
            for version in range(1, len(events) + 1):
                loaded = await accounts.load("1", version)
                assert (loaded, loaded.version) == (Account.folded("1", events[:version]), version)
            if events:
                assert await accounts.load("1") == Account.folded("1", events)

    anyio.run(check)


async def test_a_snapshot_saves_the_reading_of_what_was_before(log: EventLog) -> None:
    accounts = Repository(Account, log, snapshot_every=10)
    await accounts.update("1", lambda account: account.open("ann"), new=True)
    for number in range(24):
        await accounts.update("1", lambda account, n=number: account.deposit(Decimal(n)))
    assert await log.stream_version("Account-1/snapshots") == 2
    read: list[int] = []
    stream = log.stream

    async def watched(name: str, after: int = 0, limit: int = 500) -> object:
        rows = await stream(name, after, limit)
        read.append(len(rows))
        return rows

    log.stream = watched  # type: ignore[method-assign,assignment]
    account = await accounts.load("1")
    assert read == [1, 5] and (account.version, account.balance, account.owner) == (25, sum(range(24)), "ann")


async def test_a_snapshot_of_another_class_version_or_other_fields_is_not_used(log: EventLog) -> None:
    class Counter(Aggregate):
        total: int = 0

        @apply
        def counted(self, event: Deposited) -> None:
            self.total += 1

    class Doubled(Aggregate, name="Counter", version=2):
        total: int = 0

        @apply
        def counted(self, event: Deposited) -> None:
            self.total += 2

    class Grown(Aggregate, name="Counter"):
        total: int = 0
        last: str = ""

        @apply
        def counted(self, event: Deposited) -> None:
            self.total += 1
            self.last = str(event.amount)

    counter = Counter.new("1")
    for number in (1, 2):
        counter.record(Deposited(Decimal(number)))
    await Repository(Counter, log, snapshot_every=2).save(counter)
    assert await log.stream_version("Counter-1/snapshots") == 1
    assert (await Repository(Counter, log, snapshot_every=2).load("1")).total == 2
    assert (await Repository(Doubled, log, snapshot_every=2).load("1")).total == 4
    assert (await Repository(Grown, log, snapshot_every=2).load("1")).last == "2"


async def test_events_of_old_versions_are_lifted(log: EventLog) -> None:
    class Old(Event, type="renamed"):
        cents: int

    class New(Event, type="renamed", version=2):
        amount: Decimal

    @upcast(New, from_version=1)
    def to_amount(data: dict[str, object]) -> dict[str, object]:
        return {"amount": str(Decimal(int(str(data["cents"]))) / 100)}

    class Purse(Aggregate):
        held: Decimal = Decimal(0)

        @apply
        def put(self, event: New) -> None:
            self.held += event.amount

    await log.append("Purse-1", [Old(250), New(Decimal(1))])
    assert (await Repository(Purse, log).load("1")).held == Decimal("3.5")


async def test_an_event_that_the_class_does_not_know_is_named(log: EventLog) -> None:
    class Strange(Event):
        pass

    await log.append("Account-1", [Opened("ann"), Strange()])
    with pytest.raises(BadMessage, match=r"Account-1@2 \(Strange\)"):
        await Repository(Account, log).load("1")


async def test_what_is_saved_may_be_published_in_the_same_commit_and_has_its_cause(log: EventLog) -> None:
    cause = Cause(user="ann", correlation_id="c")
    accounts = Repository(Account, log.caused_by(cause), publish=True, snapshot_every=1)
    await accounts.update("1", lambda account: account.open("ann"), new=True)
    store: object = log
    rows = [row.outgoing.envelope for row in await store.due(1e12, 10)]  # type: ignore[attr-defined]
    assert [(row.type, row.user, row.correlation_id) for row in rows] == [("Opened", "ann", "c")]
    assert await log.stream_version("Account-1/snapshots") == 1


async def test_events_are_of_the_aggregates_own_stream_only(log: EventLog) -> None:
    accounts = Repository(Account, log)
    await opened(accounts, "1", 1)
    await opened(accounts, "2", 2)
    assert [(await accounts.load(id)).balance for id in ("1", "2")] == [1, 2]
