"""An order: reserve each line's stock, take the payment, ship, announce; undone in reverse when somebody says no.

    orchestrator run sagas/order_fulfilment.py
    orchestrator emit OrderPlaced --file sagas/sample_orders.jsonl
    python sagas/order_fulfilment.py books

The three participants run in the same daemon, but each is on its own: inventory, payments and shipping keep a SQLite
file each, in the folder SHOP_DATA (default ./shop_data), and do nothing twice. Payments and shipping keep rows, and
everything they do stands in a `call.once` block; inventory keeps events, of which each shelf is made anew, and what it
has answered is part of the shelf. The shelves are filled once from SHOP_PRODUCTS (default: the sample beside this
file).

What goes wrong is up to you. A variable for each participant sets its mood, for example

    SHOP_PAYMENTS="fail=3 decline=10" SHOP_SHIPPING="late=0.5 lose=1" orchestrator run sagas/order_fulfilment.py

`books` shows that nothing got lost: of every product, what was there at the start is left, reserved or shipped.
"""

import json
import os
import sqlite3
import sys
import zlib
from asyncio import run, sleep
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from orchestrator import (
    Aggregate,
    App,
    Call,
    Command,
    Event,
    EventLog,
    Fatal,
    First,
    Refusal,
    Repository,
    Retry,
    Saga,
    apply,
    open_store,
    participant,
    step,
)

T = TypeVar("T")

# What is said.


@dataclass(frozen=True)
class Line:
    """So many units of a product; `discount` is a fraction of the price."""

    product_id: int
    quantity: int
    unit_price: Decimal
    discount: Decimal = Decimal(0)


class OrderPlaced(Event):
    """A customer ordered something."""

    order_id: str
    customer_id: str
    ordered_at: date
    required_at: date
    ship_name: str
    ship_country: str
    freight: Decimal
    items: tuple[Line, ...]


class OrderFulfilled(Event):
    """Published at the end of every order that ends well."""

    order_id: str
    tracking: str


class StockReserved(Event):
    """The units are set aside; so many are left for others."""

    left: int


class OutOfStock(Refusal):
    """There are not as many."""

    product_id: int
    left: int


class ReserveStock(Command[StockReserved, OutOfStock]):
    """Set units aside for an order."""

    order_id: str
    product_id: int
    units: int


class ReleaseStock(Command):
    """Put them back on the shelf."""

    order_id: str
    product_id: int


class CardCharged(Event):
    """The money is ours."""

    receipt: str


class CardDeclined(Refusal):
    """The bank says no."""

    why: str


class ChargeCard(Command[CardCharged, CardDeclined]):
    """Take the money."""

    order_id: str
    customer_id: str
    amount: Decimal


class RefundCard(Command):
    """Give it back."""

    order_id: str


class OrderShipped(Event):
    """The parcel is on its way."""

    tracking: str


class ShipOrder(Command[OrderShipped]):
    """Send the parcel."""

    order_id: str
    name: str
    country: str
    items: tuple[Line, ...]


# What is to happen.


class OrderFulfilment(Saga, key="order_id", starts=OrderPlaced):
    """Fields of the same name are copied from the event; together they are the state that is stored."""

    order_id: str
    customer_id: str
    ship_name: str
    ship_country: str
    freight: Decimal
    items: tuple[Line, ...]
    receipt: str = ""
    tracking: str = ""

    @step(at_once=8)
    def reserve(self) -> list[ReserveStock]:
        return [ReserveStock(self.order_id, line.product_id, line.quantity) for line in self.items]

    @reserve.compensate
    def release(self, command: ReserveStock) -> ReleaseStock:
        return ReleaseStock(command.order_id, command.product_id)

    @step(pivot=True, retry=Retry(attempts=4, timeout=10))
    def charge(self) -> ChargeCard:
        goods = sum(line.quantity * line.unit_price * (1 - line.discount) for line in self.items)
        return ChargeCard(self.order_id, self.customer_id, round(goods + self.freight, 2))

    @charge.on
    def charged(self, reply: CardCharged) -> None:
        self.receipt = reply.receipt

    @charge.compensate  # serves only while it is in doubt whether the card was charged
    def refund(self) -> RefundCard:
        return RefundCard(self.order_id)

    @step  # past the pivot there is only forward: this is tried until it works, or a person is asked
    def ship(self) -> ShipOrder:
        return ShipOrder(self.order_id, self.ship_name, self.ship_country, self.items)

    @ship.on
    def shipped(self, reply: OrderShipped) -> None:
        self.tracking = reply.tracking

    @step
    def announce(self) -> OrderFulfilled:
        return OrderFulfilled(self.order_id, self.tracking)


