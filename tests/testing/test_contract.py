"""The participant contract: the examples keep it, a naive participant breaks each clause and is told what of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "sagas"))

import order_fulfilment as orders
import trip_booking as trips
from orchestrator import EventLog, participant
from orchestrator.testing import ParticipantContract
from orchestrator.testing.crash import MAX_CRASHES, chosen, killed_at_every_line

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "participants.md"
LINE = orders.Line(1, 2, Decimal(10))

# The examples keep it.


class ShopContract(ParticipantContract):
    """The shop with two products; product 2 is almost sold out."""

    logs: dict[Path, EventLog] = {}  # of the shops that are open, by their folders

    @pytest.fixture(autouse=True)
    def mood(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHOP_PAYMENTS", "decline=50")
        monkeypatch.setenv("SHOP_PRODUCTS", os.environ.get("SHOP_PRODUCTS", ""))  # so that it is as before at the end
        monkeypatch.setenv("SHOP_DATA", os.environ.get("SHOP_DATA", ""))

    @asynccontextmanager
    async def open_resources(self, place: Path) -> AsyncGenerator[orders.Shop]:
        products = place / "products.jsonl"
        products.write_text(
            '{"product_id": 1, "name": "Chai", "units_in_stock": 39}\n'
            '{"product_id": 2, "name": "Chang", "units_in_stock": 1}\n'
        )
        os.environ |= {"SHOP_DATA": str(place), "SHOP_PRODUCTS": str(products)}
        if place in self.logs:  # one program writes the shelves' store: another has all but that for itself
            with closing(orders.Shop(place, self.logs[place])) as shop:
                yield shop
            return
        async with orders.open_shop() as shop:
            self.logs[place] = shop.inventory.log
            try:
                yield shop
            finally:
                del self.logs[place]


class TestReserveStock(ShopContract):
    participant = orders.reserve_stock
    command = orders.ReserveStock("1", product_id=1, units=2)
    undo_participant = orders.release_stock
    undo_command = orders.ReleaseStock("1", product_id=1)
    refused_command = orders.ReserveStock("1", product_id=2, units=2)

    async def effects(self, resources: orders.Shop) -> Any:
        shelves = [await resources.inventory.shelves.load(id) for id in ("1", "2")]
        standing = [each for shelf in shelves for each in shelf.reservations.values() if not each.is_refused]
        return [shelf.left for shelf in shelves], [each for each in standing if not each.is_released]

    async def world_turns(self, resources: orders.Shop) -> None:
        left = (await resources.inventory.shelves.load("1")).left
        await resources.inventory.log.append("Shelf-1", orders.UnitsReserved("taken", "x", left))
        await resources.inventory.log.append("Shelf-2", orders.ShelfFilled("Chang", 9))


class TestChargeCard(ShopContract):
    participant = orders.charge_card
    command = orders.ChargeCard("1", "ALFKI", Decimal("12.50"))
    undo_participant = orders.refund_card
    undo_command = orders.RefundCard("1")
    refused_command = orders.ChargeCard("2", "ALFKI", Decimal("12.50"))

    def effects(self, resources: orders.Shop) -> Any:
        return resources.payments.db.execute("SELECT order_id, amount FROM charges WHERE NOT refunded").fetchall()

    def world_turns(self, resources: orders.Shop) -> None:
        resources.payments.mood = orders.Mood()


class TestShipOrder(ShopContract):
    """Past the pivot: nothing undoes it."""

    participant = orders.ship_order
    command = orders.ShipOrder("1", "Ada", "Norway", (LINE,))

    def effects(self, resources: orders.Shop) -> Any:
        return resources.shipping.db.execute("SELECT order_id, product_id, units FROM shipped").fetchall()


class TripContract(ParticipantContract):
    undo_participant = trips.undo

    @pytest.fixture(autouse=True)
    def own_data(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(trips, "FULL", {what: set(places) for what, places in trips.FULL.items()})
        monkeypatch.setattr(trips, "CARD_LIMIT", trips.CARD_LIMIT)
        monkeypatch.setenv("TRIP_DATA", str(tmp_path))

    @asynccontextmanager
    async def open_resources(self, place: Path) -> AsyncGenerator[trips.Bookings]:
        os.environ["TRIP_DATA"] = str(place)
        async with trips.open_bookings() as bookings:
            yield bookings

    def effects(self, resources: trips.Bookings) -> Any:
        return resources.execute("SELECT trip_id, what FROM bookings").fetchall()

    def world_turns(self, resources: trips.Bookings) -> None:
        for places in trips.FULL.values():
            places ^= {"Atlantis", "Oslo"}
        trips.CARD_LIMIT = Decimal(5000) if trips.CARD_LIMIT < 5000 else Decimal(9999)


class TestBookFlight(TripContract):
    participant = trips.book
    command = trips.BookFlight("T-1", "Oslo", date(2026, 1, 1))
    undo_command = trips.CancelFlight("T-1")
    refused_command = trips.BookFlight("T-1", "Atlantis", date(2026, 1, 1))


class TestBookHotel(TripContract):
    participant = trips.book
    command = trips.BookHotel("T-1", "Oslo", 3)
    undo_command = trips.CancelHotel("T-1")
    refused_command = trips.BookHotel("T-1", "Atlantis", 3)


class TestBookCar(TripContract):
    participant = trips.book
    command = trips.BookCar("T-1", "Oslo", 3)
    undo_command = trips.CancelCar("T-1")
    refused_command = trips.BookCar("T-1", "Atlantis", 3)


class TestIssuePolicy(TripContract):
    participant = trips.insure
    command = trips.IssuePolicy("T-1", Decimal(40))
    undo_command = trips.RevokePolicy("T-1")


class TestPay(TripContract):
    participant = trips.pay
    command = trips.Pay("T-1", Decimal(400))
    undo_command = trips.Refund("T-1")
    refused_command = trips.Pay("T-1", Decimal(6000))


# A naive one breaks it; others break one clause each. They are in contract_cases.py, run by a pytest of its own.

SENTENCES = {
    "test_do_twice": "take took effect twice for one key",
    "test_answer_does_not_change": "take answered Taken(left=8), and for the same key after other commands",
    "test_same_key_with_another_payload": "take took effect again, for another payload under a key",
    "test_a_refusal_is_remembered": "take refused a command, and when it came again gave Taken(",
    "test_two_attempts_at_once": "take did not have exactly one effect when attempts of one key came at the same time",
    "test_a_crash_between_effect_and_answer": "take was killed after its last line, before the answer left; when the "
    "same attempt came again, it did not end with exactly one effect",
    "test_a_crash_between_effect_and_answer_of_the_undo": "give was killed after its last line, before the answer left",
    "test_undo_twice": "give took effect twice for one key",
    "test_undo_before_do": "give undid what was never done",
    "test_do_after_undo": "take took effect again after its undo",
    "test_do_and_undo_at_once": "take and give ran at the same time, and something is left standing",
}
KILLED = "take was killed before contract_cases.py:"
UNDO_KILLED = "give was killed before contract_cases.py:"
FLAWS: dict[str, dict[str, str]] = {
    "Threaded": {},
    "ByHand": {},
    "Memory": {
        "test_two_attempts_at_once": "did not have exactly one effect",
        "test_a_crash_between_effect_and_answer": "take was killed after its last line, before the answer left",
        "test_a_crash_between_effect_and_answer_of_the_undo": UNDO_KILLED,
    },
    "TwoTransactions": {"test_a_crash_between_effect_and_answer": KILLED},
    "AnswerFirst": {"test_a_crash_between_effect_and_answer": KILLED},
    "NoTombstone": {"test_undo_before_do": "take took effect after an undo that overtook it"},
    "DoneAgain": {"test_do_after_undo": "take came again after its undo, and gave Taken(left=8)"},
    "AnyPayload": {"test_same_key_with_another_payload": "take gave Taken(left=8) for another payload"},
    "RefusalForgotten": {"test_a_refusal_is_remembered": "when it came again gave Taken("},
    "AnotherAnswer": {"test_answer_does_not_change": "take answered Taken(left=8), and for the same key after"},
    "Hurried": {
        "test_two_attempts_at_once": "did not have exactly one effect",
        "test_do_and_undo_at_once": "take and give ran at the same time, and something is left standing",
    },
    "UndoFails": {"test_undo_before_do": "give came before its do and gave LookupError"},
    "UndoTwice": {
        "test_undo_twice": "give took effect twice",
        "test_a_crash_between_effect_and_answer_of_the_undo": "give was killed after its last line",
    },
    "UndoInTwo": {"test_a_crash_between_effect_and_answer_of_the_undo": UNDO_KILLED},
}


def ran(*words: str, cwd: Path = HERE) -> subprocess.CompletedProcess[str]:
    """A pytest of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-W", "error", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=250)


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, str]]:
    """What it said of contract_cases.py: contract class -> failed test -> its text."""
    done = ran("contract_cases.py")
    assert done.returncode == 1, done.stdout + done.stderr
    reports: dict[str, dict[str, str]] = {}
    parts = re.split(r"^_+ Test(\w+)\.(test_\w+) _+$", done.stdout.split("short test summary")[0], flags=re.M)
    for name, test, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        reports.setdefault(name, {})[test] = text
    return reports


