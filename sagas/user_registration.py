"""Users who register, move and leave: what happens is an event, and everybody else reacts to it, each on his own.

    orchestrator run sagas/user_registration.py
    orchestrator emit RegistrationRequested '{"user_id": "anna", "email": "anna@example.org", "source": "web"}'
    orchestrator emit OrderRequested '{"order_id": "1", "user_id": "anna", "item": "tea"}'
    orchestrator emit DeactivationRequested '{"user_id": "anna", "reason": "moved away"}'
    orchestrator show Order/1
    sqlite3 -readonly orchestrator.db.projections/Users.db 'SELECT * FROM users'

Nobody writes and then publishes: a user *is* her events, and they go out by the commit that stores them. The e-mails
are files in the folder `mail` of USERS_DATA (default ./user_data); rename it, and the mail server is down.
docs/domain_events.md walks through this file.
"""

import os
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from orchestrator import (
    Aggregate,
    App,
    Call,
    Command,
    Compensate,
    Delivery,
    DuplicateMessage,
    Event,
    Projection,
    Recorded,
    Repository,
    Retry,
    Saga,
    Wait,
    apply,
    listener,
    on,
    participant,
    project,
    step,
)

A = TypeVar("A", bound=Aggregate)

# What is asked for, from outside.


class RegistrationRequested(Event):
    """Somebody wants to be a user."""

    user_id: str
    email: str
    source: str = "web"


class EmailChangeRequested(Event):
    """A user has another address."""

    user_id: str
    email: str


class DeactivationRequested(Event):
    """A user wants to leave, or is to."""

    user_id: str
    reason: str


# What has happened. Core events are ours, and may change with the code.


class UserRegistered(Event):
    """There is a new user."""

    user_id: str
    email: str
    source: str


class EmailChanged(Event):
    """A user is to be written to at another address."""

    user_id: str
    email: str


class UserDeactivated(Event):
    """A user has left."""

    user_id: str
    email: str
    reason: str


class RequestRefused(Event):
    """Somebody asked for something after leaving; `email` is the address that was given."""

    user_id: str
    email: str
    asked: str


# A boundary event is what others build on: it has a name and a version of its own, and says no more than they need.


class UserJoined(Event, type="user.registered", version=1, boundary=True):
    """There is a new user, for the outside."""

    user_id: str
    source: str


# A user decides, and is what her events make of her.


class User(Aggregate):
    """What is asked a second time changes nothing; what is asked after leaving is refused."""

    email: str = ""
    is_active: bool = False

    def register(self, email: str, source: str) -> None:
        """The first time."""
        if not self.version:
            self.record(UserRegistered(self.id, email, source))
        elif not self.is_active:
            self.record(RequestRefused(self.id, email, "to register again"))

    def change_email(self, email: str) -> None:
        """If it is another one."""
        if not self.is_active:
            self.record(RequestRefused(self.id, email, "to change the address"))
        elif email != self.email:
            self.record(EmailChanged(self.id, email))

    def deactivate(self, reason: str) -> None:
        """For ever."""
        if self.is_active:
            self.record(UserDeactivated(self.id, self.email, reason))

    @apply
    def registered(self, event: UserRegistered) -> None:
        self.email, self.is_active = event.email, True

    @apply
    def email_changed(self, event: EmailChanged) -> None:
        self.email = event.email

    @apply
    def deactivated(self, event: UserDeactivated) -> None:
        self.is_active = False

    @apply
    def refused(self, event: RequestRefused) -> None: ...


# The outside world, which is down now and then.


class Outside:
    """A mail server, an analytics service and a warehouse: the resources of the app."""

    def __init__(self, folder: Path) -> None:
        self.mail = folder / "mail"
        self.mail.mkdir(parents=True, exist_ok=True)
        self.analytics = sqlite3.connect(folder / "analytics.db", isolation_level=None)
        self.analytics.execute("CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY, what TEXT, user_id TEXT)")
        self.warehouse = sqlite3.connect(folder / "warehouse.db", isolation_level=None)
        self.warehouse.execute("CREATE TABLE IF NOT EXISTS reserved (key TEXT PRIMARY KEY, order_id TEXT, item TEXT)")

    def close(self) -> None:
        self.analytics.close()
        self.warehouse.close()


