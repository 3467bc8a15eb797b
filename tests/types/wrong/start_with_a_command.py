"""An instance starts with an event."""

from __future__ import annotations

from orchestrator import Orchestrator
from tests.types.good import ReleaseStock, app


async def begin() -> None:
    async with Orchestrator(app) as orchestrator:
        await orchestrator.start(ReleaseStock("1"))  # error
