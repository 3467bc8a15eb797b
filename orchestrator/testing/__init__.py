"""What sagas, stores, buses and participants are tested with. The suites need pytest, which is loaded with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checking import Report, Violation, check
from ..lazy import load_when_used

if TYPE_CHECKING:
    from .conformance import BusConformance, StoreConformance
    from .contract import ParticipantContract
    from .drive import Dialogue, Unwind, drive

if not TYPE_CHECKING:
    load_when_used(
        __name__,
        {
            "conformance": ("BusConformance", "StoreConformance"),
            "contract": ("ParticipantContract",),
            "drive": ("Dialogue", "Unwind", "drive"),
        },
    )

__all__ = [
    "BusConformance",
    "Dialogue",
    "ParticipantContract",
    "Report",
    "StoreConformance",
    "Unwind",
    "Violation",
    "check",
    "drive",
]
