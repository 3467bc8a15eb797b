"""A teller for the tests of projections on the command line: `app` is what --app finds.

TELLER_BAD names a payment that its projection cannot take, TELLER_SLOW_S how long each takes.
"""

from __future__ import annotations

import os
import time

from orchestrator import App, Delivery, Event, Projection, Recorded, listener, project


class Paid(Event):
    cents: int


@listener
async def keep(event: Paid, delivery: Delivery) -> None:
    await delivery.events.append("till", event, key=delivery.id)


class Till(Projection, version=int(os.environ.get("TELLER_VERSION", "1"))):
    """Every payment."""

    tables = "CREATE TABLE till (position INTEGER PRIMARY KEY, cents INTEGER NOT NULL) STRICT"

    @project
    def paid(self, event: Paid, at: Recorded) -> None:
        time.sleep(float(os.environ.get("TELLER_SLOW_S", "0")))
        if str(event.cents) == os.environ.get("TELLER_BAD"):
            raise ValueError("this coin is bent")
        self.db.execute("INSERT INTO till VALUES (?, ?)", (at.position, event.cents))


app = App("teller", listeners=[keep], projections=[Till])
