"""Messages do not change."""

from __future__ import annotations

from tests.types.good import OrderPlaced


def pay(order: OrderPlaced) -> None:
    order.order_id = "2"  # error
