"""The real time; tests and the simulation bring their own."""

from __future__ import annotations

import time

import anyio

LOOK_S = 5.0  # a clock that was set is noticed after that at the latest
SET_S = 1.0  # what a clock may lose or gain against the loop's in a nap, without having been set


class SystemClock:
    """The Clock port over the machine's clock."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds, or until the clock is set or the machine wakes up: then who waits for a moment looks
        again whether it has come.
        """
        began, ahead = anyio.current_time(), self._ahead()
        left = seconds
        while True:
            await anyio.sleep(min(left, LOOK_S))
            left = began + seconds - anyio.current_time()
            if left <= 0 or abs(self._ahead() - ahead) > SET_S:
                return

    def _ahead(self) -> float:
        """Of the loop's clock, which nobody sets."""
        return self.now() - anyio.current_time()
