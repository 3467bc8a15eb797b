"""What the reading verbs draw: rows of tables, the screens of status and show; the same facts as fields in a pipe."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

import msgspec

from ...machine.instance import Status, headline
from ...machine.transition import Outcome
from ..output import (
    BOLD,
    Cell,
    Output,
    columns,
    escape,
    fit,
    moment_cell,
    moment_words,
    relative,
    rfc3339,
    screen_width,
    size,
    span,
)
from ..view import (
    BrokerState,
    DeadView,
    DetailView,
    EntryView,
    InstanceView,
    MessageView,
    NeedsView,
    ProjectionView,
    StatusView,
    StepState,
    StepView,
    WaitingView,
)
from ..why import Remedy, attempt_words, told
from .session import Session

STEPS_SHOWN = 3  # under way, in a row of a list
ALIKE_SHOWN = 8  # commands of one step, or undos, in the same state, on the screen of show

_STYLES = {
    Status.RUNNING: "cyan",
    Status.COMPENSATING: "yellow",
    Status.COMPLETED: "green",
    Status.COMPENSATED: "magenta",
    Status.KILLED: "red",
}

INSTANCE_TITLES = ("SAGA/KEY", "STATUS", "STEP", "ATTEMPT", "NEXT", "UPDATED", "REASON")


def instance_row(it: InstanceView, now: datetime) -> list[Cell]:
    """An instance, as a row under INSTANCE_TITLES."""
    tried = max(it.steps, key=lambda step: step.attempt, default=None)
    next_at = min((step.next_at for step in it.steps if step.next_at is not None), default=None)
    return [
        Cell(it.address),
        Cell(it.standing, style=style_of(it)),
        Cell(_labels(it.steps[:STEPS_SHOWN], len(it.steps) - STEPS_SHOWN), _labels(it.steps, 0)),
        _attempt(tried),
        moment_cell(next_at, now),
        moment_cell(it.updated_at, now),
        Cell(it.reason),
    ]


def style_of(it: InstanceView) -> str:
    """The colour of its standing."""
    return "red" if it.parked is not None else _STYLES[it.status]


def change_line(it: InstanceView) -> str:
    """An instance that has just changed, in one line."""
    steps = _labels(it.steps[:STEPS_SHOWN], len(it.steps) - STEPS_SHOWN)
    text = f"{it.updated_at:%H:%M:%S}  {it.address}  {it.standing}"
    return ": ".join(part for part in ("  ".join(part for part in (text, steps) if part), it.reason) if part)


def _attempt(step: StepView | None) -> Cell:
    if step is None or not step.attempt:
        return Cell("")
    return Cell(str(step.attempt) if step.attempts is None else f"{step.attempt} of {step.attempts}")


def _labels(steps: Sequence[StepView], more: int) -> str:
    labels = ", ".join(step.label for step in steps)
    return f"{labels} +{more}" if more > 0 else labels


ENTRY_TITLES = ("N", "AT (UTC)", "MESSAGE", "WHAT HAPPENED")


def entry_rows(it: EntryView, *, for_people: bool) -> Iterator[list[Cell]]:
    """A transition: for people under ENTRY_TITLES a line for each thing that happened; in a pipe with its outcome."""
    message = f"{it.message.kind} {it.message.type}" + (f" by {it.message.user}" if it.message.user else "")
    at = Cell(f"{it.at:%Y-%m-%d %H:%M:%S}", rfc3339(it.at.timestamp()))
    head = [Cell(str(it.version), right=True), at, Cell(message)]
    if not for_people:
        yield [*head, Cell(it.outcome), Cell("; ".join(it.notes))]
        return
    # Most are applied, which what happened says by itself; a column for it would leave that too little room.
    notes = it.notes if it.outcome == Outcome.APPLIED else (it.outcome, *it.notes)
    for number, note in enumerate(notes or ("",)):
        yield [*(head if number == 0 else [Cell("")] * len(head)), Cell(note)]


DEAD_TITLES = ("ID", "SINCE", "TYPE", "FOR", "REASON", "ERROR")


def dead_row(it: DeadView, now: datetime) -> list[Cell]:
    """A dead letter, as a row under DEAD_TITLES."""
    message = it.message
    target = it.listener or (f"{message.saga}/{message.key}" if message is not None and message.saga else "")
    return [
        Cell(str(it.id)),
        moment_cell(it.at, now),
        Cell(message.type if message is not None else "not decoded"),
        Cell(target),
        Cell(it.reason),
        Cell(headline(it.error), it.error),
    ]


WAITING_TITLES = ("ID", "FOR", "TYPE", "SINCE", "UNTIL", "MESSAGE ID")


def waiting_row(it: WaitingView, now: datetime) -> list[Cell]:
    """An early message, as a row under WAITING_TITLES."""
    message = it.message
    return [
        Cell(str(it.id)),
        Cell(f"{message.saga}/{message.key}"),
        Cell(message.type),
        moment_cell(it.since, now),
        moment_cell(it.until, now),
        Cell(message.id),
    ]


# Status.


def status_screen(session: Session, it: StatusView, now: datetime) -> None:
    """Everything on one screen: what runs, how many of what, what needs the reader."""
    out = session.output
    if not out.on_terminal:
        _status_fields(out, it)
        return
    _daemon_line(out, it)
    out.line(f"store    {it.store.url}, {size(it.store.size_bytes)}, schema {it.store.schema}")
    _bus_lines(out, it, now)
    if it.work is not None:
        answers = _number(it.work.answers, "answer")
        out.line(f"work     {_number(it.work.commands, 'command')} under way, {answers} to go")
    out.line()
    _counts(out, it, now)
    if it.projections:
        out.line()
        out.table(PROJECTION_TITLES, [_projection(projection) for projection in it.projections])
    out.line()
    if it.needs_you.nothing and not it.stopped:
        out.line("nothing needs you", style="green")
        return
    out.line("needs you", style=BOLD)
    _needs(session, it.needs_you, "run" if it.work is None else "work", now)
    _stopped(session, it, now)


PROJECTION_TITLES = ("PROJECTION", "STATE", "BEHIND", "FOR")


def _projection(it: ProjectionView) -> list[Cell]:
    behind = span(it.behind_s) if it.behind else ""
    style = "red" if it.problem is not None else "yellow" if it.paused is not None else ""
    return [Cell(it.name), Cell(it.standing, style=style), Cell(f"{it.behind:,}", right=True), Cell(behind)]


def _stopped(session: Session, it: StatusView, now: datetime) -> None:
    out = session.output
    for stopped in it.stopped:
        assert stopped.problem is not None
        what = "building projection" if stopped.state == "live" else "projection"
        out.line(f"  {what} {stopped.name} stopped {relative(stopped.problem.since, now)}", style="red")
        out.line(_cut(f"    {stopped.problem.headline}"))
        mended = ("projections", "resume", stopped.name) if it.daemon is not None else ("run",)
        out.line(f"      once its code is mended: {session.command(*mended)}")


def _daemon_line(out: Output, it: StatusView) -> None:
    daemon = it.daemon
    if daemon is None:
        out.line("daemon   not running", style="yellow")
        return
    part = f" ({daemon.hosts.words})" if daemon.hosts.words else ""
    busy = f", {daemon.in_flight} commands in flight" if daemon.in_flight else ""
    age = f"version {daemon.version}, up {span(daemon.uptime_s)}"
    out.line(f"daemon   runs {daemon.app}{part}, pid {daemon.pid}, {age}{busy}")
    if daemon.problem:
        out.line(f"         takes nothing in: {daemon.problem}", style="red")


def _bus_lines(out: Output, it: StatusView, now: datetime) -> None:
    broker = it.broker
    if broker is None:
        out.line(f"bus      {it.bus or 'none, messages stay in the process'}")
        return
    since = f" for {span((now - broker.since).total_seconds())}" if broker.since is not None else ""
    held = f", it holds {_number(broker.lag, 'message')} for us" if broker.lag else ""
    match broker.state:
        case BrokerState.UNKNOWN:
            out.line(f"bus      {it.bus}")
        case BrokerState.TROUBLE:
            out.line(f"bus      {it.bus}, trouble{since}{held}", style="red")
        case _:
            out.line(f"bus      {it.bus}, {broker.state}{held}")
    if broker.to_go:
        oldest = f", the oldest from {relative(broker.oldest_at, now)}" if broker.oldest_at is not None else ""
        out.line(f"         {_number(broker.to_go, 'message')} to go{oldest}")


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _counts(out: Output, it: StatusView, now: datetime) -> None:
    if not it.instances:
        is_without = it.work is not None or (it.daemon is not None and not it.daemon.has_sagas)
        out.line("no sagas here" if is_without else "no instances yet")
        return
    rows = [
        [Cell(saga), *(_count(counts.get(status, 0), _STYLES[status]) for status in Status)]
        for saga, counts in sorted(it.instances.items())
    ]
    out.table(("SAGA", *(status.upper() for status in Status)), rows)
    beside = [
        (it.paused, "paused"),
        (it.waiting, "in the waiting room"),
        (it.outbox, "to go out"),
    ]
    parts = [f"{count} {what}" for count, what in beside if count]
    if it.next_timer_at is not None:
        parts.append(f"next timer {relative(it.next_timer_at, now)}" if it.next_timer_at > now else "timers are due")
    if parts:
        out.line(", ".join(parts))


def _count(number: int, style: str) -> Cell:
    return Cell(str(number), style=style if number else "", right=True)


def _needs(session: Session, it: NeedsView, verb: str, now: datetime) -> None:
    out = session.output
    if it.work_without_daemon:
        out.line("  no daemon runs, and there is work for one", style="yellow")
        out.line(f"    {session.command(verb)}")
    if it.broker:
        out.line("  the bus", style="red")
        for line in it.broker.split("; "):
            out.line(_cut(f"    {line}"))
        out.line(f"      {session.command('doctor', '--connect')}")
    if it.parked:
        out.line(f"  {it.parked} parked", style="red")
        for parked in it.first_parked:
            out.line(_cut(f"    {parked.address}: {parked.parked}"))
            out.line(f"      {session.command('show', parked.address)}")
        if it.parked > len(it.first_parked):
            out.line(f"    and {it.parked - len(it.first_parked)} more: {session.command('list', '--parked')}")
    if it.dead:
        oldest = it.first_dead[0] if it.first_dead else None
        out.line(f"  {it.dead} dead letter{'s' if it.dead > 1 else ''}", style="red")
        if oldest is not None:
            out.line(_cut(f"    the oldest from {relative(oldest.at, now)}: {oldest.reason}"))
        out.line(f"      {session.command('dead', 'list')}")
    for webhook in it.webhooks:
        what = f"  webhook {webhook.name}: {webhook.state} since {relative(webhook.since, now)}: {webhook.why}"
        out.line(_cut(what), style="red")
        out.line(f"      {session.command('webhooks', 'show', webhook.name)}")
    if it.overdue:
        out.line(f"  {it.overdue} timer{'s' if it.overdue > 1 else ''} overdue for more than 30 s", style="yellow")
    if it.oldest_retry is not None:
        retry = it.oldest_retry
        address = f"{retry.saga}/{retry.key}"
        what = f"{retry.step.label}, {attempt_words(retry.step)}, first asked {relative(retry.step.since, now)}"
        out.line("  the longest retry", style="yellow")
        out.line(_cut(f"    {address}: {what}: {retry.step.error or 'no answer'}"))
        out.line(f"      {session.command('why', address)}")


def _cut(text: str) -> str:
    """One line of at most the terminal's width."""
    line, width = escape(text), screen_width()
    return line if columns(line) <= width else fit(line, width)


