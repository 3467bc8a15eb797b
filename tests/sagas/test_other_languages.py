"""Participants without our library, in Python and in JavaScript: orders are shipped, refused and recalled by them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import Struct

from order_fulfilment import SHIPPING, OrderFulfilment, books
from tests.sagas.conftest import REPOSITORY, SAGAS
from tests.sagas.daemon import Daemon, check_store
from tests.servers.nats import Nats, nats
from tests.servers.process import folder, missing

from . import parcels, shop_without_shipping

try:
    from nats import connect
    from nats.js.errors import APIError
except ModuleNotFoundError:
    missing("nats-py", "pip install 'saga-orchestrator[nats]'")

ELSEWHERE = REPOSITORY / "docs" / "elsewhere"
PARTS = 3
ORDERS = 6  # of a part
INSTALL_S = 240
REPLY_S = 30.0


@pytest.fixture(scope="module")
def broker() -> Iterator[Nats]:
    with nats() as server:
        yield server


@pytest.fixture(scope="session")
def javascript() -> Iterator[Path]:
    """The service beside the packages that it needs."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            missing(program, "apt-get install nodejs npm")
    with folder() as home:
        for name in ("package.json", "shipping.mjs"):
            shutil.copy(ELSEWHERE / name, home)
        words = [
            "npm",
            "install",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--no-package-lock",
            "--no-update-notifier",
        ]
        done = subprocess.run(words, cwd=home, capture_output=True, text=True, timeout=INSTALL_S)
        if done.returncode:
            missing("the NATS client of npm", done.stderr.strip()[-500:])
        yield home / "shipping.mjs"


class Language(Struct, frozen=True):
    """How the service is started, and how its ledger is read: the rows (key, order, product, units) that stand."""

    command: tuple[str, ...]
    ledger: str
    shipped: Callable[[Path], list[tuple[Any, ...]]]


def of_sqlite(ledger: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as db, suppress(sqlite3.OperationalError):
        return db.execute("SELECT key, order_id, product_id, units FROM shipped").fetchall()
    return []  # the service is about to make its table


def of_lines(ledger: Path) -> list[tuple[Any, ...]]:
    entries = [json.loads(line) for line in ledger.read_text().split("\n")[:-1]]
    undone = {entry.get("undone") for entry in entries}
    return [
        (entry["key"], entry["order_id"], product, units)
        for entry in entries
        if "shipped" in entry and entry["key"] not in undone
        for product, units in entry["shipped"]
    ]


@pytest.fixture(params=["python", "javascript"])
def language(request: pytest.FixtureRequest) -> Language:
    if request.param == "python":
        return Language((sys.executable, str(ELSEWHERE / "shipping.py")), "shipping.db", of_sqlite)
    return Language(("node", str(request.getfixturevalue("javascript"))), "shipping.jsonl", of_lines)


class Shipping:
    """The service as a process."""

    def __init__(self, language: Language, url: str, ledger: Path, prefix: str, log: Path) -> None:
        self._words = [*language.command, url, str(ledger), prefix]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._words, stdout=log, stderr=log)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            assert self._process.poll() is None, self._log.read_text()
            self._process.kill()
            self._process.wait()
            self._process = None


class Place:
    """Everything of one test: a prefix for its topics, a folder, the service."""

    def __init__(self, language: Language, broker: Nats, home: Path) -> None:
        self.prefix = f"t{os.urandom(4).hex()}."
        self.ledger = home / "ledgers" / language.ledger
        self.ledger.parent.mkdir()
        self.service = Shipping(language, broker.url, self.ledger, self.prefix, home / "service.log")
        self.shipped = lambda: language.shipped(self.ledger)
        self._home = home
        self.url = broker.url

    def daemon(self, app: str) -> Daemon:
        """Sagas, and the participants that are not elsewhere."""
        paths = os.pathsep.join([str(SAGAS), *filter(None, [os.environ.get("PYTHONPATH")])])
        topics = {"ORCHESTRATOR_BUS": self.url, "ORCHESTRATOR_TOPICS__PREFIX": self.prefix}
        return Daemon(Path(__file__).with_name(app), self._home, PYTHONPATH=paths, **topics)


