"""What one part of the proof did, and what it found."""

from __future__ import annotations

from msgspec import Struct


class Proved(Struct, frozen=True):
    """`figures`: how much was tried, by what. `wrong`: each violation with what repeats it; empty is the proof."""

    name: str
    figures: dict[str, int | float | str]
    wrong: tuple[str, ...] = ()
