"""How much one instance may hold (R20). What is over a limit is parked, refused or a dead letter; nothing is lost."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

AtLeastOne = Annotated[int, Meta(ge=1, le=10**9)]
Seconds = Annotated[float, Meta(gt=0, lt=1e10)]  # 300 years: every moment reckoned with them is in the calendar


class MachineLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the machine holds an instance to (R20), as numbers of things and seconds.

    kept_events      events kept for steps not entered yet, per instance (R12)
    visits           visits of one step in one run: what a loop of Gotos may cost
    fan_out          commands or children of one list step
    queue            messages queued behind a bug, per instance (R15)
    waiting_room_s   seconds an early message waits for its instance (R11): 7 days
    """

    kept_events: AtLeastOne = 100
    visits: AtLeastOne = 10_000
    fan_out: AtLeastOne = 10_000
    queue: AtLeastOne = 1_000
    waiting_room_s: Seconds = 7 * 86_400.0
