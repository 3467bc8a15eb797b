"""Every way to write participants, listeners and an app, in a module that both type checkers and the import accept."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiosqlite

from orchestrator import Command, Done, Event, Refusal, Retry
from orchestrator.app import App
from orchestrator.participant import Call, Delivery, Participant, listener, participant


@dataclass
class Services:
    stock: sqlite3.Connection
    payments: aiosqlite.Connection


class StockReserved(Event):
    reservation_id: str


class OutOfStock(Refusal):
    product_id: int


class ReserveStock(Command[StockReserved, OutOfStock]):
    order_id: str


class ReleaseStock(Command):
    order_id: str


class RefundCard(Command):
    order_id: str


class Print(Command):
    text: str


class Ring(Command):
    text: str


class MailSent(Event):
    to: str


@participant
async def reserve_stock(command: ReserveStock, call: Call[Services]) -> StockReserved | OutOfStock:
    stock = call.resources.stock
    async with call.once(stock) as first:
        if not first:
            return first.answer
        stock.execute("UPDATE ...")
        return first.answers(StockReserved(call.key))


@participant
def release_stock(command: ReleaseStock, call: Call[Services]) -> None:
    with call.once(call.resources.stock) as first:
        if first:
            call.resources.stock.execute("UPDATE ...")


@participant
async def refund_card(command: RefundCard, call: Call[Services]) -> None:
    async with call.once(call.resources.payments) as first:
        if first:
            await call.resources.payments.execute("UPDATE ...")


@participant
def machines(command: Print | Ring) -> Done | None:
    return Done() if isinstance(command, Ring) else None


@listener
async def tell_customer(event: StockReserved, delivery: Delivery[Services]) -> MailSent | None:
    return MailSent(delivery.id)


@listener(retry=Retry(attempts=3))
def count(event: StockReserved | MailSent) -> list[MailSent]:
    return []


@asynccontextmanager
async def open_services() -> AsyncGenerator[Services]:
    async with aiosqlite.connect("payments.db") as payments:
        yield Services(sqlite3.connect("stock.db"), payments)


everything = App(
    "shop",
    participants=[reserve_stock, release_stock, refund_card, machines],
    listeners=[tell_customer, count],
    resources=open_services,
)
as_annotated: App[Services] = everything
without_resources = App("office", participants=[machines], listeners=[count])
takes_any_resources: Participant[Services] = machines
