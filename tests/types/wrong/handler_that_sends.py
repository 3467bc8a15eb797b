"""A handler sends nothing; to send, it goes to a step."""

from __future__ import annotations

from orchestrator import Saga, step
from tests.types.good import OrderPlaced, ReleaseStock, ReserveStock, StockReserved


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step(undo=None)
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id, ())

    @reserve.on  # error
    def reserved(self, reply: StockReserved) -> ReleaseStock:
        return ReleaseStock(self.order_id)
