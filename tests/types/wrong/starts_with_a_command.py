"""A saga starts with an event."""

from __future__ import annotations

from orchestrator import Saga, step
from tests.types.good import ReserveStock


class Wrong(Saga, key="order_id", starts=ReserveStock):  # error
    order_id: str

    @step(undo=None)
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id, ())
