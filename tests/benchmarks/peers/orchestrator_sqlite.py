"""The order saga here: embedded, participants in process, the SQLite store with the settings it is shipped with."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import anyio

from orchestrator import App, Command, Done, Event, Orchestrator, Refusal, Saga, participant, step
from tests.benchmarks.peers.measuring import Load, Options, checkpoint, drive, options


class OrderPlaced(Event):
    order_id: str
    total: int


class StockReserved(Event):
    reservation_id: str


class PaymentRefused(Refusal):
    why: str


class ReserveStock(Command[StockReserved]):
    order_id: str


class ReleaseStock(Command):
    order_id: str


class Pay(Command[Done, PaymentRefused]):
    order_id: str
    total: int


class Ship(Command):
    order_id: str


class Order(Saga, key="order_id", starts=OrderPlaced):
    order_id: str
    total: int
    reservation_id: str = ""

    @step
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id)

    @reserve.on
    def reserved(self, reply: StockReserved) -> None:
        self.reservation_id = reply.reservation_id

    @reserve.compensate
    def release(self) -> ReleaseStock:
        return ReleaseStock(self.order_id)

    @step(pivot=True, undo=None)
    def pay(self) -> Pay:
        return Pay(self.order_id, self.total)

    @step
    def ship(self) -> Ship:
        return Ship(self.order_id)


@participant
async def reserve_stock(command: ReserveStock) -> StockReserved:
    return StockReserved(f"r-{command.order_id}")


@participant
async def release_stock(command: ReleaseStock) -> None:
    return None


@participant
async def pay(command: Pay) -> Done | PaymentRefused:
    return PaymentRefused("limit") if command.total % 10 == 0 else Done()


@participant
async def ship(command: Ship) -> None:
    return None


app = App("orders", sagas=[Order], participants=[reserve_stock, release_stock, pay, ship])


async def run(
    options: Options,
    app: App[object] = app,
    placed: Callable[[int], Event] = lambda number: OrderPlaced(str(number), number),
) -> None:
    store = options.dir / "orders.db"
    async with Orchestrator(app, f"sqlite:///{store}") as orchestrator:

        async def order(number: int) -> None:
            run = await orchestrator.start(placed(number))
            await run.end()

        load = Load(options)
        await drive(order, load, options.in_flight)
        load.report(commits=orchestrator.stats().commits)
    checkpoint(store)


if __name__ == "__main__":
    anyio.run(run, options(), backend_options={"use_uvloop": find_spec("uvloop") is not None})
