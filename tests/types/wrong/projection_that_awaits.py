"""A handler of a projection is a plain def."""

from __future__ import annotations

from orchestrator import Projection, project
from tests.types.good import OrderPlaced


class Placed(Projection):
    @project  # error
    async def placed(self, event: OrderPlaced) -> None:
        self.db.execute("INSERT INTO placed VALUES (?)", (event.order_id,))
