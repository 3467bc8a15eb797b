# pyright: reportUnknownMemberType=false
"""Takes the messages of a group, so many at a time as there is room for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

import anyio
import msgspec
import nats.errors
from anyio.lowlevel import checkpoint
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from orchestrator.errors import BusUnavailable
from orchestrator.ports import Delivered

from .connection import Connection

EXPIRES_S = 30.0  # a request for messages; then it is made again
GRACE_S = 2.0
LEAVE_S = 2.0
TICK_S = 1.0
HIDDEN = 4  # times `prefetch` messages may be here unseen, so that a busy topic need not share with idle ones
MAX_ON_THE_WAY = 8 * 1024 * 1024  # bytes; the server cuts off who is 64 MB behind
_NEXT = "$JS.API.CONSUMER.MSG.NEXT"
_PROGRESS = b"+WPI"
_AGAIN = b"-NAK"
_ENDED = ("Batch Completed", "Message Size Exceeds MaxBytes")  # ask again
_PASSING = ("Leadership Change", "Server Shutdown")  # ask again later


class Lane(Struct, eq=False):
    """One topic of a subscription: a consumer, and how many messages of it may come, were asked for and are here."""

    topic: str
    subject: str
    stream: str
    consumer: str
    ack_wait_s: float
    room: int = 0
    asked: int = 0
    asked_until: float = 0.0
    here: int = 0


class NatsSubscription:
    """One member of a group: asks each consumer for messages ahead, and hands over at most `prefetch` at a time.

    What was asked for is pushed, at the price of a push consumer. That would be held back by `max_ack_pending` alone,
    which counts for the whole group: a member that is stuck or dead would hold up the others.
    """

    def __init__(self, connection: Connection, lanes: Sequence[Lane], prefetch: int) -> None:
        """Made by `NatsBus.subscribe`."""
        self._connection = connection
        self._all = lanes
        self._prefetch = prefetch
        for lane in lanes:
            lane.room = max(1, min(prefetch, HIDDEN * prefetch // len(lanes)))
        self._lanes: dict[str, Lane] = {}  # by what their messages, and what is said of them, are addressed to
        self._inbox = ""
        self._driver: Subscription | None = None
        self._coming: deque[Delivered] = deque()
        self._unsettled: dict[str, Lane] = {}  # by where they are acknowledged, those that are coming included
        self._settled: deque[str] = deque()  # the server has yet to be told
        self._failure = ""
        self._news = anyio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Delivered]:
        """What has come. A connection that is lost is waited for; then it goes on with what is unsettled."""
        await checkpoint()
        while True:
            if self._news.is_set():
                self._news = anyio.Event()
            if taken := self._take():
                return taken
            if self._failure:
                failure, self._failure = self._failure, ""
                raise BusUnavailable(f"nats at {self._connection.settings.place}: {failure}")
            if self._connection.current is None:
                with self._connection.bounded():
                    await self._connection.client()
            await self._news.wait()

    def _take(self) -> list[Delivered]:
        room = self._prefetch - (len(self._unsettled) - len(self._coming))
        return [self._coming.popleft() for _ in range(min(room, len(self._coming)))]

    async def ack(self, delivered: Sequence[Delivered]) -> None:
        """Tell the server, or the next one when this connection is lost."""
        lanes: set[Lane] = set()
        for each in delivered:
            if lane := self._unsettled.pop(each.token, None):
                lane.here -= 1
                lanes.add(lane)
                self._settled.append(each.token)
        self._news.set()  # there is room
        if client := self._connection.current:
            with suppress(nats.errors.Error, OSError):  # lost: `attach` tells the next one
                await self._tell(client)
                for lane in lanes:
                    await self._ask(client, lane)

    async def lag(self) -> int:
        """What the consumers have not delivered, and what was delivered and not acknowledged."""
        with self._connection.bounded():
            jetstream = await self._connection.jetstream()
            found = [await jetstream.consumer_info(lane.stream, lane.consumer) for lane in self._all]
        return sum((each.num_pending or 0) + (each.num_ack_pending or 0) for each in found)

    async def attach(self, client: Client) -> None:
        """Go on over this connection: what is unsettled is acknowledged over it."""
        self._inbox = client.new_inbox()
        self._lanes = {lane.subject: lane for lane in self._all}
        self._lanes |= {f"{self._inbox}.{number}": lane for number, lane in enumerate(self._all)}
        self._driver = await client.subscribe(f"{self._inbox}.*", cb=self._receive)
        await self._tell(client)
        for lane in self._all:
            lane.asked = 0
            await self._ask(client, lane)

    def detach(self) -> None:
        """The connection is lost: whoever waits for messages waits for another one."""
        self._driver = None
        self._news.set()

    async def keep(self) -> None:
        """Tell the server of what takes long, and ask again where a request was lost. Until it is cancelled."""
        beat_s = min((lane.ack_wait_s for lane in self._all), default=TICK_S) / 3
        beat_at = anyio.current_time() + beat_s
        while True:
            await anyio.sleep(min(beat_s, TICK_S))
            if (client := self._connection.current) is None:
                continue
            now = anyio.current_time()
            with suppress(nats.errors.Error, OSError):  # lost: `attach` sees to everything
                if now >= beat_at:
                    beat_at = now + beat_s
                    for token in list(self._unsettled):
                        await client.publish(token, _PROGRESS)
                for lane in self._all:
                    if now > lane.asked_until:
                        lane.asked = 0
                    await self._ask(client, lane)

    async def leave(self) -> None:
        """Give back what is unsettled: the server sends it again at once."""
        client, driver = self._connection.current, self._driver
        if client is None or driver is None:
            return
        with anyio.move_on_after(LEAVE_S, shield=True), suppress(nats.errors.Error, OSError):
            await driver.drain()  # type: ignore[no-untyped-call]  # what is on its way comes in first
            await self._tell(client)
            for token in self._unsettled:
                await client.publish(token, _AGAIN)

    async def _tell(self, client: Client) -> None:
        while self._settled:
            token = self._settled.popleft()
            try:
                await client.publish(token)
            except (nats.errors.Error, OSError):
                self._settled.appendleft(token)
                raise

    async def _ask(self, client: Client, lane: Lane) -> None:
        """Ask for more, in large portions as long as some are on their way."""
        wanted = lane.room - lane.asked - lane.here
        if wanted <= 0 or (lane.asked and wanted * 2 < lane.room):
            return
        lane.asked += wanted
        lane.asked_until = anyio.current_time() + EXPIRES_S + GRACE_S
        max_bytes = max(2 * client.max_payload, MAX_ON_THE_WAY // len(self._all))
        request = {"batch": wanted, "expires": int(EXPIRES_S * 1e9), "max_bytes": max_bytes}
        reply = f"{self._inbox}.{self._all.index(lane)}"
        await client.publish(f"{_NEXT}.{lane.stream}.{lane.consumer}", msgspec.json.encode(request), reply)

    async def _receive(self, message: Msg) -> None:
        lane = self._lanes[message.subject]
        if message.subject != lane.subject:
            await self._heed(lane, message.headers or {})
            return
        headers = {name.lower(): value for name, value in message.headers.items()} if message.headers else {}
        lane.asked = max(0, lane.asked - 1)
        lane.here += 1
        self._unsettled[message.reply] = lane
        self._coming.append(Delivered(lane.topic, message.data, headers, message.reply))
        self._news.set()

    async def _heed(self, lane: Lane, said: dict[str, str]) -> None:
        """The server ends a request, or refuses it."""
        lane.asked = max(0, lane.asked - int(said.get("Nats-Pending-Messages", lane.asked)))
        status, why = said.get("Status"), said.get("Description", "").strip()
        if status == "408" or why in _ENDED:
            if client := self._connection.current:
                await self._ask(client, lane)
        elif why not in _PASSING:  # which `keep` takes care of
            what = "it is gone" if status == "503" else why
            self._failure = f"consumer {lane.consumer} of stream {lane.stream}: {what}"
            self._news.set()
