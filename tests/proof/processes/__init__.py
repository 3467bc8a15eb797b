"""Real daemons under kill -9, signals, pauses, a full disk, rivals, a clock that is set, and a backup under load."""

from __future__ import annotations

from ..proved import Proved


def prove(*, seed: int = 0, share: float = 1.0) -> Proved:
    """A hundred kills and every trouble, or a share of them. What goes wrong says where its files are kept."""
    from . import whole  # not above: the daemons import this package with their app, and many are started

    return whole.prove(seed=seed, share=share)
