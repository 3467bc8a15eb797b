"""A bank's loan applications: a saga that is driven by what happens outside.

Nothing here runs by itself. Every step but two waits: for the form, for a first assessment, for the customer, for
three departments that sign in any order. Whatever stage it has reached, "declined" or "cancelled" undoes it: the
money that was set aside goes back.

The messages are those of a real bank's log (BPI Challenge 2012: 262,200 events of 13,087 applications), a line each:

    {"application_id": "173688", "activity": "A_SUBMITTED", "lifecycle": "complete", "amount_requested": 20000, ...}

    export ORCHESTRATOR_APP=sagas/loan_application.py
    orchestrator run
    python sagas/loan_application.py events sagas/sample_loans.jsonl | orchestrator emit -
    python sagas/loan_application.py outcomes sqlite:///orchestrator.db

The bank keeps its ledger in the folder LOANS_DATA (default ./loans_data).
"""

import asyncio
import gzip
import json
import os
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from orchestrator import (
    App,
    Call,
    Command,
    Compensate,
    Event,
    Fatal,
    Find,
    Goto,
    Saga,
    Stay,
    Wait,
    days,
    on,
    open_store,
    participant,
    step,
)

# What happens at the bank. Each event's wire type is the name of the activity in the log.


class Submitted(Event, type="A_SUBMITTED"):
    """A customer asks for a loan."""

    application_id: str
    amount_requested: int


class PartlySubmitted(Event, type="A_PARTLYSUBMITTED"):
    """The form passed the automatic checks."""

    application_id: str


class Preaccepted(Event, type="A_PREACCEPTED"):
    """The first assessment is good; the customer must complete the papers."""

    application_id: str


class Accepted(Event, type="A_ACCEPTED"):
    """The papers are complete."""

    application_id: str


class Finalized(Event, type="A_FINALIZED"):
    """The offer is made out."""

    application_id: str


class Approved(Event, type="A_APPROVED"):
    """The credit department signed."""

    application_id: str


class Registered(Event, type="A_REGISTERED"):
    """The back office entered the contract."""

    application_id: str


class Activated(Event, type="A_ACTIVATED"):
    """The account is open."""

    application_id: str


class Declined(Event, type="A_DECLINED"):
    """The bank says no; possible at any time."""

    application_id: str


class Cancelled(Event, type="A_CANCELLED"):
    """The customer, or his silence, says no; possible at any time."""

    application_id: str


class OfferChanged(Event):
    """An offer was selected, created, sent, sent back, accepted, declined or cancelled (the log's O_*)."""

    application_id: str
    activity: str


class WorkItemChanged(Event):
    """Somebody of the staff took up, finished or was given a piece of work (the log's W_*)."""

    application_id: str
    activity: str
    lifecycle: str


class CompletionWanted(Event):
    """Published: the customer should be told again which papers are missing."""

    application_id: str
    reminder: int


# What is asked of the treasury.


class ReserveFunds(Command):
    """Set the amount aside."""

    application_id: str
    amount: int


class ReleaseFunds(Command):
    """Give it back to the pool."""

    application_id: str


class PaidOut(Event):
    """The customer has it."""

    amount: int


class PayOut(Command[PaidOut]):
    """Pay what was set aside to the customer."""

    application_id: str


# The process.


class LoanApplication(Saga, key="application_id", starts=Submitted):
    """From the form to the money, or to a no."""

    application_id: str
    amount_requested: int
    outcome: str = ""  # "activated", "declined" or "cancelled"; empty while the application is open
    offer: str = ""  # what was last heard of the offer
    offers: int = 0
    work_items: int = 0  # pieces of work that the staff finished
    reminders: int = 0

    @step
    def intake(self) -> Wait:
        return Wait(days(30))

    @intake.on
    def partly_submitted(self, event: PartlySubmitted) -> None: ...

    @step
    def assessment(self) -> Wait:
        return Wait(days(30))

    @assessment.on
    def preaccepted(self, event: Preaccepted) -> None: ...

    @step
    def remind(self) -> CompletionWanted | None:  # nothing to do the first time; `silent` comes back to it
        return CompletionWanted(self.application_id, self.reminders) if self.reminders else None

    @step
    def completion(self) -> Wait:
        return Wait(days(30))

    @completion.on
    def accepted(self, event: Accepted) -> None: ...

    @completion.late
    def silent(self) -> Goto | Compensate:
        if self.reminders == 3:
            return self._ends("cancelled", "three reminders and no answer")
        self.reminders += 1
        return Goto(self.remind)

    @step
    def reserve(self) -> ReserveFunds:
        return ReserveFunds(self.application_id, self.amount_requested)

    @reserve.compensate
    def release(self) -> ReleaseFunds:
        return ReleaseFunds(self.application_id)

    @step
    def finalization(self) -> Wait:
        return Wait(days(60))

    @finalization.on
    def finalized(self, event: Finalized) -> None: ...

    # Three departments sign, in any order: three branches that start together, and are joined by the step after them.

    @step(after=finalization)
    def approval(self) -> Wait:
        return Wait(days(180))

    @approval.on
    def approved(self, event: Approved) -> None: ...

    @step(after=finalization)
    def registration(self) -> Wait:
        return Wait(days(180))

    @registration.on
    def registered(self, event: Registered) -> None: ...

    @step(after=finalization)
    def activation(self) -> Wait:
        return Wait(days(180))

    @activation.on
    def activated(self, event: Activated) -> None: ...

    @step(pivot=True)
    def pay_out(self) -> PayOut:
        return PayOut(self.application_id)

    @pay_out.on
    def paid_out(self, reply: PaidOut) -> None:
        self.outcome = "activated"

    # What may come at any time.

    @on
    def declined(self, event: Declined) -> Compensate:
        return self._ends("declined", "the bank declined")

    @on
    def cancelled(self, event: Cancelled) -> Compensate:
        return self._ends("cancelled", "the customer cancelled")

    @on
    def offer_changed(self, event: OfferChanged) -> Stay:
        self.offer = event.activity
        self.offers += event.activity == "O_CREATED"
        return Stay()

    @on
    def work_item_changed(self, event: WorkItemChanged) -> Stay:
        self.work_items += event.lifecycle == "complete"
        return Stay()

    def _ends(self, outcome: str, why: str) -> Compensate:
        self.outcome = outcome
        return Compensate(why)


