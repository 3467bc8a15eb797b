"""Behind a broker: the order saga with its participants in another process, and in turns the same number of messages
without sagas, by the native client of the same broker. Both directions, everything confirmed and acknowledged.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Protocol

import pytest
from msgspec import Struct

from tests.benchmarks.environments import Environment
from tests.benchmarks.running import Measured, run
from tests.benchmarks.versus import MANY, Goal

MESSAGES = 6  # of an order: reserve, pay and ship, or reserve, pay and release, and an answer to each
BROKERS = {"nats": "nats", "kafka": "kafka", "rabbitmq": "rabbitmq", "sqs": "aws"}  # its module, and what it starts
LEAST = 0.5


class Broker(Protocol):
    """A real server."""

    @property
    def url(self) -> str: ...


class Turn(Struct, frozen=True):
    """Both in one turn, a message of ours being a sixth of an order."""

    ours: Measured
    bare: Measured

    @property
    def rate(self) -> float:
        """Of ours, messages a second."""
        return self.ours.rate * MESSAGES

    @property
    def share(self) -> float:
        return self.rate / self.bare.rate


def main(argv: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks bus", description=__doc__)
    parser.add_argument("--broker", choices=BROKERS, action="append", help="which; default: all, one after another")
    parser.add_argument("--dir", type=Path, help="the disk of our stores; default: the temporary directory's")
    parser.add_argument("--in-flight", type=int, default=MANY, help="orders at a time; an emulation may want fewer")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long new orders are begun in each turn")
    arguments = parser.parse_args(argv)
    found: dict[str, list[Turn]] = {}
    for name in arguments.broker or BROKERS:
        try:
            found[name] = measure(name, arguments)
        except (pytest.skip.Exception, pytest.fail.Exception, RuntimeError) as error:
            _say(f"{name} is left out: {error}")
    print(table(found))


def measure(name: str, arguments: argparse.Namespace) -> list[Turn]:
    """All turns with one broker, each with a new one: what is left in a queue would hold up the next."""
    start: Callable[[], AbstractContextManager[Broker]] = getattr(
        import_module(f"tests.servers.{BROKERS[name]}"), BROKERS[name]
    )
    turns: list[Turn] = []
    for number in range(arguments.turns):
        with start() as broker:
            turns.append(_turn(f"{name}, turn {number + 1} of {arguments.turns}", broker.url, arguments))
    return turns


def _turn(title: str, url: str, arguments: argparse.Namespace) -> Turn:
    def measured(module: str, *more: str) -> Measured:
        variables = {"BUS_URL": url, "BUS_PREFIX": f"b{os.urandom(4).hex()}."}
        environment = Environment(Path(sys.executable), variables=variables)
        return run(f"peers.{module}", *more, environment=environment, within=arguments.dir)

    _say(f"{title}: ours")
    ours = measured("orchestrator_bus", "--seconds", str(arguments.seconds), "--in-flight", str(arguments.in_flight))
    _say(f"{title}: bare")
    return Turn(ours, measured("bare_bus", "--sagas", str(ours.sagas * MESSAGES // 2)))


def table(found: dict[str, list[Turn]]) -> str:
    """For people."""
    lines = [
        f"{'':10}{'messages/s':>11}{'bare':>9}{'share':>7}{'CPU ms':>8}{'bare':>7}  turns: slowest - fastest share"
    ]
    for name, turns in found.items():
        rate, bare = median(turn.rate for turn in turns), median(turn.bare.rate for turn in turns)
        cpu = median(turn.ours.cpu_ms / MESSAGES for turn in turns)
        bare_cpu = median(turn.bare.cpu_ms for turn in turns)
        share, shares = median(turn.share for turn in turns), [turn.share for turn in turns]
        lines.append(
            f"{name:10}{rate:>11,.0f}{bare:>9,.0f}{share:>7.0%}{cpu:>8.2f}{bare_cpu:>7.2f}"
            f"  {min(shares):.0%} - {max(shares):.0%}"
        )
    goals = [
        Goal(f"share of the bare rate over {name}", median(t.share for t in turns), least=LEAST)
        for name, turns in found.items()
    ]
    note = "CPU of both our processes, a message; the broker's own is not in it. Compare ratios, not absolutes."
    return "\n".join([*lines, "", note, "", *(goal.line for goal in goals)])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
