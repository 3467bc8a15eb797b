"""What a name that is none may have been meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, names: Iterable[str], most: int = 1, likeness: float = 0.6) -> list[str]:
    """Those of `names` that are like it, the likest first; `likeness` from 0 (anything) to 1 (the same)."""
    return get_close_matches(name, list(names), most, likeness)
