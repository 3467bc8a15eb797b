"""The store on SQLite: one file, one process that writes it, any number that read."""

from .store import SQLiteStore

__all__ = ["SQLiteStore"]
