"""An app whose parcels are sent by a service elsewhere, and may have to come back."""

from dataclasses import dataclass

from orchestrator import App, Command, Done, Event, Refusal, Saga, participant, step


@dataclass(frozen=True)
class Line:
    product_id: int
    quantity: int


class ParcelWanted(Event):
    order_id: str
    country: str
    items: tuple[Line, ...]
    is_welcome: bool


class OrderShipped(Event):
    tracking: str


class NothingToShip(Refusal):
    order_id: str


class ShipOrder(Command[OrderShipped, NothingToShip]):
    order_id: str
    country: str
    items: tuple[Line, ...]


class RecallOrder(Command):
    order_id: str


class NotAtHome(Refusal): ...


class HandOver(Command[Done, NotAtHome]):
    is_welcome: bool


class Parcel(Saga, key="order_id", starts=ParcelWanted):
    """Send it, hand it over; it comes back when nobody wants it."""

    order_id: str
    country: str
    items: tuple[Line, ...]
    is_welcome: bool
    tracking: str = ""

    @step
    def ship(self) -> ShipOrder:
        return ShipOrder(self.order_id, self.country, self.items)

    @ship.on
    def shipped(self, reply: OrderShipped) -> None:
        self.tracking = reply.tracking

    @ship.compensate
    def recall(self) -> RecallOrder:
        return RecallOrder(self.order_id)

    @step(pivot=True, undo=None)
    def hand_over(self) -> HandOver:
        return HandOver(self.is_welcome)


@participant
async def hand_over(command: HandOver) -> Done | NotAtHome:
    return Done() if command.is_welcome else NotAtHome()


app = App("parcels", sagas=[Parcel], participants=[hand_over])
