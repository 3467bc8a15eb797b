"""There is no such step."""

from __future__ import annotations

from orchestrator import Goto, Saga, step
from tests.types.good import OrderPlaced, ReserveStock, StockReserved


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step(undo=None)
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id, ())

    @reserve.on
    def reserved(self, reply: StockReserved) -> Goto:
        return Goto(self.ship)  # error
