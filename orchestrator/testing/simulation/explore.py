"""Which plans of faults are tried: every single one, a second one in the recovery of the first, and random ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from .faults import CRASHES, INVISIBLE, POSSIBLE, Fault, Plan
from .run import Played, Scenario, play

MOST_FAULTS = 5  # of a random plan
MAX_SHRINKS = 200


class Broken(Struct, frozen=True):
    """A plan that breaks something, as small as it could be made, and what it breaks."""

    scenario: str
    seed: int
    plan: dict[int, Fault]
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        faults = ", ".join(f"{number}: {fault}" for number, fault in sorted(self.plan.items())) or "no fault"
        return f"{self.scenario}, seed {self.seed}, {faults}: {'; '.join(self.wrong[:3])}"


class Tried(Struct):
    """What was tried of a scenario."""

    runs: int = 0
    fired: int = 0
    seconds: float = 0.0
    lives: int = 0
    transitions: int = 0

    def add(self, played: Played) -> None:
        """Count a run."""
        self.runs += 1
        self.fired += len(played.fired)
        self.seconds += played.seconds
        self.lives += played.lives
        self.transitions += played.transitions


class Explorer:
    """Tries plans on one scenario; what is found comes shrunk."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        """First a run without faults: it says where there is something to go wrong."""
        self.scenario = scenario
        self.seed = seed
        self.tried = Tried()
        self.plain = play(scenario, {}, seed)
        self.tried.add(self.plain)

    def unharmed(self) -> Iterator[Broken]:
        """What is wrong without any fault."""
        if self.plain.wrong:
            yield Broken(self.scenario.name, self.seed, {}, self.plain.wrong)

    def singles(self) -> Iterator[Plan]:
        """Every fault at every port call of the run without faults."""
        for number, (port, _) in enumerate(self.plain.calls, 1):
            for fault in POSSIBLE[port]:
                yield {number: fault}

    def seconds(self, plan: Plan, played: Played, chance: random.Random, count: int) -> Iterator[Plan]:
        """A second fault behind the first, most often a crash: some of those that can be."""
        first = max(plan)
        numbers = range(first + 1, len(played.calls) + 1)
        for number in sorted(chance.sample(numbers, min(count, len(numbers)))):
            possible = POSSIBLE[played.calls[number - 1][0]]
            crashes = [fault for fault in possible if fault in CRASHES]
            yield {**plan, number: chance.choice(crashes if crashes and chance.random() < 0.7 else list(possible))}

    def at_random(self, chance: random.Random) -> tuple[Plan, int]:
        """A plan of some faults anywhere, and the seed it is for."""
        numbers = range(1, len(self.plain.calls) + 1)
        plan: dict[int, Fault] = {}
        for number in chance.sample(numbers, min(chance.randint(1, MOST_FAULTS), len(numbers))):
            port, _ = self.plain.calls[number - 1]
            plan[number] = chance.choice(POSSIBLE[port])
        return plan, chance.randrange(1 << 30)

    def play(self, plan: Plan, seed: int | None = None) -> tuple[Played, Broken | None]:
        """Run a plan; what it breaks comes with the smallest plan that still breaks the same invariant."""
        seed = self.seed if seed is None else seed
        played = play(self.scenario, plan, seed)
        self.tried.add(played)
        wrong = played.wrong or self._changed(plan, played)
        if not wrong:
            return played, None
        return played, shrunk(
            Broken(self.scenario.name, seed, dict(plan), wrong), lambda smaller: self._wrong(smaller, seed)
        )

    def _wrong(self, plan: Plan, seed: int) -> tuple[str, ...]:
        played = play(self.scenario, plan, seed)
        return played.wrong or (self._changed(plan, played) if seed == self.seed else ())

    def _changed(self, plan: Plan, played: Played) -> tuple[str, ...]:
        """Crashes and repetitions alone must not change how a run ends."""
        if not INVISIBLE.issuperset(plan.values()) or played.ends == self.plain.ends or not self.scenario.is_steady:
            return ()
        return (f"it ends as {dict(played.ends)}, and without faults as {dict(self.plain.ends)}",)


def shrunk(broken: Broken, wrong: Callable[[Plan], Iterable[str]]) -> Broken:
    """The same with every fault left out that is not needed for the first thing that is wrong."""
    plan, found = dict(broken.plan), broken.wrong
    for _ in range(MAX_SHRINKS):
        for number in sorted(plan):
            smaller = {each: fault for each, fault in plan.items() if each != number}
            again = tuple(wrong(smaller))
            if any(what[:3] == found[0][:3] for what in again):
                plan, found = smaller, again
                break
        else:
            break
    return Broken(broken.scenario, broken.seed, plan, found)
