"""The engine, the SQLite store and the memory bus under virtual time, with every port call a fault point."""

from .proving import prove

__all__ = ["prove"]
