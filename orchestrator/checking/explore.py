"""Every state that an instance can come to, breadth first, equal states merged."""

from __future__ import annotations

import time
from collections import deque

from msgspec import Struct

from ..errors import BadMessage
from ..machine import HandlerBug, Instance, Outcome, Transition
from ..machine.instance import headline
from ..wire import Kind
from .coverage import Coverage, without_own_frames
from .effects import may_land_after_undo
from .judge import kinds_of_undo, wrong
from .lint import Notes
from .states import Keys, after, stand_still
from .world import Act, Move, World

WAYS = 20  # to one thing wrong that are kept, in case these times do not allow the shortest
DEAD_END = ("t.let_time_pass()", "assert t.status.is_end or t.parked, t.status")
LANDED = ('assert t.last.outcome != "stale", "done after its undo: its participant has to keep a tombstone"',)
ONLY_MESSAGES = {Act.TELL, Act.ANSWER, Act.FAIL, Act.GIVE_UP, Act.TIME}  # no person has to help


class Scope(Struct, frozen=True):
    """What is followed of what has no end by itself, and what participants are believed to keep.

    visits   of one step, and events that change the saga's state and no step: how often on one way.
    early    events kept for steps to come. More of them add nothing: a kept event has the same effect as one that
             comes right after its step was entered, which is played too.
    bare     the commands whose participants keep no tombstone, by wire type; "*" for all.
    """

    visits: int = 10
    early: int = 2
    bare: frozenset[str] = frozenset()

    def keeps_tombstone(self, command: str) -> bool:
        """Whether the participant of this command finds out a do that comes after its undo (R7)."""
        return not self.bare & {command, "*"}


class Bounds(Struct, frozen=True):
    """When to stop unfinished: a number of states, seconds."""

    max_states: int
    max_seconds: float


class State(Struct, frozen=True):
    """The first instance that came to a state, and how many events on its way changed the saga and no step."""

    number: int
    instance: Instance
    asides: int = 0


class Found(Struct, frozen=True):
    """Something wrong: a sentence, a way there, the lines by which a test fails, a traceback."""

    what: str
    path: tuple[Move, ...]
    proof: tuple[str, ...]
    details: str = ""
    is_dead_end: bool = False


class Unlike(Exception):
    """The elements of a list step differ in more than the contents of what they send."""


