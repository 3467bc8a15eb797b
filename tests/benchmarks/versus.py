"""Beside the peers and beside what SQLite allows, in turns, on the same machine."""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
from collections.abc import Callable
from contextlib import ExitStack
from math import inf
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct

from tests.benchmarks.chart import chart
from tests.benchmarks.environments import Environment, environment, own_environment, peers
from tests.benchmarks.running import Measured, run

MANY = 256
OURS = "orchestrator_sqlite"
CEILING = "ceiling"
MIB = 1024 * 1024


class Turn(Struct, frozen=True):
    """One participant in one turn: its first saga, then many at a time, then one at a time."""

    cold: Measured
    many: Measured
    one: Measured


class Figures(Struct, frozen=True, kw_only=True):
    """A participant's medians over all turns; of the ceiling, only rates and processor time."""

    title: str
    durable: str
    rate_many: float
    p50_many_ms: float
    p99_many_ms: float
    cpu_many_ms: float
    rate_one: float
    p50_one_ms: float
    p99_one_ms: float
    cpu_one_ms: float
    peak_mib: float
    disk_bytes: float
    cold_s: float
    times_many: float = 0.0  # how much more sagas a second ours does, the median of the turns
    times_one: float = 0.0
    slowest_many: float = 0.0  # the turns' extremes
    fastest_many: float = 0.0


class Results(Struct, frozen=True, kw_only=True):
    """All that one run of the benchmark found."""

    python: str
    loop: str  # that ours runs on
    sqlite: str
    system: str
    cores: int
    turns: int
    seconds: float
    commit_ms: float
    commits_a_saga: float
    times_the_road: float  # p50 at 1 in flight, in durable commits on the road
    participants: dict[str, Figures]
    missing: dict[str, str]


class Goal(Struct, frozen=True):
    """A figure and where it should be."""

    what: str
    value: float
    least: float = 0.0
    most: float = inf

    @property
    def line(self) -> str:
        """For people."""
        wanted = f"at least {self.least:g}" if self.least else f"at most {self.most:g}"
        reached = "reached" if self.least <= self.value <= self.most else "NOT reached"
        return f"{reached:11}  {self.what}: {self.value:,.2f}, {wanted}"


def main(argv: list[str]) -> None:
    """The command."""
    arguments = _arguments(argv)
    with ExitStack() as stack:
        cache = arguments.cache or Path(stack.enter_context(TemporaryDirectory(prefix="peers-")))
        results = measure(arguments, cache)
    print(table(results))
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    if arguments.svg:
        arguments.svg.write_text(drawn(results))


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--peers", default=",".join(peers()), help="which, separated by commas; empty: none")
    parser.add_argument("--cache", type=Path, help="where their environments are kept; default: made anew each time")
    parser.add_argument("--dir", type=Path, help="the disk to measure on; default: the temporary directory's")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long new sagas are begun in each run")
    parser.add_argument("--json", type=Path, help="a file for the results")
    parser.add_argument("--svg", type=Path, help="a file for the chart")
    return parser.parse_args(argv)


def measure(arguments: argparse.Namespace, cache: Path) -> Results:
    """All participants in turns. A peer that cannot be installed or run is left out, with the reason."""
    all_peers = peers()
    missing: dict[str, str] = {}
    own, loop = own_environment(cache)
    environments: dict[str, Environment] = {OURS: own}
    for name in filter(None, arguments.peers.split(",")):
        _say(f"installing {name}")
        try:
            environments[name] = environment(name, all_peers[name], cache)
        except (RuntimeError, OSError) as error:
            missing[name] = str(error)
    turns: dict[str, list[Turn]] = {name: [] for name in dict.fromkeys((OURS, CEILING, *environments))}
    roads: list[Measured] = []
    for number in range(arguments.turns):
        _say(f"turn {number + 1} of {arguments.turns}: the road")
        roads.append(run("peers.road", "--seconds", str(arguments.seconds), within=arguments.dir))
        for name in [name for name in turns if name not in missing]:
            _say(f"turn {number + 1} of {arguments.turns}: {name}")
            try:
                turns[name].append(_turn(name, environments.get(name), arguments))
            except RuntimeError as error:
                if name in (OURS, CEILING):
                    raise
                missing[name] = str(error)
    return Results(
        python=platform.python_version(),
        loop=loop,
        sqlite=sqlite3.sqlite_version,
        system=platform.system(),
        cores=os.cpu_count() or 0,
        turns=arguments.turns,
        seconds=arguments.seconds,
        commit_ms=median(each.commit_ms for each in roads),
        commits_a_saga=median(each.commits / each.sagas for each in roads),
        times_the_road=median(each.p50_ms / (each.commit_ms * each.commits / each.sagas) for each in roads),
        participants={
            name: _figures(name, turns[name], turns[OURS]) for name in turns if name not in missing and turns[name]
        },
        missing=missing,
    )


