"""A reply finds its instance without a key."""

from __future__ import annotations

from orchestrator import Saga, step
from tests.types.good import OrderPlaced, ReserveStock, StockReserved


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step(undo=None)
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id, ())

    @reserve.on(key="reservation_id")  # error
    def reserved(self, reply: StockReserved) -> None: ...
