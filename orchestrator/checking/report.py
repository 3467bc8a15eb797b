"""What a check found, as a value and as a text."""

from __future__ import annotations

from msgspec import Struct

from .trace import Violation


class Report(Struct, frozen=True, kw_only=True):
    """All that one check of one saga found; `str()` of it is for people.

    states, transitions   how much was explored, and in how many seconds.
    violations   what is wrong, each with the shortest way there.
    perhaps      what would be wrong if timers came in an order that their times do not allow on any way that was tried.
    reached      the bound that ended the search unfinished, or empty.
    within       the bound that was given and reached, so that the saga counts as sound up to it; or empty.
    lints        what is worth a look.
    parked       where a person is needed by rule (R8, R9).
    without_tombstone   steps that a participant which keeps no tombstones may do after their undo (R7).
    missing      steps and handlers that never ran, of the `steps` and `handlers` there are.
    cut          states at which a loop, or an event told again and again, was not followed any further.
    ignored      fields of the saga that no decision looks at: states that differ in nothing else count as one.
    """

    saga: str
    states: int
    transitions: int
    seconds: float
    steps: int
    handlers: int
    ends: tuple[str, ...]
    violations: tuple[Violation, ...] = ()
    perhaps: tuple[str, ...] = ()
    reached: str = ""
    within: str = ""
    lints: tuple[str, ...] = ()
    parked: tuple[str, ...] = ()
    without_tombstone: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    cut: int = 0
    ignored: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything was explored (or all within the bound that was given) and nothing is wrong."""
        return not self.violations and not self.reached

    @property
    def ran(self) -> tuple[str, str]:
        """How many of the steps ran, and how many of the handlers, as `2 of 3`."""
        missed = [name for name in self.missing if "." in name or name.startswith("on:")]
        steps, handlers = self.steps - (len(self.missing) - len(missed)), self.handlers - len(missed)
        return f"{steps} of {self.steps}", f"{handlers} of {self.handlers}"

    @property
    def verdict(self) -> str:
        """One phrase."""
        wrong = len(self.violations)
        said = f"{wrong} thing{'s' if wrong > 1 else ''} wrong" if wrong else "nothing wrong"
        if self.reached:
            return f"{said} so far, stopped unfinished at {self.reached}"
        return f"{said} within {self.within}" if self.within else said

    def __str__(self) -> str:
        said = f"{self.saga}: {self.states:,} states, {self.transitions:,} transitions, {self.seconds:.2f} s: "
        steps, handlers = self.ran
        lines = [said + self.verdict, f"  ran    {steps} steps, {handlers} handlers"]
        lines.append(f"  ends   {', '.join(self.ends) or 'none'}")
        if self.cut and self.reached:
            lines.append(f"  bound  {_ADVICE}")
        lines += [f"  lint   {lint}" for lint in self.lints]
        lines += [f"  lint   if timers came in another order: {what}" for what in self.perhaps]
        lines += [f"  person {where}" for where in self.parked]
        if self.without_tombstone:
            names = ", ".join(self.without_tombstone)
            lines.append(
                f"  note   without tombstones (R7) a late or second command would be done after its undo: {names}"
            )
        if self.ignored:
            lines.append(f"  note   no decision looks at {', '.join(self.ignored)}: any value counts as the same")
        return "\n".join(lines + [_shown(number, it) for number, it in enumerate(self.violations, 1)])


_ADVICE = (
    "the saga counts or collects something that decisions look at. If it comes to an end with more, give more visits; "
    "if it never does, give visits to say how many are enough"
)


def _shown(number: int, violation: Violation) -> str:
    parts = [f"\n{number}. {violation.what}", _indented(violation.dialogue)]
    if violation.details:
        parts.append(_indented(violation.details))
    return "\n\n".join([*parts, violation.test])


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())
