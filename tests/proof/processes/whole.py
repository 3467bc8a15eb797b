"""All that is done to real daemons, in the size of the proof."""

from __future__ import annotations

import math
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..proved import Proved
from . import troubles
from .kills import MUST_BE_SEEN, Found, shop_killed, works_killed

KILLS = {"works": 75, "shop": 25}
TERMINATIONS = 10
TROUBLES: tuple[tuple[str, Callable[[Path, random.Random], Found]], ...] = (
    ("pauses", troubles.paused),
    ("no room", troubles.without_room),
    ("file size", troubles.within_a_file_size),
    ("rivals", troubles.rivals),
    ("clock", troubles.clock_set),
    ("backups", troubles.backed_up),
)
WHOLE = 0.5  # of the size, from which on every way to die has to be seen


def prove(*, seed: int = 0, share: float = 1.0) -> Proved:
    """A hundred kills and every trouble, or a share of them. What goes wrong says where its files are kept."""
    parts: list[tuple[str, Callable[[Path, random.Random], Found]]] = [
        ("works killed", partial(works_killed, count=math.ceil(KILLS["works"] * share))),
        ("shop killed", partial(shop_killed, count=math.ceil(KILLS["shop"] * share))),
        ("SIGTERM", partial(troubles.terminated, times=math.ceil(TERMINATIONS * share))),
    ]
    first = seed % len(TROUBLES)  # a small share takes others with each seed
    parts += (TROUBLES[first:] + TROUBLES[:first])[: math.ceil(len(TROUBLES) * share)]
    figures: dict[str, int | float | str] = {}
    wrong: list[str] = []
    for name, part in parts:
        if part is troubles.clock_set and troubles.compiler() is None:
            figures["clock jumps"] = "skipped: no C compiler"
            continue
        found = kept_if_wrong(name, part, seed)
        figures |= found.figures
        wrong += found.wrong
    if share >= WHOLE:
        wrong += [f"seed {seed}: void, no daemon was {phase}" for phase in MUST_BE_SEEN if not figures.get(str(phase))]
    return Proved("processes", figures, tuple(wrong))


def kept_if_wrong(name: str, part: Callable[[Path, random.Random], Found], seed: int) -> Found:
    """Run a part in a folder of its own, which stays if something is wrong."""
    folder = Path(tempfile.mkdtemp(prefix="saga-proof-"))
    try:
        found = part(folder, random.Random(f"{name} {seed}"))
    except Exception:
        found = Found({}, (traceback.format_exc(),))
    if not found.wrong:
        shutil.rmtree(folder)
    return Found(found.figures, tuple(f"{name}, seed {seed}: {each} ({folder})" for each in found.wrong))
