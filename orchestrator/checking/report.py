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
    lints        what is worth a look.
    parked       where a person is needed by rule (R8, R9).
    without_tombstone   steps that a participant which keeps no tombstones may do after their undo (R7).
    missing      steps and handlers that never ran, of `functions` there are.
    cut          states at which a loop, or an event told again and again, was not followed any further.
    """

    saga: str
    states: int
    transitions: int
    seconds: float
    functions: int
    ends: tuple[str, ...]
    violations: tuple[Violation, ...] = ()
    perhaps: tuple[str, ...] = ()
    reached: str = ""
    lints: tuple[str, ...] = ()
    parked: tuple[str, ...] = ()
    without_tombstone: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    cut: int = 0
    scope: str = ""

    @property
    def ok(self) -> bool:
        """Whether everything was explored and nothing is wrong."""
        return not self.violations and not self.reached

    def __str__(self) -> str:
        lines = [self._headline(), f"  ran    {self.functions - len(self.missing)} of {self.functions} functions"]
        lines.append(f"  ends   {', '.join(self.ends) or 'none'}")
        lines += [f"  lint   {lint}" for lint in self.lints]
        lines += [f"  lint   if timers came in another order: {what}" for what in self.perhaps]
        lines += [f"  person {where}" for where in self.parked]
        if self.without_tombstone:
            names = ", ".join(self.without_tombstone)
            lines.append(
                f"  note   without tombstones (R7) a late or second command would be done after its undo: {names}"
            )
        if self.cut:
            lines.append(f"  note   loops and repeated events were not followed any further in {self.cut:,} states")
        lines.append(f"  scope  {self.scope}")
        return "\n".join(lines + [_shown(number, it) for number, it in enumerate(self.violations, 1)])

    def _headline(self) -> str:
        said = f"{self.saga}: {self.states:,} states, {self.transitions:,} transitions, {self.seconds:.2f} s: "
        wrong = len(self.violations)
        verdict = f"{wrong} thing{'s' if wrong > 1 else ''} wrong" if wrong else "nothing wrong"
        return said + (f"{verdict} so far, stopped unfinished at {self.reached}" if self.reached else verdict)


def _shown(number: int, violation: Violation) -> str:
    parts = [f"\n{number}. {violation.what}", _indented(violation.dialogue)]
    if violation.details:
        parts.append(_indented(violation.details))
    return "\n\n".join([*parts, violation.test])


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())
