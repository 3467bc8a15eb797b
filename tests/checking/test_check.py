"""`check`: sound sagas are green, each mistake is found, its shortest trace is a test that fails."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from msgspec import Meta

from orchestrator import DefinitionError, Event
from orchestrator.checking.source import Source
from orchestrator.checking.values import Values
from orchestrator.machine import Call, Do, Undo, Visit, ending, unwinding
from orchestrator.machine.turn import Turn
from orchestrator.testing import check, drive
from sagas import loan_application, order_fulfilment, trip_booking
from tests.machine import cast

from . import wrong

SOUND = [
    cast.Linear,
    cast.Branches,
    cast.FanOut,
    cast.Approval,
    cast.Choosy,
    cast.Disk,
    cast.Machine,
    cast.Monthly,
    cast.Buggy,
    cast.Again,
    cast.Referenced,
    wrong.Pack,
    wrong.Votes,
    order_fulfilment.OrderFulfilment,
    trip_booking.Insurance,
    trip_booking.TripBooking,
    loan_application.LoanApplication,
]

# saga, what is wrong, how many messages the shortest way there takes, lines of its test
WRONG: list[tuple[Any, str, int, str]] = [
    (
        wrong.Moody,
        "reserve.on: reserved raises ValueError: in a bad mood",
        3,
        "answer(Reserved(reservation='reservation-1', mood",
    ),
    (wrong.Forever, "a dead end: from approval", 2, "t.let_time_pass()"),
    (wrong.Hasty, "left.refused: no_left raises left decides to leave", 2, ".answer(SoldOut())"),
    (wrong.Forgetful, "reserve may have taken effect, but its compensation had nothing to undo", 2, ".fail()"),
    (wrong.Demanding, "reserve.compensate: release raises IndexError", 1, "drive(Demanding, Placed("),
    (wrong.Scribbling, "release wrote to the saga", 1, "drive(Scribbling, Placed("),
    (wrong.Late, "on: cancelled raises AssertionError: too late", 3, "t.tell(Cancelled(order='order-1'))"),
    (wrong.Parent, "pack.on: packed raises KeyError", 4, "t.expect(Child(Pack, Placed("),
    (wrong.Circle, "a dead end: from approval no message leads to an end", 1, "t.let_time_pass()"),
    (wrong.Counting, "a dead end: from approval no message leads to an end within 10 visits", 1, "t.let_time_pass()"),
    (wrong.TooLate, "charge may have taken effect, but its compensation had nothing to undo", 2, ".fail()"),
    (
        wrong.TooLate,
        "charge was done and is not undone: its compensation has something to undo only since",
        4,
        "Receipt(",
    ),
    (
        wrong.Unheard,
        "unhandled refusal: deliver may answer SoldOut when there is only forward",
        4,
        ".answer(SoldOut())",
    ),
    (
        cast.NoWayBack,
        "unhandled refusal: rush may answer Declined when there is only forward",
        4,
        "Rush(order='order-1')",
    ),
    (wrong.Partial, "reserve.compensate: release raises RuntimeError: the third was forgotten", 2, "product=3"),
    (wrong.Overdue, "reserve.failed: no_answer raises TimeoutError: no answer", 2, "t.wait("),
    (wrong.Overdue, "approval.late: overdue raises RuntimeError: nobody came", 2, "t.now += "),
    (wrong.Again, "reserve.failed: no_answer raises LookupError: twice", 4, ".fail()"),
]


@pytest.mark.parametrize("saga", SOUND, ids=lambda saga: saga.__name__)
def test_sound_sagas_are_green(saga: Any) -> None:
    report = check(saga)
    assert report.ok
    assert report.ends or report.cut


@pytest.mark.parametrize(("saga", "what", "moves", "line"), WRONG)
def test_a_mistake_is_found_with_the_shortest_way_there(saga: Any, what: str, moves: int, line: str) -> None:
    report = check(saga, strict=False)
    [found] = [violation for violation in report.violations if what in violation.what]
    assert found.moves == moves, found.dialogue
    assert f"{moves}. " in found.dialogue
    assert line in found.test


@pytest.mark.parametrize("how", [{}, {"no_tombstones": True}, {"verbs": True}, {"as_child": True}], ids=str)
@pytest.mark.parametrize("saga", dict.fromkeys(row[0] for row in WRONG), ids=lambda saga: saga.__name__)
def test_the_test_that_is_handed_out_fails_because_of_the_mistake(saga: Any, how: dict[str, bool]) -> None:
    for violation in check(saga, strict=False, visits=3, **how).violations:
        names: dict[str, Any] = {}
        exec(violation.test, names)
        [test] = [value for name, value in names.items() if name.startswith("test_")]
        with pytest.raises(AssertionError) as caught:
            test()
        assert not violation.details or violation.details.splitlines()[-1] in str(caught.value)


def test_a_mistake_is_an_assertion_error_that_shows_it() -> None:
    with pytest.raises(AssertionError, match="1 thing wrong") as caught:
        check(wrong.Moody)
    assert "def test_moody() -> None:" in str(caught.value)
    assert "coverage.py" not in str(caught.value)  # the traceback is the user's own


def test_examples_take_the_place_of_made_values() -> None:
    good = [wrong.Reserved("r", wrong.Mood.GOOD)]
    assert check(wrong.Moody, examples={wrong.Reserved: good}).ok
    no = cast.Approved("1", "no")
    assert check(cast.Approval, examples={cast.Approved: [no]}).ok


def test_a_bound_that_is_reached_is_said_and_never_green() -> None:
    report = check(cast.FanOut, max_states=10, strict=False)
    assert not report.ok
    assert "stopped unfinished at 10 states" in str(report)
    with pytest.raises(AssertionError, match="0 seconds"):
        check(cast.FanOut, max_seconds=0)


def test_what_is_worth_a_look() -> None:
    report = check(wrong.Late, strict=False)
    assert "reserve: 5 attempts may take 307 s, longer than the deadline, 60 s" in report.lints
    assert any("nobody came" in what for what in report.perhaps)  # the deadline is always before that wait's end
    assert "approval waits without limit: only its event moves it" in check(wrong.Forever, strict=False).lints
    choosy = check(cast.Choosy)
    assert "the undo of maybe is never asked for" in choosy.lints
    assert choosy.missing == ("maybe.compensate: unship",)
    linear = check(cast.Linear)
    assert linear.without_tombstone == ("reserve", "charge")
    assert "ship: ship#1 failed: failed; the pivot is passed, there is only forward" in linear.parked


def test_times_are_worth_a_look() -> None:
    never, no_timeout = check(wrong.Stubborn).lints
    assert never == "reserve: its attempts never end, and there is no time limit: it never gives up"
    assert no_timeout == "charge: an attempt has no timeout: a lost command is never sent again"


def test_a_participant_without_tombstones_is_found_by_what_it_does_after_its_undo() -> None:
    assert check(cast.Linear).ok  # they keep them (R7)
    report = check(cast.Linear, no_tombstones=True, strict=False)
    reserve, charge = report.violations
    assert reserve.what == "missing tombstone: reserve is done after its undo, and nothing undoes it (R7, I5)"
    assert reserve.moves == 4
    started, left, undone, landed = (line for line in reserve.dialogue.splitlines() if not line.startswith("  "))
    assert started.startswith("1. the outside: Placed(")
    assert left.startswith(("2. an operator cancels", "2. reserve#1 fails in every attempt"))
    assert undone == "3. the undo of reserve#1 is answered: Done()"
    assert landed.startswith("4. reserve#1: the do comes only now, or a second time: without a tombstone it is done")
    assert "t.late(Reserve(order='order-1'), Reserved())" in reserve.test
    assert charge.moves == 5
    [only] = check(cast.Linear, no_tombstones=[cast.Charge], strict=False).violations
    assert "charge" in only.what


def test_a_machine_that_breaks_a_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(unwinding, "_ready", _wanted)
        assert "reserve is undone before what came after it (I5)" in _wrong_with(cast.Linear)
    with monkeypatch.context() as broken:
        broken.setattr(Call, "needs_undo", property(lambda call: call.do is Do.YES))
        assert "reserve may have taken effect" in _wrong_with(cast.Linear)
    with monkeypatch.context() as broken:
        broken.setattr(ending, "_put_away", Turn.open_visits)  # does nothing
        assert "still has a timer or a kept event (I8)" in _wrong_with(cast.Buggy)
    assert _wrong_with(cast.Linear) == ""


def _wanted(turn: Turn) -> list[Visit]:
    """Every undo at once, not in R7's order."""
    return [visit for visit in turn.instance.visits if any(call.unwinding is Undo.WANTED for call in visit.calls)]


