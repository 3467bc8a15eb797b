"""Power loss, failing disks and flipped bits, under the real store."""

from .run import prove

__all__ = ["prove"]
