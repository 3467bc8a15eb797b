"""How many order sagas a second: `python tests/benchmarks/order_saga.py [-n 2000] [--in-flight 256]`.

Three steps (reserve, pay as the pivot, ship), every tenth payment refused, on SQLite in a temporary directory.
"""

from __future__ import annotations

import argparse
import platform
import sqlite3
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from orchestrator.app import App
from orchestrator.messages import Command, Done, Event, Refusal
from orchestrator.participant import participant
from orchestrator.runtime.embedded import Orchestrator
from orchestrator.saga import Saga, step
from orchestrator_adapters.sqlite import SQLiteStore


class OrderPlaced(Event):
    order_id: str
    total: int


class StockReserved(Event):
    reservation_id: str


class PaymentRefused(Refusal):
    why: str


class ReserveStock(Command[StockReserved]):
    order_id: str


class ReleaseStock(Command):
    order_id: str


class Pay(Command[Done, PaymentRefused]):
    order_id: str
    total: int


class Ship(Command):
    order_id: str


class Order(Saga, key="order_id", starts=OrderPlaced):
    order_id: str
    total: int
    reservation_id: str = ""

    @step
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id)

    @reserve.on
    def reserved(self, reply: StockReserved) -> None:
        self.reservation_id = reply.reservation_id

    @reserve.compensate
    def release(self) -> ReleaseStock:
        return ReleaseStock(self.order_id)

    @step(pivot=True, undo=None)
    def pay(self) -> Pay:
        return Pay(self.order_id, self.total)

    @step
    def ship(self) -> Ship:
        return Ship(self.order_id)


@participant
async def reserve_stock(command: ReserveStock) -> StockReserved:
    return StockReserved(f"r-{command.order_id}")


@participant
async def release_stock(command: ReleaseStock) -> None:
    return None


@participant
async def pay(command: Pay) -> Done | PaymentRefused:
    return PaymentRefused("limit") if command.total % 10 == 0 else Done()


@participant
async def ship(command: Ship) -> None:
    return None


app = App("benchmark", sagas=[Order], participants=[reserve_stock, release_stock, pay, ship])


async def run(store: Path, sagas: int, in_flight: int) -> None:
    times: list[float] = []
    numbers = iter(range(1, sagas + 1))
    async with Orchestrator(app, SQLiteStore(store)) as orchestrator:

        async def customer() -> None:
            for number in numbers:
                began = time.perf_counter()
                order = await orchestrator.start(OrderPlaced(str(number), number))
                await order.end()
                times.append(time.perf_counter() - began)

        cpu, wall = time.process_time(), time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(in_flight):
                tasks.start_soon(customer)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        stats = orchestrator.stats()
    times.sort()
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {store.parent}")
    print(f"{sagas} sagas, {in_flight} in flight: {sagas / wall:,.0f} sagas/s, CPU {1000 * cpu / sagas:.2f} ms a saga")
    print(f"p50 {1000 * times[sagas // 2]:.0f} ms, p99 {1000 * times[sagas * 99 // 100]:.0f} ms from start to end")
    print(f"{stats.transitions / sagas:.1f} transitions a saga, {stats.transitions / stats.commits:.0f} in one commit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=2000, help="how many sagas")
    parser.add_argument("--in-flight", type=int, default=256, help="how many at a time")
    parser.add_argument("--dir", default=None, help="where the database is made (default: the temporary directory)")
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.dir) as directory:
        anyio.run(run, Path(directory) / "benchmark.db", arguments.n, arguments.in_flight)


if __name__ == "__main__":
    main()