def _wrong_with(saga: Any) -> str:
    return "\n".join(violation.what for violation in check(saga, strict=False).violations)


def test_drive_plays_an_answer_to_an_attempt_that_is_over() -> None:
    t = drive(cast.Linear, cast.Placed("1"))
    t.expect(cast.Reserve("1")).fail(once=True)
    t.late(cast.Reserve("1"), cast.Reserved("late"))
    assert t.state.reservation == "late"
    t.expect(cast.Charge("1")).late(cast.Reserve("1"), cast.Reserved("twice"))
    assert (t.last.outcome, t.state.reservation) == ("stale", "late")
    with pytest.raises(AssertionError, match="never sent"):
        t.late(cast.Ship("1"), cast.Shipped())


def test_values_are_made_from_their_types() -> None:
    from orchestrator.checking.values import Values

    [placed] = Values().of(wrong.Placed)
    assert placed.lines == (wrong.Line(1, Decimal(1)), wrong.Line(2, Decimal(1)))
    assert placed.card.reveal() == "card-1"
    assert [reply.mood for reply in Values().of(wrong.Reserved)] == [wrong.Mood.GOOD, wrong.Mood.BAD]


class Colour(Enum):
    RED = "red"


class Tree(Event):
    """A bit of everything."""

    flag: bool
    kind: Literal["a", "b"]
    colour: Colour
    day: date
    at: datetime
    size: Annotated[int, Meta(ge=5)]
    name: Annotated[str, Meta(min_length=12)]
    id: UUID
    pair: tuple[int, str]
    below: Tree | None
    tags: frozenset[str] = frozenset()


def test_each_small_alternative_is_tried_once_and_all_are_python_source() -> None:
    trees = Values().of(Tree)
    assert [(tree.flag, tree.kind) for tree in trees] == [(False, "a"), (True, "a"), (False, "b")]
    first = trees[0]
    assert (first.size, len(first.name), len(first.tags), first.below) == (5, 12, 2, None)
    source = Source()
    text = source.value(first)
    names: dict[str, Any] = {}
    exec("\n".join(source.imports()), names)
    assert eval(text, names) == first


class Coded(Event):
    code: Annotated[str, Meta(pattern="^[0-9]{3}$")]


def test_a_value_that_cannot_be_made_is_asked_for() -> None:
    with pytest.raises(DefinitionError, match=r"give some, examples=\{Coded: \[...\]\}"):
        Values().of(Coded)
    assert Values({Coded: [Coded("123")]}).of(Coded) == (Coded("123"),)
