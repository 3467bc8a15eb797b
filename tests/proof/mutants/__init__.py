"""The test of the tester: deliberate bugs, each of which something must notice."""

from .proving import prove

__all__ = ["prove"]