@pytest.fixture
def place(language: Language, broker: Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("SHOP_DATA", str(tmp_path / "ledgers"))
    monkeypatch.setenv("SHOP_PRODUCTS", str(SAGAS / "sample_products.jsonl"))
    for name in ("INVENTORY", "PAYMENTS"):
        monkeypatch.delenv(f"SHOP_{name}", raising=False)
    place = Place(language, broker, tmp_path)
    try:
        yield place
    finally:
        place.service.kill()


def test_orders_are_shipped_by_a_service_that_is_killed_again_and_again(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    with place.daemon("shop_without_shipping.py") as daemon:
        place.service.start()
        for part in range(PARTS):
            shipped = len(place.shipped()) if place.ledger.exists() else 0
            _order(daemon, part)
            daemon.wait_until(lambda: place.ledger.exists() and len(place.shipped()) > shipped)  # noqa: B023 now
            place.service.kill()
            _order(daemon, PARTS + part)  # these wait for it
            place.service.start()
        saga = OrderFulfilment.__name__
        counts = daemon.wait_for_ends(saga, 2 * PARTS * ORDERS)
        assert counts.keys() <= {"completed", "compensated"}
        assert daemon.stop() == 0
    place.service.kill()
    shipped = place.shipped()
    assert len({key for key, *_ in shipped}) == counts["completed"]
    _enter(shipped, place.ledger.parent / "shipping.db")
    assert anyio.run(books) == 0
    assert " 0 units reserved for the others.\n" in capsys.readouterr().out
    anyio.run(check_store, daemon.store, shop_without_shipping.app)


def _order(daemon: Daemon, part: int) -> None:
    lines = (SAGAS / "sample_orders.jsonl").read_text().splitlines()
    many = [lines[n % len(lines)].replace('"A-', f'"{n}-', 1) for n in range(part * ORDERS, (part + 1) * ORDERS)]
    told = daemon.call("emit", "OrderPlaced", "-", input="\n".join(many).encode())
    assert told.returncode == 0, told.stderr.decode()


def _enter(shipped: list[tuple[Any, ...]], ledger: Path) -> None:
    """What stands, where the books of the example look for it."""
    with closing(sqlite3.connect(ledger, isolation_level=None)) as db:
        db.executescript(SHIPPING)
        db.execute("DELETE FROM shipped")
        db.executemany("INSERT INTO shipped VALUES (?, ?, ?, ?)", shipped)


def test_it_refuses_and_is_undone(place: Place) -> None:
    item = {"product_id": 7, "quantity": 2}
    wanted = [
        {
            "order_id": f"{kind} {n}",
            "country": "Norway",
            "items": [] if kind == "empty" else [item],
            "is_welcome": kind != "unwanted",
        }
        for kind in ("good", "empty", "unwanted")
        for n in range(5)
    ]
    with place.daemon("parcels.py") as daemon:
        place.service.start()
        told = daemon.call("emit", "ParcelWanted", "-", input="\n".join(map(json.dumps, wanted)).encode())
        assert told.returncode == 0, told.stderr.decode()
        assert daemon.wait_for_ends("Parcel", 15) == {"completed": 5, "compensated": 10}
        assert daemon.stop() == 0
    place.service.kill()
    assert sorted(order for _, order, *_ in place.shipped()) == [f"good {n}" for n in range(5)]
    anyio.run(check_store, daemon.store, parcels.app)


Ask = Callable[..., Awaitable[dict[str, Any]]]


@asynccontextmanager
async def asking(place: Place) -> AsyncGenerator[Ask]:
    """Who sends commands and reads the answers, by the native client."""
    client = await connect(place.url)
    async with client:
        jetstream = client.jetstream()
        answers = f"{place.prefix}answers"
        await jetstream.add_stream(name=answers.replace(".", "-"), subjects=[answers])
        for wire_type in ("ShipOrder", "RecallOrder"):
            subject = f"{place.prefix}commands.{wire_type}"
            with suppress(APIError):  # the service was faster
                await jetstream.add_stream(name=f"{place.prefix[:-1]}-{wire_type}", subjects=[subject])
        replies = await jetstream.subscribe(answers)

        async def ask(key: str, wire_type: str, data: dict[str, Any], **more: Any) -> dict[str, Any]:
            command = {"specversion": "1.0", "id": key, "source": "/test", "type": wire_type, "replyto": answers}
            command |= {"messagekind": "command", "attempt": 1, "data": data} | more
            await jetstream.publish(f"{place.prefix}commands.{wire_type}", json.dumps(command).encode())
            reply = await replies.next_msg(REPLY_S)
            await reply.ack()
            answer: dict[str, Any] = json.loads(reply.data)
            return answer

        yield ask


async def test_it_keeps_the_rules_of_a_key(place: Place) -> None:
    ship = {"order_id": "1", "country": "Norway", "items": [{"product_id": 7, "quantity": 2}]}
    place.service.start()
    async with asking(place) as ask:
        first = await ask("k1", "ShipOrder", ship)
        assert (first["type"], first["data"], first["inreplyto"]) == ("OrderShipped", {"tracking": "NO-1"}, "k1")
        again = await ask("k1", "ShipOrder", ship, attempt=2)
        assert (again["type"], again["data"], again["attempt"]) == ("OrderShipped", {"tracking": "NO-1"}, 2)
        other = await ask("k1", "ShipOrder", ship | {"country": "Chile"}, attempt=3)
        assert (other["type"], other["data"]["reason"]) == ("Failure", "fatal")
        assert (await ask("k2/undo", "RecallOrder", {"order_id": "2"}, undoes="k2"))["type"] == "Done"
        late = await ask("k2", "ShipOrder", ship | {"order_id": "2"})
        assert (late["type"], late["data"]["reason"]) == ("Failure", "fatal")
        for attempt in (1, 2):
            undone = await ask("k1/undo", "RecallOrder", {"order_id": "1"}, undoes="k1", attempt=attempt)
            assert undone["type"] == "Done"
        refused = await ask("k3", "ShipOrder", ship | {"items": []})
        assert (refused["type"], refused["data"]) == ("NothingToShip", {"order_id": "1"})
        place.service.kill()
        place.service.start()
        assert (await ask("k3", "ShipOrder", ship | {"items": []}, attempt=2))["type"] == "NothingToShip"
        assert (await ask("k1", "ShipOrder", ship, attempt=4))["type"] == "Failure"
    assert place.shipped() == []
