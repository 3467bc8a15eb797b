"""The stored state of one saga instance: plain data, readable without the user's classes."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from msgspec import Raw, Struct
from msgspec.structs import replace

from ..enums import quick
from ..wire import Address, Envelope, Outgoing


@quick
class Status(StrEnum):
    """Where an instance stands between its start and its end."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    KILLED = "killed"

    is_end: bool
    """Whether nothing moves any more."""

    def __init__(self, value: str) -> None:
        self.is_end = value not in ("running", "compensating")


class Payload(Struct, frozen=True, omit_defaults=True, gc=False):
    """A message a step sends: its wire type and its JSON."""

    type: str
    data: Raw
    version: int = 1


@quick
class CallKind(StrEnum):
    """What a step sent."""

    COMMAND = "command"
    QUERY = "query"
    CHILD = "child"
    EVENT = "event"  # published: done at once, may have an undo


@quick
class Do(StrEnum):
    """How far the do of a call has come."""

    WAITING = "waiting"  # not put into the outbox yet: its turn among at_once has not come
    ASKED = "asked"  # in doubt from here on
    YES = "yes"
    REFUSED = "refused"
    CLEAN = "clean"  # refused, and no earlier run of the key ever began (R6)
    FAILED = "failed"  # given up after its attempts
    LEFT = "left"  # given up for another reason (unwinding, Goto, Finish, a timeout of the step) while in doubt
    SKIPPED = "skipped"  # by an operator: may still have taken effect


@quick
class Undo(StrEnum):
    """How far the undo of a call has come."""

    NONE = ""  # not asked for
    WANTED = "wanted"  # will be sent when what came after it is undone (R7)
    ASKED = "asked"
    DONE = "done"
    STANDING = "standing"  # an operator skipped it: the effect is left standing
    NOTHING = "nothing"  # there was nothing to undo, or it may stand (undo=None)


# A member of an Enum costs thirty times a name of the module to look up, and these are asked of every call.
_DO_ASKED, _UNDO_ASKED, _NOT_ASKED_FOR = Do.ASKED, Undo.ASKED, Undo.NONE
_WAITING, _CLEAN, _QUERY = Do.WAITING, Do.CLEAN, CallKind.QUERY
_ANSWERED = (Undo.DONE, Undo.STANDING, Undo.NOTHING)


class Call(Struct, omit_defaults=True, kw_only=True, gc=False):
    """One command, query, child or published event of a visit, and its undo, stored before it leaves (R5).

    `attempt`, `first_at`, `timeout_at`, `retry_at`, `parked` and `error` belong to the exchange that is under way:
    the do, or once `unwinding` is ASKED the undo, counted afresh (R8). Moments are seconds since 1970.
    `held`: sent while the instance is paused, so it is not in the outbox (R17).
    """

    kind: CallKind
    command: Payload | None = None
    undo: Payload | None = None
    undo_kind: CallKind | None = None  # COMMAND, EVENT, or CHILD for an unwind; None: nothing would undo it
    child: str = ""  # the saga of a child
    index: int = -1  # in a list; -1: not a list
    do: Do = Do.WAITING
    unwinding: Undo = Undo.NONE
    attempt: int = 0  # never goes back: ids of replies are made of it (R3)
    base: int = 0  # attempts before the present count began: an operator's retry counts afresh
    first_at: float = 0.0
    timeout_at: float | None = None
    retry_at: float | None = None
    held: bool = False
    parked: str = ""
    error: str = ""

    @property
    def has_left(self) -> bool:
        """Whether the do was ever put into the outbox: not while it waits for its turn, or its first try is held."""
        return self.do is not _WAITING and not (self.held and self.attempt == 1)

    @property
    def is_under_way(self) -> bool:
        """Whether the do, or the undo, was asked for and is not answered."""
        unwinding = self.unwinding
        return unwinding is _UNDO_ASKED or (unwinding is _NOT_ASKED_FOR and self.do is _DO_ASKED)

    @property
    def is_retrying(self) -> bool:
        """Whether it waits for its next attempt, or is in one after the first."""
        return self.retry_at is not None or (self.attempt > self.base + 1 and self.timeout_at is not None)

    @property
    def needs_undo(self) -> bool:
        """Whether an effect of this call may exist that its undo would take back (R6)."""
        if self.undo_kind is None or self.kind is _QUERY:
            return False
        return self.do is not _WAITING and self.do is not _CLEAN


