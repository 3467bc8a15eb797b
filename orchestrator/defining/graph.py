"""The graph of steps: who follows whom."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import DefinitionError
from ..steps import Step, is_step


def predecessors(cls: type, steps: Mapping[str, Step]) -> dict[str, tuple[str, ...]]:
    """For each step, in the order written, the steps it follows: those it names, else all open ends so far."""
    owners = {base.__name__ for base in cls.__mro__}
    after: dict[str, tuple[str, ...]] = {}
    for name, step in steps.items():
        if step.options.after is None:
            followed = {before for befores in after.values() for before in befores}
            after[name] = tuple(before for before in after if before not in followed)
        else:
            for other in step.options.after:
                if not is_step(other) or other.name not in steps or other.owner not in owners:
                    raise DefinitionError(
                        f"{cls.__name__}.{name} is after {other!r}, which is no step of {cls.__name__}: "
                        f"name one of its steps, without quotes"
                    )
            after[name] = tuple(other.name for other in step.options.after)
    return after


def reaches(saga: str, after: Mapping[str, tuple[str, ...]]) -> dict[str, frozenset[str]]:
    """For each step all that come after it, in any number of hops. Errors: DefinitionError for a circle."""
    before = successors(after)
    return {name: _beyond(saga, name, before) for name in after}


def successors(after: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The same arrows, turned round."""
    return {name: tuple(other for other, earlier in after.items() if name in earlier) for name in after}


def _beyond(saga: str, name: str, before: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    found: set[str] = set()
    ahead = list(before[name])
    while ahead:
        other = ahead.pop()
        if other == name:
            raise DefinitionError(f"{saga}.{name} is after itself, in a circle of after=: a loop is a Goto back to it")
        if other not in found:
            found.add(other)
            ahead += before[other]
    return frozenset(found)
