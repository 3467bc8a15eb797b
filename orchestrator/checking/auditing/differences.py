"""In which fields two states of one instance differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec
from msgspec import Struct

from ...codec import SECRET
from ...machine.instance import Instance

MASK = "***"
LONGEST = 80  # characters of a value that are shown
NOTHING = "nothing"


class Difference(Struct, frozen=True):
    """A field, by its path; what is in it here and there, as JSON, secrets masked."""

    path: str
    here: str
    there: str


def differences(here: Instance, there: Instance) -> Iterator[Difference]:
    """Every field that differs, in the order of the fields; a visit that only one has is one difference."""
    yield from _differing(_plain(here), _plain(there), "")


def _plain(instance: Instance) -> dict[str, Any]:
    fields = cast(dict[str, Any], msgspec.json.decode(msgspec.json.encode(instance)))
    fields["visits"] = {f"{visit['step']}#{visit['number']}": visit for visit in fields.get("visits", ())}
    return fields


def _differing(here: Any, there: Any, path: str) -> Iterator[Difference]:
    if here == there:
        return
    if isinstance(here, dict) and isinstance(there, dict) and SECRET not in here:
        ours, theirs = cast(dict[str, Any], here), cast(dict[str, Any], there)
        for name in theirs | ours:
            yield from _differing(ours.get(name), theirs.get(name), f"{path}.{name}" if path else name)
    elif isinstance(here, list) and isinstance(there, list) and len(_list(here)) == len(_list(there)):
        for index, (mine, other) in enumerate(zip(_list(here), _list(there), strict=True)):
            yield from _differing(mine, other, f"{path}[{index}]")
    else:
        yield Difference(path, _shown(here), _shown(there))


def _list(value: Any) -> list[Any]:
    elements: list[Any] = value
    return elements


def _shown(value: Any) -> str:
    if value is None:
        return NOTHING
    text = msgspec.json.encode(_masked(value)).decode()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        return MASK if SECRET in fields else {name: _masked(inner) for name, inner in fields.items()}
    if isinstance(value, list):
        return [_masked(inner) for inner in _list(value)]
    return value
