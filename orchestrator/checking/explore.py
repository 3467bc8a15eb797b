"""Every state that an instance can come to, breadth first, equal states merged."""

from __future__ import annotations

import time
from collections import deque

from msgspec import Struct

from ..errors import BadMessage
from ..machine import HandlerBug, Instance, Outcome, Status, Transition
from ..machine.instance import headline
from .coverage import Coverage, without_own_frames
from .judge import wrong
from .lint import Notes
from .states import State, after, plain
from .world import Act, Move, World

WAYS = 20  # to one thing wrong that are kept, in case these times do not allow the shortest
DEAD_END = ("t.wait(1e9)", "assert t.status.is_end or t.parked, t.status")


class Scope(Struct, frozen=True):
    """What is followed of what has no end by itself.

    visits   of one step: how often a loop may come to it.
    early    events kept for steps to come.
    asides   events that change the saga's state and no step.
    """

    visits: int = 5
    early: int = 2
    asides: int = 2

    def __str__(self) -> str:
        return (
            f"at most {self.visits} visits of a step, {self.early} early events, {self.asides} that change only the "
            "state; the clock stands still"
        )


class Bounds(Struct, frozen=True):
    """When to stop unfinished: a number of states, seconds."""

    max_states: int
    max_seconds: float


class Found(Struct, frozen=True):
    """Something wrong: a sentence, a way there, the lines by which a test fails, a traceback."""

    what: str
    path: tuple[Move, ...]
    proof: tuple[str, ...]
    details: str = ""
    is_dead_end: bool = False


