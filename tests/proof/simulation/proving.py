"""The simulated part of the proof: every single fault, second faults in the recovery, random plans, the same digest."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from orchestrator.testing.simulation import Broken, Explorer, Fault, Plan, Scenario, play
from orchestrator.testing.simulation.faults import CRASHES, POSSIBLE
from tests.proof.proved import Proved

from .expected import unlike
from .scenarios import SCENARIOS

SEED = 1  # of the exhaustive part
SECONDS = 1_500  # second faults at share 1
RANDOM = 1_000  # random plans at share 1
COMPARED = 50  # runs whose digest is compared between two processes
REGRESSIONS = Path(__file__).parent / "regressions"


class Regression(msgspec.Struct, frozen=True):
    """A plan that broke something once."""

    scenario: str
    seed: int
    plan: dict[int, Fault]
    broke: str = ""


def prove(*, seed: int = 0, share: float = 1.0) -> Proved:
    """Run everything; what breaks is kept as a file under `regressions`."""
    count = _Count()
    chance = random.Random(seed)
    for number, scenario in enumerate(SCENARIOS):
        explorer = Explorer(scenario, SEED)
        count.take(explorer.unharmed())
        count.wrong += [f"{scenario.name}: {what}" for what in unlike(scenario.name, explorer.plain)]
        _singles_and_seconds(explorer, count, chance, share, number)
        for _ in range(_part(RANDOM, share)):
            plan, drawn = explorer.at_random(chance)
            count.run(explorer, plan, drawn)
            count.random += 1
        count.add(explorer)
    for regression in regressions():
        count.take(replayed(regression))
    count.wrong += _differing(seed)
    return count.proved(share)


def _singles_and_seconds(explorer: Explorer, count: _Count, chance: random.Random, share: float, number: int) -> None:
    """Every fault of the plain run; behind some crashes another fault, in what follows them."""
    singles = list(explorer.singles())
    if share < 1:
        singles = random.Random(number).sample(singles, max(1, round(len(singles) * share)))
    crashes = [plan for plan in singles if CRASHES.issuperset(plan.values())]
    behind = {max(plan) for plan in chance.sample(crashes, min(len(crashes), max(1, _part(SECONDS, share) // 3)))}
    for plan in singles:
        played = count.run(explorer, plan)
        count.singles += 1
        if max(plan) in behind and CRASHES.issuperset(plan.values()):
            for second in explorer.seconds(plan, played, chance, 3):
                count.run(explorer, second)
                count.seconds += 1


def _part(total: int, share: float) -> int:
    return max(1, round(total * share / len(SCENARIOS)))


class _Count:
    def __init__(self) -> None:
        self.singles = self.seconds = self.random = 0
        self.fired: Counter[Fault] = Counter()
        self.runs = self.lives = self.transitions = self.calls = 0
        self.virtual_s = 0.0
        self.wrong: list[str] = []

    def run(self, explorer: Explorer, plan: Plan, seed: int | None = None) -> object:
        played, broken = explorer.play(plan, seed)
        self.fired.update(fault for _, fault in played.fired)
        self.calls += len(played.calls)
        if broken is not None:
            self.take([broken])
        return played

    def take(self, broken: Iterator[Broken] | list[Broken]) -> None:
        for one in broken:
            self.wrong.append(f"{one} (kept as {kept(one)})")

    def add(self, explorer: Explorer) -> None:
        tried = explorer.tried
        self.runs += tried.runs
        self.lives += tried.lives
        self.transitions += tried.transitions
        self.virtual_s += tried.seconds

    def proved(self, share: float) -> Proved:
        if share >= 1:
            idle = [fault for fault in Fault if not self.fired[fault]]
            self.wrong += [f"void: the fault {fault!r} never came to pass" for fault in idle]
        return Proved(
            "simulation",
            {
                "scenarios": len(SCENARIOS),
                "single faults, all of them": self.singles,
                "second faults": self.seconds,
                "random plans": self.random,
                "schedules": self.runs,
                "faults fired": sum(self.fired.values()),
                "port calls": self.calls,
                "process starts": self.lives,
                "transitions audited": self.transitions,
                "virtual days": round(self.virtual_s / 86_400, 1),
            },
            tuple(self.wrong),
        )


# Regressions.


def regressions() -> list[Regression]:
    """Everything that broke once."""
    files = sorted(REGRESSIONS.glob("*.json"))
    return [msgspec.json.decode(path.read_bytes(), type=Regression) for path in files]


def replayed(regression: Regression) -> Iterator[Broken]:
    """What it breaks today."""
    scenario = by_name(regression.scenario)
    played = play(scenario, regression.plan, regression.seed)
    if played.wrong:
        yield Broken(scenario.name, regression.seed, regression.plan, played.wrong)


def kept(broken: Broken) -> str:
    """The file that this plan is kept in."""
    regression = Regression(broken.scenario, broken.seed, broken.plan, broken.wrong[0])
    body = msgspec.json.format(msgspec.json.encode(regression))
    name = hashlib.sha256(f"{broken.scenario} {broken.seed} {sorted(broken.plan)}".encode()).hexdigest()[:12]
    path = REGRESSIONS / f"{name}.json"
    path.write_bytes(body + b"\n")
    return path.name


def by_name(name: str) -> Scenario:
    """A reference scenario."""
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


# The same run in another process.


def digests(seed: int) -> str:
    """One digest of many runs with random plans."""
    chance = random.Random(seed)
    total = hashlib.sha256()
    for _ in range(COMPARED):
        scenario = chance.choice(SCENARIOS)
        plain = play(scenario, {}, chance.randrange(1 << 30))
        number = chance.randrange(len(plain.calls)) + 1
        plan = {number: chance.choice(POSSIBLE[plain.calls[number - 1][0]])}
        total.update(play(scenario, plan, chance.randrange(1 << 30)).digest.encode())
    return total.hexdigest()


def _differing(seed: int) -> list[str]:
    """Whether a process whose sets and dicts of texts are in another order plays otherwise."""
    said = {hash_seed: _digests_elsewhere(seed, hash_seed) for hash_seed in ("1", "2")}
    return [] if len(set(said.values())) == 1 else [f"H2 the same seed does not give the same run: {said}"]


def _digests_elsewhere(seed: int, hash_seed: str) -> str:
    code = f"from tests.proof.simulation.proving import digests; print(digests({seed}))"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return done.stdout.strip() or done.stderr[-2000:]
