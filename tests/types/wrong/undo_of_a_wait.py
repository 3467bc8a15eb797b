"""There is nothing to undo in waiting."""

from __future__ import annotations

from orchestrator import Saga, Wait, days, step
from tests.types.good import OrderPlaced, ReleaseStock


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step
    def approval(self) -> Wait:
        return Wait(days(3))

    @approval.compensate  # error
    def release(self) -> ReleaseStock:
        return ReleaseStock(self.order_id)