def _turn(name: str, environment: Environment | None, arguments: argparse.Namespace) -> Turn:
    def measured(*more: str) -> Measured:
        return run(f"peers.{name}", *more, environment=environment, within=arguments.dir)

    seconds = ("--seconds", str(arguments.seconds))
    cold = measured("--warm", "0", "--sagas", "1", "--in-flight", "1")
    return Turn(cold, measured(*seconds, "--in-flight", str(MANY)), measured(*seconds, "--in-flight", "1"))


def _figures(name: str, turns: list[Turn], ours: list[Turn]) -> Figures:
    title, durable = _titles()[name]

    def middle(of: Callable[[Turn], float]) -> float:
        return median(of(turn) for turn in turns)

    return Figures(
        title=title,
        durable=durable,
        rate_many=middle(lambda turn: turn.many.rate),
        slowest_many=min(turn.many.rate for turn in turns),
        fastest_many=max(turn.many.rate for turn in turns),
        p50_many_ms=middle(lambda turn: turn.many.p50_ms),
        p99_many_ms=middle(lambda turn: turn.many.p99_ms),
        cpu_many_ms=middle(lambda turn: turn.many.cpu_ms),
        rate_one=middle(lambda turn: turn.one.rate),
        p50_one_ms=middle(lambda turn: turn.one.p50_ms),
        p99_one_ms=middle(lambda turn: turn.one.p99_ms),
        cpu_one_ms=middle(lambda turn: turn.one.cpu_ms),
        peak_mib=middle(lambda turn: turn.many.peak_bytes / MIB),
        disk_bytes=middle(_disk_bytes),
        cold_s=middle(lambda turn: turn.cold.cold_s),
        times_many=median(mine.many.rate / its.many.rate for mine, its in zip(ours, turns, strict=False)),
        times_one=median(mine.one.rate / its.one.rate for mine, its in zip(ours, turns, strict=False)),
    )


def _disk_bytes(turn: Turn) -> float:
    """Of a saga: what a run left on the disk above what one saga leaves."""
    return (turn.many.disk_bytes - turn.cold.disk_bytes) / max(1, turn.many.all_sagas - 1)


def _titles() -> dict[str, tuple[str, str]]:
    own = "SQLite, WAL, synchronous=FULL (as shipped)"
    return {OURS: ("orchestrator", own), CEILING: ("SQLite alone, our rows", own)} | {
        name: (peer.title, peer.durable) for name, peer in peers().items()
    }


