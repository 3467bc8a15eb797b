"""How fast projections may be: as fast as they can while nothing else is to do here, else so that sagas do not wait."""

from __future__ import annotations

import time
from collections.abc import Callable

# Python lets one thread run at a time, and a thread that wants to run waits for up to 5 ms: each time that a saga comes
# back from the database. So while there is other work, a projection's thread sleeps for a moment after every few
# events, and works in small pieces. Without that, a rebuild took half of the speed of the sagas beside it; with it a
# loss is lost in the noise up to 32 in flight, and a rebuild has a tenth to a third of its own speed.
BUSY_BATCH = 100  # events of a transaction
EVENTS = 10
NAP_S = 0.0001


class Pace:
    """Asked from any thread; `is_busy` says whether there is other work in this process at present."""

    def __init__(self, batch: int, is_busy: Callable[[], bool]) -> None:
        """`batch` events at most are one transaction."""
        self._batch = batch
        self._is_busy = is_busy

    @property
    def batch(self) -> int:
        """How many events the next transaction may have."""
        return min(self._batch, BUSY_BATCH) if self._is_busy() else self._batch

    def give_way(self, index: int) -> None:
        """Let others run, before the event of this place in its transaction."""
        if index % EVENTS == 0 and self._is_busy():
            time.sleep(NAP_S)
