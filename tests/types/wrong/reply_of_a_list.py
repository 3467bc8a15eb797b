"""A list step is answered element by element."""

from __future__ import annotations

from orchestrator import Saga, step
from tests.types.good import BookRoom, OrderPlaced, RoomBooked


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step(undo=None)
    def rooms(self) -> list[BookRoom]:
        return [BookRoom("Ritz")]

    @rooms.on  # error
    def booked(self, replies: list[RoomBooked]) -> None: ...
