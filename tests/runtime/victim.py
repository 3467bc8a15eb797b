"""A program to be killed: `python -m tests.runtime.victim DIRECTORY`. It fulfils a hundred orders, and ends."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from orchestrator.app import App
from orchestrator.messages import Done
from orchestrator.participant import Call, Delivery, listener, participant
from orchestrator.runtime.embedded import Orchestrator
from orchestrator_adapters.sqlite import SQLiteStore

from .shop import (
    CardDeclined,
    ChargeCard,
    OrderFulfilled,
    OrderFulfilment,
    OrderPlaced,
    RefundCard,
    ReleaseStock,
    ReserveStock,
    ShipOrder,
    StockReserved,
)

ORDERS = 100


@participant
async def stock(command: ReserveStock, call: Call[sqlite3.Connection]) -> StockReserved:
    async with call.once(call.resources) as first:
        if not first:
            return first.answer  # type: ignore[no-any-return]
        call.resources.execute("INSERT INTO reserved VALUES (?)", (command.order_id,))
        return first.answers(StockReserved(f"r-{command.order_id}"))


@participant
async def release(command: ReleaseStock, call: Call[sqlite3.Connection]) -> None:
    async with call.once(call.resources) as first:
        if first:
            call.resources.execute("DELETE FROM reserved WHERE order_id = ?", (command.order_id,))


@participant
async def charge(command: ChargeCard, call: Call[sqlite3.Connection]) -> Done | CardDeclined:
    async with call.once(call.resources) as first:
        if not first:
            return first.answer  # type: ignore[no-any-return]
        if command.total % 10 == 0:
            return first.answers(CardDeclined())
        call.resources.execute("INSERT INTO charged VALUES (?)", (command.order_id,))
        return first.answers(Done())


@participant
async def refund(command: RefundCard, call: Call[sqlite3.Connection]) -> None:
    async with call.once(call.resources) as first:
        if first:
            call.resources.execute("DELETE FROM charged WHERE order_id = ?", (command.order_id,))


@participant
async def ship(command: ShipOrder, call: Call[sqlite3.Connection]) -> None:
    async with call.once(call.resources) as first:
        if first:
            call.resources.execute("INSERT INTO shipped VALUES (?)", (command.order_id,))


@listener
async def tell(event: OrderFulfilled, delivery: Delivery[sqlite3.Connection]) -> None:
    delivery.resources.execute("INSERT OR IGNORE INTO told VALUES (?)", (event.order_id,))


def app_in(directory: Path) -> App[sqlite3.Connection]:
    @asynccontextmanager
    async def world() -> AsyncGenerator[sqlite3.Connection]:
        connection = sqlite3.connect(directory / "world.db", isolation_level=None)
        for table in ("reserved", "charged", "shipped", "told"):
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (order_id TEXT PRIMARY KEY)")
        try:
            yield connection
        finally:
            connection.close()

    participants = [stock, release, charge, refund, ship]
    return App("shop", sagas=[OrderFulfilment], participants=participants, listeners=[tell], resources=world)


async def fulfil(directory: Path) -> None:
    async with Orchestrator(app_in(directory), SQLiteStore(directory / "orders.db")) as orchestrator:
        async with anyio.create_task_group() as customers:
            for number in range(1, ORDERS + 1):
                await anyio.sleep(0.002)
                order = OrderPlaced(str(number), number)
                customers.start_soon(lambda order=order: orchestrator.emit(order, id=f"order {order.order_id}"))
        await orchestrator.until_idle()


if __name__ == "__main__":
    anyio.run(fulfil, Path(sys.argv[1]))
