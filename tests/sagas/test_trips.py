"""Trips from end to end, in this process: branches, a person, a child, and what the ledger says then."""

import json
import sqlite3
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator import Orchestrator
from orchestrator.messages import decode
from orchestrator.ports import Find
from tests.sagas.conftest import SAGAS
from tests.sagas.daemon import check_store
from trip_booking import Insurance, TripApproved, TripBooking, TripCancelled, TripDenied, TripRequested, app

TRIPS = {
    json.loads(line)["trip_id"]: decode(TripRequested, line.encode())
    for line in (SAGAS / "sample_trips.jsonl").read_text().splitlines()
}
OUR_BOOKINGS = ["car", "flight", "hotel", "payment", "policy"]


@pytest.fixture
async def orchestrator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Orchestrator]:
    monkeypatch.setenv("TRIP_DATA", str(tmp_path))
    async with Orchestrator(app, store=f"sqlite:///{tmp_path}/store.db") as orchestrator:
        yield orchestrator
    await check_store(f"sqlite:///{tmp_path}/store.db", app)


def booked(folder: Path) -> list[str]:
    connection = sqlite3.connect(folder / "bookings.db")
    found = [what for (what,) in connection.execute("SELECT what FROM bookings ORDER BY what")]
    connection.close()
    return found


async def test_an_approved_trip_is_booked(orchestrator: Orchestrator, tmp_path: Path) -> None:
    run = await orchestrator.start(TRIPS["T-1"], TripBooking)
    await orchestrator.emit(TripApproved("T-1", "Ines"))
    end = await run.end(timeout=10)
    assert (end.status, end.state.total) == ("completed", Decimal("852.80"))
    assert booked(tmp_path) == OUR_BOOKINGS


async def test_there_are_no_cars_in_venice(orchestrator: Orchestrator, tmp_path: Path) -> None:
    run = await orchestrator.start(TRIPS["T-2"], TripBooking)
    await orchestrator.emit(TripApproved("T-2", "Ines"))
    assert (await run.end(timeout=10)).state.car_reference == ""
    assert booked(tmp_path) == OUR_BOOKINGS[1:]


@pytest.mark.parametrize("trip_id", ["T-3", "T-4", "T-5", "T-6"])
async def test_a_refused_trip_leaves_nothing_booked(trip_id: str, orchestrator: Orchestrator, tmp_path: Path) -> None:
    run = await orchestrator.start(TRIPS[trip_id], TripBooking)
    await orchestrator.emit(TripApproved(trip_id, "Ines"))
    assert (await run.end(timeout=10)).status == "compensated"
    assert booked(tmp_path) == []


@pytest.mark.parametrize("event", [TripDenied("T-1", "Ines", "too far"), TripCancelled("T-1")])
async def test_a_denied_or_cancelled_trip_leaves_nothing_booked(
    event: TripDenied | TripCancelled, orchestrator: Orchestrator, tmp_path: Path
) -> None:
    run = await orchestrator.start(TRIPS["T-1"], TripBooking)
    await orchestrator.until_idle()
    assert booked(tmp_path) == ["car", "flight", "hotel"]
    await orchestrator.emit(event)
    assert (await run.end(timeout=10)).status == "compensated"
    assert booked(tmp_path) == []


async def test_a_card_that_is_refused_unwinds_the_insurance(orchestrator: Orchestrator, tmp_path: Path) -> None:
    run = await orchestrator.start(TRIPS["T-6"], TripBooking)
    await orchestrator.emit(TripApproved("T-6", "Ines"))
    await run.end(timeout=10)
    [insurance] = (await orchestrator.find(Find(saga="Insurance"))).items
    assert insurance.status == "compensated"
    assert (await orchestrator.get(Insurance, insurance.key).state()).policy.startswith("PO-")
