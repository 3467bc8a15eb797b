"""The end of a child is its own last state."""

from __future__ import annotations

from orchestrator import Child, Saga, step
from tests.types.good import Car, CarWanted, Claim, OrderPlaced


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step
    def car(self) -> Child[Car]:
        return Child(Car, CarWanted(self.order_id))

    @car.on  # error
    def hired(self, end: Claim) -> None: ...
