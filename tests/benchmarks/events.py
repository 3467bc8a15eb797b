"""Events appended a second, beside the eventsourcing package, in turns, on the same machine.

Each append is one event of about a hundred bytes at the end of one of many streams, expects that stream's version,
and is durable before the next of its customer begins.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct

from tests.benchmarks.environments import environment, own_environment, peers
from tests.benchmarks.running import Measured, run
from tests.benchmarks.versus import Goal

MANY = 256
PEER = "eventsourcing_sqlite"
OURS, ENGINE, THEIRS = "appends_orchestrator", "appends_engine", "appends_eventsourcing"
TITLES = {OURS: "orchestrator, open_store", ENGINE: "orchestrator, in an engine", THEIRS: "eventsourcing"}


class Row(Struct, frozen=True):
    """A participant's medians over all turns."""

    title: str
    in_flight: int
    rate: float
    slowest: float
    fastest: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    disk_bytes: float
    times: float  # how many times what the eventsourcing package did in the same turn, the median of the turns


class Results(Struct, frozen=True, kw_only=True):
    """All that one run found."""

    python: str
    loop: str  # that ours runs on
    sqlite: str
    cores: int
    turns: int
    seconds: float
    rows: tuple[Row, ...]

    def times(self, name: str, in_flight: int) -> float:
        """Of one of ours."""
        return next(row.times for row in self.rows if row.title == TITLES[name] and row.in_flight == in_flight)


def main(argv: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks events", description=__doc__)
    parser.add_argument("--cache", type=Path, help="where the peer's environment is kept; default: made anew")
    parser.add_argument("--dir", type=Path, help="the disk to measure on; default: the temporary directory's")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each run appends")
    parser.add_argument("--json", type=Path, help="a file for the results")
    arguments = parser.parse_args(argv)
    with ExitStack() as stack:
        cache = arguments.cache or Path(stack.enter_context(TemporaryDirectory(prefix="peers-")))
        results = measure(arguments, cache)
    print(table(results))
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")


def measure(arguments: argparse.Namespace, cache: Path) -> Results:
    """In turns: theirs, then ours. Theirs is synchronous: more in flight are taken one after the other."""
    theirs = environment(PEER, peers()[PEER], cache)
    own, loop = own_environment(cache)
    plan = [(THEIRS, 1), (OURS, 1), (ENGINE, 1), (THEIRS, MANY), (OURS, MANY), (ENGINE, MANY)]
    found: dict[tuple[str, int], list[Measured]] = {each: [] for each in plan}
    for turn in range(arguments.turns):
        for name, in_flight in plan:
            print(f"turn {turn + 1} of {arguments.turns}: {name}, {in_flight} in flight", file=sys.stderr, flush=True)
            measured = run(
                f"peers.{name}",
                *("--seconds", str(arguments.seconds), "--in-flight", str(in_flight)),
                environment=theirs if name == THEIRS else own,
                within=arguments.dir,
            )
            found[name, in_flight].append(measured)
    return Results(
        python=platform.python_version(),
        loop=loop,
        sqlite=sqlite3.sqlite_version,
        cores=os.cpu_count() or 0,
        turns=arguments.turns,
        seconds=arguments.seconds,
        rows=tuple(_row(name, in_flight, found) for name, in_flight in plan),
    )


def _row(name: str, in_flight: int, found: dict[tuple[str, int], list[Measured]]) -> Row:
    mine, theirs = found[name, in_flight], found[THEIRS, in_flight]
    return Row(
        title=TITLES[name],
        in_flight=in_flight,
        rate=median(one.rate for one in mine),
        slowest=min(one.rate for one in mine),
        fastest=max(one.rate for one in mine),
        p50_ms=median(one.p50_ms for one in mine),
        p99_ms=median(one.p99_ms for one in mine),
        cpu_us=median(1000 * one.cpu_ms for one in mine),
        disk_bytes=median(one.disk_bytes / one.all_sagas for one in mine),
        times=median(one.rate / other.rate for one, other in zip(mine, theirs, strict=True)),
    )


def table(results: Results) -> str:
    """For people."""
    head = ["", "in flight", "events/s", "slowest - fastest", "p50 ms", "p99 ms", "CPU us", "bytes", "times"]
    lines = [head] + [
        [
            row.title,
            str(row.in_flight),
            f"{row.rate:,.0f}",
            f"{row.slowest:,.0f} - {row.fastest:,.0f}",
            f"{row.p50_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.cpu_us:.0f}",
            f"{row.disk_bytes:.0f}",
            f"{row.times:.2f}",
        ]
        for row in results.rows
    ]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    shown = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    return "\n".join(
        [
            *shown,
            "",
            f"Python {results.python}, ours on {results.loop}, SQLite {results.sqlite}, {results.cores} cores; medians "
            f"of {results.turns} turns of {results.seconds:g} s; both with WAL and synchronous=FULL.",
            "Compare ratios, not absolutes.",
            *(goal.line for goal in goals(results)),
        ]
    )


def goals(results: Results) -> list[Goal]:
    """What we want of it."""
    return [
        Goal(f"times eventsourcing, {MANY} in flight", results.times(OURS, MANY), least=10),
        Goal(f"times eventsourcing, {MANY} in flight, in an engine", results.times(ENGINE, MANY), least=10),
        Goal("times eventsourcing, 1 in flight", results.times(OURS, 1), least=1),
    ]
