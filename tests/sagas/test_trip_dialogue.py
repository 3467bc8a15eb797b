"""The trip saga and its child, without a daemon: branches, the person who approves, what is undone when."""

from datetime import date
from decimal import Decimal

from orchestrator import Child, Done, Unwound, days
from orchestrator.testing import Dialogue, Unwind, drive
from trip_booking import (
    AssessRisk,
    BookCar,
    Booked,
    BookFlight,
    BookHotel,
    CancelCar,
    CancelFlight,
    CancelHotel,
    CardRefused,
    FullyBooked,
    Insurable,
    Insurance,
    InsuranceWanted,
    IssuePolicy,
    Paid,
    Pay,
    PolicyIssued,
    RevokePolicy,
    TripApproved,
    TripBooked,
    TripBooking,
    TripCancelled,
    TripDenied,
    TripRequested,
    Uninsurable,
)

DAY = date(2026, 5, 4)
FLIGHT, HOTEL, CAR = BookFlight("T", "Lisbon", DAY), BookHotel("T", "Lisbon", 4), BookCar("T", "Lisbon", 4)
WANTED = InsuranceWanted("T", "Lisbon", Decimal(820))
INSURED = Insurance(trip_id="T", destination="Lisbon", value=Decimal(820), premium=Decimal("32.80"), policy="PO-1")
NO_CARS = FullyBooked("no cars")


def requested() -> Dialogue:
    t = drive(TripBooking, TripRequested("T", "Ada", "Lisbon", DAY, 4))
    return t.expect(FLIGHT).expect(HOTEL).expect(CAR).expect_nothing()


def booked() -> Dialogue:
    t = requested().answer(CAR, Booked("C", Decimal(160))).answer(FLIGHT, Booked("F", Decimal(280)))
    return t.answer(HOTEL, Booked("H", Decimal(380))).expect_nothing()


def undone(t: Dialogue) -> None:
    """What stood side by side is undone side by side."""
    undos = (CancelFlight("T"), CancelHotel("T"), CancelCar("T"))
    for undo in undos:
        t.expect(undo)
    t.expect_nothing()
    for undo in undos:
        t.answer(undo, Done())
    t.ends("compensated")


def test_a_trip_is_booked_approved_insured_paid_and_announced() -> None:
    t = booked().tell(TripApproved("T", "Ines"))
    t.expect(Child(Insurance, WANTED)).answer(INSURED)
    t.expect(Pay("T", Decimal("852.80"))).answer(Paid("PA-1"))
    t.expect(TripBooked("T", Decimal("852.80"))).ends("completed")
    assert (t.state.approved_by, t.state.policy, t.state.receipt) == ("Ines", "PO-1", "PA-1")


def test_without_a_car_the_traveller_takes_the_train() -> None:
    t = requested().answer(CAR, NO_CARS)
    t.answer(FLIGHT, Booked("F", Decimal(280))).answer(HOTEL, Booked("H", Decimal(380)))
    t.tell(TripApproved("T", "Ines")).expect(Child(Insurance, InsuranceWanted("T", "Lisbon", Decimal(660))))
    assert t.state.car_reference == ""


def test_without_a_hotel_nobody_flies() -> None:
    t = requested().answer(FLIGHT, Booked("F", Decimal(280))).answer(HOTEL, FullyBooked("no rooms"))
    t.expect(CancelFlight("T")).expect(CancelCar("T"))  # the car is in doubt: nobody has answered yet
    t.answer(CancelFlight("T"), Done()).answer(CancelCar("T"), Done()).ends("compensated")


def test_a_denied_trip_is_undone() -> None:
    undone(booked().tell(TripDenied("T", "Ines", "too far")))


def test_a_trip_that_nobody_approves_within_two_days_is_undone() -> None:
    t = booked().wait(days(2) - 1).expect_nothing()
    undone(t.wait(1))


def test_an_approval_before_the_last_booking_is_kept() -> None:
    t = requested().tell(TripApproved("T", "Ines"))
    t.answer(CAR, Booked("C", Decimal(160))).answer(FLIGHT, Booked("F", Decimal(280)))
    t.answer(HOTEL, Booked("H", Decimal(380))).expect(Child(Insurance, WANTED))


def test_a_traveller_may_cancel_at_any_time() -> None:
    t = requested().answer(CAR, Booked("C", Decimal(160))).tell(TripCancelled("T"))
    undone(t)


def test_a_trip_that_cannot_be_insured_is_undone() -> None:
    t = booked().tell(TripApproved("T", "Ines")).expect(Child(Insurance, WANTED))
    undone(t.answer(Unwound("Insurance", "T/insure", "Uninsurable")))


def test_a_refused_card_revokes_the_insurance_first() -> None:
    t = booked().tell(TripApproved("T", "Ines")).expect(Child(Insurance, WANTED)).answer(INSURED)
    t.expect(Pay("T", Decimal("852.80"))).answer(CardRefused(Decimal(800)))
    t.expect(Unwind("Insurance")).expect_nothing()
    undone(t.done())


def test_the_insurance_asks_then_issues() -> None:
    t = drive(Insurance, WANTED).expect(AssessRisk("Lisbon", Decimal(820))).answer(Insurable(Decimal("32.80")))
    t.expect(IssuePolicy("T", Decimal("32.80"))).answer(PolicyIssued("PO-1")).ends("completed")


def test_a_risk_that_nobody_takes_leaves_nothing_to_revoke() -> None:
    t = drive(Insurance, WANTED).expect(AssessRisk("Lisbon", Decimal(820))).answer(Uninsurable("volcano"))
    t.ends("compensated")


def test_an_insurance_that_cannot_be_issued_is_revoked() -> None:
    t = drive(Insurance, WANTED).expect(AssessRisk("Lisbon", Decimal(820))).answer(Insurable(Decimal(30)))
    t.expect(IssuePolicy("T", Decimal(30))).fail("no paper")
    t.expect(RevokePolicy("T")).done().ends("compensated")