class Explorer:
    """One search. `found` holds the first, so the shortest, ways to each thing wrong."""

    def __init__(self, coverage: Coverage, world: World, bounds: Bounds, scope: Scope, notes: Notes) -> None:
        """Of a definition, whose coverage is taken, in its world."""
        self.found: dict[str, list[Found]] = {}
        self.states = self.transitions = 0
        self.reached = ""  # the bound that ended the search
        self._definition, self._world, self._bounds, self._notes = coverage.definition, world, bounds, notes
        self._coverage = coverage
        self._scope = scope
        self._numbers: dict[bytes, int] = {}
        self._came: list[tuple[int, Move]] = []
        self._before: list[list[int]] = []  # where each state is come to from, by messages
        self._blamed: set[int] = set()
        self._good: set[int] = set()  # ends, and states parked by rule
        self._cut: set[int] = set()  # a loop came here once too often
        self._curbed: set[int] = set()  # was told something beside its steps once too often
        self._first_round: set[int] = set()
        self._stands: list[str] = []
        self._waiting: deque[tuple[int, State]] = deque()

    @property
    def cut(self) -> int:
        """At how many states something without end was not followed any further."""
        return len(self._cut | self._curbed)

    def run(self) -> None:
        """Search until nothing is new, or a bound is reached."""
        started = time.monotonic()
        for move in self._world.beginnings():
            self._follow(-1, None, move)
        while self._waiting:
            if self.states > self._bounds.max_states:
                self.reached = f"{self._bounds.max_states:,} states"
                return
            if time.monotonic() - started > self._bounds.max_seconds:
                self.reached = f"{self._bounds.max_seconds:g} seconds"
                return
            number, state = self._waiting.popleft()
            for move in self._world.moves(state.instance):
                self._follow(number, state, move)
        self._find_dead_ends()

    def _follow(self, number: int, state: State | None, move: Move) -> None:
        before = None if state is None else state.instance
        self.transitions += 1
        try:
            done = after(self._definition, self._world.key, before, move)
        except HandlerBug as bug:
            text = without_own_frames(str(bug).strip())
            what = f"{self._coverage.latest or 'the start'} raises {headline(text)}"
            self._blame(number, move, what, ("assert not t.parked, t.parked",), text)
            return
        except BadMessage as error:  # of a state that was taken off, because nothing reads it any more
            self._blame(number, move, f"a handler runs though it unwinds (R4): {error}", _WHILE_RUNNING)
            return
        if before is not None and _changes_nothing(before, done):
            return
        problems = list(wrong(self._definition, before, done))
        for problem in problems:
            self._blame(number, move, problem, _proof(done))
        if done.instance is not None and not problems:
            self._notes.look(done)
            self._arrive(number, state, move, done, done.instance)

    def _arrive(self, number: int, state: State | None, move: Move, done: Transition, instance: Instance) -> None:
        asides = 0 if state is None else state.asides
        if state is not None and done.outcome is Outcome.APPLIED and _is_aside(state.instance, instance, move):
            asides += 1
        if len(instance.kept) > self._scope.early:
            return
        if asides > self._scope.asides:
            self._curbed.add(number)
            return
        reached = State(plain(instance), asides if instance.status is Status.RUNNING else 0)
        digest = reached.digest()
        known = self._numbers.get(digest)
        if known is None:
            known = self._enter(digest, reached, number, move)
        if number >= 0 and known != number and move.act is not Act.CANCEL:
            self._before[known].append(number)

    def _enter(self, digest: bytes, reached: State, number: int, move: Move) -> int:
        instance = reached.instance
        known = self._numbers[digest] = self.states
        self.states += 1
        self._came.append((number, move))
        self._before.append([])
        self._stands.append(", ".join(instance.stands_in))
        is_cut = max(instance.numbers.values(), default=0) > self._scope.visits
        if instance.status.is_end or instance.parked:
            self._good.add(known)
        if max(instance.numbers.values(), default=0) <= 1:
            self._first_round.add(known)
        if is_cut:
            self._cut.add(known)
        else:
            self._waiting.append((known, reached))
        return known

    def _blame(self, number: int, move: Move, what: str, proof: tuple[str, ...], details: str = "") -> None:
        if number >= 0:
            self._blamed.add(number)
        ways = self.found.setdefault(what, [])
        if len(ways) < WAYS:
            ways.append(Found(what, (*self._path(number), move), proof, details))

    def _path(self, number: int) -> tuple[Move, ...]:
        moves: list[Move] = []
        while number >= 0:
            number, move = self._came[number]
            moves.append(move)
        return tuple(reversed(moves))

    def _find_dead_ends(self) -> None:
        """States from which no end is reached by messages; numbers rise with the length of the way there.

        What goes on from a bug, or after yet another event, is not known. Where a loop was cut off, an end must have
        been in reach before its second time round.
        """
        ends = self._good | self._blamed | self._curbed
        alive, alive_at_once = self._leading_to(ends | self._cut), self._leading_to(ends)
        for number in range(self.states):
            if number not in alive:
                self._dead_end(number, "")
            elif number not in alive_at_once and number in self._first_round:
                self._dead_end(number, f" within {self._scope.visits} visits of a step")

    def _dead_end(self, number: int, within: str) -> None:
        what = f"a dead end: from {self._stands[number] or 'here'} no message leads to an end{within}"
        if what not in self.found:
            self.found[what] = [Found(what, self._path(number), DEAD_END, is_dead_end=True)]

    def _leading_to(self, goals: set[int]) -> set[int]:
        found = set(goals)
        waiting = list(goals)
        while waiting:
            for earlier in self._before[waiting.pop()]:
                if earlier not in found:
                    found.add(earlier)
                    waiting.append(earlier)
        return found


def _proof(done: Transition) -> tuple[str, ...]:
    if done.outcome is Outcome.DEAD:
        return ("assert t.last.outcome != 'dead', t.last.notes",)
    if done.instance is not None and done.instance.status.is_end:
        return (f"assert t.status != {str(done.instance.status)!r}, t.last.notes",)
    return _WHILE_RUNNING


_WHILE_RUNNING = ("assert t.status.is_end, t.last.notes",)


def _changes_nothing(before: Instance, done: Transition) -> bool:
    """Whether the message is only noted."""
    now = done.instance
    if now is None or done.outcome in (Outcome.APPLIED, Outcome.KEPT, Outcome.DEAD):
        return False
    return now.visits == before.visits and now.status is before.status and now.kept == before.kept


def _is_aside(before: Instance, now: Instance, move: Move) -> bool:
    """Whether an event changed the state and no step: a class-level one, or one after which a step stays."""
    if move.act is not Act.TELL or bytes(before.state) == bytes(now.state):
        return False
    return before.status == now.status and [v.state for v in before.visits] == [v.state for v in now.visits]
