"""What one part of the proof did, and what it found."""

from __future__ import annotations

import importlib
import time

from msgspec import Struct


class Proved(Struct, frozen=True):
    """`figures`: how much was tried, by what. `wrong`: each violation with what repeats it; empty is the proof."""

    name: str
    figures: dict[str, int | float | str]
    wrong: tuple[str, ...] = ()


def prove_part(part: str, seed: int, share: float) -> tuple[Proved, float]:
    """One part of the proof, and how many seconds it took."""
    began = time.monotonic()
    try:
        proved = importlib.import_module(f"{__package__}.{part}").prove(seed=seed, share=share)
    except Exception as error:
        raise RuntimeError(f"the part {part} of the proof broke down (seed {seed}): {error!r}") from error
    return proved, time.monotonic() - began