def _status_fields(out: Output, it: StatusView) -> None:
    daemon = it.daemon
    runs = ("not running", "", "") if daemon is None else ("running", str(daemon.pid), daemon.hosts)
    out.fields("daemon", *runs)
    out.fields("store", it.store.url, str(it.store.size_bytes), str(it.store.schema))
    out.fields("bus", it.bus)
    if it.broker is not None:
        out.fields("broker", it.broker.state, it.broker.problem, plain(it.broker.since))
        for name in ("lag", "to_go", "oldest_at"):
            out.fields(name, plain(getattr(it.broker, name)))
    if it.work is not None:
        out.fields("work", str(it.work.commands), str(it.work.answers))
    for saga, counts in sorted(it.instances.items()):
        for status in Status:
            out.fields("instances", saga, status, str(counts.get(status, 0)))
    needs = it.needs_you
    for name, count in (
        ("paused", it.paused),
        ("waiting", it.waiting),
        ("outbox", it.outbox),
        ("parked", needs.parked),
        ("dead", needs.dead),
        ("overdue", needs.overdue),
        ("work without daemon", needs.work_without_daemon),
    ):
        out.fields(name, str(count))
    for projection in it.projections:
        lag = (str(projection.behind), f"{projection.behind_s:.3f}")
        out.fields("projection", projection.name, projection.state, *lag)
    for webhook in needs.webhooks:
        out.fields("webhook", webhook.name, webhook.state, plain(webhook.since), webhook.why)
    retry = needs.oldest_retry
    out.fields("longest retry", f"{retry.saga}/{retry.key}" if retry is not None else "")


