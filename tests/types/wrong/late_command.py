"""Only a Wait is late."""

from __future__ import annotations

from orchestrator import Saga, step
from tests.types.good import OrderPlaced, ReserveStock


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step(undo=None)
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id, ())

    @reserve.late  # error
    def overdue(self) -> None: ...
