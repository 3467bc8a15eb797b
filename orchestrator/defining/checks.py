"""The rules a definition must keep; each names class, step and remedy."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from ..definition import Definition, Handler, StepDefinition, StepKind, definition_of
from ..errors import DefinitionError
from ..messages import Query


def check(definition: Definition) -> None:
    """Hold a definition against what can be known before it runs. Errors: DefinitionError."""
    for step in definition.steps.values():
        where = f"{definition.name}.{step.name}"
        if step.pivot:
            _check_pivot(where, definition, step)
        _check_undo(where, definition, step)
    _check_events(definition)


def _check_pivot(where: str, definition: Definition, pivot: StepDefinition) -> None:
    if pivot.name != definition.pivot:
        raise DefinitionError(f"{where} is a second pivot beside {definition.pivot}: keep one pivot=True")
    if pivot.many:
        raise DefinitionError(f"{where} is a pivot that sends a list: make a step with a single command the pivot")
    if _asks_only(pivot):
        raise DefinitionError(f"{where} is a pivot but sends a Query, which changes nothing: pivot on a Command")
    for other in definition.steps.values():
        if other is not pivot and other.name not in pivot.reach and pivot.name not in other.reach:
            raise DefinitionError(
                f"{where} is the pivot, but {other.name} can run beside it: put it before or after, with after="
            )


def _check_undo(where: str, definition: Definition, step: StepDefinition) -> None:
    if step.compensate is not None:
        if _asks_only(step):
            raise DefinitionError(f"{where} sends a Query, so there is nothing to undo: remove its compensation")
        if step.past_pivot:
            raise DefinitionError(
                f"{where} comes after the pivot {definition.pivot}, where nothing is undone: remove its compensation"
            )
    elif not (step.may_stand or step.past_pivot or step.pivot):
        if step.kind is StepKind.COMMAND and not _asks_only(step):
            raise DefinitionError(
                f"{where} cannot be undone: add @{step.name}.compensate, or say undo=None if its effect may stand"
            )
        for child in _children(step):
            if child.pivot:
                raise DefinitionError(
                    f"{where} starts {child.name}, which cannot be unwound after its pivot {child.pivot}: "
                    f"add @{step.name}.compensate, or move the step behind this saga's own pivot"
                )


def _check_events(definition: Definition) -> None:
    waiting = [step for step in definition.steps.values() if step.kind is StepKind.WAIT]
    wanted: list[tuple[StepDefinition | None, Handler]] = [(None, handler) for handler in definition.always]
    wanted += [(step, handler) for step in waiting for handler in step.on]
    for (one, first), (other, second) in combinations(wanted, 2):
        shared = [cls for cls in first.types if cls in second.types]
        same_key = (first.key or definition.key) == (second.key or definition.key)
        if shared and same_key and _open_together(one, other):
            raise DefinitionError(
                f"{_place(definition, one, first)} and {_place(definition, other, second)} could both want "
                f"{shared[0].__name__} at once: route one of them by another field of the event with key="
            )


def _place(definition: Definition, step: StepDefinition | None, handler: Handler) -> str:
    name = handler.function.__name__
    return f"{definition.name}.{step.name} (.on {name})" if step else f"{definition.name}.{name}"


def _open_together(one: StepDefinition | None, other: StepDefinition | None) -> bool:
    if one is None or other is None or one is other:
        return True
    return other.name not in one.reach and one.name not in other.reach


def _asks_only(step: StepDefinition) -> bool:
    return all(issubclass(cls, Query) for cls in step.sends)


def _children(step: StepDefinition) -> Iterator[Definition]:
    if step.kind is StepKind.CHILD:
        yield from map(definition_of, step.sends)
