"""Public names of a package that are loaded when first used, so that the command line starts without the others."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any


def load_when_used(package: str, homes: Mapping[str, Sequence[str]]) -> None:
    """Have the package `package` load its public names when they are asked for. `homes`: module -> its
    names; relative to the package, one above it with a dot before."""
    module = sys.modules[package]
    module.__dict__["_home_of"] = {name: home for home, names in homes.items() for name in names}
    module.__class__ = _Package


class _Package(ModuleType):
    _home_of: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        home = self._home_of.get(name)
        if home is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = self.__dict__[name] = getattr(import_module(f".{home}", self.__name__), name)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        """Loading a submodule does not put it in the place of a public name that is called the same (participant)."""
        if not (name in self._home_of and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._home_of})
