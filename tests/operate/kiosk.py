"""A kiosk for the tests of the daemon and of the verbs that act: `app` is what --app finds.

KIOSK_LOG names a file that gets a line for each command as it is carried out.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio

from orchestrator import Command, Event, Refusal, Retry, Saga, Wait, days, step
from orchestrator.app import App
from orchestrator.participant import Call, participant


class Ordered(Event):
    order: str
    takes: float = 0.0  # seconds until it is brewed


class Paid(Event):
    order: str


class Brewed(Event):
    cup: str


class NoBeans(Refusal):
    pass


class Brew(Command[Brewed, NoBeans]):
    order: str
    takes: float


class PourAway(Command):
    order: str


class Serve(Command):
    order: str


class Thank(Command):
    order: str


class Coffee(Saga, key="order", starts=Ordered):
    """Brew, wait for the money, serve (the pivot), thank; an order named bad... cannot be thanked for and parks."""

    order: str
    takes: float
    cup: str = ""

    @step
    def brew(self) -> Brew:
        return Brew(self.order, self.takes)

    @brew.on
    def brewed(self, reply: Brewed) -> None:
        self.cup = reply.cup

    @brew.compensate
    def pour_away(self) -> PourAway:
        return PourAway(self.order)

    @step
    def pay(self) -> Wait:
        return Wait(days(1))

    @pay.on
    def paid(self, event: Paid) -> None:
        pass

    @step(pivot=True)
    def serve(self) -> Serve:
        return Serve(self.order)

    @serve.compensate
    def take_back(self) -> PourAway:
        return PourAway(self.order)

    @step(retry=Retry(attempts=1))
    def thank(self) -> Thank:
        return Thank(self.order)


def note(text: str) -> None:
    if path := os.environ.get("KIOSK_LOG"):
        with Path(path).open("a") as log:
            log.write(text + "\n")


@participant
async def brew(command: Brew, call: Call) -> Brewed | NoBeans:
    note(f"begin {call.key}")
    await anyio.sleep(command.takes)
    note(f"end {call.key}")
    return NoBeans() if command.order.startswith("none") else Brewed(f"cup of {command.order}")


@participant
async def pour_away(command: PourAway, call: Call) -> None:
    note(f"pour away {call.undoes}")


@participant
def serve(command: Serve, call: Call) -> None:
    if command.order.startswith("stuck"):
        time.sleep(60)  # a thread that nobody can cancel


@participant
async def thank(command: Thank, call: Call) -> None:
    if command.order.startswith("bad"):
        raise RuntimeError("lost for words")


app = App("kiosk", sagas=[Coffee], participants=[brew, pour_away, serve, thank])
lonely = App("lonely", sagas=[Coffee], participants=[brew])