# What happens to a shelf: an aggregate, whose methods decide and whose state is what its events make of it.


class ShelfFilled(Event):
    """A product was put on its shelf."""

    product: str
    units: int


class UnitsReserved(Event):
    """They are set aside for an order, under the key of the command that asked."""

    key: str
    order_id: str
    units: int


class ReservationRefused(Event):
    """There were not as many: so many were left."""

    key: str
    order_id: str
    units: int
    left: int


class ReservationReleased(Event):
    """What a command reserved is back on the shelf; if it has not come yet, it is not carried out any more."""

    key: str


@dataclass(frozen=True)
class Reservation:
    """What was asked under a key, and what came of it: `left` is what was told."""

    order_id: str = ""
    units: int = 0
    left: int = 0
    is_refused: bool = False
    is_released: bool = False


class Shelf(Aggregate):
    """One product. What it answered to a key it answers again, and what was released it does not reserve (R7)."""

    product: str = ""
    start: int = 0
    left: int = 0
    reservations: dict[str, Reservation] = {}

    def fill(self, product: str, units: int) -> None:
        """The first time."""
        if not self.product:
            self.record(ShelfFilled(product, units))

    def reserve(self, key: str, order_id: str, units: int) -> Reservation:
        """Set units aside, if there are as many. Errors: Fatal, for a key that was released or is another command's."""
        if key not in self.reservations:
            if self.left < units:
                self.record(ReservationRefused(key, order_id, units, self.left))
            else:
                self.record(UnitsReserved(key, order_id, units))
        found = self.reservations[key]
        if found.is_released:
            raise Fatal(f"{key} was undone before")
        if (found.order_id, found.units) != (order_id, units):
            raise Fatal(f"{key} was used for another reservation")
        return found

    def release(self, key: str) -> None:
        """Put back what was reserved under this key, once."""
        if not self.reservations.get(key, Reservation()).is_released:
            self.record(ReservationReleased(key))

    @apply
    def filled(self, event: ShelfFilled) -> None:
        self.product, self.start, self.left = event.product, event.units, event.units

    @apply
    def reserved(self, event: UnitsReserved) -> None:
        self.left -= event.units
        self.reservations[event.key] = Reservation(event.order_id, event.units, self.left)

    @apply
    def refused(self, event: ReservationRefused) -> None:
        self.reservations[event.key] = Reservation(event.order_id, event.units, event.left, is_refused=True)

    @apply
    def released(self, event: ReservationReleased) -> None:
        found = self.reservations.get(event.key, Reservation())
        self.left += 0 if found.is_refused else found.units
        self.reservations[event.key] = replace(found, is_released=True)


# Who does it. A block of `call.once` is one transaction of the participant's own database: the effect, the answer and
# the tombstone of an undo are in it together. `call.undoes` is the key under which the do wrote its row. Of a shelf the
# same is in one append: what it recorded is stored if nobody else came between, or else it decides again.


@dataclass(frozen=True)
class Mood:
    """How a participant behaves today, as SHOP_<its name> says: "fail=3 late=0.5 decline=10"."""

    fail: float = 0  # the first so many attempts at every command fail, nothing done; inf: it never works
    lose: float = 0  # the first so many are carried out, but the answer gets lost
    late: float = 0  # seconds until it begins
    twice: float = 0  # 1: every command arrives a second time
    decline: float = 0  # per cent of the charges that are declined, by order id, so always the same ones

    @classmethod
    def of(cls, name: str) -> "Mood":
        words = [word.split("=") for word in os.environ.get(f"SHOP_{name.upper()}", "").split()]
        return cls(**{mood: float(value) for mood, value in words})


