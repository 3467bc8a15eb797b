"""First the reply, then the refusal."""

from __future__ import annotations

from orchestrator import Command
from tests.types.good import OutOfStock, StockReserved


class ReserveStock(Command[OutOfStock, StockReserved]):  # error
    order_id: str
