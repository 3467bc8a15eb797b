"""The loan saga, without a daemon: what moves it, in which orders, and what ends it."""

from itertools import permutations

import pytest

from loan_application import (
    Accepted,
    Activated,
    Approved,
    Cancelled,
    CompletionWanted,
    Declined,
    Finalized,
    LoanApplication,
    OfferChanged,
    PaidOut,
    PartlySubmitted,
    PayOut,
    Preaccepted,
    Registered,
    ReleaseFunds,
    ReserveFunds,
    Submitted,
    WorkItemChanged,
)
from orchestrator import Event, days
from orchestrator.testing import Dialogue, drive


def submitted() -> Dialogue:
    return drive(LoanApplication, Submitted("1", 12000))


def accepted() -> Dialogue:
    t = submitted().tell(PartlySubmitted("1")).tell(Preaccepted("1")).tell(Accepted("1"))
    return t.expect(ReserveFunds("1", 12000))


@pytest.mark.parametrize("signatures", list(permutations((Approved("1"), Registered("1"), Activated("1")))))
def test_three_departments_sign_in_any_order(signatures: tuple[Event, ...]) -> None:
    t = accepted().done().tell(Finalized("1"))
    for signature in signatures:
        t.expect_nothing().tell(signature)
    t.expect(PayOut("1")).answer(PaidOut(12000)).ends("completed")
    assert t.state.outcome == "activated"


def test_events_that_come_before_their_step_are_kept_for_it() -> None:
    t = accepted()
    for event in (Finalized("1"), Activated("1"), Approved("1"), Registered("1")):
        t.tell(event).expect_nothing()
    t.done().expect(PayOut("1"))


@pytest.mark.parametrize(("event", "outcome"), [(Declined("1"), "declined"), (Cancelled("1"), "cancelled")])
def test_a_no_at_the_door_ends_it_with_nothing_to_undo(event: Event, outcome: str) -> None:
    t = submitted().tell(PartlySubmitted("1")).tell(event).ends("compensated")
    assert t.state.outcome == outcome


@pytest.mark.parametrize(("event", "outcome"), [(Declined("1"), "declined"), (Cancelled("1"), "cancelled")])
def test_a_no_after_the_offer_gives_the_funds_back(event: Event, outcome: str) -> None:
    t = accepted().done().tell(Finalized("1")).tell(Approved("1")).tell(event)
    t.expect(ReleaseFunds("1")).done().ends("compensated")
    assert t.state.outcome == outcome


def test_a_no_while_the_funds_are_being_reserved_gives_them_back() -> None:
    accepted().tell(Declined("1")).expect(ReleaseFunds("1")).done().ends("compensated")


def test_a_no_while_the_money_is_on_its_way_comes_too_late() -> None:
    t = accepted().done().tell(Finalized("1"))
    t.tell(Approved("1")).tell(Registered("1")).tell(Activated("1")).expect(PayOut("1"))
    t.tell(Cancelled("1")).expect_nothing()
    t.answer(PayOut("1"), PaidOut(12000)).ends("completed")
    assert t.state.outcome == "activated"


def test_offers_and_work_move_nothing_and_are_counted() -> None:
    t = submitted()
    for activity in ("O_SELECTED", "O_CREATED", "O_SENT", "O_SELECTED", "O_CANCELLED", "O_CREATED"):
        t.tell(OfferChanged("1", activity))
    t.tell(WorkItemChanged("1", "W_Completeren aanvraag", "start"))
    t.tell(WorkItemChanged("1", "W_Completeren aanvraag", "complete")).expect_nothing()
    assert (t.state.offer, t.state.offers, t.state.work_items) == ("O_CREATED", 2, 1)


def test_what_comes_after_the_end_is_late() -> None:
    t = submitted().tell(Declined("1")).tell(OfferChanged("1", "O_DECLINED"))
    assert (t.last.outcome, t.state.offer) == ("late", "")


def test_a_silent_customer_is_reminded_three_times_and_then_given_up() -> None:
    t = submitted().tell(PartlySubmitted("1")).tell(Preaccepted("1")).expect_nothing()
    for reminder in (1, 2, 3):
        t.wait(days(30)).expect(CompletionWanted("1", reminder)).expect_nothing()
    t.wait(days(30)).ends("compensated")
    assert t.state.outcome == "cancelled"


def test_a_customer_who_answers_a_reminder_goes_on() -> None:
    t = submitted().tell(PartlySubmitted("1")).tell(Preaccepted("1")).wait(days(30))
    t.expect(CompletionWanted("1", 1)).tell(Accepted("1")).expect(ReserveFunds("1", 12000))


def test_a_form_that_never_comes_is_given_up() -> None:
    submitted().wait(days(30)).ends("compensated")
