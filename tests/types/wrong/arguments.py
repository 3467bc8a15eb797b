"""A command is made of what it declares."""

from __future__ import annotations

from tests.types.good import BookRoom, ReserveStock, ShipOrder


def commands() -> None:
    ReserveStock(7, ())  # error
    ShipOrder()  # error
    BookRoom(hostel="Ritz")  # error
