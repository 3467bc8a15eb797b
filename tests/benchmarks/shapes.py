"""Other sagas than the order, so that nobody tunes the engine to one: `python -m tests.benchmarks shapes`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from orchestrator import App, Command, Done, Event, Goto, Refusal, Saga, participant, step
from tests.benchmarks.peers import orchestrator_sqlite as orders
from tests.benchmarks.peers.measuring import Options, options
from tests.benchmarks.running import run

ELEMENTS = 16
ROUNDS = 100
BIG = 10_000


class TripWanted(Event):
    trip_id: str
    is_lucky: bool


class Booked(Event):
    reference: str


class FullyBooked(Refusal):
    why: str


class Book(Command[Booked, FullyBooked]):
    trip_id: str
    what: str
    is_there: bool = True


class Cancel(Command):
    trip_id: str
    what: str


class Trip(Saga, key="trip_id", starts=TripWanted):
    """Three branches beside each other, then one step; every tenth finds no car."""

    trip_id: str
    is_lucky: bool
    flight_reference: str = ""
    hotel_reference: str = ""

    @step(after=())
    def flight(self) -> Book:
        return Book(self.trip_id, "flight")

    @flight.on
    def flight_booked(self, reply: Booked) -> None:
        self.flight_reference = reply.reference

    @flight.compensate
    def cancel_flight(self) -> Cancel:
        return Cancel(self.trip_id, "flight")

    @step(after=())
    def hotel(self) -> Book:
        return Book(self.trip_id, "hotel")

    @hotel.on
    def hotel_booked(self, reply: Booked) -> None:
        self.hotel_reference = reply.reference

    @hotel.compensate
    def cancel_hotel(self) -> Cancel:
        return Cancel(self.trip_id, "hotel")

    @step(after=())
    def car(self) -> Book:
        return Book(self.trip_id, "car", self.is_lucky)

    @car.compensate
    def cancel_car(self) -> Cancel:
        return Cancel(self.trip_id, "car")

    @step(after=(flight, hotel, car), undo=None)
    def insurance(self) -> Book:
        return Book(self.trip_id, "insurance")


class BasketFilled(Event):
    basket_id: str


class Basket(Saga, key="basket_id", starts=BasketFilled):
    """A command for each of its elements, all at once, then one step."""

    basket_id: str

    @step(at_once=ELEMENTS)
    def reserve(self) -> list[Book]:
        return [Book(self.basket_id, str(number)) for number in range(ELEMENTS)]

    @reserve.compensate
    def release(self, command: Book) -> Cancel:
        return Cancel(self.basket_id, command.what)

    @step(undo=None)
    def send(self) -> Book:
        return Book(self.basket_id, "parcel")


class MeterInstalled(Event):
    meter_id: str


class Read(Command):
    meter_id: str
    number: int


class Meter(Saga, key="meter_id", starts=MeterInstalled):
    """One step a hundred times."""

    meter_id: str
    number: int = 0

    @step(undo=None)
    def read(self) -> Read:
        return Read(self.meter_id, self.number)

    @read.on
    def was_read(self, reply: Done) -> Goto | None:
        self.number += 1
        return Goto(self.read) if self.number < ROUNDS else None


class LetterWritten(Event):
    letter_id: str
    text: str


class Print(Command):
    letter_id: str
    text: str


class Stamp(Command):
    letter_id: str


class Letter(Saga, key="letter_id", starts=LetterWritten):
    """Ten kilobytes in its event, its state and one of its two commands."""

    letter_id: str
    text: str

    @step(undo=None)
    def printing(self) -> Print:
        return Print(self.letter_id, self.text)

    @step(undo=None)
    def stamping(self) -> Stamp:
        return Stamp(self.letter_id)


@participant
async def book(command: Book) -> Booked | FullyBooked:
    return Booked(f"{command.what}-{command.trip_id}") if command.is_there else FullyBooked("no more")


@participant
async def cancel(command: Cancel) -> None:
    return None


@participant
async def read(command: Read) -> None:
    return None


@participant
async def print_letter(command: Print) -> None:
    return None


@participant
async def stamp(command: Stamp) -> None:
    return None


class Shape(NamedTuple):
    """An app and what starts the n-th saga of it."""

    app: App[Any]
    event: Callable[[int], Event]


def _app(saga: type[Saga], *participants: Any) -> App[Any]:
    return App("shapes", sagas=[saga], participants=[*participants])


SHAPES = {
    "order": Shape(orders.app, lambda number: orders.OrderPlaced(str(number), number)),
    "parallel": Shape(_app(Trip, book, cancel), lambda number: TripWanted(str(number), number % 10 != 0)),
    "fanout": Shape(_app(Basket, book, cancel), lambda number: BasketFilled(str(number))),
    "long": Shape(_app(Meter, read), lambda number: MeterInstalled(str(number))),
    "big": Shape(_app(Letter, print_letter, stamp), lambda number: LetterWritten(str(number), "x" * BIG)),
}


async def play(options: Options, shape: Shape) -> None:
    """As the order saga is, with another saga."""
    await orders.run(options, shape.app, shape.event)


def parsed() -> tuple[str, list[str]]:
    """The shape, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--shape", choices=SHAPES, default="order")
    arguments, rest = parser.parse_known_args()
    return arguments.shape, rest


def main(argv: list[str]) -> None:
    """The table of all shapes."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks shapes", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="only these; default: all")
    parser.add_argument("--seconds", default="5", help="how long new sagas are begun in each run")
    parser.add_argument("--in-flight", default="256", help="how many at a time")
    parser.add_argument("--dir", type=Path, help="the disk to measure on; default: the temporary directory's")
    arguments = parser.parse_args(argv)
    print("shape     sagas/s   p50 ms   p99 ms  CPU ms a saga  peak MiB  bytes a saga  of the ceiling")
    for shape in arguments.shape or SHAPES:
        how = ("--shape", shape, "--seconds", arguments.seconds, "--in-flight", arguments.in_flight)
        figures = run("shapes", *how, within=arguments.dir)
        ceiling = run("peers.ceiling", *how, within=arguments.dir)
        print(
            f"{shape:8}  {figures.rate:7,.0f}  {figures.p50_ms:7,.0f}  {figures.p99_ms:7,.0f}  {figures.cpu_ms:13.2f}"
            f"  {figures.peak_bytes / 2**20:8.0f}  {figures.disk_bytes / figures.all_sagas:12,.0f}"
            f"  {figures.rate / ceiling.rate:14.0%}",
            flush=True,
        )


if __name__ == "__main__":
    shape, rest = parsed()
    anyio.run(partial(play, options(rest), SHAPES[shape]))
