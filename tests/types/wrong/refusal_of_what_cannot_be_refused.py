"""A command without refusals is not refused."""

from __future__ import annotations

from orchestrator import Saga, step
from tests.types.good import OrderPlaced, OutOfStock, ReleaseStock


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step(undo=None)
    def release(self) -> ReleaseStock:
        return ReleaseStock(self.order_id)

    @release.refused  # error
    def refused(self, refusal: OutOfStock) -> None: ...
