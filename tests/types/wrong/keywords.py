"""Keywords that a saga and a message do not have."""

from __future__ import annotations

from orchestrator import Event, Saga
from tests.types.good import OrderPlaced


class Wrong(Saga, keys="order_id", starts=OrderPlaced):  # error
    order_id: str


class Shipped(Event, name="order.shipped"):  # error
    order_id: str
