"""The one projection of what is stored, for every face: a terminal, a pipe, JSON. Secrets are masked here."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import Struct

from ..machine.instance import Call, CallKind, Do, Instance, Status, Undo, Visit, VisitState
from ..machine.transition import Entry, Outcome
from ..ports import Counts, Waiting
from ..wire import Address, DeadLetter, Envelope, Kind, Outgoing, Route
from .output import hidden_password
from .protocol import BusState, Hosts

if TYPE_CHECKING:
    from ..definition import Definition, StepDefinition

MASK = "***"
LONG_RETRY_S = 60.0  # a call that is tried for longer is worth a look


_SECRET_IN_TEXT = re.compile(r"(\$|\\u0024)secret.*", re.DOTALL)


class StepState(StrEnum):
    """How a stay in a step, one of its commands, or the undo of one stands."""

    WAITING = "waiting"  # for an event or a moment
    ASKED = "asked"  # the answer is to come
    BACKING_OFF = "backing off"  # the next attempt is to come
    HELD = "held"  # not sent, the instance is paused
    PARKED = "parked"  # needs a person
    QUEUED = "queued"  # its turn among at_once has not come
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    LEFT = "left"
    SKIPPED = "skipped"
    TO_UNDO = "to be undone"
    UNDONE = "undone"
    STANDING = "left standing"

    @property
    def is_under_way(self) -> bool:
        """Whether something is still to come of it."""
        return self in _UNDER_WAY


_UNDER_WAY = frozenset((StepState.WAITING, StepState.ASKED, StepState.BACKING_OFF, StepState.HELD, StepState.PARKED))


class StepView(Struct, frozen=True, kw_only=True):
    """One command of a step (`element`: its index in a list), or the step itself where it sends none.

    `undoing`: this is about its undo. `sends` is the command's type, `child` the child's address. `attempt` of
    `attempts` (null: not known without the app); `next_at`: when a retry, a timeout or the end of a wait is due.
    `takes`: the events a waiting step takes (null: not known without the app, or it waits for none of them).
    """

    step: str
    visit: int
    element: int | None = None
    state: StepState
    undoing: bool = False
    sends: str = ""
    child: str = ""
    takes: tuple[str, ...] | None = None
    attempt: int = 0
    attempts: int | None = None
    since: datetime | None = None
    next_at: datetime | None = None
    parked: str | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """The step as verbs take it, with the element of a list: `reserve[2]`."""
        return self.step if self.element is None else f"{self.step}[{self.element}]"

    @property
    def can_be_retried(self) -> bool:
        """Whether an operator's retry has something to try: a call that is parked or backs off."""
        return self.state in (StepState.PARKED, StepState.BACKING_OFF) and bool(self.sends)

    @property
    def label(self) -> str:
        """The step as people read it: `undo of reserve[2]`."""
        return f"undo of {self.name}" if self.undoing else self.name


class InstanceView(Struct, frozen=True, kw_only=True):
    """An instance in JSON, as every verb shows it. `parked`: null or why; `steps`: those under way; `why` it is or was
    undone, or was killed.
    """

    saga: str
    key: str
    run: str
    status: Status
    parked: str | None
    paused: bool
    steps: tuple[StepView, ...]
    version: int
    started_at: datetime
    updated_at: datetime
    last_error: str | None
    why: str | None

    @property
    def reason(self) -> str:
        """What people ask for first: why it is parked, undone or killed, else its last error."""
        return self.parked or self.why or self.last_error or ""

    @property
    def address(self) -> str:
        """SAGA/KEY."""
        return f"{self.saga}/{self.key}"

    @property
    def standing(self) -> str:
        """The status with its flags: `running, parked`."""
        flags = [flag for flag, is_set in (("parked", self.parked is not None), ("paused", self.paused)) if is_set]
        return ", ".join((str(self.status), *flags))


class UndoView(Struct, frozen=True, kw_only=True):
    """One compensation. `state`: planned (were it to unwind now), to come, asked, done, left standing, or never asked
    (it was killed).
    """

    step: str
    visit: int
    element: int | None
    sends: str
    state: str
    command_id: str


