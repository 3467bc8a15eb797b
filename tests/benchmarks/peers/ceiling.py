"""What our own schema allows: the rows of a real run, written again by plain sqlite3 in the same groups, by one thread.

First the orders are run and all that reaches SQLite is recorded; only the writing again is measured. It says the same
INSERT, UPDATE and DELETE with the bytes that are there already, in the same transactions under the same settings.
"""

from __future__ import annotations

import gc
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import anyio

from tests.benchmarks.peers.measuring import checkpoint, options
from tests.benchmarks.recording import Said, recorded, writer
from tests.benchmarks.shapes import SHAPES, parsed, play

LONGEST_S = 3.0  # of recording, for all of it is kept in memory


def groups(said: list[Said]) -> Iterator[list[Said]]:
    """What was committed together; what was outside of a transaction (settings) stands alone."""
    group: list[Said] | None = None
    for one in said:
        match one.verb:
            case "BEGIN":
                group = []
            case "COMMIT" | "ROLLBACK":
                if group and one.verb == "COMMIT":
                    yield group
                group = None
            case "SELECT" | "WITH":
                pass
            case "PRAGMA" if group is None:
                yield [one]
            case _ if group is not None:
                group.append(one)


def write(store: Path, all_groups: list[list[Said]]) -> dict[str, float]:
    """The settings and tables first, then the rest against the clock."""
    connection = sqlite3.connect(store, isolation_level=None, cached_statements=256)
    writing = [any(said.writes for said in group) for group in all_groups]
    first = writing.index(True)
    for group in all_groups[:first]:
        for said in group:
            said.to(connection)
    commits = [group for group in all_groups[first:] if any(said.writes for said in group)]
    gc.disable()  # all that was recorded is in memory, and would be looked through again and again
    cpu, wall = time.process_time(), time.perf_counter()
    for group in commits:
        connection.execute("BEGIN IMMEDIATE")
        for said in group:
            if said.writes:
                said.to(connection)
        connection.execute("COMMIT")
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    connection.close()
    return {"wall_s": wall, "cpu_s": cpu, "commits": len(commits)}


def rows(store: Path) -> dict[str, int]:
    """How many are in each table."""
    with closing(sqlite3.connect(store)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}


def main() -> None:
    shape, rest = parsed()
    chosen = options(rest)
    chosen.warm = 0
    chosen.seconds = min(chosen.seconds, LONGEST_S)
    printed = StringIO()
    with recorded() as connections, redirect_stdout(printed):
        anyio.run(partial(play, chosen, SHAPES[shape]))
    again = chosen.dir / "again.db"
    figures = write(again, list(groups(writer(connections).said)))
    assert rows(again) == rows(chosen.dir / "orders.db"), "something that wrote was not recognised"
    checkpoint(again)
    print(json.dumps(figures | {"sagas": json.loads(printed.getvalue())["sagas"]}))


if __name__ == "__main__":
    main()
