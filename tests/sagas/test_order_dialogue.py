"""The order saga, without a daemon: what it asks for and what it does with each answer."""

from datetime import date
from decimal import Decimal

from orchestrator import Done
from orchestrator.testing import Dialogue, drive
from order_fulfilment import (
    CardCharged,
    CardDeclined,
    ChargeCard,
    Line,
    OrderFulfilled,
    OrderFulfilment,
    OrderPlaced,
    OrderShipped,
    OutOfStock,
    RefundCard,
    ReleaseStock,
    ReserveStock,
    ShipOrder,
    StockReserved,
)

LINES = (Line(11, 12, Decimal("14.0")), Line(42, 10, Decimal("9.8"), Decimal("0.15")))
TEA, RICE = ReserveStock("1", 11, 12), ReserveStock("1", 42, 10)
CHARGE = ChargeCard("1", "VINET", Decimal("283.68"))
SHIP = ShipOrder("1", "Vins et alcools", "France", LINES)


def order(items: tuple[Line, ...] = LINES) -> Dialogue:
    day = date(2016, 7, 4)
    return drive(
        OrderFulfilment, OrderPlaced("1", "VINET", day, day, "Vins et alcools", "France", Decimal("32.38"), items)
    )


def reserved() -> Dialogue:
    return order().answer(TEA, StockReserved(1)).answer(RICE, StockReserved(2)).expect(CHARGE)


def test_every_line_is_reserved_then_charged_shipped_and_announced() -> None:
    t = order().expect(TEA).expect(RICE).expect_nothing()
    t.answer(TEA, StockReserved(1)).expect_nothing()
    t.answer(RICE, StockReserved(2))
    t.expect(CHARGE).answer(CardCharged("R1"))
    t.expect(SHIP).answer(OrderShipped("FR-1"))
    t.expect(OrderFulfilled("1", "FR-1")).ends("completed")
    assert (t.state.receipt, t.state.tracking) == ("R1", "FR-1")


def test_what_was_reserved_is_released_when_another_line_is_out_of_stock() -> None:
    t = order().expect(TEA).expect(RICE)
    t.answer(TEA, StockReserved(1))
    t.answer(RICE, OutOfStock(42, 3))
    t.expect(ReleaseStock("1", 11)).done().ends("compensated")


def test_a_line_refused_after_an_attempt_that_may_have_worked_is_released_too() -> None:
    t = order().expect(TEA).expect(RICE)
    t.answer(TEA, StockReserved(1))
    t.answer(RICE, OutOfStock(42, 3), clean=False)
    t.expect(ReleaseStock("1", 11)).done()
    t.expect(ReleaseStock("1", 42)).done().ends("compensated")


def test_a_declined_card_releases_every_line() -> None:
    t = reserved()
    t.answer(CardDeclined("limit"))
    t.expect(ReleaseStock("1", 11)).expect(ReleaseStock("1", 42)).expect_nothing()
    t.answer(ReleaseStock("1", 11), Done()).answer(ReleaseStock("1", 42), Done()).ends("compensated")


def test_a_bank_that_never_answers_is_refunded_before_the_stock_is_released() -> None:
    t = reserved().fail("the bank is down")
    t.expect(RefundCard("1")).expect_nothing()
    t.answer(Done())
    t.expect(ReleaseStock("1", 11)).done().expect(ReleaseStock("1", 42)).done().ends("compensated")


def test_a_bank_that_answers_at_the_third_attempt_is_good_enough() -> None:
    t = reserved().fail(once=True)
    t.wait(1)
    t.expect(CHARGE).fail(once=True).wait(2)
    t.expect(CHARGE).answer(CardCharged("R1")).expect(SHIP)


def test_past_the_charge_a_failing_carrier_parks_the_order_and_the_late_parcel_completes_it() -> None:
    t = reserved().answer(CardCharged("R1"))
    t.expect(SHIP).fail("no van")
    assert (t.status, "no van" in t.parked) == ("running", True)
    t.verb("retry")
    t.expect(SHIP).answer(OrderShipped("FR-1"))
    t.expect(OrderFulfilled("1", "FR-1")).ends("completed")


def test_a_cancel_before_the_charge_undoes_and_after_it_changes_nothing() -> None:
    t = reserved().answer(CardCharged("R1"))
    t.expect(SHIP).cancel("second thoughts")
    assert (t.status, t.last.outcome) == ("running", "refused")


def test_an_order_without_lines_is_charged_its_freight() -> None:
    order(items=()).expect(ChargeCard("1", "VINET", Decimal("32.38"))).expect_nothing()
