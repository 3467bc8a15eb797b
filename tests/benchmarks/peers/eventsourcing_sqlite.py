"""The order saga as an event-sourced aggregate that an application saves after each step, one commit each.

The library is synchronous: one thread takes the orders in flight in turn, a step at a time. It turns on WAL itself and
leaves `synchronous` at SQLite's own default, FULL. Aggregates are cached, as it advises for a single process. (Process
applications, its other way, take more commits a step; threads wait for one another at the writer's lock.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from tests.benchmarks.peers.measuring import Load, Options, checkpoint, options


class Order(Aggregate):
    @event("Placed")
    def __init__(self, order_id: str, total: int) -> None:
        self.order_id = order_id
        self.total = total
        self.reservation_id = ""
        self.status = "running"

    @event("StockReserved")
    def reserved(self, reservation_id: str) -> None:
        self.reservation_id = reservation_id

    @event("Paid")
    def paid(self) -> None:
        self.status = "paid"

    @event("PaymentRefused")
    def refused(self, why: str) -> None:
        self.status = "compensating"

    @event("StockReleased")
    def released(self) -> None:
        self.status = "compensated"

    @event("Shipped")
    def shipped(self) -> None:
        self.status = "completed"


class Orders(Application):
    env = {"AGGREGATE_CACHE_MAXSIZE": "1000", "AGGREGATE_CACHE_FASTFORWARD": "n"}

    def place(self, order_id: str, total: int) -> UUID:
        order = Order(order_id, total)
        self.save(order)
        return order.id

    def reserve(self, id: UUID) -> None:
        order: Order = self.repository.get(id)
        order.reserved(reserve_stock(order.order_id))
        self.save(order)

    def pay(self, id: UUID) -> bool:
        order: Order = self.repository.get(id)
        accepted = pay(order.order_id, order.total)
        if accepted:
            order.paid()
        else:
            order.refused("limit")
        self.save(order)
        return accepted

    def ship(self, id: UUID) -> None:
        order: Order = self.repository.get(id)
        ship(order.order_id)
        order.shipped()
        self.save(order)

    def release(self, id: UUID) -> None:
        order: Order = self.repository.get(id)
        release_stock(order.reservation_id)
        order.released()
        self.save(order)


def reserve_stock(order_id: str) -> str:
    return f"r-{order_id}"


def release_stock(order_id: str) -> None:
    return None


def pay(order_id: str, total: int) -> bool:
    return total % 10 != 0


def ship(order_id: str) -> None:
    return None


def steps(orders: Orders, number: int) -> Iterator[None]:
    """One order; it yields whenever a step's result is on disk."""
    id = orders.place(str(number), number)
    yield
    orders.reserve(id)
    yield
    accepted = orders.pay(id)
    yield
    if accepted:
        orders.ship(id)
    else:
        orders.release(id)


def run(options: Options) -> None:
    store = options.dir / "orders.db"
    orders = Orders(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(store)})
    load = Load(options)
    for number in load.warming():
        deque(steps(orders, number), maxlen=0)
    load.begin()
    in_flight: deque[tuple[float, Iterator[None]]] = deque()
    more = True
    while more or in_flight:
        while more and len(in_flight) < options.in_flight:
            number = next(load.numbers, 0)
            more = number > 0
            if more:
                in_flight.append((time.perf_counter(), steps(orders, number)))
        if in_flight:
            began, order = in_flight.popleft()
            if next(order, "ended") == "ended":
                load.ended(began)
            else:
                in_flight.append((began, order))
    load.report()
    orders.close()
    checkpoint(store)


if __name__ == "__main__":
    run(options())
