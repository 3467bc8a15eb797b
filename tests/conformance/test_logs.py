"""The logs of the stores keep the contract."""

from pathlib import Path

from orchestrator.memory import MemoryStore
from orchestrator.testing import EventLogConformance
from orchestrator_adapters.sqlite import SQLiteStore


class TestMemoryLog(EventLogConformance):
    keeps = False

    def open_store(self, place: Path) -> MemoryStore:
        return MemoryStore.from_url("memory://")


class TestSQLiteLog(EventLogConformance):
    def open_store(self, place: Path) -> SQLiteStore:
        return SQLiteStore.from_url(f"sqlite:///{place}/store.db")
