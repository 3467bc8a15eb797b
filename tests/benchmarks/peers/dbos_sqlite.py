"""The order saga as a DBOS workflow of steps, on its SQLite system database.

DBOS leaves SQLite at its defaults (rollback journal, `synchronous=FULL`); the file is put into WAL mode before, which
is as durable and faster.
"""

from __future__ import annotations

import asyncio
import sqlite3

from dbos import DBOS

from tests.benchmarks.peers.measuring import Load, Options, checkpoint, drive, options


class PaymentRefused(Exception):
    pass


@DBOS.step()
async def reserve_stock(order_id: str) -> str:
    return f"r-{order_id}"


@DBOS.step()
async def release_stock(order_id: str) -> None:
    return None


@DBOS.step()
async def pay(order_id: str, total: int) -> None:
    if total % 10 == 0:
        raise PaymentRefused("limit")


@DBOS.step()
async def ship(order_id: str) -> None:
    return None


@DBOS.workflow()
async def order(order_id: str, total: int) -> str:
    await reserve_stock(order_id)
    try:
        await pay(order_id, total)
    except PaymentRefused:
        await release_stock(order_id)
        return "compensated"
    await ship(order_id)
    return "completed"


async def run(options: Options) -> None:
    store = options.dir / "orders.db"
    with sqlite3.connect(store) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    DBOS(config={"name": "orders", "system_database_url": f"sqlite:///{store}", "log_level": "ERROR"})
    DBOS.launch()
    load = Load(options)
    await drive(lambda number: order(str(number), number), load, options.in_flight)
    load.report()
    DBOS.destroy()
    checkpoint(store)


if __name__ == "__main__":
    asyncio.run(run(options()))