class RefusalView(Struct, frozen=True, kw_only=True):
    """The business no to a command of a step, or with `undoing` to its undo; `data` as JSON with secrets masked."""

    step: str
    visit: int
    element: int | None
    undoing: bool
    type: str
    at: datetime
    data: Any

    @property
    def label(self) -> str:
        """The call as people name it: `reserve[2]#1`, `undo of charge#2`."""
        name = self.step if self.element is None else f"{self.step}[{self.element}]"
        return f"undo of {name}#{self.visit}" if self.undoing else f"{name}#{self.visit}"

    @property
    def payload(self) -> str:
        """The data as one line of JSON, or empty where there is none."""
        return msgspec.json.encode(self.data).decode() if self.data else ""


class BugView(Struct, frozen=True, kw_only=True):
    """The message a handler failed on (R15), and the traceback."""

    type: str
    id: str
    traceback: str


class DetailView(InstanceView, frozen=True, kw_only=True):
    """An instance with all that is known of it: what `show` adds.

    `undo` is in the order in which it goes; `path` are all stays in steps, the oldest first. `waits_for` says in words
    what would move it, `can_do` are the commands a person can give now, `refusals` are those that its history has
    (the verb fills the three). `held`, `queued`, `kept`: how many messages are held by a pause, stand behind a bug,
    came early.
    """

    state: Any
    undo: tuple[UndoView, ...]
    waits_for: tuple[str, ...] = ()
    can_do: tuple[str, ...] = ()
    refusals: tuple[RefusalView, ...] = ()
    path: tuple[StepView, ...]
    definition_version: int
    ended_at: datetime | None
    deadline_at: datetime | None
    parent: str | None
    unwind_wanted: str | None
    goes_on_with: str | None
    pivoted: bool
    bug: BugView | None
    held: int
    queued: int
    kept: int


class MessageView(Struct, frozen=True, kw_only=True):
    """A message; `data` as JSON with secrets masked."""

    id: str
    kind: str
    type: str
    saga: str
    key: str
    time: datetime
    user: str
    reply_to: str
    attempt: int
    data: Any


class EntryView(Struct, frozen=True, kw_only=True):
    """One transition of an instance: the `version` it led to, the message, its outcome and what happened."""

    version: int
    at: datetime
    outcome: str
    notes: tuple[str, ...]
    message: MessageView


class DeadView(Struct, frozen=True, kw_only=True):
    """A dead letter; `raw` are the bytes of one that could not be decoded, as text."""

    id: int
    at: datetime
    reason: str
    error: str
    listener: str
    message: MessageView | None
    raw: str


class WaitingView(Struct, frozen=True, kw_only=True):
    """An early message: `until` then it becomes a dead letter (R11)."""

    id: int
    since: datetime
    until: datetime
    message: MessageView


class DaemonView(Struct, frozen=True, kw_only=True):
    """The daemon that serves the store; `problem`: why it takes nothing in, or empty; `has_sagas`: it is no worker;
    `hosts`: all of the app, or its sagas (`run --sagas-only`), or what works for sagas elsewhere (`work`).
    """

    pid: int
    version: str
    app: str
    bus: str
    uptime_s: float
    in_flight: int
    problem: str
    has_sagas: bool = True
    hosts: Hosts = Hosts.ALL


class BrokerState(StrEnum):
    """How it stands with the broker; unknown, as long as no daemon runs."""

    CONNECTED = "connected"
    CONNECTING = "connecting"
    TROUBLE = "trouble"
    UNKNOWN = "unknown"


class BrokerView(Struct, frozen=True, kw_only=True):
    """The bus. `problem`: what is wrong, or empty, `since` when; `lag`: messages that the broker holds for us, null:
    not known; `to_go`: messages that it does not have yet, `oldest_at` when the one that waits longest was made.
    """

    state: BrokerState
    problem: str
    since: datetime | None
    lag: int | None
    to_go: int
    oldest_at: datetime | None


class WorkView(Struct, frozen=True, kw_only=True):
    """Work for others: `commands` that came over the bus and are under way, `answers` that are to go."""

    commands: int
    answers: int


class StoreView(Struct, frozen=True, kw_only=True):
    """The store; `size_bytes` of all its files."""

    url: str
    size_bytes: int
    schema: int


class RetryView(Struct, frozen=True, kw_only=True):
    """The instance whose call has been retried for longest, and that call."""

    saga: str
    key: str
    step: StepView


class WebhookNeed(Struct, frozen=True, kw_only=True):
    """A webhook that fails, or that paused by itself; `why` it did, or its last error."""

    name: str
    state: str
    since: datetime
    why: str


