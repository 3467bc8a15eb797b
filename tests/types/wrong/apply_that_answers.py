"""What an event does to an aggregate is done to its state; nobody is answered."""

from __future__ import annotations

from orchestrator import Aggregate, Event, apply


class Happened(Event):
    n: int


class Wrong(Aggregate):
    total: int = 0

    @apply  # error
    def happened(self, event: Happened) -> int:
        return event.n
