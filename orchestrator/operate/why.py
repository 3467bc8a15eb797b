"""In words: what an instance waits for, since when, what would move it, and the exact commands."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby

from msgspec import Struct

from ..machine.instance import Status, headline
from .output import moment_words, relative, shell_word, span
from .view import DetailView, RefusalView, StepState, StepView, UndoView

ALIKE_SHOWN = 3  # of a step's commands that stand alike; the others are counted
PAYLOAD_SHOWN = 200  # characters of a refusal's payload; `history --json` has it whole
OVERDUE_S = 30.0


class Remedy(Struct, frozen=True):
    """A command that a person can give now, and what it does."""

    command: str
    effect: str


def why(it: DetailView, now: datetime) -> str:
    """One paragraph: where the instance stands, what it waits for since when, what would move it."""
    sentences = [_standing(it, now), *_refused(it)]
    sentences += [f"{_capital(text)}." for text in waits_for(it, now)]
    if it.status is Status.RUNNING and it.deadline_at is not None:
        sentences.append(f"Its deadline is {moment_words(it.deadline_at, now)}: then it is undone.")
    sentences.append(_moved_by(it, now))
    return " ".join(sentence for sentence in sentences if sentence)


def waits_for(it: DetailView, now: datetime) -> tuple[str, ...]:
    """What would move the instance, a phrase each."""
    return tuple(_waits(it, now))


def remedies(it: DetailView, store: str = "") -> tuple[Remedy, ...]:
    """What a person can do now, the likeliest first; `store`: the --store to name in the commands, if one was given."""
    name = shell_word(it.address)
    tail = f" --store {shell_word(store)}" if store else ""
    return tuple(
        Remedy(f"orchestrator {verb} {name}{arguments}{tail}", effect) for verb, arguments, effect in _verbs(it)
    )


# Where it stands.


def _standing(it: DetailView, now: datetime) -> str:
    since = moment_words(it.started_at, now)
    if it.status is Status.RUNNING:
        child = f", a child of {it.parent}," if it.parent else ""
        return f"{it.address}{child} is running; it began {since}."
    if it.status is Status.COMPENSATING:
        return f"{it.address} is being undone{_reason(it)}; it began {since}."
    ended = it.ended_at or it.updated_at
    took = f"{moment_words(ended, now)}, {span((ended - it.started_at).total_seconds())} after it began"
    if it.status is Status.COMPLETED:
        return f"{it.address} completed {took}."
    if it.status is Status.COMPENSATED:
        return f"{it.address} was undone{_reason(it)}; that ended {took}.{_left_standing(it.undo)}"
    return f"{it.address} was killed{_reason(it)} {took}.{_never_undone(it.undo)}"


def _reason(it: DetailView) -> str:
    return f" ({it.why})" if it.why else ""


def _left_standing(undo: tuple[UndoView, ...]) -> str:
    standing = [_undone_name(item) for item in undo if item.state == "left standing"]
    return f" Left standing by an operator: {', '.join(standing)}." if standing else ""


def _never_undone(undo: tuple[UndoView, ...]) -> str:
    left = [_undone_name(item) for item in undo if item.state in ("never asked", "asked", "left standing")]
    return f" May still be in effect: {', '.join(left)}." if left else ""


def _undone_name(item: UndoView) -> str:
    return item.step if item.element is None else f"{item.step}[{item.element}]"


def _refused(it: DetailView) -> Iterator[str]:
    """What the refusals say that explain where it stands: not those that its own code took well."""
    is_well = it.status is Status.COMPLETED or (it.status is Status.RUNNING and it.parked is None)
    speaking = [] if is_well else [refusal for refusal in it.refusals if refusal.data]
    for refusal in speaking[:ALIKE_SHOWN]:
        yield f"The refusal of {refusal.label} was {told(refusal)}."
    if len(speaking) > ALIKE_SHOWN:
        yield f"There were {len(speaking) - ALIKE_SHOWN} more."


def told(refusal: RefusalView) -> str:
    """A refusal with its payload, cut where it is long: `Declined {"reason":"limit"}`."""
    payload = refusal.payload
    cut = payload if len(payload) <= PAYLOAD_SHOWN else payload[: PAYLOAD_SHOWN - 1] + "…"
    return f"{refusal.type} {cut}".rstrip()


# What it waits for.


def _waits(it: DetailView, now: datetime) -> Iterator[str]:
    if it.status.is_end:
        return
    if it.bug is not None:
        last = headline(it.bug.traceback)
        behind = f"; {_count(it.queued, 'message')} stand behind it" if it.queued else ""
        yield f"the saga's own code failed on {it.bug.type} ({it.bug.id}): {last}{behind}"
    if it.paused:
        held = f"; {_count(it.held, 'message')} that it would send wait for resume" if it.held else ""
        yield f"an operator paused it{held}"
    if it.unwind_wanted:
        yield f"it will be undone ({it.unwind_wanted}) unless the pivot, which is under way, says yes"
    for _, alike in groupby(it.steps, key=lambda step: (step.step, step.state, step.undoing)):
        steps = list(alike)
        for step in steps[:ALIKE_SHOWN]:
            yield _step(step, now, is_stopped=it.bug is not None, is_paused=it.paused)
        if len(steps) > ALIKE_SHOWN:
            yield f"the same holds for {len(steps) - ALIKE_SHOWN} more of {steps[0].step}"
    yield from _not_yet(it)


def _not_yet(it: DetailView) -> Iterator[str]:
    for step, queued in groupby(it.path, key=lambda step: step.step if step.state is StepState.QUEUED else ""):
        if step:
            yield f"{_count(len(list(queued)), 'more command')} of {step} wait for their turn"
    undos = [item for item in it.undo if item.state == "to come"]
    if undos:
        names = ", ".join(_undone_name(item) for item in undos[:ALIKE_SHOWN])
        more = f" and {len(undos) - ALIKE_SHOWN} more" if len(undos) > ALIKE_SHOWN else ""
        yield f"still to be undone after that: {names}{more}"
    if it.goes_on_with:
        yield f"then it goes on with {it.goes_on_with}"


def _step(step: StepView, now: datetime, *, is_stopped: bool, is_paused: bool) -> str:
    overdue = "" if is_stopped or is_paused else _overdue(step, now)
    if step.state is StepState.PARKED:
        return f"{_subject(step)} is parked: {step.parked}; it needs a person"
    if step.state is StepState.HELD:
        return f"{_subject(step)} is held by the pause, {step.sends} is not sent"
    if step.state is StepState.BACKING_OFF:
        return (
            f"{_subject(step)} backs off: {attempt_words(step)} at {step.sends} failed "
            f"({step.error or 'no error is known'}); the next is due {moment_words(step.next_at, now)}{overdue}"
        )
    if step.state is StepState.ASKED:
        return _asked(step, now) + overdue
    return _waiting(step, now, is_paused=is_paused) + overdue


def _asked(step: StepView, now: datetime) -> str:
    since = f", first asked {moment_words(step.since, now)}"
    if step.child:
        return f"{_subject(step)} waits for its child {step.child} to end{since}"
    error = f"; the attempt before failed: {step.error}" if step.error else ""
    late = f"; it times out {moment_words(step.next_at, now)}" if step.next_at else ""
    return f"{_subject(step)} waits for the reply to {step.sends}, {attempt_words(step)}{since}{late}{error}"


def _waiting(step: StepView, now: datetime, *, is_paused: bool) -> str:
    since = f", since {moment_words(step.since, now)}"
    until = f"; its time is over {moment_words(step.next_at, now)}" if step.next_at else "; it has no time limit"
    if is_paused and step.next_at:
        until = "; its time begins afresh at resume"  # R17
    if step.takes:
        return f"{_subject(step)} waits for {' or '.join(step.takes)}{since}{until}"
    what = "its time" if step.takes is not None else "an event or its time" if step.next_at else "an event"
    return f"{_subject(step)} waits for {what}{since}{until}"


def _subject(step: StepView) -> str:
    return f"the {step.label}" if step.undoing else f"step {step.label}"


def attempt_words(step: StepView) -> str:
    """`attempt 2 of 5`, or without the number of all where only the app knows it."""
    return f"attempt {step.attempt}" if step.attempts is None else f"attempt {step.attempt} of {step.attempts}"


def _overdue(step: StepView, now: datetime) -> str:
    if step.next_at is None or (now - step.next_at).total_seconds() < OVERDUE_S:
        return ""
    return f" (overdue by {span((now - step.next_at).total_seconds())}: is the daemon running?)"


# What would move it.


def _moved_by(it: DetailView, now: datetime) -> str:
    if it.status.is_end:
        return "Nothing will move it any more."
    if it.bug is not None:
        return "Mend the code and start the daemon anew, then retry hands the message over again; drop gives it up."
    if it.parked is not None:
        verbs = "retry, done or skip" if any(step.can_be_retried for step in it.steps) else "done or skip"
        return f"What is parked only a person moves: with {verbs}."
    if it.paused:
        return "Resume lets it go on."
    if any(step.state is StepState.WAITING for step in it.steps):
        return "The event or the time moves it; nobody has to step in."
    return f"Nobody has to step in; it was last moved {relative(it.updated_at, now)}."


def _verbs(it: DetailView) -> Iterator[tuple[str, str, str]]:
    """Verb, arguments after SAGA/KEY, effect."""
    if it.status.is_end:
        return
    if it.bug is not None:
        yield "retry", "", "hand the message to the mended code again"
        yield "drop", "", "give the message up, as a dead letter"
        yield "kill", " --reason WHY", "stop at once, undo nothing"
        return
    if it.paused:
        yield "resume", "", "let it go on"
    if any(step.can_be_retried for step in it.steps):
        yield "retry", "", "try again now"
    for step in [step for step in it.steps if step.state is StepState.PARKED][:ALIKE_SHOWN]:
        yield from _step_verbs(step)
    if it.status is Status.RUNNING and not it.pivoted and it.unwind_wanted is None:
        yield "cancel", "", "undo what is done, then end"
    if not it.paused:
        yield "pause", "", "hold what it sends"
    yield "kill", " --reason WHY", "stop at once, undo nothing"


def _step_verbs(step: StepView) -> Iterator[tuple[str, str, str]]:
    name = f" {shell_word(step.name)}"
    if step.undoing:
        yield "done", name, f"count the {step.label} as done"
        yield "skip", f"{name} --reason WHY", f"leave {step.name} standing"
    else:
        yield "done", name, f"count {step.name} as done"
        yield "skip", f"{name} --reason WHY", f"go on without {step.name}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
