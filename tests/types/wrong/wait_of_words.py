"""A Wait is so many seconds."""

from __future__ import annotations

from orchestrator import Saga, Wait, step
from tests.types.good import OrderPlaced


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step
    def approval(self) -> Wait:
        return Wait("3 days")  # error
