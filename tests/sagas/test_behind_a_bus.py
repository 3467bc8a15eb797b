"""Orders whose participants are in another process, over each broker: killed in turn, the books balance."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import anyio
import pytest
from msgspec import Struct

import order_fulfilment
from order_fulfilment import OrderFulfilment, app, books
from tests.sagas.conftest import SAGAS
from tests.sagas.daemon import Daemon, check_store
from tests.servers.aws import aws
from tests.servers.kafka import kafka
from tests.servers.nats import nats
from tests.servers.rabbitmq import rabbitmq

AGAIN_S = 0.7  # between two kills
SAGA = OrderFulfilment.__name__


class Broker(Protocol):
    """A real server."""

    @property
    def url(self) -> str: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...


class Kind(Struct, frozen=True):
    """How to start one; whether what it has confirmed outlives a kill, since the emulations keep all in memory; options
    by which it misses a dead subscriber soon; how often everybody is killed; how many orders it carries in seconds.
    """

    start: Callable[[], AbstractContextManager[Broker]]
    keeps: bool
    options: str = ""
    rounds: int = 1
    orders: int = 60

    def url(self, broker: Broker) -> str:
        return broker.url + ("&" if "?" in broker.url else "?" if self.options else "") + self.options


KINDS = {
    "nats": Kind(nats, True, "ack_wait=3", 3),
    "rabbitmq": Kind(rabbitmq, True),
    "kafka": Kind(kafka, False, "session_timeout=6"),
    "sqs": Kind(aws, False, "visibility=5&wait=1", orders=12),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def broker(kind: str) -> Iterator[Broker]:
    with KINDS[kind].start() as started:
        yield started


@pytest.fixture(autouse=True)
def shop_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DATA", str(tmp_path / "ledgers"))
    monkeypatch.setenv("SHOP_PRODUCTS", str(SAGAS / "sample_products.jsonl"))
    for name in ("INVENTORY", "PAYMENTS", "SHIPPING"):
        monkeypatch.delenv(f"SHOP_{name}", raising=False)


class Shop:
    """The sagas in one process, their participants in another, each with its store."""

    def __init__(self, folder: Path, url: str) -> None:
        here = Path(order_fulfilment.__file__)
        topics = {"ORCHESTRATOR_BUS": url, "ORCHESTRATOR_TOPICS__PREFIX": f"t{os.urandom(4).hex()}."}
        self.sagas = Daemon(here, folder, words=("run", "--sagas-only"), **topics)
        self.worker = Daemon(here, folder, words=("work",), name="work", **topics)

    @contextmanager
    def open(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.worker)
            stack.enter_context(self.sagas)
            yield

    def order(self, count: int) -> None:
        """So many orders, from the lines of the sample."""
        lines = (SAGAS / "sample_orders.jsonl").read_text().splitlines()
        many = [lines[n % len(lines)].replace('"A-', f'"{n}-', 1) for n in range(count)]
        told = self.sagas.call("emit", "OrderPlaced", "-", input="\n".join(many).encode())
        assert told.returncode == 0, told.stderr.decode()

    def are_done(self, count: int) -> bool:
        counts = self.sagas.counts(SAGA)
        return counts.get("completed", 0) + counts.get("compensated", 0) == count


async def check(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """The books, and what is stored."""
    assert await books() == 0
    assert " 0 units reserved for the others.\n" in capsys.readouterr().out
    await check_store(shop.sagas.store, app)
    await check_store(shop.worker.store, app.work_only())


async def test_orders_are_fulfilled_by_participants_behind_a_broker(
    kind: str, broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop, orders = Shop(tmp_path, KINDS[kind].url(broker)), KINDS[kind].orders
    with shop.open():
        shop.order(orders)
        shop.sagas.wait_until(lambda: shop.are_done(orders))
        shop.worker.wait_until(lambda: shop.worker.ask("status")["item"]["outbox"] == 0)
        assert (shop.worker.stop(), shop.sagas.stop()) == (0, 0)
    await check(shop, capsys)


def test_whoever_is_killed_everything_ends_and_nothing_happens_twice(
    kind: str, broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop, orders = Shop(tmp_path, KINDS[kind].url(broker)), KINDS[kind].orders
    chance = random.Random(5)
    victims = [shop.sagas, shop.worker, broker if KINDS[kind].keeps else shop.worker]
    with shop.open():
        shop.order(orders)
        for victim in victims * KINDS[kind].rounds:
            time.sleep(chance.uniform(0.1, AGAIN_S))
            victim.kill()
            time.sleep(chance.uniform(0.0, 0.3))
            victim.start()
        shop.sagas.wait_until(lambda: shop.are_done(orders), timeout_s=120)
    anyio.run(check, shop, capsys)
