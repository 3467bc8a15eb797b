"""What failed for a technical reason comes as a Failure."""

from __future__ import annotations

from orchestrator import Saga, step
from tests.types.good import OrderPlaced, OutOfStock, ReserveStock


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step(undo=None)
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id, ())

    @reserve.failed  # error
    def failed(self, failure: OutOfStock) -> None: ...
