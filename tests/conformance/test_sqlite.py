"""The SQLite store keeps the contract."""

from pathlib import Path

from orchestrator.testing.store_conformance import StoreConformance
from orchestrator_adapters.sqlite import SQLiteStore


class TestSQLiteStore(StoreConformance):
    def open_store(self, place: Path) -> SQLiteStore:
        return SQLiteStore.from_url(f"sqlite:///{place}/store.db")
