"""What this code makes of a history, transition by transition, beside what was made of it then (I2-I6, I8, I9)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.json import encode

from ...definition import Definition
from ...machine.instance import Instance, Visit, headline
from ...machine.limits import MachineLimits
from ...machine.react import replay
from ...machine.transition import Entry, Transition
from ...machine.turn import HandlerBug
from ..judge import Broken, broken, unsound
from .differences import Difference, differences
from .stored import Story


class Replayed(Struct, frozen=True, kw_only=True):
    """A history gone through once more.

    visits       every visit of the run, also those that a later round put away.
    broken       what a transition breaks, or the instance as it is stored.
    parted       the first transition that goes another way, or raises, with this code; None: none.
    instead      what it does then: the notes that are new, or what it raised; `before`: those that are gone.
    raised       whether it raises there.
    differences  the fields in which the instance is not the one that is stored.
    is_compared  not, if the instance is of another version of its saga, or may have begun under one (R18).
    """

    visits: tuple[Visit, ...] = ()
    broken: tuple[Broken, ...] = ()
    parted: Entry | None = None
    instead: str = ""
    before: str = ""
    raised: bool = False
    differences: tuple[Difference, ...] = ()
    is_compared: bool = True

    @property
    def is_the_same(self) -> bool:
        """Whether this code comes to what is stored (I2), or cannot be asked."""
        return not (self.raised or self.differences)


def replayed(definition: Definition, story: Story, limits: MachineLimits) -> Replayed:
    """Go through a history that is whole. An exception of the saga's own code is part of the answer."""
    instance = story.instance
    if instance.definition_version != definition.version:
        return Replayed(visits=tuple(instance.visits), is_compared=False)
    going = _Going(definition, story, limits)
    if going.instance is None or going.raised or encode(going.instance) == encode(instance):
        found = []
    else:
        found = list(differences(going.instance, instance))
    is_the_same = not (going.raised or found)
    if definition.version > 1 and not is_the_same:
        return Replayed(visits=tuple(instance.visits), is_compared=False)
    return Replayed(
        visits=tuple((going.visits | {visit.serial: visit for visit in instance.visits}).values()),
        broken=tuple(going.broken if is_the_same else going.broken | dict.fromkeys(_as_stored(definition, instance))),
        parted=None if is_the_same else going.parted,
        instead=going.instead,
        before=going.before,
        raised=going.raised,
        differences=tuple(found),
    )


class _Going:
    """The way through a history, up to its end or to what raises."""

    def __init__(self, definition: Definition, story: Story, limits: MachineLimits) -> None:
        self.instance: Instance | None = None
        self.visits: dict[int, Visit] = {}
        self.broken: dict[Broken, None] = {}
        self.parted: Entry | None = None
        self.instead = self.before = ""
        self.raised = False
        transitions = replay(definition, story.entries, limits)
        for entry in story.entries:
            try:
                done = next(transitions)
            except HandlerBug as bug:
                self._raises(entry, headline(str(bug)))
                return
            except Exception as error:  # noqa: BLE001 a mistake of the machine's own: the supervisor parks it too
                self._raises(entry, f"{type(error).__name__}: {error}")
                return
            if self.parted is None and (done.outcome, done.notes) != (entry.outcome, entry.notes):
                self._parts(entry, done)
            for each in broken(definition, self.instance, done):
                self.broken[each] = None
            self.instance = done.instance
            for visit in self.instance.visits if self.instance is not None else ():
                self.visits[visit.serial] = visit

    def _parts(self, entry: Entry, done: Transition) -> None:
        self.parted = entry
        self.instead = _only_in(done.notes, entry.notes) or str(done.outcome)
        self.before = _only_in(entry.notes, done.notes) or str(entry.outcome)

    def _raises(self, entry: Entry, what: str) -> None:
        self.parted, self.instead, self.before, self.raised = entry, what, "", True


def _only_in(some: Sequence[str], others: Sequence[str]) -> str:
    return "; ".join(note for note in some if note not in others)


def _as_stored(definition: Definition, instance: Instance) -> Iterator[Broken]:
    if all(visit.step in definition.steps for visit in instance.visits):
        yield from unsound(definition, instance)
