"""Values as Python source, with the imports they need."""

from __future__ import annotations

import dataclasses
import sys
from enum import Enum
from typing import Any

import msgspec

from ..codec import Secret


class Source:
    """Collects the imports of what it has written."""

    def __init__(self) -> None:
        """Nothing written yet."""
        self._modules: set[str] = set()
        self._names: dict[str, set[str]] = {}

    def imports(self) -> list[str]:
        """The import lines for all that was written."""
        lines = [f"import {module}" for module in sorted(self._modules)]
        return lines + [
            f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(self._names.items())
        ]

    def need(self, module: str, name: str) -> None:
        """Import a name."""
        self._names.setdefault(module, set()).add(name)

    def name(self, cls: type[Any]) -> str:
        """A class by its name; one that was defined inside a function must be put into scope by hand."""
        if "<locals>" not in cls.__qualname__:
            self.need(*_home(cls))
        return cls.__qualname__.rpartition("<locals>.")[2]

    def value(self, value: Any) -> str:
        """The value as an expression."""
        cls = _class_of(value)
        if issubclass(cls, type):
            return self.name(value)
        if issubclass(cls, Enum):
            return f"{self.name(cls)}.{value.name}"
        if issubclass(cls, Secret):
            self.need("orchestrator", "Secret")
            return f"Secret({self.value(value.reveal())})"
        if issubclass(cls, msgspec.Struct) or dataclasses.is_dataclass(cls):
            return self._of_class(value)
        if issubclass(cls, tuple | list | set | frozenset | dict):
            return self._of_collection(value)
        if cls.__module__ == "datetime":
            self._modules.add("datetime")
        elif cls.__module__ != "builtins":
            self.name(cls)
        return repr(value)

    def _of_class(self, value: Any) -> str:
        inside = [f"{name}={self.value(held)}" for name, held, default in _fields(value) if held != default]
        return f"{self.name(_class_of(value))}({', '.join(inside)})"

    def _of_collection(self, value: Any) -> str:
        if hasattr(value, "_fields"):
            return f"{self.name(_class_of(value))}({', '.join(map(self.value, value))})"
        if type(value) is dict:
            pairs = [f"{self.value(key)}: {self.value(held)}" for key, held in _pairs(value)]
            return "{" + ", ".join(pairs) + "}"
        inside = [self.value(held) for held in value]
        if type(value) is tuple:
            return f"({', '.join(inside)}{',' if len(inside) == 1 else ''})"
        if type(value) is list:
            return f"[{', '.join(inside)}]"
        return f"{type(value).__name__}([{', '.join(sorted(inside))}])"


def _home(cls: type[Any]) -> tuple[str, str]:
    """The module to import a class from, and the name; of ours the public one."""
    name = cls.__qualname__.partition(".")[0]
    package = cls.__module__.partition(".")[0]
    is_public = package == "orchestrator" and hasattr(sys.modules[package], name)
    return (package if is_public else cls.__module__), name


def _fields(value: Any) -> list[tuple[str, Any, Any]]:
    """(name, value, default) of each field."""
    if isinstance(value, msgspec.Struct):
        return [(field.name, getattr(value, field.name), field.default) for field in msgspec.structs.fields(value)]
    return [(field.name, getattr(value, field.name), field.default) for field in dataclasses.fields(value)]


def _class_of(value: Any) -> type[Any]:
    cls: type[Any] = value.__class__
    return cls


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items())