class Inventory:
    """The shelves, and a mood."""

    def __init__(self, log: EventLog) -> None:
        self.mood = Mood.of("inventory")
        self.log = log
        self.shelves = Repository(Shelf, log)

    async def update(self, call: Call["Shop"], product_id: int, decide: Callable[[Shelf], T]) -> T:
        """A decision with the mood around it."""
        await sleep(self.mood.late)
        if call.attempt <= self.mood.fail:
            raise ConnectionError("inventory is down")
        told = await self.shelves.update(str(product_id), decide, key=call.key, new=True)
        if self.mood.twice:
            assert await self.shelves.update(str(product_id), decide, key=call.key) == told
        if call.attempt <= self.mood.lose:
            raise ConnectionError("inventory did it, but its answer was lost")
        return told

    async def stock(self, products: bytes) -> None:
        """Fill the shelves, the first time."""
        for line in products.splitlines():
            product = json.loads(line)
            shelf = await self.shelves.load_or_new(str(product["product_id"]))
            shelf.fill(product["name"], product["units_in_stock"])
            await self.shelves.save(shelf)


class Service:
    """What a participant that keeps rows has: a database of its own, and a mood."""

    def __init__(self, folder: Path, name: str, tables: str) -> None:
        self.name = name
        self.mood = Mood.of(name)
        self.db = sqlite3.connect(folder / f"{name}.db", isolation_level=None)
        self.db.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; {tables}")

    @asynccontextmanager
    async def once(self, call: Call["Shop"]) -> AsyncGenerator[First]:
        """`call.once` with the mood around it."""
        await sleep(self.mood.late)
        if call.attempt <= self.mood.fail:
            raise ConnectionError(f"{self.name} is down")
        async with call.once(self.db) as first:
            yield first
        if self.mood.twice:
            async with call.once(self.db) as again:
                assert not again, f"{call.key} was carried out twice"
        if call.attempt <= self.mood.lose:
            raise ConnectionError(f"{self.name} did it, but its answer was lost")


class Shop:
    """The three participants' services: the resources of the app."""

    def __init__(self, folder: Path, log: EventLog) -> None:
        self.inventory = Inventory(log)
        self.payments = Service(folder, "payments", PAYMENTS)
        self.shipping = Service(folder, "shipping", SHIPPING)

    def close(self) -> None:
        for service in (self.payments, self.shipping):
            service.db.close()


PAYMENTS = """
    CREATE TABLE IF NOT EXISTS charges (
        key TEXT PRIMARY KEY, order_id TEXT, amount TEXT, refunded INTEGER DEFAULT 0);"""
SHIPPING = """
    CREATE TABLE IF NOT EXISTS shipped (key TEXT, order_id TEXT, product_id INTEGER, units INTEGER);"""


@participant
async def reserve_stock(command: ReserveStock, call: Call[Shop]) -> StockReserved | OutOfStock:
    def reserve(shelf: Shelf) -> Reservation:
        return shelf.reserve(call.key, command.order_id, command.units)

    told = await call.resources.inventory.update(call, command.product_id, reserve)
    return OutOfStock(command.product_id, told.left) if told.is_refused else StockReserved(told.left)


@participant
async def release_stock(command: ReleaseStock, call: Call[Shop]) -> None:
    key = call.undoes or ""  # that of the reservation
    await call.resources.inventory.update(call, command.product_id, lambda shelf: shelf.release(key))


@participant
async def charge_card(command: ChargeCard, call: Call[Shop]) -> CardCharged | CardDeclined:
    payments = call.resources.payments
    async with payments.once(call) as first:
        if not first:
            return first.answer
        if zlib.crc32(command.order_id.encode()) % 100 < payments.mood.decline:
            return first.answers(CardDeclined("the bank does not say why"))
        charge = [call.key, command.order_id, str(command.amount)]
        number = payments.db.execute("INSERT INTO charges (key, order_id, amount) VALUES (?, ?, ?)", charge).lastrowid
        return first.answers(CardCharged(f"R{number}"))


@participant
async def refund_card(command: RefundCard, call: Call[Shop]) -> None:
    payments = call.resources.payments
    async with payments.once(call) as first:
        if first:
            payments.db.execute("UPDATE charges SET refunded = 1 WHERE key = ?", [call.undoes])


