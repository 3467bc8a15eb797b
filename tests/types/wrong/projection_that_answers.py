"""A handler of a projection returns nothing."""

from __future__ import annotations

from orchestrator import Projection, project
from tests.types.good import OrderPlaced


class Placed(Projection):
    @project  # error
    def placed(self, event: OrderPlaced) -> int:
        return 1
