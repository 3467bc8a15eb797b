"""How much longer an order takes than the disk does: one order and one durable commit of a small row, in turns.

The commit has a file of its own: plain sqlite3, WAL, synchronous=FULL.
"""

from __future__ import annotations

import json
import sqlite3
import time

import anyio

from orchestrator import Orchestrator
from tests.benchmarks.peers.measuring import Load, Options, options
from tests.benchmarks.peers.orchestrator_sqlite import OrderPlaced, app


async def run(options: Options) -> None:
    connection = sqlite3.connect(options.dir / "one.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, body BLOB)")
    commits: list[float] = []
    async with Orchestrator(app, f"sqlite:///{options.dir / 'orders.db'}") as orchestrator:

        async def order(number: int) -> None:
            run = await orchestrator.start(OrderPlaced(str(number), number))
            await run.end()

        load = Load(options)
        for number in load.warming():
            await order(number)
        load.begin()
        before = orchestrator.stats().commits
        for number in load.numbers:
            began = time.perf_counter()
            await order(number)
            load.ended(began)
            began = time.perf_counter()
            connection.execute("INSERT INTO row (body) VALUES (?)", (b"x" * 300,))
            commits.append(time.perf_counter() - began)
        figures = load.figures()
        number_of_commits = orchestrator.stats().commits - before
    connection.close()
    commits.sort()
    print(json.dumps(figures | {"commits": number_of_commits, "commit_ms": 1000 * commits[len(commits) // 2]}))


if __name__ == "__main__":
    anyio.run(run, options())
