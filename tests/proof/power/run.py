"""All of it, and whether the disk that forgets still tells good settings from bad ones."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from unittest.mock import patch

from ..proved import Proved
from .cutting import Cuts, cut
from .damage import cut_logs, flip
from .failing import fail_each
from .vfs import FULL, LOCKING, WAL
from .workload import PoweredStore

IMAGES = 20_000
COMPARED = 250  # images for each of the other settings
FLIPS = 2_000

ROLLBACK = {LOCKING: "PRAGMA locking_mode = NORMAL"}  # an exclusive one keeps its journal
GOOD = {
    "delete/extra": {**ROLLBACK, WAL: "PRAGMA journal_mode = DELETE", FULL: "PRAGMA synchronous = EXTRA"},
    "truncate/full": {**ROLLBACK, WAL: "PRAGMA journal_mode = TRUNCATE"},
}
LOSING = {
    "wal/normal": {FULL: "PRAGMA synchronous = NORMAL"},
    "delete/full": {**ROLLBACK, WAL: "PRAGMA journal_mode = DELETE"},
}
BREAKING = {
    "delete/off": {**ROLLBACK, WAL: "PRAGMA journal_mode = DELETE", FULL: "PRAGMA synchronous = OFF"},
    "off/full": {**ROLLBACK, WAL: "PRAGMA journal_mode = OFF"},
}


def prove(*, seed: int = 0, share: float = 1.0) -> Proved:
    """Cut the power at every act, fail every act, flip bits; the same of settings known to be good and to be bad."""
    began = perf_counter()
    ours = cut(seed, max(1, round(IMAGES * share)), audited=True)
    took = perf_counter() - began
    fails = fail_each(seed, share)
    logs = cut_logs(seed, share)
    flips = flip(seed, round(FLIPS * share))
    others = {
        name: cut(seed, max(60, round(COMPARED * share)), instead)
        for name, instead in {**GOOD, **LOSING, **BREAKING}.items()
    }
    figures: dict[str, int | float | str] = {
        "acts": ours.acts,
        "images": ours.images,
        "images, distinct": ours.distinct,
        "images a second": round((ours.images + ours.second) / took),
        "images of a second cut": ours.second,
        "images, the group under way there": ours.ahead,
        "images audited": ours.audits,
        "acknowledged lost": ours.lost,
        "scenarios with a failing act": fails.failed,
        "their images": fails.images,
        "logs cut or flipped": logs.images,
        "bits flipped": flips.flips,
        "flips refused or noticed": flips.refused + flips.noticed,
        "flips without consequence": flips.same,
        "flips silent": flips.silent,
        **{name: _line(cuts) for name, cuts in others.items()},
    }
    wrong = (*ours.wrong, *fails.wrong, *logs.wrong, *flips.wrong, *blind(others), *_forgiving(seed, share))
    return Proved("power", figures, wrong)


def _line(cuts: Cuts) -> str:
    return f"{cuts.lost} lost, {cuts.broken} broken, {cuts.torn} torn of {cuts.images}"


def blind(others: Mapping[str, Cuts]) -> list[str]:
    """Where the model does not see what is known of a setting."""
    return [
        *(f"the model blames {name}, known to be good: {others[name].wrong[0]}" for name in GOOD if others[name].wrong),
        *(f"the model does not see {name} lose anything" for name in LOSING if not others[name].lost),
        *(f"the model does not see {name} break anything" for name in BREAKING if not others[name].broken),
    ]


def _forgiving(seed: int, share: float) -> list[str]:
    """Where the model does not see what a store does that trusts a failed fsync, now or when it is started again."""
    few = max(0.3, share / 3)
    with patch("orchestrator_adapters.sqlite.store.is_lost_fsync", lambda _error: False):
        trusting = fail_each(seed, few, of="sync")
    with patch.object(PoweredStore, "writes_again", False):
        careless = fail_each(seed, few, of="sync")
    return [
        *(["the model does not see a store go on after a failed fsync"] if not trusting.wrong else []),
        *(["the model does not see a log that was left taken for what is on the disk"] if not careless.wrong else []),
    ]
