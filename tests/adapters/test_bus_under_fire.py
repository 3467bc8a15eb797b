"""Sagas and their participants over real brokers whose connections are cut, whose messages come twice, in any order,
and among nonsense: nothing is lost, nothing happens twice, and what is stored keeps I1-I10.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import anyio
import pytest
from msgspec import Struct

from orchestrator.app import App
from orchestrator.checking.audit import Books, Delivered, audit
from orchestrator.cloudevents import to_cloud_event
from orchestrator.errors import BusUnavailable
from orchestrator.machine.instance import Status
from orchestrator.messages import encode
from orchestrator.ports import Bus, BusMessage, Find
from orchestrator.runtime.engine import Engine
from orchestrator.topics import TopicSettings
from orchestrator.urls import open_bus, open_store
from orchestrator.wire import Envelope
from tests.runtime.shop import OrderPlaced, OutOfStock, World, event, order, send_mail, shop
from tests.servers.nats import nats
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import rabbitmq

pytestmark = pytest.mark.anyio

ORDERS = 60
CUTS = 8
BATCH = 10


class Broker(Protocol):
    """A real server."""

    port: int

    def url_at(self, port: int, options: str = "") -> str: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...


class Kind(Struct, frozen=True):
    """How to start a broker, options by which it gives up a lost subscriber soon, and what it takes at most."""

    start: Callable[[], AbstractContextManager[Broker]]
    options: str
    largest: int


KINDS = {"nats": Kind(nats, "ack_wait=2&timeout=3", 900_000), "rabbitmq": Kind(rabbitmq, "?timeout=3", 5_000_000)}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def broker(kind: str) -> Iterator[Broker]:
    with KINDS[kind].start() as started:
        yield started


class Shop:
    """The sagas, the worker and a client, each with its own connection to the broker, by way of a proxy."""

    def __init__(self, folder: Path, url: str) -> None:
        self.world = World()
        self.url = url
        self.app: App[World] = shop(self.world, listeners=[send_mail])
        self.stores = {name: f"sqlite:///{folder}/{name}.db" for name in ("sagas", "worker")}
        self.topics = TopicSettings(prefix=f"t{os.urandom(4).hex()}.")
        self.accepted: list[Envelope] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[Engine, Engine, Bus]]:
        parts = {"sagas": self.app.sagas_only(), "worker": self.app.work_only()}
        engines = [
            Engine(part, open_store(self.stores[name]), open_bus(self.url), topics=self.topics)
            for name, part in parts.items()
        ]
        async with engines[0] as sagas, engines[1] as worker, open_bus(self.url) as client:
            for engine in engines:
                await client.set_up(engine._topics.topology())
            yield sagas, worker, client

    async def send(self, client: Bus, *bodies: bytes) -> None:
        """Onto the topic of orders, again until the broker has it."""
        messages = [BusMessage(f"{self.topics.prefix}OrderPlaced", body) for body in bodies]
        while messages:
            try:
                told = await client.publish(messages)
                messages = [each for each, no in zip(messages, told, strict=True) if no is not None]
            except BusUnavailable:
                await anyio.sleep(0.1)

    def placed(self, count: int) -> list[bytes]:
        """So many orders, each twice, in any order."""
        self.accepted = [event(OrderPlaced(str(n)), f"placed {n}") for n in range(count)]
        bodies = [to_cloud_event(each, "/shop") for each in self.accepted] * 2
        random.Random(7).shuffle(bodies)
        return bodies

    async def are_done(self, sagas: Engine, worker: Engine, count: int, seconds: float) -> None:
        """Until every order has ended and everything has gone."""

        async def have_begun() -> bool:
            return len((await sagas.store.find(Find(limit=500))).items) >= count

        async def have_gone() -> bool:
            return not ((await sagas.store.counts(0)).outbox or (await worker.store.counts(0)).outbox)

        with anyio.fail_after(seconds):
            await until(have_begun)
            for number in range(count):
                await sagas.ended(order(str(number)))
            await until(have_gone)

    async def check(self, dead: int) -> None:
        """I1-I10 in both stores; each key was carried out once."""
        keys = Counter(call.key for call in self.world.calls)
        assert {key: times for key, times in keys.items() if times > 1} == {}
        delivered = tuple(
            Delivered(call.key, call.undoes, call.attempt, encode(call.command)) for call in self.world.calls
        )
        books = Books(tuple(self.accepted), delivered)
        async with open_store(self.stores["sagas"], read_only=True) as store:
            assert (await audit(self.app.sagas_only(), store, books, idle=True)).violations == ()
            assert (await store.counts(0)).dead == dead
            ends = Counter(one.status for one in (await store.find(Find(limit=500))).items)
        assert set(ends) <= {Status.COMPLETED, Status.COMPENSATED}
        async with open_store(self.stores["worker"], read_only=True) as store:
            assert (await store.counts(0)).dead == 0


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Look at a store again and again."""
    with anyio.fail_after(60):
        while not await is_so():  # noqa: ASYNC110 nobody tells
            await anyio.sleep(0.1)


