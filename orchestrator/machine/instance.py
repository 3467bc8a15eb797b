"""The stored state of one saga instance: plain data, readable without the user's classes."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from urllib.parse import quote

from msgspec import Raw, Struct

from ..wire import Address, Envelope, Outgoing


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


class Payload(Struct, frozen=True, gc=False):
    """A message a step sends: its wire type and its JSON."""

    type: str
    data: Raw
    version: int = 1


class CallKind(StrEnum):
    """What a step sent."""

    COMMAND = "command"
    QUERY = "query"
    CHILD = "child"
    EVENT = "event"  # published: done at once, may have an undo


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


class Undo(StrEnum):
    """How far the undo of a call has come."""

    NONE = ""  # not asked for
    WANTED = "wanted"  # will be sent when what came after it is undone (R7)
    ASKED = "asked"
    DONE = "done"
    STANDING = "standing"  # an operator skipped it: the effect is left standing
    NOTHING = "nothing"  # there was nothing to undo, or it may stand (undo=None)


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
        return self.do is not Do.WAITING and not (self.held and self.attempt == 1)

    @property
    def needs_undo(self) -> bool:
        """Whether an effect of this call may exist that its undo would take back (R6)."""
        if self.kind is CallKind.QUERY or self.do in (Do.WAITING, Do.CLEAN):
            return False
        return self.undo_kind is not None


class VisitState(StrEnum):
    """Where one stay in a step stands."""

    OPEN = "open"
    DONE = "done"
    SKIPPED = "skipped"
    LEFT = "left"  # passed over by Goto, Finish or an unwinding while it was open
    UNDONE = "undone"


class Visit(Struct, omit_defaults=True, kw_only=True, gc=False):
    """One stay in a step. `after` are the positions (`serial`) of the visits whose end let it start (R7)."""

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
        return f"{_run_id(self.saga, self.key, self.run)}/{visit.step}#{visit.number}"

    def command_id(self, visit: Visit, call: Call) -> str:
        """The idempotency key of a call's do: `saga/key~run/step[element]#visit` (R3)."""
        element = f"[{call.index}]" if call.index >= 0 else ""
        return f"{_run_id(self.saga, self.key, self.run)}/{visit.step}{element}#{visit.number}"

    def undo_id(self, visit: Visit, call: Call) -> str:
        """The idempotency key of a call's undo (R3)."""
        return self.command_id(visit, call) + "/undo"

    @property
    def parked(self) -> str:
        """Why a person is needed, or empty: the bug, else the first parked step or call."""
        if self.bug is not None:
            return headline(self.bug.error)
        for visit in self.visits:
            if visit.parked:
                return f"{visit.step}: {visit.parked}"
            for call in visit.calls:
                if call.parked:
                    return f"{visit.step}: {call.parked}"
        return ""

    @property
    def is_busy(self) -> bool:
        """Whether an answer, a retry or a queued message will come by itself; a Wait or a parked step counts not."""
        if self.status.is_end or self.bug is not None or self.paused:
            return False
        return bool(self.queue) or any(
            ((call.do is Do.ASKED and call.unwinding is Undo.NONE) or call.unwinding is Undo.ASKED) and not call.parked
            for visit in self.visits
            for call in visit.calls
        )

    @property
    def is_retrying(self) -> bool:
        """Whether a call waits for its next attempt, or is in one after the first, and is not parked (R19)."""
        return not self.status.is_end and any(
            not call.parked
            and (call.retry_at is not None or (call.attempt > call.base + 1 and call.timeout_at is not None))
            for visit in self.visits
            for call in visit.calls
        )

    @property
    def stands_in(self) -> tuple[str, ...]:
        """The steps its definition must still have (R18): open, to be undone or yet undoable, or the next."""
        answered = (Undo.DONE, Undo.STANDING, Undo.NOTHING)
        steps = [
            visit.step
            for visit in self.visits
            if visit.state is VisitState.OPEN
            or (not visit.closed and any(call.needs_undo and call.unwinding not in answered for call in visit.calls))
        ]
        if self.then is not None and self.then.step:
            steps.append(self.then.step)
        return tuple(dict.fromkeys(steps))

    @property
    def wake_at(self) -> float | None:
        """The earliest moment any timer of this instance is due (R10), or None; kept by the store in an index."""
        if self.status.is_end or self.bug is not None:
            return None
        if self.queue:
            return self.updated_at
        moments: list[float] = []
        if self.deadline_at is not None:
            moments.append(self.deadline_at)
        if not self.paused:
            for visit in self.visits:
                moments += [m for m in (visit.wake_at, visit.timeout_at) if m is not None]
                for call in visit.calls:
                    moments += [m for m in (call.timeout_at, call.retry_at) if m is not None]
        return min(moments, default=None)


def headline(traceback: str) -> str:
    """The line of a traceback that says what was raised; of a group, the last of what it holds."""
    lines = [line.strip(" |") for line in traceback.splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith("+-")), "")


@lru_cache(maxsize=4096)
def _run_id(saga: str, key: str, run: str) -> str:
    return f"{quote(saga, safe='')}/{quote(key, safe='')}~{run}"
