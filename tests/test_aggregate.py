"""Aggregates: what they decide, what an event does to them, and which classes cannot be right."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import Aggregate, DefinitionError, Event, OrchestratorError, Secret, apply


class Opened(Event):
    owner: str


class Deposited(Event):
    amount: Decimal


class Withdrawn(Event):
    amount: Decimal


class Closed(Event):
    why: str = ""


class Froze(Event):
    pass


class TooLittle(Exception):
    pass


class Account(Aggregate):
    owner: str = ""
    balance: Decimal = Decimal(0)
    notes: list[str] = []
    is_open: bool = False

    def open(self, owner: str) -> None:
        if self.version:
            raise TooLittle("opened already")
        self.record(Opened(owner))

    def deposit(self, amount: Decimal) -> None:
        self.record(Deposited(amount))

    def withdraw(self, amount: Decimal) -> None:
        if amount > self.balance:
            raise TooLittle(self.balance)
        self.record(Withdrawn(amount))

    def close(self) -> None:
        if self.balance:
            self.withdraw(self.balance)
        self.record(Closed("by the customer"))

    @apply
    def opened(self, event: Opened) -> None:
        self.owner = event.owner
        self.is_open = True

    @apply
    def moved(self, event: Deposited | Withdrawn) -> None:
        self.balance += event.amount if isinstance(event, Deposited) else -event.amount

    @apply
    def closed(self, event: Closed) -> None:
        self.is_open = False
        self.notes.append(event.why)


def test_a_decision_is_recorded_and_applied_at_once() -> None:
    account = Account.folded("42", [Opened("ann"), Deposited(Decimal(10))])
    account.withdraw(Decimal(3))
    assert account.recorded == (Withdrawn(Decimal(3)),)
    assert (account.owner, account.balance) == ("ann", Decimal(7))
    assert (account.id, account.version) == ("42", 3)


def test_one_decision_may_record_several_events() -> None:
    account = Account.folded("42", [Opened("ann"), Deposited(Decimal(10))])
    account.close()
    assert account.recorded == (Withdrawn(Decimal(10)), Closed("by the customer"))
    assert (account.balance, account.is_open, account.version) == (Decimal(0), False, 4)


def test_a_decision_that_says_no_records_nothing() -> None:
    account = Account.folded("42", [Opened("ann")])
    with pytest.raises(TooLittle):
        account.withdraw(Decimal(1))
    assert (account.recorded, account.version, account.balance) == ((), 1, 0)


def test_to_a_new_one_nothing_has_happened() -> None:
    account = Account.new("42")
    assert (account.version, account.recorded, account.owner) == (0, (), "")
    account.open("ann")
    assert account.recorded == (Opened("ann"),)
    assert Account.stream_of("42") == "Account-42"


def test_what_one_holds_the_next_does_not() -> None:
    Account.folded("1", [Closed("a")]).notes.append("b")
    assert Account.new("2").notes == []


def test_an_event_nobody_applies_is_refused() -> None:
    account = Account.new("42")
    with pytest.raises(OrchestratorError, match=r"Account has no @apply for Froze"):
        account.record(Froze())
    with pytest.raises(OrchestratorError, match="Froze"):
        Account.folded("42", [Froze()])
    assert account.version == 0


def test_one_that_was_made_without_an_id_says_how_to_make_it() -> None:
    with pytest.raises(OrchestratorError, match=r"Account\.new\(id\)"):
        Account().deposit(Decimal(1))


EVENTS = st.lists(
    st.one_of(
        st.builds(Opened, st.text(max_size=3)),
        st.builds(Deposited, st.integers(0, 99).map(Decimal)),
        st.builds(Withdrawn, st.integers(0, 99).map(Decimal)),
        st.just(Closed("x")),
    ),
    max_size=12,
)


@given(EVENTS, st.integers(0, 12))
def test_what_was_decided_folds_to_the_same_state(events: list[Event], cut: int) -> None:
    """Folding all at once, folding a part and recording the rest: the same aggregate."""
    account = Account.folded("1", events[:cut])
    for event in events[cut:]:
        account.record(event)
    assert account.recorded == tuple(events[cut:])
    assert account == Account.folded("1", events) and account.version == len(events)


def test_a_subclass_applies_what_its_base_does_in_its_own_way() -> None:
    class Joint(Account, name="joint-account"):
        second: str = ""

        @apply
        def froze(self, event: Froze) -> None:
            self.is_open = False

        def closed(self, event: Closed) -> None:
            self.notes.append(f"joint: {event.why}")

    joint = Joint.folded("1", [Opened("ann"), Froze(), Closed("x")])
    assert (joint.owner, joint.is_open, joint.notes) == ("ann", False, ["joint: x"])
    assert Joint.stream_of("1") == "joint-account-1"
    assert Froze not in Account.__kind__.handlers


def test_a_field_needs_what_it_is_before_the_first_event() -> None:
    with pytest.raises(DefinitionError, match=r"A\.owner has no default"):

        class A(Aggregate):
            owner: str


@pytest.mark.parametrize("name", ["id", "version", "recorded"])
def test_a_field_that_every_aggregate_has_already(name: str) -> None:
    with pytest.raises(DefinitionError, match=f"{name} already"):
        type(Aggregate)("A", (Aggregate,), {"__module__": __name__, "__annotations__": {name: int}, name: 1})


def test_a_method_that_every_aggregate_has_already() -> None:
    with pytest.raises(DefinitionError, match="record already"):

        class A(Aggregate):
            def record(self, event: Event) -> None: ...


def test_an_event_that_two_handlers_apply() -> None:
    with pytest.raises(DefinitionError, match=r"opened and again both apply Opened"):

        class A(Aggregate):
            @apply
            def opened(self, event: Opened) -> None: ...

            @apply
            def again(self, event: Opened | Closed) -> None: ...


def test_a_handler_of_no_event() -> None:
    with pytest.raises(DefinitionError, match=r"A\.counted applies int, which is no Event"):

        class A(Aggregate):
            @apply
            def counted(self, event: int) -> None: ...  # type: ignore[type-var]


def test_a_handler_that_does_not_say_of_which_event() -> None:
    with pytest.raises(DefinitionError, match="annotate"):

        class A(Aggregate):
            @apply
            def opened(self, event): ...  # type: ignore[no-untyped-def]


def test_a_handler_with_more_than_the_event() -> None:
    with pytest.raises(DefinitionError, match="takes 2 parameters"):

        class A(Aggregate):
            @apply  # type: ignore[arg-type]
            def opened(self, event: Opened, more: int) -> None: ...


def test_a_handler_that_would_wait() -> None:
    with pytest.raises(DefinitionError, match="plain `def`"):

        class A(Aggregate):
            @apply  # type: ignore[arg-type]
            async def opened(self, event: Opened) -> None: ...


def test_a_field_that_json_cannot_carry() -> None:
    with pytest.raises(DefinitionError, match="JSON"):

        class A(Aggregate):
            lock: type | complex = 0j


def test_events_of_one_wire_type_in_one_aggregate() -> None:
    class Other(Event, type="Opened"):
        pass

    with pytest.raises((DefinitionError, ValueError), match="wire type"):

        class A(Aggregate):
            @apply
            def opened(self, event: Opened) -> None: ...

            @apply
            def other(self, event: Other) -> None: ...


def test_a_secret_in_the_state_is_not_shown() -> None:
    class A(Aggregate):
        pin: Secret[str] = Secret("1234")

    assert "1234" not in repr(A.new("1"))
