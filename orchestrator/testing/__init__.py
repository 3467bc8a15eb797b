"""What sagas, stores and buses are tested with."""

from .drive import Dialogue, Unwind, drive

__all__ = ["Dialogue", "Unwind", "drive"]
