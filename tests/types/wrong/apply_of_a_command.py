"""An aggregate is made of events; a command is no event."""

from __future__ import annotations

from orchestrator import Aggregate, Command, apply


class Do(Command):
    n: int


class Wrong(Aggregate):
    total: int = 0

    @apply  # error
    def done(self, event: Do) -> None:
        self.total += event.n

    def do(self) -> None:
        self.record(Do(1))  # error
