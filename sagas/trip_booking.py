"""A trip: flight, hotel and car booked side by side, approved by a person, insured, paid, or all of it undone.

Three branches in parallel, a refusal that is not the end (no car: the traveller takes the train), a person's approval
with a deadline, a child saga that is unwound with its parent, a pivot, and an event that may come at any time.

    orchestrator run sagas/trip_booking.py
    orchestrator emit TripRequested --file sagas/sample_trips.jsonl
    orchestrator emit TripApproved '{"trip_id": "T-1", "by": "Ines"}'
    orchestrator show TripBooking/T-1

What is booked stands in a ledger in the folder TRIP_DATA (default ./trip_data). Refusals go by what is asked for:
nothing goes to Atlantis, Bethlehem has no room, Venice no cars, nobody is insured on the Etna, a card pays 5,000.
"""

import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from datetime import date
from decimal import Decimal
from pathlib import Path

from orchestrator import (
    App,
    Call,
    Child,
    Command,
    Compensate,
    Event,
    Query,
    Refusal,
    Saga,
    Wait,
    days,
    on,
    participant,
    step,
)

# What is said.


class TripRequested(Event):
    """Somebody wants to travel."""

    trip_id: str
    traveller: str
    destination: str
    departs: date
    nights: int


class TripApproved(Event):
    """A person says yes."""

    trip_id: str
    by: str


class TripDenied(Event):
    """A person says no."""

    trip_id: str
    by: str
    why: str


class TripCancelled(Event):
    """The traveller changed his mind; possible until it is paid."""

    trip_id: str


class TripBooked(Event):
    """Published when all is booked and paid."""

    trip_id: str
    total: Decimal


class Booked(Event):
    """A desk's yes."""

    reference: str
    price: Decimal


class FullyBooked(Refusal):
    """A desk's no."""

    what: str


class BookFlight(Command[Booked, FullyBooked]):
    """Seats there and back."""

    trip_id: str
    destination: str
    departs: date


class CancelFlight(Command):
    """The seats are free again."""

    trip_id: str


class BookHotel(Command[Booked, FullyBooked]):
    """A room."""

    trip_id: str
    destination: str
    nights: int


class CancelHotel(Command):
    """The room is free again."""

    trip_id: str


class BookCar(Command[Booked, FullyBooked]):
    """A car at the destination."""

    trip_id: str
    destination: str
    nights: int


class CancelCar(Command):
    """The car is free again."""

    trip_id: str


class Paid(Event):
    """The card was charged."""

    receipt: str


class CardRefused(Refusal):
    """More than the card pays."""

    limit: Decimal


class Pay(Command[Paid, CardRefused]):
    """Charge the traveller's card."""

    trip_id: str
    amount: Decimal


class Refund(Command):
    """Give back what may have been charged."""

    trip_id: str


# Insurance: a saga of its own, used here as a child.


class InsuranceWanted(Event):
    """A trip is to be insured."""

    trip_id: str
    destination: str
    value: Decimal


class Insurable(Event):
    """What it would cost."""

    premium: Decimal


class Uninsurable(Refusal):
    """No company takes that risk."""

    why: str


class AssessRisk(Query[Insurable, Uninsurable]):
    """A question; it changes nothing, so there is nothing to undo."""

    destination: str
    value: Decimal


class PolicyIssued(Event):
    """The traveller is insured."""

    policy: str


class IssuePolicy(Command[PolicyIssued]):
    """Insure the trip."""

    trip_id: str
    premium: Decimal


class RevokePolicy(Command):
    """The trip is not insured any more."""

    trip_id: str


class Insurance(Saga, key="trip_id", starts=InsuranceWanted):
    """Ask for the premium, then take out the policy."""

    trip_id: str
    destination: str
    value: Decimal
    premium: Decimal = Decimal(0)
    policy: str = ""

    @step
    def assess(self) -> AssessRisk:
        return AssessRisk(self.destination, self.value)

    @assess.on
    def assessed(self, reply: Insurable) -> None:
        self.premium = reply.premium

    @step
    def issue(self) -> IssuePolicy:
        return IssuePolicy(self.trip_id, self.premium)

    @issue.on
    def issued(self, reply: PolicyIssued) -> None:
        self.policy = reply.policy

    @issue.compensate
    def revoke(self) -> RevokePolicy:
        return RevokePolicy(self.trip_id)


# The trip.


