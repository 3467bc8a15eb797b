"""A participant carries out commands."""

from __future__ import annotations

from orchestrator import participant
from tests.types.good import OrderPlaced, StockReserved


@participant  # error
async def place(command: OrderPlaced) -> StockReserved:
    return StockReserved(command.order_id)
