"""Enums whose members are found as quickly as any other name."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

E = TypeVar("E", bound=Enum)


def quick(cls: type[E]) -> type[E]:
    """Store the members in the class itself, as Python 3.12 does: before, looking one up takes ten times as long, and
    the machine looks up dozens for each message.
    """
    for name, member in cls.__members__.items():
        type.__setattr__(cls, name, member)
    return cls
