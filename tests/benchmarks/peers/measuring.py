"""What every participant measures, and how: alike for all of them, with nothing but the standard library.

A participant is a program of its own: `python -m tests.benchmarks.peers.NAME --dir DIR --seconds 5 --in-flight 256`
prints one JSON object. It keeps all it stores in DIR.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

TICKS_S = os.sysconf("SC_CLK_TCK")


class Options(argparse.Namespace):
    """How much load: `warm` sagas one after another, then `sagas` of them or, if that is 0, as many as are begun within
    `seconds`. Only those after the warming up are measured.
    """

    dir: Path
    warm: int
    sagas: int
    seconds: float
    in_flight: int


def options(argv: list[str] | None = None) -> Options:
    """What the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", type=Path, required=True, help="an empty directory, for all that is stored")
    parser.add_argument("--warm", type=int, default=50, help="how many before, one after another")
    parser.add_argument("--sagas", type=int, default=0, help="how many, instead of for how long")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long new ones are begun")
    parser.add_argument("--in-flight", type=int, default=256, help="how many at a time")
    return parser.parse_args(argv, namespace=Options())


class Load:
    """Numbers the sagas, times each of them from start to end, and what all of them cost.

    `pids` are processes that belong to the participant besides its own.
    """

    def __init__(self, options: Options, pids: tuple[int, ...] = ()) -> None:
        self._options = options
        self._pids = pids
        self._times: list[float] = []
        self._first_at = 0.0
        self._is_over = False
        self.begin()

    def warming(self) -> Iterator[int]:
        """The numbers of the sagas before the load."""
        for number in range(1, self._options.warm + 1):
            yield number
            self._first_at = self._first_at or time.monotonic()

    def begin(self) -> None:
        """The clock runs from here."""
        self._cpu = self._cpu_s()
        self._began = time.perf_counter()
        self.numbers = self._numbers()

    def _numbers(self) -> Iterator[int]:
        wanted, stop = self._options.sagas, self._began + self._options.seconds
        number = 0
        while not self._is_over and (number < wanted if wanted else time.perf_counter() < stop):
            number += 1
            yield self._options.warm + number

    def stop(self) -> None:
        """Begin no more."""
        self._is_over = True

    def ended(self, began: float) -> None:
        """A saga that began at that moment of `perf_counter` has ended."""
        self._times.append(time.perf_counter() - began)
        self._first_at = self._first_at or time.monotonic()

    def figures(self) -> dict[str, float]:
        """What was measured; the clock stops here."""
        wall, cpu = time.perf_counter() - self._began, self._cpu_s() - self._cpu
        times = sorted(self._times)
        return {
            "sagas": len(times),
            "wall_s": wall,
            "cpu_s": cpu,
            "p50_ms": 1000 * times[len(times) // 2],
            "p99_ms": 1000 * times[len(times) * 99 // 100],
            "peak_bytes": sum(peak_bytes(pid) for pid in (os.getpid(), *self._pids)),
            "first_at": self._first_at,
            "all_sagas": self._options.warm + len(times),
        }

    def report(self, **more: float) -> None:
        """Print the figures, and some of one's own."""
        print(json.dumps(self.figures() | more), flush=True)

    def _cpu_s(self) -> float:
        return time.process_time() + sum(_cpu_of(pid) for pid in self._pids)


async def drive(order: Callable[[int], Awaitable[object]], load: Load, in_flight: int) -> None:
    """So many customers, each of whom waits for the end of an order before the next."""
    for number in load.warming():
        await order(number)
    load.begin()

    async def customer() -> None:
        for number in load.numbers:
            began = time.perf_counter()
            await order(number)
            load.ended(began)

    await asyncio.gather(*(customer() for _ in range(in_flight)))


def checkpoint(path: Path) -> None:
    """Move all of a SQLite file's write-ahead log into it, so that its size is what it takes on disk."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def peak_bytes(pid: int) -> int:
    """The most memory that the process had resident since it began."""
    if sys.platform == "linux":
        return _memory_of(pid, "VmHWM:")
    if pid != os.getpid():
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident_bytes() -> int:
    """The memory that this process has resident now, where the system says so."""
    return _memory_of(os.getpid(), "VmRSS:") if sys.platform == "linux" else 0


def _memory_of(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _cpu_of(pid: int) -> float:
    if sys.platform != "linux":
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S
