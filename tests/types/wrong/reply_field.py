"""A field that the reply does not have."""

from __future__ import annotations

from orchestrator import Saga, step
from tests.types.good import OrderPlaced, ReserveStock, StockReserved


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step(undo=None)
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id, ())

    @reserve.on
    def reserved(self, reply: StockReserved) -> None:
        print(reply.tracking)  # error
