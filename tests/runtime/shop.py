"""A small shop whose participants do as a test tells them, and remember what they were asked."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
from msgspec import Raw

from orchestrator.app import App
from orchestrator.messages import Command, Done, Event, Message, Refusal, encode, type_name
from orchestrator.participant import Call, Delivery, listener, participant
from orchestrator.retry import Retry
from orchestrator.saga import Compensate, Saga, Wait, on, step
from orchestrator.wire import Address, Envelope, Kind


class OrderPlaced(Event):
    order_id: str
    total: int = 100


class OrderCancelled(Event):
    order_id: str


class Approved(Event):
    order_id: str


class StockReserved(Event):
    reservation_id: str


class OutOfStock(Refusal):
    product: str = "tea"


class CardDeclined(Refusal):
    why: str = "limit"


class OrderFulfilled(Event):
    order_id: str


class MailSent(Event):
    order_id: str


class ReserveStock(Command[StockReserved, OutOfStock]):
    order_id: str


class ReleaseStock(Command):
    order_id: str


class ChargeCard(Command[Done, CardDeclined]):
    order_id: str
    total: int


class RefundCard(Command):
    order_id: str


class ShipOrder(Command):
    order_id: str


class OrderFulfilment(Saga, key="order_id", starts=OrderPlaced):
    """Reserve, charge, ship, tell."""

    order_id: str
    total: int
    reservation_id: str = ""

    @step(retry=Retry(attempts=3, timeout=10, initial=1, multiplier=2))
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id)

    @reserve.on
    def reserved(self, reply: StockReserved) -> None:
        self.reservation_id = reply.reservation_id

    @reserve.compensate
    def release(self) -> ReleaseStock:
        return ReleaseStock(self.order_id)

    @step(pivot=True, retry=Retry(attempts=3, timeout=10, initial=1, multiplier=2))
    def charge(self) -> ChargeCard:
        return ChargeCard(self.order_id, self.total)

    @charge.compensate
    def refund(self) -> RefundCard:
        return RefundCard(self.order_id)

    @step
    def ship(self) -> ShipOrder:
        return ShipOrder(self.order_id)

    @step
    def announce(self) -> OrderFulfilled:
        return OrderFulfilled(self.order_id)

    @on
    def cancelled(self, event: OrderCancelled) -> Compensate:
        return Compensate("cancelled by the customer")


class Napping(Saga, key="order_id", starts=OrderPlaced):
    """Waits for an approval, at most an hour; begun by the same event as an order."""

    order_id: str
    approved: bool = False

    @step
    def approval(self) -> Wait:
        return Wait(3600)

    @approval.on
    def decided(self, event: Approved) -> None:
        self.approved = True

    @approval.late
    def overdue(self) -> Compensate:
        return Compensate("nobody approved")


Answer = Callable[[Any], Any] | BaseException | Message | None


class World:
    """What happened, and what is to happen: the next answers by command or event name; afterwards the usual one."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.calls: list[Call[Any]] = []
        self.told: list[str] = []
        self.answers: dict[str, deque[Answer]] = defaultdict(deque)
        self.gate: anyio.Event | None = None
        self.running = 0
        self.most = 0

    def will(self, name: str, *answers: Answer) -> None:
        """The next answers of a participant or listener, in order."""
        self.answers[name].extend(answers)

    def names(self, key: str) -> list[str]:
        """What the participants were asked for one order."""
        return [name for name in self.asked if name.endswith(f" {key}")]

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[World]:
        yield self

    async def answer(self, name: str, usual: Answer, value: Any) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.gate is not None:
                await self.gate.wait()
            answers = self.answers[name]
            answer = answers.popleft() if answers else usual
            if isinstance(answer, BaseException):
                raise answer
            if callable(answer):
                answer = answer(value)
                if hasattr(answer, "__await__"):
                    answer = await answer
            return answer
        finally:
            self.running -= 1


@participant
async def carry_out(
    command: ReserveStock | ReleaseStock | ChargeCard | RefundCard | ShipOrder, call: Call[World]
) -> StockReserved | OutOfStock | CardDeclined | Done:
    world = call.resources
    name = type(command).__name__
    world.asked.append(f"{name} {command.order_id}")
    world.calls.append(call)
    usual = StockReserved("r1") if isinstance(command, ReserveStock) else None
    return cast(StockReserved, await world.answer(name, usual, command))


@listener(retry=Retry(attempts=3, timeout=10, initial=5, multiplier=2))
async def send_mail(event: OrderFulfilled, delivery: Delivery[World]) -> MailSent | None:
    world = delivery.resources
    world.told.append(f"mail {event.order_id} {delivery.attempt}")
    return cast(MailSent, await world.answer("mail", MailSent(event.order_id), event))


@listener
async def count(event: OrderFulfilled | MailSent, delivery: Delivery[World]) -> None:
    delivery.resources.told.append(f"count {type(event).__name__} {event.order_id}")


def shop(world: World, *, listeners: Any = (), sagas: Any = (OrderFulfilment,)) -> App[World]:
    return App("shop", sagas=sagas, participants=[carry_out], listeners=listeners, resources=world.open)


def event(message: Event, id: str = "") -> Envelope:
    name = type_name(type(message))
    key = getattr(message, "order_id", "")
    return Envelope(id=id or f"{name}-{key}", kind=Kind.EVENT, type=name, data=Raw(encode(message)))


def order(key: str) -> Address:
    return Address("OrderFulfilment", key)
