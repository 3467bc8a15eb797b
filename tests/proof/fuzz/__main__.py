"""Repeat one case: `python -m tests.proof.fuzz NAME HEX`; or all of one parser, or of all: `[NAME] [SHARE]`."""

from __future__ import annotations

import sys

from . import PARSERS
from .cases import attempt, tried

names = [name for name in sys.argv[1:2] if name in PARSERS]
rest = sys.argv[1 + len(names) :]
is_share = not rest or (("." in rest[0] or len(rest[0]) == 1) and rest[0] != "-")
if is_share:
    for name in names or PARSERS:
        it = tried(PARSERS[name], 0, float(rest[0]) if rest else 1.0)
        rate = f"{it.cases / it.seconds:>9,.0f}/s {it.seconds:5.1f} s"
        print(f"{name:<24}{it.cases:>8,}{it.taken / max(1, it.cases):>7.0%}{rate}", *it.wrong, sep="\n  ")
else:
    print(attempt(PARSERS[names[0]], bytes.fromhex(rest[0].strip("-"))))