# Show.


def show_screen(out: Output, it: DetailView, can_do: Sequence[Remedy], now: datetime) -> None:
    """One instance, from who it is to what can be done."""
    out.line(it.address, style=BOLD)
    out.line(f"  {it.standing}", style=style_of(it))
    for name, value in _identity(it, now):
        out.line(f"  {name:<12}{value}")
    _section(out, "state", msgspec.json.format(msgspec.json.encode(it.state), indent=2).decode().split("\n"))
    if it.path:
        out.line()
        out.table(("  STEP", "STATE", "SENT", "ATTEMPT", "SINCE", "NEXT", "ERROR"), _path_rows(it, now))
    if it.undo:
        out.line()
        out.table(("  UNDO, IN THIS ORDER", "SENDS", "STATE"), _undo_rows(it))
    _section(out, "refused", list(_refusals(it)))
    _section(out, "waits for", [line for phrase in it.waits_for for line in _wrapped(phrase)])
    if it.bug is not None:
        _section(out, "its own code failed", it.bug.traceback.rstrip().split("\n"))
    elif it.last_error:
        _section(out, "last error", it.last_error.rstrip().split("\n"))
    if can_do:
        width = max(len(remedy.command) for remedy in can_do)
        _section(out, "you can", [f"{remedy.command:<{width}}  {remedy.effect}" for remedy in can_do])


