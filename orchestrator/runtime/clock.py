"""The real time; tests and the simulation bring their own."""

from __future__ import annotations

import time

import anyio


class SystemClock:
    """The Clock port over the machine's clock."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""
        await anyio.sleep(seconds)
