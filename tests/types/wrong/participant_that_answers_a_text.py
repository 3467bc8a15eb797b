"""A participant answers with an event, a refusal or nothing."""

from __future__ import annotations

from orchestrator import participant
from tests.types.good import ReserveStock


@participant  # error
async def reserve(command: ReserveStock) -> str:
    return command.order_id
