"""Every place where bytes or words from outside are read, under cases that are nearly right: nothing but the declared
errors, nothing slow, and what is taken is safe to store, to send on and to show.
"""

from __future__ import annotations

from ..proved import Proved
from . import control, messages, shown, stored, words
from .cases import Parser, tried

PARSERS: dict[str, Parser] = {
    parser.name: parser
    for parser in (*messages.PARSERS, *stored.PARSERS, *control.PARSERS, *words.PARSERS, *shown.PARSERS)
}


def prove(*, seed: int = 0, share: float = 1.0) -> Proved:
    """Try every parser. `figures`: for each its cases, the share that was taken, cases a second."""
    figures: dict[str, int | float | str] = {}
    wrong: list[str] = []
    for name, parser in PARSERS.items():
        result = tried(parser, seed, share)
        figures[name] = (
            f"{result.cases:,} cases, {result.taken / max(1, result.cases):.0%} taken, "
            f"{result.cases / max(result.seconds, 1e-9):,.0f}/s, slowest {1_000 * result.slowest_s:.0f} ms"
        )
        wrong += result.wrong
    return Proved("fuzz", figures, tuple(wrong))
