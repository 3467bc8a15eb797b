"""Several replies may come, and the handler forgets one."""

from __future__ import annotations

from orchestrator import Saga, step
from tests.types.good import CheckProgress, OrderPlaced, StillOpen


class Wrong(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step
    def check(self) -> CheckProgress:
        return CheckProgress(self.order_id)

    @check.on  # error
    def progress(self, reply: StillOpen) -> None: ...
