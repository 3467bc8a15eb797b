"""A memory store that fails as it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from orchestrator.errors import StoreUnavailable
from orchestrator.machine.instance import Instance
from orchestrator.machine.transition import Transition
from orchestrator.memory import MemoryStore
from orchestrator.ports import Result
from orchestrator.wire import Address

Fault = Exception | str


class FaultyStore(MemoryStore):
    """`faults` are for the commits to come, in order: an exception is raised before anything is stored; "after" stores
    and says that it is not known; "" is none. `slow` holds each commit so many seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[Fault] = []
        self.choose: Callable[[], Fault] = lambda: self.faults.pop(0) if self.faults else ""
        self.groups: list[int] = []
        self.transitions: list[Transition] = []
        self.slow = 0.0
        self.loads = 0
        self.load_fails = 0

    async def commit(self, transitions: Sequence[Transition]) -> list[Result]:
        self.groups.append(len(transitions))
        if self.slow:
            await anyio.sleep(self.slow)
        fault = self.choose()
        if isinstance(fault, Exception):
            raise fault
        results = await super().commit(transitions)
        self.transitions += transitions
        if fault:
            raise StoreUnavailable("nothing is known")
        return results

    async def load(self, addresses: Sequence[Address]) -> list[Instance | None]:
        self.loads += 1
        if self.load_fails:
            self.load_fails -= 1
            raise StoreUnavailable("the disk is away")
        return await super().load(addresses)