@participant
async def ship_order(command: ShipOrder, call: Call[Shop]) -> OrderShipped:
    shipping = call.resources.shipping
    async with shipping.once(call) as first:
        if not first:
            return first.answer
        lines = [(call.key, command.order_id, line.product_id, line.quantity) for line in command.items]
        shipping.db.executemany("INSERT INTO shipped VALUES (?, ?, ?, ?)", lines)
        return first.answers(OrderShipped(f"{command.country[:2].upper()}-{command.order_id}"))


def folder() -> Path:
    return Path(os.environ.get("SHOP_DATA", "shop_data"))


def products() -> bytes:
    path = os.environ.get("SHOP_PRODUCTS", Path(__file__).with_name("sample_products.jsonl"))
    return Path(path).read_bytes()


def shelves(folder: Path) -> str:
    """The URL of the inventory's store."""
    return f"sqlite:///{quote(str(folder))}/inventory.db"


@asynccontextmanager
async def open_shop() -> AsyncGenerator[Shop]:
    """Only the daemon enters this."""
    folder().mkdir(parents=True, exist_ok=True)
    async with open_store(shelves(folder())) as log:
        with closing(Shop(folder(), log)) as shop:
            await shop.inventory.stock(products())
            yield shop


app = App(
    "shop",
    sagas=[OrderFulfilment],
    participants=[reserve_stock, release_stock, charge_card, refund_card, ship_order],
    resources=open_shop,
)


# What came of it: the books of all three, read from outside.

MONEY = """
    SELECT (SELECT count(*) FROM charges WHERE NOT refunded),
        (SELECT count(DISTINCT order_id) FROM shipping.shipped),
        (SELECT count(DISTINCT order_id) FROM shipping.shipped
            WHERE (SELECT count(*) FROM charges WHERE order_id = shipped.order_id AND NOT refunded) = 1)"""


async def books() -> int:
    """Print them, and count what is wrong: start = left + reserved + shipped, and what is shipped was paid, once."""
    if not (folder() / "inventory.db").exists():
        sys.exit(f"there are no ledgers in {folder().absolute()}: set SHOP_DATA as for the daemon")
    place = folder().absolute().as_uri()
    with closing(sqlite3.connect("file::memory:", uri=True)) as ledgers:
        for name in ("shipping", "payments"):
            ledgers.execute(f"ATTACH '{place}/{name}.db?mode=ro' AS {name}")
        paid, shipped, both = ledgers.execute(MONEY).fetchone()
        parcels = ledgers.execute("SELECT order_id, product_id, units FROM shipped").fetchall()
    sent = {order_id for order_id, _, _ in parcels}
    wrong: int = shipped - both
    waiting = 0
    print(f"{'product':<34}{'start':>7}{'left':>7}{'reserved':>10}{'shipped':>9}")
    for product_id, shelf in (await every_shelf()).items():
        kept = [it for it in shelf.reservations.values() if not (it.is_refused or it.is_released)]
        reserved = sum(it.units for it in kept if it.order_id not in sent)
        gone = sum(units for _, product, units in parcels if product == product_id)
        adds_up = shelf.start == shelf.left + reserved + gone and shelf.left >= 0
        wrong += not adds_up
        waiting += reserved
        note = "" if adds_up else "  does not add up!"
        print(f"{shelf.product:<34}{shelf.start:>7}{shelf.left:>7}{reserved:>10}{gone:>9}{note}")
    print(f"{paid} orders paid, {shipped} shipped; {waiting} units reserved for the others.")
    print("The books balance." if not wrong else f"The books are wrong in {wrong} places!")
    return wrong


async def every_shelf() -> dict[int, Shelf]:
    """By product, beside the daemon."""
    async with open_store(shelves(folder()), read_only=True) as log:
        filled = [recorded.stream async for recorded in log.read_all(types=[ShelfFilled])]
        ids = [stream.removeprefix(Shelf.stream_of("")) for stream in filled]
        return {int(id): await Repository(Shelf, log).load(id) for id in ids}


if __name__ == "__main__" and sys.argv[1:] == ["books"]:
    sys.exit(bool(run(books())))