class TripBooking(Saga, key="trip_id", starts=TripRequested, deadline=days(14)):
    """All of it, or nothing."""

    trip_id: str
    traveller: str
    destination: str
    departs: date
    nights: int
    total: Decimal = Decimal(0)
    flight_reference: str = ""
    hotel_reference: str = ""
    car_reference: str = ""  # stays empty where there are no cars
    approved_by: str = ""
    policy: str = ""
    receipt: str = ""

    @step(after=())  # from the start; so are the next two, so the three run side by side
    def flight(self) -> BookFlight:
        return BookFlight(self.trip_id, self.destination, self.departs)

    @flight.on
    def flight_booked(self, reply: Booked) -> None:
        self.flight_reference = reply.reference
        self.total += reply.price

    @flight.compensate
    def cancel_flight(self) -> CancelFlight:
        return CancelFlight(self.trip_id)

    @step(after=())
    def hotel(self) -> BookHotel:
        return BookHotel(self.trip_id, self.destination, self.nights)

    @hotel.on
    def hotel_booked(self, reply: Booked) -> None:
        self.hotel_reference = reply.reference
        self.total += reply.price

    @hotel.compensate
    def cancel_hotel(self) -> CancelHotel:
        return CancelHotel(self.trip_id)

    @step(after=())
    def car(self) -> BookCar:
        return BookCar(self.trip_id, self.destination, self.nights)

    @car.on
    def car_booked(self, reply: Booked) -> None:
        self.car_reference = reply.reference
        self.total += reply.price

    @car.refused
    def no_car(self, refusal: FullyBooked) -> None:
        """Going on without one: there are trains."""

    @car.compensate
    def cancel_car(self) -> CancelCar:
        return CancelCar(self.trip_id)

    @step  # after all that is open so far: the three branches end here
    def approval(self) -> Wait:
        return Wait(days(2))

    @approval.on
    def decided(self, event: TripApproved | TripDenied) -> Compensate | None:
        if isinstance(event, TripDenied):
            return Compensate(f"{event.by} denied it: {event.why}")
        self.approved_by = event.by
        return None

    @approval.late
    def nobody_decided(self) -> Compensate:
        return Compensate("nobody approved it within two days")

    @step
    def insure(self) -> Child[Insurance]:
        return Child(Insurance, InsuranceWanted(self.trip_id, self.destination, self.total))

    @insure.on
    def insured(self, end: Insurance) -> None:
        self.policy = end.policy
        self.total += end.premium

    @step(pivot=True)
    def pay(self) -> Pay:
        return Pay(self.trip_id, self.total)

    @pay.on
    def paid(self, reply: Paid) -> None:
        self.receipt = reply.receipt

    @pay.compensate
    def refund(self) -> Refund:
        return Refund(self.trip_id)

    @step
    def announce(self) -> TripBooked:
        return TripBooked(self.trip_id, self.total)

    @on
    def cancelled(self, event: TripCancelled) -> Compensate:
        return Compensate("the traveller cancelled")


# Who does it: one participant may take several commands. What is booked stands in one table, under the key of the
# command that booked it; an undo knows that key as `call.undoes`.

PRICES = {BookFlight: Decimal(280), BookHotel: Decimal(95), BookCar: Decimal(40)}  # rooms and cars by the night
FULL = {BookFlight: {"Atlantis"}, BookHotel: {"Atlantis", "Bethlehem"}, BookCar: {"Atlantis", "Venice"}}
CARD_LIMIT = Decimal(5000)

Bookings = sqlite3.Connection


def ledger() -> Bookings:
    folder = Path(os.environ.get("TRIP_DATA", "trip_data"))
    folder.mkdir(parents=True, exist_ok=True)
    bookings = sqlite3.connect(folder / "bookings.db", isolation_level=None)
    bookings.execute("PRAGMA journal_mode = WAL")
    bookings.execute("CREATE TABLE IF NOT EXISTS bookings (key TEXT PRIMARY KEY, trip_id TEXT, what TEXT)")
    return bookings


@asynccontextmanager
async def open_bookings() -> AsyncGenerator[Bookings]:
    """Only the daemon enters this."""
    with closing(ledger()) as bookings:
        yield bookings


def note(bookings: Bookings, key: str, trip_id: str, what: str) -> str:
    """Write a booking down. Returns its reference."""
    number = bookings.execute("INSERT INTO bookings VALUES (?, ?, ?)", [key, trip_id, what]).lastrowid
    return f"{what[:2].upper()}-{number:04}"


@participant
async def book(command: BookFlight | BookHotel | BookCar, call: Call[Bookings]) -> Booked | FullyBooked:
    async with call.once(call.resources) as first:
        if not first:
            return first.answer
        what = type(command).__name__.removeprefix("Book").lower()
        if command.destination in FULL[type(command)]:
            return first.answers(FullyBooked(f"no {what} in {command.destination}"))
        nights = 1 if isinstance(command, BookFlight) else command.nights
        reference = note(call.resources, call.key, command.trip_id, what)
        return first.answers(Booked(reference, nights * PRICES[type(command)]))


@participant
def assess(command: AssessRisk) -> Insurable | Uninsurable:  # a plain function runs in a thread
    if command.destination == "Etna":
        return Uninsurable("nobody is insured on a volcano")
    return Insurable(round(command.value * Decimal("0.04"), 2))


@participant
async def insure(command: IssuePolicy, call: Call[Bookings]) -> PolicyIssued:
    async with call.once(call.resources) as first:
        if not first:
            return first.answer
        return first.answers(PolicyIssued(note(call.resources, call.key, command.trip_id, "policy")))


@participant
async def pay(command: Pay, call: Call[Bookings]) -> Paid | CardRefused:
    async with call.once(call.resources) as first:
        if not first:
            return first.answer
        if command.amount > CARD_LIMIT:
            return first.answers(CardRefused(CARD_LIMIT))
        return first.answers(Paid(note(call.resources, call.key, command.trip_id, "payment")))


@participant
async def undo(command: CancelFlight | CancelHotel | CancelCar | RevokePolicy | Refund, call: Call[Bookings]) -> None:
    async with call.once(call.resources) as first:
        if first:
            call.resources.execute("DELETE FROM bookings WHERE key = ?", [call.undoes])


app = App(
    "trips",
    sagas=[TripBooking],  # Insurance, its child, comes with it
    participants=[book, assess, insure, pay, undo],
    resources=open_bookings,
)
