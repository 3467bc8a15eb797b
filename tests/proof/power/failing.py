"""Acts of the disk that fail, each one of a scenario once: nothing acknowledged is lost, nothing is silently wrong."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from random import Random

import anyio
from msgspec import Struct

from orchestrator.errors import StoreCorrupt, StoreError, StoreFull
from orchestrator.machine.transition import Transition
from orchestrator.ports import Committed, Result

from .disk import Disk, Platter
from .reopening import reopen, room
from .workload import PoweredStore, State, run, state

GROUPS = 8
CLOSE = 30  # acts after a restart in which the power fails most
MOST_TRIES = 6  # of one group, before the store counts as stuck
CODES = {
    "read": "SQLITE_IOERR_READ",
    "write": "SQLITE_IOERR_WRITE",
    "sync": "SQLITE_IOERR_FSYNC",
    "truncate": "SQLITE_IOERR_TRUNCATE",
    "delete": "SQLITE_IOERR_DELETE",
    "open": "SQLITE_CANTOPEN",
    "size": "SQLITE_IOERR_FSTAT",
}


class Fails(Struct):
    """What became of the scenarios."""

    scenarios: int = 0
    failed: int = 0  # in which an act failed
    refused: int = 0  # commits that raised
    restarts: int = 0
    images: int = 0
    wrong: list[str] = []


class How(Enum):
    """What happens at an act, and then to the process."""

    ONCE_STOP = "fails; a stop"
    ONCE_KILL = "fails; a kill"
    ALL_STOP = "fails and all after it; a stop"
    ALL_KILL = "fails and all after it; a kill"
    KILL = "never begins; a kill"
    FULL = "finds the disk full, until a commit has said so"


class Trouble:
    """What is wrong with the disk: its n-th act fails, or all from it on until it is mended."""

    def __init__(self, number: int, how: How = How.ONCE_STOP) -> None:
        self.acts: list[str] = []
        self.hit = ""
        self.how = how
        self._number = number
        self._is_mended = False

    def __str__(self) -> str:
        return f"act {self._number} ({self.hit}) {self.how.value}"

    def __call__(self, act: str) -> str:
        if self.how is How.FULL and act != "write":
            return ""
        self.acts.append(act)
        is_once = self.how in (How.ONCE_STOP, How.ONCE_KILL)
        if self._is_mended or len(self.acts) < self._number or (self.hit and is_once):
            return ""
        self.hit = self.hit or act
        match self.how:
            case How.FULL:
                return "SQLITE_FULL"
            case How.KILL:
                return "SQLITE_IOERR"
            case _:
                return CODES[act]

    def mend(self) -> None:
        """The disk is replaced, or has room again."""
        self._is_mended = self._is_mended or bool(self.hit)


class Scenario:
    """Groups that a real engine committed, committed again on a fresh file, and what is there after each."""

    def __init__(self) -> None:
        recorded = PoweredStore(Disk())
        run(recorded)
        self.groups: Sequence[Sequence[Transition]] = recorded.groups[:GROUPS]
        clean = PoweredStore(Disk())
        trouble = Trouble(1 << 62)
        clean.fault = trouble
        anyio.run(self._play, clean)
        self.results = clean.results
        self.states: list[State] = [clean.states[0], *clean.states[1 : GROUPS + 1]]
        self.acts = trouble.acts

    async def _play(self, store: PoweredStore) -> None:
        async with store:
            for group in self.groups:
                await store.commit(group)


def fail_each(seed: int, share: float, *, of: str = "") -> Fails:
    """Something happens at every act (`of` one kind), in every way; then the power fails."""
    fails, scenario = Fails(), _scenario()
    chance = Random(f"failing {seed}")
    with room() as directory:
        for how in How:
            acts = [act for act in scenario.acts if act == "write"] if how is How.FULL else scenario.acts
            for number, act in enumerate(acts, start=1):
                if of in ("", act) and chance.random() < share:
                    _fail(fails, _Player(scenario, Trouble(number, how)), chance, directory)
    return fails


@cache
def _scenario() -> Scenario:
    return Scenario()


def _fail(fails: Fails, player: _Player, chance: Random, directory: Path) -> None:
    scenario, trouble = player.scenario, player.trouble
    anyio.run(player.play)
    fails.scenarios += 1
    fails.failed += bool(trouble.hit)
    fails.refused += player.refused
    fails.restarts += player.restarts
    fails.wrong += [f"{trouble}: {each}" for each in player.wrong]
    log = player.disk.log
    after = player.restarted_at + chance.randrange(CLOSE)
    for index in sorted({min(len(log) - 1, after), chance.randrange(len(log))}):
        platter = Platter(player.disk.image)
        platter.apply(log[:index])
        acked = log[index].acked
        found = reopen(platter.image(chance, log[index]), directory)
        fails.images += 1
        if found.problem or found.state not in scenario.states[acked : acked + 2]:
            what = found.problem or f"{acked} were acknowledged"
            fails.wrong.append(f"{trouble}; a power cut at act {index} of {len(log)}: {what}")


class _Player:
    """Commits group after group as the engine does: a group of which nothing is known is looked for."""

    def __init__(self, scenario: Scenario, trouble: Trouble) -> None:
        self.disk = Disk()
        self.refused = 0
        self.restarts = 0
        self.restarted_at = 0
        self.wrong: list[str] = []
        self.scenario = scenario
        self.trouble = trouble
        self._store = PoweredStore(self.disk)
        self._store.fault, self._store.is_watched = trouble, False
        self._is_open = False
        self._has_lost = False

    async def play(self) -> None:
        done = tries = 0
        while done < len(self.scenario.groups):
            try:
                await self._open()
                if not tries or not await self._is_stored(done):
                    results = await self._store.commit(self.scenario.groups[done])
                    if _said(results) != _said(self.scenario.results[done]):
                        self.wrong.append(f"group {done} was answered {_said(results)}")
                    if self._has_lost:
                        self.wrong.append(f"group {done} was taken after a failed fsync")
                done, tries = done + 1, 0
                self.disk.acked = done
            except StoreError as error:
                self.refused += 1
                tries += 1
                self._has_lost = self._has_lost or (self._is_open and CODES["sync"] in str(error))
                if tries > MOST_TRIES:
                    self.wrong.append(f"stuck at group {done}: {error}")
                    break
                if isinstance(error, StoreFull):
                    self.trouble.mend()
                elif isinstance(error, StoreCorrupt) or not self._is_open or tries > 2:
                    await self._restart()
        if self._is_open:
            await self._leave()

    async def _open(self) -> None:
        if not self._is_open:
            await self._store.__aenter__()
            self._is_open = True

    async def _is_stored(self, done: int) -> bool:
        """Whether the group is there already: its commit may have failed after the fact."""
        there = await self._store._read(state)
        if there not in self.scenario.states[done : done + 2]:
            raise AssertionError(f"after {done} groups the store holds what never was")
        return there != self.scenario.states[done]

    async def _restart(self) -> None:
        self.restarts += 1
        if self._is_open:
            await self._leave()
        self.restarted_at = len(self.disk.log)
        self.trouble.mend()

    async def _leave(self) -> None:
        self._is_open = self._has_lost = False
        self._store.is_killed = self.trouble.how in (How.ONCE_KILL, How.ALL_KILL, How.KILL)
        await self._store.__aexit__(None, None, None)


def _said(results: Sequence[Result]) -> list[str]:
    """Comparable: exceptions are among them."""
    return [f"{len(each.waiting)} waited" if isinstance(each, Committed) else repr(each) for each in results]
