"""A projection takes events."""

from __future__ import annotations

from orchestrator import Projection, project
from tests.types.good import ReserveStock


class Reserved(Projection):
    @project  # error
    def reserved(self, command: ReserveStock) -> None:
        self.db.execute("INSERT INTO reserved VALUES (?)", (command.order_id,))