# The treasury: the participant, and its ledger in the folder LOANS_DATA.

FUNDS = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS funds (application_id TEXT, amount INTEGER, state TEXT, key TEXT PRIMARY KEY);"""


def ledger() -> sqlite3.Connection:
    folder = Path(os.environ.get("LOANS_DATA", "loans_data"))
    folder.mkdir(parents=True, exist_ok=True)
    treasury = sqlite3.connect(folder / "treasury.db", isolation_level=None)
    treasury.executescript(FUNDS)
    return treasury


@asynccontextmanager
async def open_treasury() -> AsyncGenerator[sqlite3.Connection]:
    """Only the daemon enters this."""
    with closing(ledger()) as treasury:
        yield treasury


@participant
async def reserve_funds(command: ReserveFunds, call: Call[sqlite3.Connection]) -> None:
    async with call.once(call.resources) as first:
        if first:
            row = command.application_id, command.amount, "reserved", call.key
            call.resources.execute("INSERT INTO funds VALUES (?, ?, ?, ?)", row)


@participant
async def release_funds(command: ReleaseFunds, call: Call[sqlite3.Connection]) -> None:
    async with call.once(call.resources) as first:
        if first:
            call.resources.execute("UPDATE funds SET state = 'released' WHERE key = ?", [call.undoes])


@participant
async def pay_out(command: PayOut, call: Call[sqlite3.Connection]) -> PaidOut:
    async with call.once(call.resources) as first:
        if not first:
            return first.answer
        pay = "UPDATE funds SET state = 'paid' WHERE application_id = ? AND state = 'reserved' RETURNING amount"
        paid = call.resources.execute(pay, [command.application_id]).fetchone()
        if paid is None:
            raise Fatal(f"nothing is reserved for {command.application_id}")
        return first.answers(PaidOut(paid[0]))


app = App(
    "bank",
    sagas=[LoanApplication],
    participants=[reserve_funds, release_funds, pay_out],
    resources=open_treasury,
)


# The log as events, and how the applications ended.


def events(log: Iterable[str]) -> Iterator[str]:
    """Each line of the log as an event: {"type": ..., "data": the line}."""
    for line in log:
        activity: str = json.loads(line)["activity"]
        wire_type = {"O": "OfferChanged", "W": "WorkItemChanged"}.get(activity[0], activity)
        yield f'{{"type": "{wire_type}", "data": {line.strip()}}}\n'


async def outcomes(store_url: str) -> Counter[str]:
    """How many applications were activated, declined and cancelled, and how many are open; also while a daemon runs."""
    found: Counter[str] = Counter()
    page, cursor = None, ""
    async with open_store(store_url, read_only=True) as store:
        while page is None or cursor:
            page = await store.find(Find(saga="LoanApplication", limit=500, cursor=cursor))
            found.update(json.loads(bytes(instance.state))["outcome"] or "open" for instance in page.items)
            cursor = page.next
    return found


def main(verb: str, place: str) -> None:
    if verb == "events":
        with (gzip.open if place.endswith(".gz") else open)(place, "rt") as log:
            sys.stdout.writelines(events(log))
    else:
        for outcome, count in sorted(asyncio.run(outcomes(place)).items()):
            print(f"{count:7,} {outcome}")


if __name__ == "__main__":
    main(*sys.argv[1:])