class Explorer:
    """One search. `found` holds the first, so the shortest, ways to each thing wrong."""

    def __init__(
        self, coverage: Coverage, world: World, bounds: Bounds, scope: Scope, notes: Notes, keys: Keys
    ) -> None:
        """Of a definition, whose coverage is taken, in its world."""
        self.found: dict[str, list[Found]] = {}
        self.states = self.transitions = 0
        self.reached = ""  # the bound that ended the search
        self.cut = 0  # at how many states something without end was not followed any further
        self._definition, self._world, self._bounds, self._notes = coverage.definition, world, bounds, notes
        self._coverage, self._scope, self._keys = coverage, scope, keys
        self._numbers: dict[bytes, int] = {}
        self._came: list[tuple[int, Move]] = []
        self._before: list[list[int]] = []  # where each state is come to from, by messages
        self._blamed: set[int] = set()
        self._good: set[int] = set()  # ends, and states where a person has to act
        self._cut: set[int] = set()  # not followed any further
        self._first_round: set[int] = set()
        self._stands: list[str] = []
        self._waiting: deque[State] = deque()
        world.like = keys.of_call

    def run(self) -> None:
        """Search until nothing is new, or a bound is reached. Errors: Unlike, to begin again without that step."""
        started = time.monotonic()
        for move in self._world.beginnings():
            self._follow(None, move)
        while self._waiting:
            if self.states > self._bounds.max_states:
                self.reached = f"{self._bounds.max_states:,} states"
                return
            if time.monotonic() - started > self._bounds.max_seconds:
                self.reached = f"{self._bounds.max_seconds:g} seconds"
                return
            state = self._waiting.popleft()
            for move in self._world.moves(state.instance):
                self._follow(state, move)
        self.cut = len(self._cut)
        self._find_dead_ends()

    def _follow(self, state: State | None, move: Move) -> None:
        before, number = (None, -1) if state is None else (state.instance, state.number)
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
        if move.is_stale and done.outcome is not Outcome.STALE:
            what = f"a message of the past is obeyed (R4): {done.notes[-1] if done.notes else move.envelope.type}"
            self._blame(number, move, what, _WHILE_RUNNING)
            return
        if before is not None and _changes_nothing(before, done):
            return
        problems = list(wrong(self._definition, before, done))
        for problem in problems:
            self._blame(number, move, problem, _proof(done))
        if done.instance is not None and not problems:
            self._look_for_landings(state, move, done.instance)
            self._arrive(state, move, done, done.instance)

    def _look_for_landings(self, state: State | None, move: Move, instance: Instance) -> None:
        """Undos answered by this move, after which a do may still be delivered (R7)."""
        about = move.envelope.reply_to
        if state is None or not about.endswith("/undo"):
            return
        for visit in instance.visits:
            for call in visit.calls:
                if instance.undo_id(visit, call) != about or not may_land_after_undo(call):
                    continue
                self._notes.without_tombstone[visit.step] = None
                if call.command is not None and not self._scope.keeps_tombstone(call.command.type):
                    what = f"missing tombstone: {visit.step} is done after its undo, and nothing undoes it (R7, I5)"
                    landing = self._world.landing(instance, visit, call)
                    if what not in self.found:
                        path = (*self._path(state.number), move, landing)
                        self.found[what] = [Found(what, path, LANDED)]

    def _arrive(self, state: State | None, move: Move, done: Transition, instance: Instance) -> None:
        number, asides = (-1, 0) if state is None else (state.number, state.asides)
        if state is not None and done.outcome is Outcome.APPLIED and _is_aside(state.instance, instance, move):
            asides += 1
        if len(instance.kept) > self._scope.early:
            return
        if state is not None and move.envelope.kind is Kind.YES:
            self._compare_elements(instance, move, done)
        stand_still(instance)
        digest = self._keys.of(instance)
        known = self._numbers.get(digest)
        if known is None:
            known = self._numbers[digest] = self.states
            self._notes.look(done, instance)
            self._enter(State(known, instance, asides), number, move)
        elif done.notes:
            self._notes.look_at_notes(done, instance)
        if number >= 0 and known != number and move.act in ONLY_MESSAGES:
            self._before[known].append(number)

    def _enter(self, state: State, number: int, move: Move) -> None:
        instance = state.instance
        self.states += 1
        self._came.append((number, move))
        self._before.append([])
        self._stands.append(", ".join(instance.stands_in))
        visits = max(instance.numbers.values(), default=0)
        if instance.status.is_end or instance.parked or instance.paused:
            self._good.add(state.number)
        if visits <= 1:
            self._first_round.add(state.number)
        if max(visits, state.asides) > self._scope.visits:
            self._cut.add(state.number)
        else:
            self._waiting.append(state)

    def _compare_elements(self, instance: Instance, move: Move, done: Transition) -> None:
        """After a yes to one element of a list: whether the undos of all would be of one kind (see Keys.of_call)."""
        for visit in instance.visits:
            step = self._definition.steps[visit.step]
            if len(visit.calls) < 2 or step.compensate is None or step.name in self._keys.unlike:
                continue
            if all(instance.command_id(visit, call) != move.envelope.reply_to for call in visit.calls):
                continue
            if len(kinds_of_undo(self._definition, instance, visit, done)) > 1:
                self._keys.unlike.add(step.name)
                raise Unlike(step.name)

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

        What goes on from a bug is not known. Where a loop was cut off, an end must have been in reach before its second
        time round.
        """
        ends = self._good | self._blamed
        alive, alive_at_once = self._leading_to(ends | self._cut), self._leading_to(ends)
        for number in range(self.states):
            if number not in alive:
                self._dead_end(number, "")
            elif number not in alive_at_once and number in self._first_round:
                self._dead_end(number, f" within {self._scope.visits} visits")

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
