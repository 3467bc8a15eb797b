"""What one saga class body holds, read when the class is made; and the bodies of a class and its bases together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
        if isinstance(old, Step) or mark_of(old) is not None:
            raise DefinitionError(f"{self._saga}.{name} is written twice in the class: rename one of them")
        super().__setitem__(name, value)


@dataclass(frozen=True, eq=False)
class Body:
    """Steps (without the graph), class-level handlers, starters and migrations, by the names of their methods."""

    steps: dict[str, Step] = field(default_factory=dict[str, Step])
    read: dict[str, StepDefinition] = field(default_factory=dict[str, StepDefinition])
    always: dict[str, Handler] = field(default_factory=dict[str, Handler])
    starters: dict[str, tuple[type[Event], ...]] = field(default_factory=dict[str, tuple[type[Event], ...]])
    migrations: dict[int, Migration] = field(default_factory=dict[int, Migration])

    def with_bases(self, cls: type) -> Body:
        """This body over those of the bases: what it writes again replaces in place, what is new comes after."""
        merged = Body()
        for base in reversed(cls.__mro__):
            own = self if base is cls else base.__dict__.get("__body__")
            if isinstance(own, Body):
                merged.steps.update(own.steps)
                merged.read.update(own.read)
                merged.always.update(own.always)
                merged.starters.update(own.starters)
                merged.migrations.update(own.migrations)
        return merged

    def handlers(self) -> set[str]:
        """The names of the methods that handle a message."""
        return {*self.always, *(role.function.__name__ for step in self.steps.values() for role in step.roles)}

    def names(self) -> set[str]:
        """The names of all methods that have a meaning."""
        return {*self.steps, *self.starters, *self.handlers()}


def check_names(saga: str, bases: tuple[type, ...], namespace: Mapping[str, Any]) -> None:
    """Refuse a name that is both a field and a method, and one that covers a handler of a base."""
    fields = set(namespace.get("__annotations__", ()))
    for name in fields:
        if _is_method(namespace.get(name)):
            raise DefinitionError(f"{saga}.{name} is both a field and a method: rename one of them")
    for base in dict.fromkeys(cls for start in bases for cls in start.__mro__):
        if isinstance(base.__dict__.get("__body__"), Body):
            _check_over(saga, fields, namespace, base)


def _check_over(saga: str, fields: set[str], namespace: Mapping[str, Any], base: Any) -> None:
    """Refuse names that hide what a base means by them."""
    body: Body = base.__body__
    for name in fields & body.names():
        raise DefinitionError(f"{saga}.{name} is a field, and a method in {base.__name__}: rename one of them")
    for name, value in namespace.items():
        if name in base.__struct_fields__ and name not in fields and _is_method(value):
            raise DefinitionError(f"{saga}.{name} is a method, and a field in {base.__name__}: rename one of them")
        if name in body.steps and not is_step(value):
            raise DefinitionError(f"{saga}.{name} covers the step {base.__name__}.{name}: write it as a @step too")
        if name in body.handlers() and mark_of(value) is None:
            raise DefinitionError(
                f"{saga}.{name} covers a handler of {base.__name__}: write its step again in {saga}, or rename it"
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
            body.read[name] = reader.step(value)
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
