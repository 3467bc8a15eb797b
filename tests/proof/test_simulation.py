"""The simulator itself: the same run every time, a crash that is one, and bugs that it must see."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence

import anyio
import pytest

from orchestrator import App, Command, Event, Retry, Saga, participant, step
from orchestrator.machine import Transition
from orchestrator.memory import MemoryStore
from orchestrator.ports import Result, Store
from orchestrator.testing.simulation import Explorer, Fault, MemoryDisk, Outside, Port, Scenario, Tell, play
from orchestrator.testing.simulation.loop import Fenced, SimulatedLoop, Stuck

from .simulation import prove
from .simulation.proving import Regression, by_name, regressions
from .simulation.scenarios import SCENARIOS


class Wanted(Event):
    id: str


class Make(Command):
    id: str


class Making(Saga, key="id", starts=Wanted):
    id: str

    @step(undo=None, retry=Retry(attempts=3, timeout=10))
    def make(self) -> Make:
        return Make(self.id)


class Workshop(Outside):
    """Counts what was made."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0


def making(store: type[MemoryStore] = MemoryStore) -> Scenario:
    def app(outside: Workshop, life: int) -> App[object]:
        @participant
        async def make(command: Make) -> None:
            outside.made += 1

        return App("workshop", sagas=[Making], participants=[make])

    class Disk(MemoryDisk):
        def __init__(self) -> None:
            self._store = store()

        def store(self) -> Store:
            return self._store

    return Scenario(name="making", app=app, outside=Workshop, lines=(Tell(0.0, Wanted("1")),), disk=Disk)


def test_a_small_share_of_the_proof_finds_nothing() -> None:
    assert prove(seed=7, share=0.01).wrong == ()


@pytest.mark.parametrize("regression", regressions(), ids=lambda one: one.scenario)
def test_what_broke_once(regression: Regression) -> None:
    assert play(by_name(regression.scenario), regression.plan, regression.seed).wrong == ()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_scenario_ends_well_without_faults(scenario: Scenario) -> None:
    played = play(scenario, {}, 3)
    assert played.wrong == ()
    assert played.transitions > 1 or not scenario.lines  # a worker has no instances


def test_a_run_is_the_same_again_and_another_seed_is_another_run() -> None:
    scenario = by_name("parallel, refused")
    assert play(scenario, {5: Fault.CRASH_AFTER}, 1) == play(scenario, {5: Fault.CRASH_AFTER}, 1)
    assert play(scenario, {}, 1).digest != play(scenario, {}, 2).digest


def test_the_order_of_hashes_does_not_matter() -> None:
    code = "from tests.proof.simulation.scenarios import SCENARIOS; from orchestrator.testing.simulation import play; "
    code += "print([play(one, {9: 'crash after'}, 5).digest for one in SCENARIOS[::6]])"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


def test_a_crash_runs_no_finally() -> None:
    tidied: list[int] = []

    def app(outside: Workshop, life: int) -> App[object]:
        @participant
        async def make(command: Make) -> None:
            try:
                await anyio.sleep(1)
            finally:
                tidied.append(life)

        return App("workshop", sagas=[Making], participants=[make])

    class Watching(Workshop):
        pass

    scenario = Scenario(name="finally", app=app, outside=Watching, lines=(Tell(0.0, Wanted("1")),))
    calls = play(scenario, {}, 1).calls
    number = next(n for n, (port, _) in enumerate(calls, 1) if port is Port.READ and n > 8)
    tidied.clear()
    played = play(scenario, {number: Fault.CRASH_BEFORE}, 1)
    assert played.lives == 2
    assert played.wrong == ()
    assert tidied[0] == 2  # the first life got to its own only when it was unwound, after everything was over


def test_a_store_that_forgets_what_it_acknowledged_is_seen() -> None:
    class Forgetful(MemoryStore):
        async def commit(self, transitions: Sequence[Transition]) -> list[Result]:
            results = await super().commit(transitions)
            if any(one.instance is not None and one.instance.version == 2 for one in transitions):
                self._rows.clear()
            return results

    assert play(making(Forgetful), {}, 1).wrong


def test_a_participant_without_memory_makes_it_twice_and_the_trace_says_where() -> None:
    outsides: list[Workshop] = []
    scenario = making()

    def settled(instances: object, outside: Workshop) -> list[str]:
        outsides.append(outside)
        return [f"I7 it was made {outside.made} times"] if outside.made != 1 else []

    twice = Scenario(name="twice", app=scenario.app, outside=Workshop, lines=scenario.lines, settled=settled)
    explorer = Explorer(twice, 1)
    assert explorer.plain.wrong == ()
    broken = [broken for plan in explorer.singles() for _, broken in [explorer.play(plan)] if broken is not None]
    [twice_made] = [one for one in broken if Fault.CRASH_AFTER in one.plan.values()]
    assert "crash after: I7 it was made 2 times" in str(twice_made)


def test_a_plan_is_shrunk_to_what_breaks() -> None:
    def settled(instances: object, outside: Workshop) -> list[str]:
        return [f"I7 it was made {outside.made} times"] if outside.made != 1 else []

    scenario = making()
    twice = Scenario(name="twice", app=scenario.app, outside=Workshop, lines=scenario.lines, settled=settled)
    explorer = Explorer(twice, 1)
    call = next(n for n, (port, _) in enumerate(explorer.plain.calls, 1) if port is Port.CALL)
    _, broken = explorer.play({call: Fault.TWICE, call + 1: Fault.FORWARD})
    assert broken is not None
    assert broken.plan == {call: Fault.TWICE}


def test_what_never_comes_to_rest_is_seen() -> None:
    async def nothing_moves() -> None:
        await asyncio.get_running_loop().create_future()

    async def for_ever() -> None:
        while True:  # noqa: ASYNC110 that is the point
            await anyio.sleep(1)

    for never, why in ((nothing_moves, "nothing is ready"), (for_ever, "has not come to rest")):
        loop = SimulatedLoop(0.0, 10.0)
        with pytest.raises(Stuck, match=why):
            loop.run(never())
        loop.bury()


def test_there_are_no_threads() -> None:
    async def in_a_thread() -> None:
        with pytest.raises(Fenced):
            await asyncio.get_running_loop().run_in_executor(None, print)

    loop = SimulatedLoop(0.0, 10.0)
    loop.run(in_a_thread())
    loop.bury()
