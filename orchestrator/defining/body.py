"""What one saga class body holds, read when the class is made; and the bodies of a class and its bases together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from types import FunctionType
from typing import Any

from ..definition import Handler, Migration, StepDefinition
from ..errors import DefinitionError
from ..messages import Event
from ..steps import Mark, Step, is_step, mark_of
from .reading import Reader


class Namespace(dict[str, Any]):
    """A class body under way. Covering a step or a marked method would lose it without a word: DefinitionError."""

    def __init__(self, saga: str) -> None:
        """Begin the body of the class `saga`."""
        super().__init__()
        self._saga = saga

    def __setitem__(self, name: str, value: Any) -> None:
        old = self.get(name)
        if is_step(old) or mark_of(old) is not None:
            raise DefinitionError(f"{self._saga}.{name} is written twice in the class: rename one of them")
        super().__setitem__(name, value)


@dataclass(frozen=True, eq=False)
class Body:
    """Steps, what they say (without the graph), class-level handlers and starters, by the names of their methods;
    and migrations by their `from_version`.
    """

    steps: dict[str, Step] = field(default_factory=dict[str, Step])
    definitions: dict[str, StepDefinition] = field(default_factory=dict[str, StepDefinition])
    always: dict[str, Handler] = field(default_factory=dict[str, Handler])
    starters: dict[str, tuple[type[Event], ...]] = field(default_factory=dict[str, tuple[type[Event], ...]])
    migrations: dict[int, Migration] = field(default_factory=dict[int, Migration])

    def over(self, base: Body) -> Body:
        """This body over another: what it writes again replaces in place, what is new comes after."""
        return Body(
            {**base.steps, **self.steps},
            {**base.definitions, **self.definitions},
            {**base.always, **self.always},
            {**base.starters, **self.starters},
            {**base.migrations, **self.migrations},
        )


def inherited_body(cls: type) -> Body:
    """What the bases of a class hold together."""
    bodies = [base.__dict__["__body__"] for base in cls.__mro__[1:] if "__body__" in base.__dict__]
    return reduce(lambda base, body: body.over(base), reversed(bodies), Body())


def check_names(cls: Any, namespace: Mapping[str, Any], inherited: Body) -> None:
    """Refuse a name that is both a field and a method, and one that hides what a base means by it."""
    handles = {role.function.__name__: step for step in inherited.steps.values() for role in step.roles}
    marked = {*inherited.always, *inherited.starters}
    for name in cls.__struct_fields__:
        if _is_method(namespace.get(name)) or name in inherited.steps or name in handles or name in marked:
            raise DefinitionError(f"{cls.__name__}.{name} is both a field and a method: rename one of them")
    for name, value in namespace.items():
        where, step = f"{cls.__name__}.{name}", handles.get(name)
        if name in inherited.steps and not is_step(value):
            raise DefinitionError(f"{where} covers the step {inherited.steps[name]!r}: write it as a @step too")
        if name in marked and mark_of(value) is None:
            raise DefinitionError(f"{where} covers a method that a base has marked: mark it too, or rename it")
        if step is not None and not is_step(namespace.get(step.name)):
            raise DefinitionError(
                f"{where} covers a handler of the step {step!r}: write the step {step.name} again too, or rename it"
            )


def read_body(saga: str, namespace: Mapping[str, Any], local_names: Mapping[str, Any]) -> Body:
    """Read all that is marked in a class body. From here on its steps take no more handlers."""
    body, reader = Body(), Reader(saga, local_names)
    for name, value in namespace.items():
        mark = mark_of(value)
        if is_step(value):
            if value.owner or value.name != name:
                raise DefinitionError(f"{saga}.{name} is the step {value!r} in another place: write it out with @step")
            body.steps[name] = value
            body.definitions[name] = reader.step(value)
            value.owner = saga
        elif mark is not None:
            _read_marked(body, reader, f"{saga}.{name}", name, value, mark)
    return body


def _read_marked(body: Body, reader: Reader, where: str, name: str, value: Any, mark: Mark) -> None:
    if mark.decorator == "on":
        body.always[name] = reader.always(name, value, mark.key)
    elif mark.decorator == "start":
        body.starters[name] = reader.start(name, _inside(where, value, classmethod, "@start"))
    elif mark.from_version in body.migrations:
        raise DefinitionError(f"{where} is a second migration from_version={mark.from_version}: remove one")
    else:
        body.migrations[mark.from_version] = _inside(where, value, staticmethod, "@migrate")


def _inside(where: str, value: Any, wrapper: type, decorator: str) -> Callable[..., Any]:
    inner = getattr(value, "__func__", None)
    if not isinstance(value, wrapper) or not isinstance(inner, FunctionType):
        raise DefinitionError(f"{where}: write @{wrapper.__name__} above {decorator}")
    return inner


def _is_method(value: object) -> bool:
    return isinstance(value, Step | FunctionType | classmethod | staticmethod | property)
