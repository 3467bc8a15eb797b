"""Annotations made real: strings become types, also of classes that are defined inside a function."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from typing_extensions import TypeAliasType


def names_at_class_statement() -> Mapping[str, Any]:
    """The local names where the `class` statement runs. To be called from a metaclass's `__new__`, not deeper."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None and frame.f_back.f_back is not None
    return frame.f_back.f_back.f_locals


def resolve(annotation: Any, global_names: dict[str, Any], local_names: Mapping[str, Any]) -> Any:
    """The type that an annotation means. Errors: NameError if it names something that is not there (yet)."""
    holder = type("holder", (), {"__annotations__": {"it": annotation}})
    return get_type_hints(holder, global_names, dict(local_names), include_extras=True)["it"]


def resolve_fields(namespace: dict[str, Any], local_names: Mapping[str, Any]) -> None:
    """Replace the string annotations of a class body by what they mean; names not there yet are left for later."""
    module = sys.modules.get(namespace.get("__module__", ""))
    global_names = vars(module) if module else {}
    annotations = namespace.get("__annotations__", {})
    for name, annotation in annotations.items():
        if isinstance(annotation, str):
            try:
                annotations[name] = resolve(annotation, global_names, local_names)
            except NameError:
                continue


def members(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type it is; of an alias (`type Reply = A | B`) those of what it means."""
    if isinstance(hint, TypeAliasType):
        return members(hint.__value__)
    if get_origin(hint) not in (Union, UnionType):
        return (hint,)
    return tuple(inner for part in get_args(hint) for inner in members(part))


def shown(hint: Any) -> str:
    """A type as a person would write it."""
    return hint.__name__ if isinstance(hint, type) else str(hint)
