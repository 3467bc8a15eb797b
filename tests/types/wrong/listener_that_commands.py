"""A listener publishes events; commands are a saga's."""

from __future__ import annotations

from orchestrator import listener
from tests.types.good import OrderFulfilled, ReleaseStock


@listener  # error
async def release(event: OrderFulfilled) -> ReleaseStock:
    return ReleaseStock(event.order_id)