@asynccontextmanager
async def open_outside() -> AsyncGenerator[Outside]:
    """Only the daemon enters this."""
    with closing(Outside(Path(os.environ.get("USERS_DATA", "user_data")))) as outside:
        yield outside


# The operator: takes what is asked to the aggregate that decides. Its events are stored and sent in one commit, under
# the id of the request, and so once, however often the request is delivered.


async def decide(
    cls: type[A], id: str, decision: Callable[[A], None], delivery: Delivery[Outside], *, new: bool = False
) -> None:
    """Without `new`, somebody unknown is an error: tried again, since she may be on her way, then a dead letter."""
    with suppress(DuplicateMessage):  # decided before a crash, and something else has happened since
        await Repository(cls, delivery.events, publish=True).update(id, decision, key=delivery.id, new=new)


@listener
async def register(asked: RegistrationRequested, delivery: Delivery[Outside]) -> None:
    await decide(User, asked.user_id, lambda user: user.register(asked.email, asked.source), delivery, new=True)


@listener
async def change_email(asked: EmailChangeRequested, delivery: Delivery[Outside]) -> None:
    await decide(User, asked.user_id, lambda user: user.change_email(asked.email), delivery)


@listener
async def deactivate(asked: DeactivationRequested, delivery: Delivery[Outside]) -> None:
    await decide(User, asked.user_id, lambda user: user.deactivate(asked.reason), delivery)


# Who reacts. Each listener has its own deliveries and retries, and none waits for another.


@listener(retry=Retry(attempts=30, initial=0.5, maximum=3600))  # for most of a day
def write_mail(
    event: UserRegistered | EmailChanged | UserDeactivated | RequestRefused, delivery: Delivery[Outside]
) -> None:
    match event:
        case UserRegistered():
            text = "Welcome!"
        case EmailChanged():
            text = "This is your new address."
        case UserDeactivated():
            text = "Goodbye."
        case RequestRefused():
            text = f"You have left, so it is too late {event.asked}."
    name = quote(delivery.id, safe="")  # the same at every attempt: a mail that is written twice is one mail
    (delivery.resources.mail / f"{name}.eml").write_text(f"To: {event.email}\n\n{text}\n")


@listener
async def count(event: UserRegistered | UserDeactivated, delivery: Delivery[Outside]) -> None:
    row = [delivery.id, delivery.type, event.user_id]
    delivery.resources.analytics.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", row)


@listener
async def announce(event: UserRegistered) -> UserJoined:
    """What it returns is stored with the delivery that it settles, and goes to the webhooks from there."""
    return UserJoined(event.user_id, event.source)


# What is read: every user, as the events have it.


class Users(Projection, version=1):
    """One row each."""

    tables = """
        CREATE TABLE users (
            user_id TEXT PRIMARY KEY, email TEXT NOT NULL, is_active INTEGER NOT NULL, since TEXT NOT NULL
        ) STRICT;
        CREATE INDEX users_by_email ON users (email)
    """

    @project
    def registered(self, event: UserRegistered, at: Recorded) -> None:
        row = [event.user_id, event.email, at.metadata.time.isoformat()]
        self.db.execute("INSERT INTO users VALUES (?, ?, 1, ?)", row)

    @project
    def email_changed(self, event: EmailChanged) -> None:
        self.db.execute("UPDATE users SET email = ? WHERE user_id = ?", [event.email, event.user_id])

    @project
    def deactivated(self, event: UserDeactivated) -> None:
        self.db.execute("UPDATE users SET is_active = 0 WHERE user_id = ?", [event.user_id])


# Orders, another module: it knows users by their events only.


class OrderRequested(Event):
    """A user wants something."""

    order_id: str
    user_id: str
    item: str


class OrderPlaced(Event):
    """It is to be reserved, and is hers when it is paid."""

    order_id: str
    user_id: str
    item: str


class OrderRefused(Event):
    """The user had left before."""

    order_id: str


class OrderPaid(Event):
    """From outside: the money is there."""

    order_id: str


class OrderFulfilled(Event):
    """The user has it."""

    order_id: str
    user_id: str


class OrderCancelled(Event):
    """It is not wanted any more; an order that is paid meanwhile stays so."""

    order_id: str
    why: str


