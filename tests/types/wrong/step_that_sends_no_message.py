"""A step sends a command, an event, a Wait or a Child."""

from __future__ import annotations

from orchestrator import Saga, step
from tests.types.good import OrderPlaced


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step  # error
    def reserve(self) -> int:
        return 1
