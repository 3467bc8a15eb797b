"""What sagas, stores and buses are tested with. The conformance suites need pytest, which is loaded with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import load_when_used

if TYPE_CHECKING:
    from .conformance import BusConformance, StoreConformance
    from .drive import Dialogue, Unwind, drive

if not TYPE_CHECKING:
    load_when_used(
        __name__, {"conformance": ("BusConformance", "StoreConformance"), "drive": ("Dialogue", "Unwind", "drive")}
    )

__all__ = ["BusConformance", "Dialogue", "StoreConformance", "Unwind", "drive"]
