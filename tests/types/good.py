"""Every way to write a saga, in one module that both type checkers and the import accept."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from tenacity import stop_after_delay, wait_chain, wait_fixed

from orchestrator import (
    App,
    Call,
    Child,
    Command,
    Compensate,
    Delivery,
    Done,
    Event,
    Failure,
    Fatal,
    Finish,
    Goto,
    Orchestrator,
    Query,
    Refusal,
    Retry,
    RetryAfter,
    Saga,
    Secret,
    Stay,
    Unwound,
    Wait,
    days,
    delivery,
    hours,
    listener,
    migrate,
    minutes,
    now,
    on,
    participant,
    start,
    step,
    unique_id,
    upcast,
)
from orchestrator.testing import drive


@dataclass(frozen=True)
class Line:
    product_id: int
    quantity: int


# A linear process.


class OrderPlaced(Event):
    order_id: str
    items: tuple[Line, ...]
    total: Decimal


class StockReserved(Event):
    reservation_id: str


class OutOfStock(Refusal):
    product_id: int


class ReserveStock(Command[StockReserved, OutOfStock]):
    order_id: str
    items: tuple[Line, ...]


class ReleaseStock(Command):
    order_id: str


class CardCharged(Event):
    charge_id: str


class CardDeclined(Refusal):
    why: str


class ChargeCard(Command[CardCharged, CardDeclined]):
    order_id: str
    total: Decimal
    card: Secret[str] = Secret("none")


class RefundCard(Command):
    order_id: str


class OrderShipped(Event):
    tracking: str


class ShipOrder(Command[OrderShipped]):
    order_id: str


class OrderFulfilled(Event):
    order_id: str
    tracking: str


class OrderFulfilment(Saga, key="order_id", starts=OrderPlaced):
    """Reserve stock, take the payment, ship; undone in reverse when a step is refused."""

    order_id: str
    items: tuple[Line, ...]
    total: Decimal
    reservation_id: str = ""
    tracking: str = ""

    @step
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id, self.items)

    @reserve.on
    def reserved(self, reply: StockReserved) -> None:
        self.reservation_id = reply.reservation_id

    @reserve.compensate
    def release(self) -> ReleaseStock:
        return ReleaseStock(self.order_id)

    @step(retry=Retry(attempts=5, timeout=60), pivot=True)
    def charge(self) -> ChargeCard:
        return ChargeCard(self.order_id, self.total)

    @charge.compensate
    def refund(self) -> RefundCard:
        return RefundCard(self.order_id)

    @step
    def ship(self) -> ShipOrder:
        return ShipOrder(self.order_id)

    @ship.on
    def shipped(self, reply: OrderShipped) -> None:
        self.tracking = reply.tracking

    @step
    def announce(self) -> OrderFulfilled:
        return OrderFulfilled(self.order_id, self.tracking)


# Waiting, deadlines, reminders, polling, another key, events at any time, a start that computes.


class ClaimFiled(Event, type="claim.filed", version=2):
    claim_id: str
    reference: str
    amount: Decimal


@upcast(ClaimFiled, from_version=1)
def without_reference(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "reference": old["claim_id"]}


class Approved(Event):
    claim_id: str
    by: str


class Denied(Event):
    claim_id: str
    why: str


class DocumentReceived(Event):
    reference: str
    pages: int


class ClaimWithdrawn(Event):
    claim_id: str


class ReferenceClosed(Event):
    reference: str


class Reminder(Command):
    claim_id: str


class StillOpen(Event):
    count: int


class AllChecked(Event):
    pass


class TooMuch(Refusal):
    limit: Decimal


class NoSuchClaim(Refusal):
    pass


class CheckProgress(Query[StillOpen | AllChecked, TooMuch | NoSuchClaim]):
    claim_id: str


class Claim(Saga, key="claim_id", deadline=days(30), version=2, restartable=True):
    claim_id: str
    reference: str
    amount: Decimal
    filed_at: datetime | None = None
    token: str = ""
    filed_by: str = ""
    pages: list[int] = []

    @classmethod
    @start
    def filed(cls, event: ClaimFiled) -> Claim:
        return cls(
            claim_id=event.claim_id,
            reference=event.reference,
            amount=event.amount,
            filed_at=now(),
            token=unique_id("token"),
            filed_by=delivery().user,
        )

    @staticmethod
    @migrate(from_version=1)
    def with_pages(old: dict[str, Any]) -> dict[str, Any]:
        return {**old, "pages": []}

    @step(undo=None)
    def remind(self) -> Reminder:
        return Reminder(self.claim_id)

    @step
    def approval(self) -> Wait:
        return Wait(days(3))

    @approval.on
    def decided(self, event: Approved | Denied) -> Compensate | None:
        return Compensate(event.why) if isinstance(event, Denied) else None

    @approval.on(key="reference")
    def document(self, event: DocumentReceived) -> Stay | Finish:
        self.pages = [*self.pages, event.pages]
        return Stay() if event.pages < 3 else Finish()

    @approval.late
    def overdue(self) -> Goto | Compensate:
        return Goto(self.remind) if self.pages else Compensate("nobody decided")

    @step
    def pause(self) -> Wait:
        return Wait(minutes(10))

    @step
    def until(self) -> Wait:
        return Wait(until=self.filed_at)

    @step(timeout=hours(2))
    def check(self) -> CheckProgress | None:
        return CheckProgress(self.claim_id) if self.amount > 100 else None

    @check.on
    def progress(self, reply: StillOpen | AllChecked) -> Goto | None:
        return Goto(self.pause) if isinstance(reply, StillOpen) else None

    @check.refused
    def too_much(self, refusal: TooMuch | NoSuchClaim) -> Goto | Compensate | None:
        return Goto(self.approval) if isinstance(refusal, TooMuch) else None

    @check.failed
    def gone(self, failure: Failure) -> Compensate:
        return Compensate(failure.error)

    @on
    def withdrawn(self, event: ClaimWithdrawn) -> Compensate:
        return Compensate("withdrawn")

    @on(key="reference")
    def closed(self, event: ReferenceClosed) -> Stay | None:
        return None


# Passing the pivot again and again; tenacity's own waits; pauses.


class Subscribed(Event):
    subscription_id: str


class Collected(Event):
    until: datetime


class CollectFee(Command[Collected, CardDeclined]):
    subscription_id: str


class Subscription(Saga, key="subscription_id", starts=Subscribed):
    subscription_id: str
    until: datetime | None = None

    @step(pivot=True, retry=Retry(wait=wait_chain(wait_fixed(1), wait_fixed(60)), stop=stop_after_delay(3600)))
    def collect(self) -> CollectFee:
        return CollectFee(self.subscription_id)

    @collect.on
    def collected(self, reply: Collected) -> None:
        self.until = reply.until

    @collect.refused
    def declined(self, refusal: CardDeclined) -> Goto | Finish:
        return Finish() if self.until is None else Goto(self.grace)

    @step
    def month(self) -> Wait:
        return Wait(until=self.until)

    @step
    def grace(self) -> Wait:
        return Wait(30)

    @grace.late
    def again(self) -> Goto:
        return Goto(self.collect)


# Branches, lists, children, telling of success and failure, several starters, shared steps.


class TripAsked(Event):
    trip_id: str
    hotels: tuple[str, ...] = ()


class TripAskedByPhone(Event):
    trip_id: str


class TripAccepted(Event):
    trip_id: str


class TripRejected(Event):
    trip_id: str


class RoomBooked(Event):
    room: int


class Full(Refusal):
    hotel: str


class BookRoom(Command[RoomBooked, Full]):
    hotel: str


class CancelRoom(Command):
    hotel: str


class BookFlight(Command):
    trip_id: str


class CancelFlight(Command):
    trip_id: str


class CarWanted(Event):
    car_id: str


class Car(Saga, key="car_id", starts=CarWanted):
    car_id: str
    plate: str = "none"

    @step
    def hire(self) -> BookFlight:
        return BookFlight(self.car_id)

    @hire.compensate
    def give_back(self) -> CancelFlight:
        return CancelFlight(self.car_id)


class Telling(Saga):
    """Says in the beginning that the trip is accepted, and last of all, when it is undone, that it was rejected."""

    trip_id: str
    told: bool = False

    @step
    def accept(self) -> TripAccepted:
        self.told = True
        return TripAccepted(self.trip_id)

    @accept.compensate
    def reject(self) -> TripRejected:
        return TripRejected(self.trip_id)


class Trip(Telling, key="trip_id", starts=(TripAsked, TripAskedByPhone)):
    hotels: tuple[str, ...] = ()
    rooms: tuple[int, ...] = ()
    plates: tuple[str, ...] = ()

    @step
    def flight(self) -> BookFlight:
        return BookFlight(self.trip_id)

    @flight.failed
    def no_flight(self, failure: Failure) -> Goto | None:
        return Goto(self.bill) if failure.reason == "fatal" else None

    @flight.compensate
    def cancel_flight(self, command: BookFlight) -> CancelFlight:
        return CancelFlight(command.trip_id)

    @step(after=Telling.accept, at_once=8)
    def rooms_booked(self) -> list[BookRoom]:
        return [BookRoom(hotel) for hotel in self.hotels]

    @rooms_booked.on
    def booked(self, reply: RoomBooked, command: BookRoom) -> None:
        self.rooms = (*self.rooms, reply.room)

    @rooms_booked.refused
    def full(self, refusal: Full, command: BookRoom) -> Compensate | None:
        return Compensate(f"{command.hotel} is full") if refusal.hotel == "Ritz" else None

    @rooms_booked.failed
    def unreachable(self, failure: Failure, command: BookRoom) -> None: ...

    @rooms_booked.compensate
    def cancel_room(self, command: BookRoom) -> CancelRoom:
        return CancelRoom(command.hotel)

    @step(after=())
    def car(self) -> Child[Car]:
        return Child(Car, CarWanted(self.trip_id))

    @car.on
    def hired(self, end: Car) -> None:
        self.plates = (end.plate,)

    @car.refused
    def no_car(self, refusal: Unwound) -> Goto | Compensate | None:
        return Compensate(refusal.why)

    @step(after=(flight, car))
    def more_cars(self) -> Sequence[Child[Car]]:
        return [Child(Car, CarWanted(f"{self.trip_id}-{n}")) for n in range(2)]

    @more_cars.on
    def more_hired(self, end: Car) -> None:
        self.plates = (*self.plates, end.plate)

    @step(undo=None)
    def bill(self) -> BookFlight | None:
        return BookFlight(self.trip_id) if self.plates else None


# Participants, listeners, and the app that hosts them.


class Services:
    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", check_same_thread=False)


@asynccontextmanager
async def open_services() -> AsyncGenerator[Services]:
    yield Services()


class MailSent(Event):
    order_id: str


@participant
async def reserve_stock(command: ReserveStock, call: Call[Services]) -> StockReserved | OutOfStock:
    async with call.once(call.resources.db) as first:
        if not first:
            return OutOfStock(command.items[0].product_id)
        return first.answers(StockReserved(call.key))


@participant
def release_stock(command: ReleaseStock, call: Call[Services]) -> Done | None:
    with call.once(call.resources.db):
        return None if call.undoes else Done()


@participant
async def charge_card(command: ChargeCard) -> CardCharged | CardDeclined:
    if command.total > 1000:
        raise RetryAfter(30, "the bank is closed")
    if command.card.reveal() == "none":
        raise Fatal("no card")
    return CardCharged("c1")


@listener
async def tell_customer(event: OrderFulfilled, delivery: Delivery[Services]) -> MailSent | None:
    return MailSent(event.order_id) if delivery.attempt == 1 else None


@listener(retry=Retry(attempts=2))
def log_it(event: OrderFulfilled | OrderPlaced) -> None: ...


app = App(
    "shop",
    sagas=[OrderFulfilment],
    participants=[reserve_stock, release_stock, charge_card],
    listeners=[tell_customer, log_it],
    resources=open_services,
)


async def embedded() -> str:
    async with Orchestrator(app, store="sqlite:///shop.db") as orchestrator:
        run = await orchestrator.start(OrderPlaced("1", (), Decimal(1)))
        end = await run.end()
        return end.status


# A test is a dialogue.


def dialogue() -> None:
    items = (Line(1, 2),)
    t = drive(OrderFulfilment, OrderPlaced("1", items, Decimal(5)))
    t.expect(ReserveStock("1", items))
    t.answer(StockReserved("r1"))
    t.expect(ChargeCard("1", Decimal(5)))
    t.answer(CardDeclined("limit"))
    t.expect(ReleaseStock("1"))
    t.answer(Done())
    assert t.status == "compensated"
