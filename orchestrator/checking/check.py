"""`check`: the whole of it."""

from __future__ import annotations

import time

from ..definition import Definition, definition_of
from ..saga import Saga
from .coverage import Coverage
from .explore import Bounds, Explorer, Scope
from .lint import Notes
from .report import Report
from .trace import violation
from .values import Examples, Values
from .world import World

MAX_STATES = 200_000
MAX_SECONDS = 120.0
VISITS = 5


def check(
    saga: type[Saga],
    *,
    examples: Examples | None = None,
    max_states: int = MAX_STATES,
    max_seconds: float = MAX_SECONDS,
    visits: int = VISITS,
    strict: bool = True,
) -> Report:
    """Run a saga through every order of replies, refusals, failures, timeouts, duplicates, events and cancels.

    `examples`: class -> values of it to say, where the made ones will not do. `visits`: how often a loop may come to a
    step. `strict`: raise AssertionError, the report its text, if anything is wrong or a bound was reached.
    """
    report = report_of(definition_of(saga), examples, Bounds(max_states, max_seconds), Scope(visits=visits))
    if strict and not report.ok:
        raise AssertionError(str(report))
    return report


def report_of(definition: Definition, examples: Examples | None, bounds: Bounds, scope: Scope) -> Report:
    """Explore, and put together what was found."""
    started = time.monotonic()
    coverage = Coverage(definition)
    world = World(coverage.definition, Values(examples))
    notes = Notes(coverage.definition)
    explorer = Explorer(coverage, world, bounds, scope, notes)
    explorer.run()
    shown = {what: violation(definition, world.key, ways) for what, ways in explorer.found.items()}
    missing = tuple(coverage.missing())
    return Report(
        saga=definition.name,
        states=explorer.states,
        transitions=explorer.transitions,
        seconds=time.monotonic() - started,
        functions=len(coverage.names),
        ends=tuple(sorted(notes.ends)),
        violations=tuple(it for it in shown.values() if it is not None),
        perhaps=tuple(what for what, it in shown.items() if it is None),
        reached=explorer.reached,
        lints=tuple(notes.lints(list(missing))),
        parked=tuple(notes.parked),
        without_tombstone=tuple(notes.without_tombstone),
        missing=missing,
        cut=explorer.cut,
        scope=str(scope),
    )