class NeedsView(Struct, frozen=True, kw_only=True):
    """What needs a person: counts, and the first few of each. `work_without_daemon`: instances, timers or messages that
    only a daemon moves, when none runs. `broker`: what is wrong with the bus, or empty.
    """

    parked: int
    first_parked: tuple[InstanceView, ...]
    dead: int
    first_dead: tuple[DeadView, ...]
    overdue: int
    oldest_retry: RetryView | None
    work_without_daemon: int
    broker: str = ""
    webhooks: tuple[WebhookNeed, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether nothing needs anybody."""
        counted = self.parked or self.dead or self.overdue or self.work_without_daemon
        return not (counted or self.oldest_retry or self.broker or self.webhooks)


class ProblemView(Struct, frozen=True, kw_only=True):
    """Why a projection stopped: at the event of this position of the log, and since when."""

    reason: str
    position: int
    since: datetime

    @property
    def headline(self) -> str:
        """Which event, and the last line of what was raised."""
        lines = self.reason.strip().splitlines() or [""]
        return (
            lines[0]
            if len(lines) == 1
            else f"{lines[0].removesuffix(': Traceback (most recent call last):')}: {lines[-1]}"
        )


class PauseView(Struct, frozen=True, kw_only=True):
    """Who paused it, since when, and why."""

    by: str
    since: datetime
    why: str


class BuildingView(Struct, frozen=True, kw_only=True):
    """What is being built to take its place. `share` of the log is in it, 0 to 1."""

    version: int
    position: int
    behind: int
    share: float


class ProjectionView(Struct, frozen=True, kw_only=True):
    """A projection. `state`: live, building (for the first time), stopped, paused, or not built.

    version    of the class whose rows are read; null: nothing can be read yet
    problem    why it has stopped, or, where the state is live, why building it anew has
    position   how far in the log they are; `behind`: so many events of the log are not in them; `behind_s`: since so
               many seconds
    applied    how many events its handlers got
    file       where to read it: a link, which names another file after it was built anew
    """

    name: str
    state: str
    version: int | None
    position: int
    behind: int
    behind_s: float
    applied: int
    updated_at: datetime | None
    problem: ProblemView | None
    paused: PauseView | None
    building: BuildingView | None
    file: str

    @property
    def standing(self) -> str:
        """The state, and how far it is built anew: `live, rebuilt 45%`."""
        if self.building is None or self.version is None:
            return self.state
        stopped = " (stopped)" if self.problem is not None and self.state == "live" else ""
        return f"{self.state}, rebuilt {self.building.share:.0%}{stopped}"


class StatusView(Struct, frozen=True, kw_only=True):
    """The one screen of `status`; `instances`: saga -> status -> how many. `daemon` null: not running; `broker` null:
    there is no bus; `work` null: none is under way, as in a store that is no worker's; `projections`: those that have
    been run on this store.
    """

    daemon: DaemonView | None
    store: StoreView
    bus: str
    broker: BrokerView | None
    work: WorkView | None
    instances: dict[str, dict[str, int]]
    paused: int
    waiting: int
    outbox: int
    next_timer_at: datetime | None
    projections: tuple[ProjectionView, ...]
    needs_you: NeedsView

    @property
    def stopped(self) -> tuple[ProjectionView, ...]:
        """The projections that an event has stopped: they need a person."""
        return tuple(it for it in self.projections if it.problem is not None)


def moment(at: float) -> datetime:
    """Seconds since 1970 as UTC; what no calendar holds is the calendar's end."""
    try:
        return datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def _moment(at: float | None) -> datetime | None:
    return None if at is None else moment(at)


def masked(data: bytes | msgspec.Raw) -> Any:
    """JSON as plain values, every secret as `***`; what is not JSON comes as text, up to the first secret in it."""
    try:
        return _masked(msgspec.json.decode(data))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        text = bytes(data).decode("utf-8", "backslashreplace")
        return _SECRET_IN_TEXT.sub(MASK, text)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        return MASK if "$secret" in fields else {name: _masked(inner) for name, inner in fields.items()}
    if isinstance(value, list):
        elements: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return [_masked(inner) for inner in elements]
    return value


def summary(instance: Instance, definition: Definition | None = None) -> InstanceView:
    """An instance as lists show it."""
    return InstanceView(**_common(instance, _path(instance, definition)))


def detail(instance: Instance, definition: Definition | None = None) -> DetailView:
    """An instance with all that is known of it; `definition` adds what only the classes know."""
    path = _path(instance, definition)
    bug = instance.bug
    then = instance.then
    return DetailView(
        **_common(instance, path),
        state=masked(instance.state),
        undo=tuple(_undo_plan(instance)),
        path=path,
        definition_version=instance.definition_version,
        ended_at=_moment(instance.ended_at),
        deadline_at=_moment(instance.deadline_at),
        parent=str(instance.answer_to) if instance.answer_to else None,
        unwind_wanted=instance.unwind_wanted or None,
        goes_on_with=None if then is None else then.step or "its end",
        pivoted=instance.pivoted,
        bug=BugView(type=bug.message.type, id=bug.message.id, traceback=bug.error) if bug else None,
        held=len(instance.held),
        queued=len(instance.queue),
        kept=len(instance.kept),
    )


def _common(instance: Instance, path: tuple[StepView, ...]) -> dict[str, Any]:
    return {
        "saga": instance.saga,
        "key": instance.key,
        "run": instance.run,
        "status": instance.status,
        "parked": instance.parked or None,
        "paused": instance.paused,
        "steps": () if instance.status.is_end else tuple(step for step in path if step.state.is_under_way),
        "version": instance.version,
        "started_at": moment(instance.started_at),
        "updated_at": moment(instance.updated_at),
        "last_error": instance.last_error or None,
        "why": instance.why or None,
    }


def _path(instance: Instance, definition: Definition | None) -> tuple[StepView, ...]:
    known = definition.steps if definition is not None else {}
    return tuple(step for visit in instance.visits for step in _steps_of(instance, visit, known.get(visit.step)))


def _steps_of(instance: Instance, visit: Visit, step: StepDefinition | None) -> Iterator[StepView]:
    if visit.parked or not visit.calls:
        yield _step_alone(visit, step)
    for call in visit.calls:
        yield _call(instance, visit, call, step)


_VISIT_STATES = {
    VisitState.OPEN: StepState.WAITING,
    VisitState.DONE: StepState.DONE,
    VisitState.SKIPPED: StepState.SKIPPED,
    VisitState.LEFT: StepState.LEFT,
    VisitState.UNDONE: StepState.UNDONE,
}


def _step_alone(visit: Visit, step: StepDefinition | None) -> StepView:
    ends = [at for at in (visit.wake_at, visit.timeout_at) if at is not None]
    return StepView(
        step=visit.step,
        visit=visit.number,
        state=StepState.PARKED if visit.parked else _VISIT_STATES[visit.state],
        takes=_takes(step) if visit.waiting and step is not None else None,
        since=moment(visit.entered_at),
        next_at=_moment(min(ends, default=None)),
        parked=visit.parked or None,
    )


def _takes(step: StepDefinition) -> tuple[str, ...]:
    return tuple(sorted({event.__name__ for handler in step.on for event in handler.types}))


def _call(instance: Instance, visit: Visit, call: Call, step: StepDefinition | None) -> StepView:
    state, undoing = _call_state(visit, call)
    sent = call.undo if undoing else call.command
    unsent = "Unwind" if call.undo_kind is CallKind.CHILD else ""
    ends = [at for at in (call.retry_at, call.timeout_at, visit.timeout_at) if at is not None]
    return StepView(
        step=visit.step,
        visit=visit.number,
        element=call.index if call.index >= 0 else None,
        state=state,
        undoing=undoing,
        sends=sent.type if sent is not None else unsent,
        child=str(Address(call.child, instance.command_id(visit, call))) if call.child else "",
        attempt=call.attempt - call.base,
        attempts=_attempts(step, undoing) if not call.child else None,
        since=moment(call.first_at) if call.first_at else None,
        next_at=_moment(min(ends, default=None)) if state.is_under_way else None,
        parked=call.parked or None,
        error=call.error or None,
    )


_DO_STATES = {
    Do.YES: StepState.DONE,
    Do.REFUSED: StepState.REFUSED,
    Do.CLEAN: StepState.REFUSED,
    Do.FAILED: StepState.FAILED,
    Do.LEFT: StepState.LEFT,
    Do.SKIPPED: StepState.SKIPPED,
}
_UNDO_STATES = {
    Undo.WANTED: StepState.TO_UNDO,
    Undo.DONE: StepState.UNDONE,
    Undo.STANDING: StepState.STANDING,
}


def _call_state(visit: Visit, call: Call) -> tuple[StepState, bool]:
    """The state, and whether it is about the undo."""
    if call.parked:
        return StepState.PARKED, call.unwinding is Undo.ASKED
    if call.unwinding is Undo.ASKED:
        return _exchange_state(call), True
    if call.unwinding in _UNDO_STATES:
        return _UNDO_STATES[call.unwinding], False
    if call.do in _DO_STATES:
        return _DO_STATES[call.do], False
    if visit.state is not VisitState.OPEN:
        return StepState.LEFT, False
    return (StepState.QUEUED if call.do is Do.WAITING else _exchange_state(call)), False


def _exchange_state(call: Call) -> StepState:
    if call.held:
        return StepState.HELD
    return StepState.ASKED if call.retry_at is None else StepState.BACKING_OFF


def _attempts(step: StepDefinition | None, undoing: bool) -> int | None:
    if step is None or step.retry.stop is not None:
        return None
    return step.retry.patient().attempts if undoing else step.retry.attempts


def _undo_plan(instance: Instance) -> Iterator[UndoView]:
    for visit in reversed(instance.visits):
        for call in visit.calls:
            state = _undo_state(instance, visit, call)
            if state:
                yield UndoView(
                    step=visit.step,
                    visit=visit.number,
                    element=call.index if call.index >= 0 else None,
                    sends=call.undo.type if call.undo is not None else "Unwind",
                    state=state,
                    command_id=instance.undo_id(visit, call),
                )


_UNDO_WORDS = {Undo.WANTED: "to come", Undo.ASKED: "asked", Undo.DONE: "done", Undo.STANDING: "left standing"}


def _undo_state(instance: Instance, visit: Visit, call: Call) -> str:
    over = call.unwinding in (Undo.DONE, Undo.STANDING, Undo.NOTHING)
    if instance.status is Status.KILLED and not over and not visit.closed and call.needs_undo:
        return "never asked" if call.unwinding is not Undo.ASKED else "asked"
    if call.unwinding in _UNDO_WORDS:
        return _UNDO_WORDS[call.unwinding]
    is_planned = instance.status is Status.RUNNING and call.unwinding is Undo.NONE and not visit.closed
    return "planned" if is_planned and call.needs_undo else ""


def was_refused(instance: Instance) -> bool:
    """Whether a look into its history for `refusals` may find one."""
    return any(
        call.do in (Do.REFUSED, Do.CLEAN) or call.unwinding is Undo.ASKED
        for visit in instance.visits
        for call in visit.calls
    )


def refusals(instance: Instance, history: Iterable[Entry]) -> tuple[RefusalView, ...]:
    """What refused a command of this run, or an undo, in the order in which it came."""
    asked: dict[str, tuple[Visit, Call, bool]] = {}
    for visit in instance.visits:
        for call in visit.calls:
            asked[instance.command_id(visit, call)] = (visit, call, False)
            asked[instance.undo_id(visit, call)] = (visit, call, True)
    return tuple(
        _refusal(row, *asked[row.message.reply_to])
        for row in history
        if row.message.kind is Kind.REFUSAL and row.outcome is Outcome.APPLIED and row.message.reply_to in asked
    )


def _refusal(row: Entry, visit: Visit, call: Call, undoing: bool) -> RefusalView:
    return RefusalView(
        step=visit.step,
        visit=visit.number,
        element=call.index if call.index >= 0 else None,
        undoing=undoing,
        type=row.message.type,
        at=moment(row.at),
        data=masked(row.message.data),
    )


def message(envelope: Envelope) -> MessageView:
    """A message as people read it."""
    return MessageView(
        id=envelope.id,
        kind=str(envelope.kind),
        type=envelope.type,
        saga=envelope.saga,
        key=envelope.key,
        time=moment(envelope.time),
        user=envelope.user,
        reply_to=envelope.reply_to,
        attempt=envelope.attempt,
        data=masked(envelope.data),
    )


def entry(row: Entry) -> EntryView:
    """A history row."""
    return EntryView(
        version=row.version, at=moment(row.at), outcome=str(row.outcome), notes=row.notes, message=message(row.message)
    )


def dead_letter(letter: DeadLetter) -> DeadView:
    """A dead letter."""
    raw = masked(letter.raw) if letter.raw else ""
    return DeadView(
        id=letter.id,
        at=moment(letter.at),
        reason=letter.reason,
        error=letter.error,
        listener=letter.listener,
        message=message(letter.envelope) if letter.envelope is not None else None,
        raw=raw if isinstance(raw, str) else msgspec.json.encode(raw).decode(),
    )


def early_message(row: Waiting) -> WaitingView:
    """A row of the waiting room."""
    return WaitingView(id=row.id, since=moment(row.since), until=moment(row.until), message=message(row.envelope))


def daemon(answer: dict[str, Any] | None) -> DaemonView | None:
    """What the daemon answered to a ping; None: nobody did."""
    if answer is None:
        return None
    return DaemonView(
        pid=int(answer.get("pid", 0)),
        version=str(answer.get("version", "")),
        app=str(answer.get("app", "")),
        bus=hidden_password(str(answer.get("bus", ""))),
        uptime_s=float(answer.get("uptime", 0.0)),
        in_flight=int(answer.get("in_flight", 0)),
        problem=str(answer.get("problem", "") or ""),
        has_sagas=bool(answer.get("has_sagas", True)),
        hosts=Hosts(answer.get("hosts", Hosts.ALL)),
    )


def broker(state: BusState | None, held: int, rows: OutboxRows) -> BrokerView:
    """How it stands with the bus, as the daemon says (None: none runs) or as the outbox does. `held`: rows of the
    outbox beside those that the daemon has in memory.
    """
    if state is None:
        return BrokerView(
            state=BrokerState.UNKNOWN,
            problem="",
            since=None,
            lag=None,
            to_go=rows.to_go,
            oldest_at=_moment(rows.oldest),
        )
    return BrokerView(
        state=_broker_state(state),
        problem=state.problem,
        since=_moment(state.since),
        lag=state.lag,
        to_go=state.unpublished + (max(0, held) if state.has_left_some else 0),
        oldest_at=_moment(state.oldest),
    )


def _broker_state(state: BusState) -> BrokerState:
    if state.problem:
        return BrokerState.TROUBLE
    return BrokerState.CONNECTED if state.is_connected else BrokerState.CONNECTING


class OutboxRows(Struct, frozen=True):
    """What stands in an outbox: `commands` of others, `answers` to them, and in all messages `to_go` over the bus, of
    which the oldest was made at `oldest`, in seconds since 1970.
    """

    commands: int = 0
    answers: int = 0
    to_go: int = 0
    oldest: float | None = None


def outbox_rows(found: Iterable[Outgoing], carried_out: Collection[str]) -> OutboxRows:
    """Counted. `carried_out`: types of commands that go to participants of the same process."""
    commands = answers = to_go = 0
    oldest: float | None = None
    for row in found:
        commands += row.route is Route.COMMAND and bool(row.reply_to)
        answers += row.route is Route.REPLY
        if _goes_over_the_bus(row, carried_out):
            to_go += 1
            oldest = min(oldest or row.envelope.time, row.envelope.time)
    return OutboxRows(commands, answers, to_go, oldest)


def _goes_over_the_bus(row: Outgoing, carried_out: Collection[str]) -> bool:
    if row.route is Route.COMMAND:
        return not row.reply_to and row.envelope.type not in carried_out
    return row.route in (Route.EVENT, Route.REPLY)


def needs(
    counts: Counts,
    now: datetime,
    *,
    parked: tuple[Instance, ...],
    dead: tuple[DeadLetter, ...],
    retrying: Instance | None,
    has_daemon: bool,
    broker: str = "",
    webhooks: tuple[WebhookNeed, ...] = (),
) -> NeedsView:
    """What needs a person, from the counts and the first few of each."""
    return NeedsView(
        parked=counts.parked,
        first_parked=tuple(summary(instance) for instance in parked),
        dead=counts.dead,
        first_dead=tuple(dead_letter(letter) for letter in dead),
        overdue=counts.overdue,
        oldest_retry=None if retrying is None else _long_retry(retrying, now),
        work_without_daemon=0 if has_daemon else max(counts.busy, counts.overdue, counts.outbox),
        broker=broker,
        webhooks=webhooks,
    )


def _long_retry(instance: Instance, now: datetime) -> RetryView | None:
    tried = [
        step
        for step in summary(instance).steps
        if step.state is StepState.BACKING_OFF or (step.state is StepState.ASKED and step.attempt > 1)
    ]
    oldest = min(tried, key=lambda step: step.since or now, default=None)
    if oldest is None or (now - (oldest.since or now)).total_seconds() < LONG_RETRY_S:
        return None
    return RetryView(saga=instance.saga, key=instance.key, step=oldest)
