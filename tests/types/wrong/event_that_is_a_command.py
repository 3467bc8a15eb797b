"""What a Wait waits for is an event."""

from __future__ import annotations

from orchestrator import Saga, Wait, days, step
from tests.types.good import OrderPlaced, ReserveStock


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step
    def approval(self) -> Wait:
        return Wait(days(3))

    @approval.on  # error
    def asked(self, event: ReserveStock) -> None: ...
