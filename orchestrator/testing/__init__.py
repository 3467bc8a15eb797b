"""What sagas, stores, buses and participants are tested with. The suites need pytest, which is loaded with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import load_when_used

if TYPE_CHECKING:
    from ..checking import Report, Violation, check
    from ..checking.audit import Audit, Books, Delivered, Effect, audit
    from .bus_conformance import BusConformance
    from .collecting import sagas_of as sagas_of
    from .contract import ParticipantContract
    from .drive import Dialogue, Unwind, drive
    from .log_conformance import EventLogConformance
    from .store_conformance import StoreConformance

if not TYPE_CHECKING:
    load_when_used(
        __name__,
        {
            ".checking": ("Report", "Violation", "check"),
            ".checking.audit": ("Audit", "Books", "Delivered", "Effect", "audit"),
            "bus_conformance": ("BusConformance",),
            "collecting": ("sagas_of",),
            "store_conformance": ("StoreConformance",),
            "contract": ("ParticipantContract",),
            "drive": ("Dialogue", "Unwind", "drive"),
            "log_conformance": ("EventLogConformance",),
        },
    )

__all__ = [
    "Audit",
    "Books",
    "BusConformance",
    "Delivered",
    "Dialogue",
    "Effect",
    "EventLogConformance",
    "ParticipantContract",
    "Report",
    "StoreConformance",
    "Unwind",
    "Violation",
    "audit",
    "check",
    "drive",
]