@pytest.mark.parametrize("test", SENTENCES)
def test_a_naive_participant_is_told_what_would_go_wrong(reports: dict[str, dict[str, str]], test: str) -> None:
    text = reports["Naive"].get(test, "it passed")
    assert SENTENCES[test] in text
    assert "In production " in text


def test_every_test_of_the_kit_is_failed_by_the_naive_one() -> None:
    assert set(SENTENCES) == {name for name in vars(ParticipantContract) if name.startswith("test_")}


@pytest.mark.parametrize("flaw", FLAWS)
def test_one_flaw_fails_its_own_tests_only(reports: dict[str, dict[str, str]], flaw: str) -> None:
    failed = reports.get(flaw, {})
    assert set(failed) == set(FLAWS[flaw]), failed
    for test, sentence in FLAWS[flaw].items():
        assert sentence in failed[test]


@pytest.mark.parametrize("hole", ["open_resources", "effects"])
def test_a_hole_left_open_says_what_to_fill(hole: str) -> None:
    with pytest.raises(NotImplementedError, match=f"{hole}: say "):
        getattr(ParticipantContract(), hole)(None)


def test_crashes_where_pytest_imports_by_file() -> None:
    done = ran("contract_cases.py", "--import-mode=importlib", "-k", "ByHand and crash")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_docs_show_what_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "test_docs.py").write_text("\n".join(blocks))
    done = ran("-c", "/dev/null", "--rootdir", ".", "test_docs.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(SENTENCES)} passed" in done.stdout


def test_the_docs_name_every_test_of_the_kit() -> None:
    assert set(re.findall(r"`(test_\w+)`", DOCS.read_text())) == set(SENTENCES)


async def test_a_participant_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    @participant
    async def wait(command: orders.RefundCard) -> None:
        await anyio.sleep_forever()

    case = ParticipantContract()
    case.participant, case.command = wait, orders.RefundCard("1")
    monkeypatch.setattr("orchestrator.testing.contract.PATIENCE_S", 0.01)
    with pytest.raises(pytest.fail.Exception, match=r"wait did not answer within 0\.01 s"):
        await case.do(None, "key")


def test_a_class_that_a_new_process_cannot_import(tmp_path: Path) -> None:
    class Local(TestPay):
        pass

    with pytest.raises(RuntimeError, match="put it at the top level of a module"):
        killed_at_every_line(Local, tmp_path / "killed", "key", is_undo=False)


class Broken(TripContract):
    """Its resources do not open."""

    participant = trips.pay
    command = trips.Pay("T-1", Decimal(400))

    @asynccontextmanager
    async def open_resources(self, place: Path) -> AsyncGenerator[trips.Bookings]:
        raise ConnectionError("no ledger")
        yield


def test_what_goes_wrong_in_the_process_to_be_killed_is_shown(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"could not carry the command out:\n(.|\n)*ConnectionError: no ledger"):
        killed_at_every_line(Broken, tmp_path / "killed", "key", is_undo=False)


def test_a_long_participant_is_killed_at_lines_evenly_spread() -> None:
    assert chosen(3) == [1, 2, 3]
    assert len(chosen(1000)) == MAX_CRASHES
    assert chosen(1000)[0] == 1 and chosen(1000)[-1] == 1000
