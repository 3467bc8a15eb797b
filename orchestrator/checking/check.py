"""`check`: the whole of it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

from ..definition import Definition, StepKind, definition_of
from ..errors import AppError, NotFound
from ..messages import Command, type_name
from ..saga import Saga
from .coverage import Coverage
from .data import fields_of
from .explore import Bounds, Explorer, Scope, Unlike
from .lint import Notes
from .report import Report
from .states import Keys
from .trace import violation
from .values import Examples, Values
from .world import World

MAX_STATES = 200_000
MAX_SECONDS = 120.0
VISITS = 10
MOST_COUNTED = 1_000


def check(
    saga: type[Saga],
    *,
    examples: Examples | None = None,
    no_tombstones: bool | Collection[type] = False,
    verbs: bool = False,
    as_child: bool = False,
    max_states: int = MAX_STATES,
    max_seconds: float = MAX_SECONDS,
    visits: int | None = None,
    strict: bool = True,
) -> Report:
    """Run a saga through every order of replies, refusals, failures, timeouts, duplicates, events and cancels.

    `examples`: class -> values of it to say, where the made ones will not do. `no_tombstones`: participants that keep
    none (R7), as the commands they carry out, or True for all. `verbs`: with all that an operator can ask (R17).
    `as_child`: started and undone by a parent (R22). `visits`: where a loop, or an event that only changes the state,
    would go on for ever, how many times are enough. `strict`: raise AssertionError, the report its text, if anything is
    wrong or a bound was reached. Errors: DefinitionError when no values of a type can be made.
    """
    definition = definition_of(saga)
    scope = Scope(visits=visits or _visits_of(definition), bare=_bare(no_tombstones))
    report = _Check(definition, examples, Bounds(max_states, max_seconds), scope, verbs, as_child).report(
        is_enough=visits is not None
    )
    if strict and not report.ok:
        raise AssertionError(str(report))
    return report


def children_among(definitions: Iterable[Definition]) -> frozenset[str]:
    """The names of the sagas that others of them start as a child, to be checked `as_child`."""
    steps = [step for definition in definitions for step in definition.steps.values() if step.kind is StepKind.CHILD]
    return frozenset(definition_of(cls).name for step in steps for cls in step.sends)


def commands_named(definitions: Iterable[Definition], names: Collection[str]) -> tuple[type, ...]:
    """The commands of these wire types. Errors: NotFound."""
    types = {name: cls for definition in definitions for name, cls in definition.types.items()}
    for name in names:
        if name not in types or not issubclass(types[name], Command):
            near = ", ".join(sorted(other for other, cls in types.items() if issubclass(cls, Command)))
            raise NotFound(f"no saga sends {name!r}; the commands are {near}")
    return tuple(types[name] for name in names)


def as_examples(found: Any, where: str) -> Examples:
    """What a user's module holds under `where`, as examples. Errors: AppError, with what they look like."""
    if isinstance(found, Mapping):
        pairs = cast("Mapping[Any, Any]", found)  # type: ignore[redundant-cast]  # pyright: its contents are unknown
        if all(isinstance(cls, type) and isinstance(values, list | tuple) for cls, values in pairs.items()):
            return pairs
    raise AppError(f"{where} holds no examples: they are a dict of class -> list of its values")


class _Check:
    """One check, with all that was asked."""

    def __init__(
        self,
        definition: Definition,
        examples: Examples | None,
        bounds: Bounds,
        scope: Scope,
        verbs: bool,
        as_child: bool,
    ) -> None:
        self._definition, self._values, self._bounds, self._scope = definition, Values(examples), bounds, scope
        self._verbs, self._as_child = verbs, as_child

    def report(self, is_enough: bool) -> Report:
        """Explore, and put together what was found. `is_enough`: the bound on visits was asked for."""
        started = time.monotonic()
        keys = Keys(self._definition)
        while True:
            coverage = Coverage(self._definition)
            world = World(coverage.definition, self._values, as_child=self._as_child, verbs=self._verbs)
            notes = Notes(coverage.definition)
            explorer = Explorer(coverage, world, self._bounds, self._scope, notes, keys)
            try:
                explorer.run()
                break
            except Unlike:
                continue
        shown = {
            what: violation(self._definition, world.key, ways, self._as_child) for what, ways in explorer.found.items()
        }
        missing = tuple(coverage.missing())
        visits = f"{self._scope.visits} visits of a step or events beside them" if explorer.cut else ""
        return Report(
            saga=self._definition.name,
            states=explorer.states,
            transitions=explorer.transitions,
            seconds=time.monotonic() - started,
            steps=len(self._definition.steps),
            handlers=len(coverage.names) - len(self._definition.steps),
            ends=tuple(sorted(notes.ends)),
            violations=tuple(it for it in shown.values() if it is not None),
            perhaps=tuple(what for what, it in shown.items() if it is None),
            reached=explorer.reached or ("" if is_enough else visits),
            within=visits if is_enough else "",
            lints=tuple(notes.lints(list(missing))),
            parked=tuple(notes.parked),
            without_tombstone=tuple(notes.without_tombstone),
            missing=missing,
            cut=explorer.cut,
            ignored=tuple(sorted(keys.fields.data)),
        )


def _visits_of(definition: Definition) -> int:
    """Enough for every counter to pass what it is compared with, in reason."""
    return max([VISITS, *(most + 2 for most in fields_of(definition).counters.values() if most <= MOST_COUNTED)])


def _bare(no_tombstones: bool | Collection[type]) -> frozenset[str]:
    """The wire types of commands whose participants keep no tombstone."""
    if isinstance(no_tombstones, bool):
        return frozenset({"*"} if no_tombstones else ())
    return frozenset(type_name(command) for command in no_tombstones)
