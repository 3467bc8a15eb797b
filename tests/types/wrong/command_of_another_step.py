"""The last parameter is the command that the step sent."""

from __future__ import annotations

from orchestrator import Saga, step
from tests.types.good import BookRoom, OrderPlaced, ReserveStock, StockReserved


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step(undo=None)
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id, ())

    @reserve.on  # error
    def reserved(self, reply: StockReserved, command: BookRoom) -> None: ...
