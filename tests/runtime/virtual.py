"""Virtual time: the event loop jumps to its next timer when nothing is ready; hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

import anyio

START = 1_700_000_000.0


class _Jumping(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return super().select(None)
        if ready := super().select(0.001):  # a real moment for threads
            return ready
        self.loop.skipped += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when all wait."""

    skipped = 0.0

    def __init__(self) -> None:
        selector = _Jumping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return super().time() + self.skipped


class LoopClock:
    """The Clock port on the loop's time."""

    def __init__(self) -> None:
        self._began = anyio.current_time()

    def now(self) -> float:
        return START + anyio.current_time() - self._began

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)