def _refusals(it: DetailView) -> Iterator[str]:
    for refusal in it.refusals[:ALIKE_SHOWN]:
        yield f"{refusal.label}: {told(refusal)}"
    if len(it.refusals) > ALIKE_SHOWN:
        yield f"and {len(it.refusals) - ALIKE_SHOWN} more"


def _identity(it: DetailView, now: datetime) -> Iterator[tuple[str, str]]:
    yield "run", f"{it.run}, version {it.version}, of definition version {it.definition_version}"
    yield "started", moment_words(it.started_at, now)
    if it.ended_at is None:
        yield "updated", moment_words(it.updated_at, now)
    else:
        took = span((it.ended_at - it.started_at).total_seconds())
        yield "ended", f"{moment_words(it.ended_at, now)}, after {took}"
    if it.deadline_at is not None and it.ended_at is None:
        yield "deadline", moment_words(it.deadline_at, now)
    if it.parent:
        yield "child of", it.parent
    if it.why:
        yield "because", it.why
    if it.pivoted:
        yield "pivot", "passed: only forward from here"
    if it.kept:
        yield "kept", f"{it.kept} events for steps that are not entered yet"


def _path_rows(it: DetailView, now: datetime) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for (name, _), group in groupby(it.path, key=lambda step: (step.step, step.visit)):
        counts: Counter[StepState] = Counter()  # of a list step's commands, which may alternate
        for step in group:
            counts[step.state] += 1
            if counts[step.state] <= ALIKE_SHOWN:
                rows.append(_path_row(step, now))
        for state, count in counts.items():
            if count > ALIKE_SHOWN:
                more = Cell(f"  and {count - ALIKE_SHOWN} more of {name}")
                rows.append([more, Cell(state), *(Cell("") for _ in range(5))])
    return rows


def _undo_rows(it: DetailView) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for (name, state), group in groupby(it.undo, key=lambda undo: (undo.step, undo.state)):
        alike = list(group)
        rows += [
            [Cell(f"  {_element(undo.step, undo.element)}"), Cell(undo.sends), Cell(undo.state)]
            for undo in alike[:ALIKE_SHOWN]
        ]
        if len(alike) > ALIKE_SHOWN:
            rows.append([Cell(f"  and {len(alike) - ALIKE_SHOWN} more of {name}"), Cell(""), Cell(state)])
    return rows