def table(results: Results) -> str:
    """For people."""
    columns = results.participants
    rows: list[tuple[str, Callable[[Figures], str]]] = [
        (f"sagas/s, {MANY} in flight", lambda f: f"{f.rate_many:,.0f}"),
        ("  slowest and fastest turn", lambda f: f"{f.slowest_many:,.0f} - {f.fastest_many:,.0f}"),
        ("  p50 / p99 ms", lambda f: f"{f.p50_many_ms:,.0f} / {f.p99_many_ms:,.0f}" if f.p50_many_ms else "-"),
        ("  CPU ms a saga", lambda f: f"{f.cpu_many_ms:.2f}"),
        ("sagas/s, 1 in flight", lambda f: f"{f.rate_one:,.0f}"),
        ("  p50 / p99 ms", lambda f: f"{f.p50_one_ms:.1f} / {f.p99_one_ms:.1f}" if f.p50_one_ms else "-"),
        ("  CPU ms a saga", lambda f: f"{f.cpu_one_ms:.2f}"),
        ("peak memory MiB", lambda f: f"{f.peak_mib:.0f}" if f.peak_mib else "-"),
        ("bytes on disk a saga", lambda f: f"{f.disk_bytes:,.0f}" if f.peak_mib else "-"),
        ("cold start to first saga, s", lambda f: f"{f.cold_s:.2f}" if f.peak_mib else "-"),
        (f"ours is so many times it, {MANY}", lambda f: f"{f.times_many:.2f}"),
        ("  1 in flight", lambda f: f"{f.times_one:.2f}"),
    ]
    grid = [["", *(each.title for each in columns.values())]]
    grid += [[label, *(shown(each) for each in columns.values())] for label, shown in rows]
    widths = [max(len(line[place]) for line in grid) for place in range(len(grid[0]))]
    lines = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in grid]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*lines, "", *_notes(results)])


def _notes(results: Results) -> list[str]:
    notes = [
        f"Python {results.python}, ours on {results.loop}, SQLite {results.sqlite}, {results.system}, {results.cores} "
        f"cores; medians of {results.turns} turns of {results.seconds:g} s. Compare ratios, not absolutes.",
    ]
    ceiling = results.participants[CEILING]
    notes += [
        f"one durable commit takes {results.commit_ms:.2f} ms; {results.commits_a_saga:.1f} are on the road, "
        f"so p50 at 1 in flight is {results.times_the_road:.1f} times what the disk takes",
        f"share of the ceiling: {ceiling.times_many:.0%} at {MANY} in flight, {ceiling.times_one:.0%} at 1",
    ]
    notes += [f"{figures.title}: {figures.durable}" for figures in results.participants.values()]
    notes += [f"{name} is missing: {why}" for name, why in results.missing.items()]
    return [*notes, "", *(goal.line for goal in goals(results))]


def goals(results: Results) -> list[Goal]:
    """What we want of it, of those participants that were there."""
    found = results.participants
    ours = found[OURS]
    others = [figures for name, figures in found.items() if name not in (OURS, CEILING)]
    return [
        *(
            Goal(f"times {found[name].title}, {MANY} in flight", found[name].times_many, least=least)
            for name, least in (("eventsourcing_sqlite", 20), ("restate_server", 20), ("dbos_sqlite", 100))
            if name in found
        ),
        *(Goal(f"times {figures.title}, 1 in flight", figures.times_one, least=1) for figures in others),
        Goal("share of the ceiling", found[CEILING].times_many, least=0.5),
        Goal("CPU ms a saga", ours.cpu_many_ms, most=0.25),
        Goal(f"p99 ms, {MANY} in flight", ours.p99_many_ms, most=150),
        Goal("p50 at 1 in flight, in durable commits on the road", results.times_the_road, most=3),
        Goal("peak memory MiB", ours.peak_mib, most=64),
        Goal("bytes on disk a saga", ours.disk_bytes, most=1_500),
        Goal("cold start s", ours.cold_s, most=0.4),
    ]


def drawn(results: Results) -> str:
    """The chart for the README."""
    shown = [figures for name, figures in results.participants.items() if name != CEILING]
    return chart(
        [
            (f"Order sagas a second, {MANY} in flight", [(f.title, f.rate_many, f"{f.rate_many:,.0f}") for f in shown]),
            (
                "Milliseconds from start to end, one at a time",
                [(f.title, f.p50_one_ms, f"{f.p50_one_ms:.1f}") for f in shown],
            ),
            ("Milliseconds of CPU a saga", [(f.title, f.cpu_many_ms, f"{f.cpu_many_ms:.2f}") for f in shown]),
        ],
        f"Every step durable before the next. {results.cores} cores, medians of {results.turns} turns in one run.",
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
