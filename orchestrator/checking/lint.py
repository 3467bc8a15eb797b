"""What is not wrong, but worth a look."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from ..definition import Definition, StepDefinition, StepKind
from ..machine import Do, Instance, Transition, Undo, VisitState
from .world import attempt_timeout, most_attempts


class Notes:
    """What was seen on the way, in the order seen."""

    def __init__(self, definition: Definition) -> None:
        """Of a saga."""
        self._definition = definition
        self.ends: dict[str, None] = {}
        self.parked: dict[str, None] = {}
        self.undone: set[str] = set()
        self.without_tombstone: dict[str, None] = {}
        self.changes_nothing: dict[str, None] = {}
        self.waits_forever: dict[str, None] = {}
        self.believed: dict[str, None] = {}

    def look(self, done: Transition, instance: Instance) -> None:
        """Note what a new state shows."""
        if instance.status.is_end:
            self.ends[str(instance.status)] = None
        self.look_at_notes(done, instance)
        self._look_at_visits(instance)

    def look_at_notes(self, done: Transition, instance: Instance) -> None:
        """Note what a transition says of itself."""
        for note in done.notes:
            if " parked: " in note and instance.parked:
                self.parked[instance.parked] = None
            if note.startswith("changes nothing: ") and done.message is not None:
                self.changes_nothing[f"{done.message.type} {note}"] = None

    def lints(self, missing: list[str]) -> Iterator[str]:
        """Every lint as a sentence. `missing`: the steps and handlers that never ran."""
        yield from (f"{name} never runs, or only with values that examples have to give" for name in missing)
        yield from self.waits_forever
        yield from self.changes_nothing
        yield from self.believed
        for step in self._definition.steps.values():
            if step.compensate is not None and step.name not in self.undone:
                yield f"the undo of {step.name} is never asked for"
            if step.kind is StepKind.COMMAND:
                yield from self._of_times(step)

    def _of_times(self, step: StepDefinition) -> Iterator[str]:
        count, seconds = most_attempts(step.retry)
        deadline = self._definition.deadline
        often = f"{count} attempts" if count else "its attempts"
        if not isfinite(attempt_timeout(step.retry)):
            yield f"{step.name}: an attempt has no timeout: a lost command is never sent again"
        elif not count and step.timeout is None and deadline is None and not (step.past_pivot or step.pivot):
            yield f"{step.name}: its attempts never end, and there is no time limit: it never gives up"
        if deadline is not None and isfinite(seconds) and seconds > deadline:
            yield f"{step.name}: {often} may take {seconds:,.0f} s, longer than the deadline, {deadline:,.0f} s"

    def _look_at_visits(self, instance: Instance) -> None:
        for visit in instance.visits:
            forever = visit.waiting and visit.wake_at is None and visit.timeout_at is None and not visit.parked
            if forever and visit.state is VisitState.OPEN and instance.deadline_at is None:
                self.waits_forever[f"{visit.step} waits without limit: only its event moves it"] = None
            for call in visit.calls:
                if call.unwinding in (Undo.ASKED, Undo.DONE):
                    self.undone.add(visit.step)
                if call.do is Do.REFUSED and call.unwinding is Undo.NOTHING and self._is_bare(visit.step):
                    self.believed[
                        f"{visit.step}: a refusal counts as not done, also after an attempt that got lost"
                    ] = None

    def _is_bare(self, name: str) -> bool:
        step = self._definition.steps[name]
        return step.compensate is None and not step.may_stand
