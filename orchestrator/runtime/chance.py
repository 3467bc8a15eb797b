"""Ids by chance, drawn by the page: to ask the system for each costs as much as to encode ten messages."""

from __future__ import annotations

import os
import sys

ID_BYTES = 16
DRAWN_AT_ONCE = 256

_left: list[str] = []

if sys.platform != "win32":
    os.register_at_fork(after_in_child=_left.clear)  # parent and child must not give the same ids


def new_id() -> str:
    """32 hex digits of the system's randomness, given once; from any thread."""
    try:
        return _left.pop()
    except IndexError:
        drawn = os.urandom(ID_BYTES * DRAWN_AT_ONCE).hex()
        first, *others = [drawn[start : start + 2 * ID_BYTES] for start in range(0, len(drawn), 2 * ID_BYTES)]
        _left.extend(others)
        return first