@quick
class VisitState(StrEnum):
    """Where one stay in a step stands."""

    OPEN = "open"
    DONE = "done"
    SKIPPED = "skipped"
    LEFT = "left"  # passed over by Goto, Finish or an unwinding while it was open
    UNDONE = "undone"


_OPEN, _UNDONE = VisitState.OPEN, VisitState.UNDONE


class Visit(Struct, omit_defaults=True, kw_only=True, gc=False):
    """One stay in a step. `after` are the positions (`serial`) of the visits whose end let it start (R7).

    One that is UNDONE never changes again: later versions of the instance share it.
    """

    serial: int
    step: str
    number: int  # counts the visits of this step in this run, from 1
    entered_at: float
    after: tuple[int, ...] = ()
    state: VisitState = VisitState.OPEN
    calls: list[Call] = []
    waiting: bool = False  # a Wait
    wake_at: float | None = None  # when a Wait is over
    wait_s: float | None = None  # how long it is, unless it ends at a date
    timeout_at: float | None = None  # when the step with all its attempts is over
    closed: bool = False  # of a round that its pivot closed: never undone (R9)
    parked: str = ""  # the step itself needs a person, not one of its calls

    def of_closed_round(self) -> Visit:
        """The same, `closed`: itself, or a copy where it is undone and so shared with earlier versions."""
        if self.state is _UNDONE and not self.closed:
            return replace(self, closed=True)
        self.closed = True
        return self


class Then(Struct, frozen=True, omit_defaults=True, gc=False):
    """What follows when the undos under way are answered (R21): a Goto's step, or the end for Finish."""

    step: str = ""  # empty: finish
    source: tuple[int, ...] = ()


class Bug(Struct, frozen=True, gc=False):
    """The message an instance is parked over, and the traceback its handler raised (R15)."""

    message: Envelope
    error: str