async def test_cut_connections_copies_and_disorder(kind: str, broker: Broker, tmp_path: Path) -> None:
    async with Proxy("127.0.0.1", broker.port) as proxy:
        made = Shop(tmp_path, broker.url_at(proxy.port, KINDS[kind].options))
        made.world.will("ReserveStock", OutOfStock(), OutOfStock(), OutOfStock())
        async with made.open() as (sagas, worker, client), anyio.create_task_group() as tasks:

            async def cut() -> None:
                for number in range(CUTS):
                    await anyio.sleep(0.3)
                    if number == CUTS // 2:
                        proxy.refuse()
                        await anyio.sleep(0.5)
                        proxy.accept()
                    await proxy.cut()

            tasks.start_soon(cut)
            bodies = made.placed(ORDERS)
            for start in range(0, len(bodies), BATCH):
                await made.send(client, *bodies[start : start + BATCH])
                await anyio.sleep(0.1)
            await made.are_done(sagas, worker, ORDERS, 90)
    await made.check(dead=0)


async def test_nonsense_among_the_orders_is_a_dead_letter_and_holds_up_nobody(
    kind: str, broker: Broker, tmp_path: Path
) -> None:
    made = Shop(tmp_path, broker.url_at(broker.port, KINDS[kind].options))
    wrong = b'{"specversion":"1.0","id":"w","source":"/t","type":"OrderPlaced","data":{"order_id":7}}'
    async with made.open() as (sagas, worker, client):
        large = b'"' + b"x" * (KINDS[kind].largest - 2) + b'"'
        nonsense = [b"{nonsense", b"\xff\xfe", wrong, b"[" * 1000, b"{}", large]
        bodies = made.placed(10)
        await made.send(client, *(body for pair in zip(nonsense, bodies, strict=False) for body in pair), *bodies[6:])
        await made.are_done(sagas, worker, 10, 60)

        async def are_buried() -> bool:
            return (await sagas.store.counts(0)).dead == len(nonsense)

        await until(are_buried)
    await made.check(dead=len(nonsense))


async def test_the_broker_is_killed_again_and_again_under_load(kind: str, broker: Broker, tmp_path: Path) -> None:
    made = Shop(tmp_path, broker.url_at(broker.port, KINDS[kind].options))
    async with made.open() as (sagas, worker, client), anyio.create_task_group() as tasks:
        await anyio.sleep(3)  # what RabbitMQ declared less than two seconds before a kill, it may forget

        async def kill() -> None:
            for _ in range(3):
                await anyio.sleep(0.7)
                await anyio.to_thread.run_sync(broker.kill)
                await anyio.sleep(0.5)
                broker.start()  # from the main thread: it dies with the thread that forked it

        tasks.start_soon(kill)
        bodies = made.placed(ORDERS)
        for start in range(0, len(bodies), BATCH):
            await made.send(client, *bodies[start : start + BATCH])
            await anyio.sleep(0.2)
        await made.are_done(sagas, worker, ORDERS, 120)
    await made.check(dead=0)
