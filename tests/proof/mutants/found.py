"""What caught a bug."""

from __future__ import annotations

from msgspec import Struct

from orchestrator.testing.simulation import Fault


class Again(Struct, frozen=True, omit_defaults=True):
    """What repeats a finding: a plan of a scenario, a walk, a saga of an example, cuts of the power, or a test."""

    scenario: str = ""
    plan: dict[int, Fault] = {}
    walk: str = ""
    seed: int = 0
    check: str = ""
    power: bool = False
    test: str = ""


class Found(Struct, frozen=True):
    """What caught it, what it said, and what repeats that."""

    catcher: str
    said: str
    again: Again