class Instance(Struct, omit_defaults=True, kw_only=True, gc=False):
    """All that is stored of one run. Ended instances keep their visits for people to read."""

    saga: str
    key: str
    run: str
    version: int = 0
    definition_version: int = 1
    status: Status = Status.RUNNING
    state: Raw = Raw(b"{}")
    visits: list[Visit] = []
    serial: int = 0  # of the last visit
    numbers: dict[str, int] = {}  # visits a step, in this run
    passed: list[str] = []  # steps that are behind in the present flow, in the order of the definition
    pivoted: bool = False  # the pivot of the present round is passed: only forward (R9)
    then: Then | None = None
    unwind_wanted: str = ""  # why it is to unwind once the pivot under way is answered (R6)
    kept: list[Envelope] = []  # events for steps not entered yet (R12)
    bug: Bug | None = None
    queue: list[Envelope] = []  # what came behind the bug
    paused: bool = False
    held: list[Outgoing] = []  # what would have been sent, were it not paused
    why: str = ""  # why it unwinds or was killed
    deadline_at: float | None = None
    answer_to: Address | None = None  # the parent; its command's id is the key (R22)
    answer_attempt: int = 0  # which attempt of the parent's start
    unwind_attempt: int = 0  # which attempt of the parent's unwind waits for an answer
    starter: str = ""  # id of the starting message
    correlation_id: str = ""
    traceparent: str = ""
    started_at: float = 0.0
    updated_at: float = 0.0
    ended_at: float | None = None
    last_error: str = ""

    @property
    def address(self) -> Address:
        """The saga's name and the key."""
        return Address(self.saga, self.key)

    def visit_id(self, visit: Visit) -> str:
        """`saga/key~run/step#number`, percent-encoded (R3)."""
        return f"{run_id(self.saga, self.key, self.run)}/{visit.step}#{visit.number}"

    def command_id(self, visit: Visit, call: Call) -> str:
        """The idempotency key of a call's do: `saga/key~run/step[element]#visit` (R3)."""
        if call.index < 0:
            return self.visit_id(visit)
        return f"{run_id(self.saga, self.key, self.run)}/{visit.step}[{call.index}]#{visit.number}"

    def undo_id(self, visit: Visit, call: Call) -> str:
        """The idempotency key of a call's undo (R3)."""
        return self.command_id(visit, call) + "/undo"

    @property
    def parked(self) -> str:
        """Why a person is needed, or empty: the bug, else the first parked step or call."""
        return self.outline().parked

    @property
    def is_busy(self) -> bool:
        """Whether an answer, a retry or a queued message will come by itself; a Wait or a parked step counts not."""
        return self.outline().is_busy

    @property
    def is_retrying(self) -> bool:
        """Whether a call waits for its next attempt, or is in one after the first, and is not parked (R19)."""
        return self.outline().is_retrying

    @property
    def stands_in(self) -> tuple[str, ...]:
        """The steps its definition must still have (R18): open, to be undone or yet undoable, or the next."""
        return self.outline().stands_in

    def outline(self) -> Outline:
        """What a store indexes, found by one look at every call: it is asked for in every commit."""
        parked = "" if self.bug is None else headline(self.bug.error)
        is_busy = is_retrying = False
        steps: list[str] = []
        for visit in self.visits:
            state = visit.state
            if state is _UNDONE:  # every call of it is answered; a loop leaves many of them behind
                continue
            is_needed = state is _OPEN
            is_undoable = not is_needed and not visit.closed
            if visit.parked and not parked:
                parked = f"{visit.step}: {visit.parked}"
            for call in visit.calls:
                unwinding = call.unwinding
                if call.parked:
                    parked = parked or f"{visit.step}: {call.parked}"
                elif unwinding is _UNDO_ASKED or (call.do is _DO_ASKED and unwinding is _NOT_ASKED_FOR):
                    is_busy = True
                    is_retrying = is_retrying or call.is_retrying
                if is_undoable and not is_needed:
                    is_needed = call.undo_kind is not None and unwinding not in _ANSWERED and call.needs_undo
            if is_needed and visit.step not in steps:
                steps.append(visit.step)
        if self.then is not None and self.then.step and self.then.step not in steps:
            steps.append(self.then.step)
        is_still = self.status.is_end or self.bug is not None or self.paused
        is_busy = not is_still and (is_busy or bool(self.queue))
        return Outline(parked, is_busy, is_retrying and not self.status.is_end, tuple(steps))

    @property
    def wake_at(self) -> float | None:
        """The earliest moment any timer of this instance is due (R10), or None; kept by the store in an index."""
        if self.status.is_end or self.bug is not None:
            return None
        if self.queue:
            return self.updated_at
        if self.paused:
            return self.deadline_at
        earliest = self.deadline_at
        for visit in self.visits:
            if visit.state is _UNDONE:
                continue
            for moment in (visit.wake_at, visit.timeout_at):
                if moment is not None and (earliest is None or moment < earliest):
                    earliest = moment
            for call in visit.calls:
                moment = call.timeout_at if call.retry_at is None else call.retry_at  # never both
                if moment is not None and (earliest is None or moment < earliest):
                    earliest = moment
        return earliest


class Outline(NamedTuple):
    """`parked`, `is_busy`, `is_retrying` and `stands_in` of an instance."""

    parked: str
    is_busy: bool
    is_retrying: bool
    stands_in: tuple[str, ...]


def headline(traceback: str) -> str:
    """The line of a traceback that says what was raised; of a group, the last of what it holds."""
    lines = [line.strip(" |") for line in traceback.splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith("+-")), "")


@lru_cache(maxsize=4096)
def run_id(saga: str, key: str, run: str) -> str:
    """`saga/key~run`, percent-encoded: what all ids of a run begin with (R3)."""
    return f"{quote(saga, safe='')}/{quote(key, safe='')}~{run}"
