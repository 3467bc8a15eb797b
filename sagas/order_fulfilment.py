"""An order: reserve each line's stock, take the payment, ship, announce; undone in reverse when somebody says no.

    orchestrator run sagas/order_fulfilment.py
    orchestrator emit OrderPlaced --file sagas/sample_orders.jsonl
    python sagas/order_fulfilment.py books

The three participants run in the same daemon, but each is on its own: inventory, payments and shipping keep a SQLite
file each, in the folder SHOP_DATA (default ./shop_data), and do nothing twice, because everything they do stands in a
`call.once` block. The shelves are filled once from SHOP_PRODUCTS (default: the sample beside this file).

What goes wrong is up to you. A variable for each participant sets its mood, for example

    SHOP_PAYMENTS="fail=3 decline=10" SHOP_SHIPPING="late=0.5 lose=1" orchestrator run sagas/order_fulfilment.py

`books` shows that nothing got lost: of every product, what was there at the start is left, reserved or shipped.
"""

import json
import os
import sqlite3
import sys
import zlib
from asyncio import sleep
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from orchestrator import App, Call, Command, Event, First, Refusal, Retry, Saga, participant, step

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


# Who does it. A block of `call.once` is one transaction of the participant's own database: the effect, the answer and
# the tombstone of an undo are in it together. `call.undoes` is the key under which the do wrote its row.


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


class Service:
    """What a participant has: a database of its own, and a mood."""

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

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.inventory = Service(folder, "inventory", INVENTORY)
        self.payments = Service(folder, "payments", PAYMENTS)
        self.shipping = Service(folder, "shipping", SHIPPING)

    def stock(self, products: Path) -> None:
        """Fill the shelves, the first time."""
        for line in products.read_bytes().splitlines():
            product = json.loads(line)
            row = product["product_id"], product["name"], product["units_in_stock"], product["units_in_stock"]
            self.inventory.db.execute("INSERT OR IGNORE INTO stock VALUES (?, ?, ?, ?)", row)

    def close(self) -> None:
        for service in (self.inventory, self.payments, self.shipping):
            service.db.close()


INVENTORY = """
    CREATE TABLE IF NOT EXISTS stock (
        product_id INTEGER PRIMARY KEY, name TEXT, start INTEGER, left INTEGER CHECK (left >= 0));
    CREATE TABLE IF NOT EXISTS reserved (key TEXT PRIMARY KEY, order_id TEXT, product_id INTEGER, units INTEGER);"""
PAYMENTS = """
    CREATE TABLE IF NOT EXISTS charges (
        key TEXT PRIMARY KEY, order_id TEXT, amount TEXT, refunded INTEGER DEFAULT 0);"""
SHIPPING = """
    CREATE TABLE IF NOT EXISTS shipped (key TEXT, order_id TEXT, product_id INTEGER, units INTEGER);"""


@participant
async def reserve_stock(command: ReserveStock, call: Call[Shop]) -> StockReserved | OutOfStock:
    inventory = call.resources.inventory
    async with inventory.once(call) as first:
        if not first:
            return first.answer
        row = inventory.db.execute("SELECT left FROM stock WHERE product_id = ?", [command.product_id]).fetchone()
        left = row[0] if row else 0
        if left < command.units:
            return first.answers(OutOfStock(command.product_id, left))
        left -= command.units
        inventory.db.execute("UPDATE stock SET left = ? WHERE product_id = ?", [left, command.product_id])
        reservation = [call.key, command.order_id, command.product_id, command.units]
        inventory.db.execute("INSERT INTO reserved VALUES (?, ?, ?, ?)", reservation)
        return first.answers(StockReserved(left))


@participant
async def release_stock(command: ReleaseStock, call: Call[Shop]) -> None:
    inventory = call.resources.inventory
    async with inventory.once(call) as first:
        if first:
            removed = "DELETE FROM reserved WHERE key = ? RETURNING units, product_id"
            for row in inventory.db.execute(removed, [call.undoes]).fetchall():
                inventory.db.execute("UPDATE stock SET left = left + ? WHERE product_id = ?", row)


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


@asynccontextmanager
async def open_shop() -> AsyncGenerator[Shop]:
    """Only the daemon enters this."""
    with closing(Shop(folder())) as shop:
        shop.stock(Path(os.environ.get("SHOP_PRODUCTS", Path(__file__).with_name("sample_products.jsonl"))))
        yield shop


app = App(
    "shop",
    sagas=[OrderFulfilment],
    participants=[reserve_stock, release_stock, charge_card, refund_card, ship_order],
    resources=open_shop,
)


# What came of it: the books of all three, read from outside.

BALANCE = """
    SELECT name, start, left,
        (SELECT coalesce(sum(units), 0) FROM reserved WHERE product_id = stock.product_id
            AND order_id NOT IN (SELECT order_id FROM shipping.shipped)) AS reserved,
        (SELECT coalesce(sum(units), 0) FROM shipping.shipped WHERE product_id = stock.product_id) AS shipped
    FROM stock"""
MONEY = """
    SELECT (SELECT count(*) FROM charges WHERE NOT refunded),
        (SELECT count(DISTINCT order_id) FROM shipping.shipped),
        (SELECT count(DISTINCT order_id) FROM shipping.shipped
            WHERE (SELECT count(*) FROM charges WHERE order_id = shipped.order_id AND NOT refunded) = 1)"""


def books() -> int:
    """Print them, and count what is wrong: start = left + reserved + shipped, and what is shipped was paid, once."""
    if not (folder() / "inventory.db").exists():
        sys.exit(f"there are no ledgers in {folder().absolute()}: set SHOP_DATA as for the daemon")
    place = folder().absolute().as_uri()
    with closing(sqlite3.connect("file::memory:", uri=True)) as ledgers:
        for name in ("shipping", "payments", "inventory"):
            ledgers.execute(f"ATTACH '{place}/{name}.db?mode=ro' AS {name}")
        paid, shipped, both = ledgers.execute(MONEY).fetchone()
        shelves = ledgers.execute(BALANCE).fetchall()
    wrong: int = shipped - both
    print(f"{'product':<34}{'start':>7}{'left':>7}{'reserved':>10}{'shipped':>9}")
    for product, start, left, reserved, gone in shelves:
        adds_up = start == left + reserved + gone
        wrong += not adds_up
        print(f"{product:<34}{start:>7}{left:>7}{reserved:>10}{gone:>9}{'' if adds_up else '  does not add up!'}")
    print(f"{paid} orders paid, {shipped} shipped; {sum(shelf[3] for shelf in shelves)} units reserved for the others.")
    print("The books balance." if not wrong else f"The books are wrong in {wrong} places!")
    return wrong


if __name__ == "__main__" and sys.argv[1:] == ["books"]:
    sys.exit(bool(books()))
