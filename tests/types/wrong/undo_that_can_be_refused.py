"""An undo must not be refused."""

from __future__ import annotations

from orchestrator import Saga, step
from tests.types.good import OrderPlaced, ReserveStock


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id, ())

    @reserve.compensate  # error
    def again(self) -> ReserveStock:
        return ReserveStock(self.order_id, ())