def _path_row(step: StepView, now: datetime) -> list[Cell]:
    visit = f"#{step.visit}" if step.visit > 1 else ""
    under_way = step.state.is_under_way
    return [
        Cell(f"  {step.label}{visit}"),
        Cell(step.state, style="red" if step.state is StepState.PARKED else ""),
        Cell(step.child or step.sends),
        _attempt(step),
        Cell(relative(step.since, now)),
        Cell(relative(step.next_at, now) if under_way else ""),
        Cell(step.parked or step.error or ""),
    ]


def _element(step: str, element: int | None) -> str:
    return step if element is None else f"{step}[{element}]"


def _section(out: Output, title: str, lines: Sequence[str]) -> None:
    if lines:
        out.line()
        out.line(f"  {title}", style=BOLD)
        for line in lines:
            out.line(f"    {line}")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        escape(text), screen_width() - 6, break_long_words=False, break_on_hyphens=False, subsequent_indent="  "
    )


def show_fields(out: Output, it: DetailView, can_do: Sequence[Remedy]) -> None:
    """The same as tab-separated fields, the name of each line first."""
    for name in ("saga", "key", "run", "status", "parked", "paused", "version", "definition_version"):
        out.fields(name, plain(getattr(it, name)))
    for name in ("started_at", "updated_at", "ended_at", "deadline_at", "parent", "why", "last_error"):
        out.fields(name, plain(getattr(it, name)))
    out.fields("state", msgspec.json.encode(it.state).decode())
    for step in it.path:
        values = (step.sends, step.child, plain(step.attempt), plain(step.since), plain(step.next_at))
        out.fields("step", step.label, plain(step.visit), step.state, *values, step.parked or step.error or "")
    for undo in it.undo:
        out.fields("undo", _element(undo.step, undo.element), plain(undo.visit), undo.sends, undo.state)
    for refusal in it.refusals:
        at = rfc3339(refusal.at.timestamp())
        out.fields("refused", refusal.label, plain(refusal.visit), at, refusal.type, refusal.payload)
    for phrase in it.waits_for:
        out.fields("waits_for", phrase)
    if it.bug is not None:
        out.fields("bug", it.bug.type, it.bug.id, it.bug.traceback)
    for remedy in can_do:
        out.fields("you can", remedy.command, remedy.effect)


def plain(value: Any) -> str:
    """A field's value in a pipe."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return rfc3339(value.timestamp())
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def paragraph(out: Output, text: str) -> None:
    """Words: wrapped on a terminal, one line in a pipe."""
    if not out.on_terminal:
        out.fields(text)
        return
    for line in textwrap.wrap(escape(text), min(100, screen_width()), break_long_words=False, break_on_hyphens=False):
        out.line(line)


def dead_screen(out: Output, it: DeadView, commands: Sequence[str], now: datetime) -> None:
    """One dead letter with its message or bytes."""
    out.line(f"dead letter {it.id}", style=BOLD)
    out.line(f"  since       {moment_words(it.at, now)}")
    out.line(f"  reason      {it.reason}")
    if it.listener:
        out.line(f"  listener    {it.listener}")
    if it.message is not None:
        _message(out, it.message)
    if it.raw:
        _section(out, "bytes", [it.raw])
    if it.error:
        _section(out, "error", it.error.rstrip().split("\n"))
    _section(out, "you can", commands)


def _message(out: Output, it: MessageView) -> None:
    out.line(f"  message     {it.kind} {it.type}, id {it.id}")
    if it.saga:
        out.line(f"  for         {it.saga}/{it.key}")
    if it.reply_to:
        out.line(f"  answers     {it.reply_to}, attempt {it.attempt}")
    _section(out, "data", msgspec.json.format(msgspec.json.encode(it.data), indent=2).decode().split("\n"))


def dead_fields(out: Output, it: DeadView) -> None:
    """The same as tab-separated fields, the name of each line first."""
    for name in ("id", "at", "reason", "error", "listener", "raw"):
        out.fields(name, plain(getattr(it, name)))
    if it.message is not None:
        for name in ("id", "kind", "type", "saga", "key", "time", "user", "reply_to", "attempt"):
            out.fields(f"message_{name}", plain(getattr(it.message, name)))
        out.fields("message_data", msgspec.json.encode(it.message.data).decode())
