"""The in-memory ports keep the contract."""

from pathlib import Path

import pytest

from orchestrator.errors import BusUnavailable, ConfigError
from orchestrator.memory import MemoryBus, MemoryStore
from orchestrator.ports import Topic
from orchestrator.testing.bus_conformance import BusConformance, message
from orchestrator.testing.store_conformance import StoreConformance, made, moved


class TestMemoryStore(StoreConformance):
    keeps = False

    def open_store(self, place: Path) -> MemoryStore:
        return MemoryStore.from_url("memory://")

    async def test_leaving_and_entering_again_keeps_what_it_holds(self) -> None:
        store = MemoryStore()
        async with store:
            await store.commit([moved(made())])
        async with store:
            assert await store.load([made().address]) == [made()]


class TestMemoryBus(BusConformance):
    def open_bus(self) -> MemoryBus:
        return MemoryBus.from_url("memory://")

    async def test_a_bus_that_is_not_open(self) -> None:
        bus = MemoryBus()
        assert not await bus.healthy()
        with pytest.raises(BusUnavailable):
            await bus.publish([message("A")])
        with pytest.raises(BusUnavailable):
            async with bus.subscribe([Topic("A")], "g", 1):
                pass


@pytest.mark.parametrize("url", ["memory://x", "memory:///x", "memory://?size=1", "sqlite:///x"])
def test_memory_takes_nothing_in_its_url(url: str) -> None:
    with pytest.raises(ConfigError, match="memory://"):
        MemoryStore.from_url(url)
    with pytest.raises(ConfigError, match="memory://"):
        MemoryBus.from_url(url)


def test_nobody_reads_a_memory_store_from_outside() -> None:
    with pytest.raises(ConfigError):
        MemoryStore.from_url("memory://", read_only=True)
