"""Only what waits for an event can stay."""

from __future__ import annotations

from orchestrator import Saga, Stay, step
from tests.types.good import OrderPlaced, ReserveStock, StockReserved


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step(undo=None)
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id, ())

    @reserve.on  # error
    def reserved(self, reply: StockReserved) -> Stay:
        return Stay()