class ReserveItem(Command):
    """Set it aside for an order."""

    order_id: str
    item: str


class ReleaseItem(Command):
    """Put it back."""

    order_id: str


class Order(Saga, key="order_id", starts=OrderPlaced):
    """One order; what was reserved is released when it is cancelled."""

    order_id: str
    user_id: str
    item: str

    @step
    def reserve(self) -> ReserveItem:
        return ReserveItem(self.order_id, self.item)

    @reserve.compensate
    def release(self) -> ReleaseItem:
        return ReleaseItem(self.order_id)

    @step
    def payment(self) -> Wait:
        return Wait()

    @payment.on
    def paid(self, event: OrderPaid) -> None: ...

    @step
    def fulfil(self) -> OrderFulfilled:
        return OrderFulfilled(self.order_id, self.user_id)

    @on
    def cancelled(self, event: OrderCancelled) -> Compensate:
        return Compensate(event.why)


# Orders and deactivations are decided one after the other, on the same aggregate: no order is placed behind the back of
# a deactivation, as it could be if somebody looked for open orders in a read model.


class OrderClosed(Event):
    """Nothing is left to be done, nor to be cancelled."""

    order_id: str


class CustomerLeft(Event):
    """Nothing more is sold to this user."""

    reason: str


class Customer(Aggregate):
    """A user, as the orders see her: what became of each, and whether there may be more."""

    orders: dict[str, str] = {}
    has_left: bool = False

    def order(self, asked: OrderRequested) -> None:
        """Once; not after leaving."""
        if asked.order_id in self.orders:
            return
        if self.has_left:
            self.record(OrderRefused(asked.order_id))
        else:
            self.record(OrderPlaced(asked.order_id, self.id, asked.item))

    def close(self, order_id: str) -> None:
        """Once."""
        if self.orders[order_id] != "closed":
            self.record(OrderClosed(order_id))

    def leave(self, reason: str) -> None:
        """Once, and all that is open is cancelled."""
        if not self.has_left:
            self.record(CustomerLeft(reason))
            for order_id in [order_id for order_id, status in self.orders.items() if status == "open"]:
                self.record(OrderCancelled(order_id, reason))

    @apply
    def placed(self, event: OrderPlaced) -> None:
        self.orders[event.order_id] = "open"

    @apply
    def refused(self, event: OrderRefused) -> None:
        self.orders[event.order_id] = "refused"

    @apply
    def cancelled(self, event: OrderCancelled) -> None:
        self.orders[event.order_id] = "cancelled"

    @apply
    def closed(self, event: OrderClosed) -> None:
        self.orders[event.order_id] = "closed"

    @apply
    def left(self, event: CustomerLeft) -> None:
        self.has_left = True


@listener
async def take_order(asked: OrderRequested, delivery: Delivery[Outside]) -> None:
    await decide(Customer, asked.user_id, lambda customer: customer.order(asked), delivery, new=True)


@listener
async def close_order(event: OrderFulfilled, delivery: Delivery[Outside]) -> None:
    await decide(Customer, event.user_id, lambda customer: customer.close(event.order_id), delivery)


@listener
async def cancel_orders(event: UserDeactivated, delivery: Delivery[Outside]) -> None:
    await decide(Customer, event.user_id, lambda customer: customer.leave(event.reason), delivery, new=True)


@participant
async def reserve_item(command: ReserveItem, call: Call[Outside]) -> None:
    warehouse = call.resources.warehouse
    async with call.once(warehouse) as first:
        if first:
            row = [call.key, command.order_id, command.item]
            warehouse.execute("INSERT INTO reserved VALUES (?, ?, ?)", row)


@participant
async def release_item(command: ReleaseItem, call: Call[Outside]) -> None:
    warehouse = call.resources.warehouse
    async with call.once(warehouse) as first:
        if first:
            warehouse.execute("DELETE FROM reserved WHERE key = ?", [call.undoes])


app = App(
    "users",
    sagas=[Order],
    participants=[reserve_item, release_item],
    listeners=[
        *(register, change_email, deactivate),
        *(write_mail, count, announce),
        *(take_order, close_order, cancel_orders),
    ],
    projections=[Users],
    resources=open_outside,
)
