"""Orders from end to end: the sample in this process, the real ones on a daemon that is killed again and again."""

import random
import sqlite3
from collections import Counter
from pathlib import Path

import anyio
import pytest

import order_fulfilment
from orchestrator import BadMessage, Call, Fatal, Orchestrator
from orchestrator.messages import decode
from order_fulfilment import (
    Mood,
    OrderFulfilment,
    OrderPlaced,
    ReleaseStock,
    ReservationRefused,
    ReservationReleased,
    ReserveStock,
    Shelf,
    ShelfFilled,
    StockReserved,
    UnitsReserved,
    app,
    books,
    open_shop,
    release_stock,
    reserve_stock,
)
from tests.sagas.conftest import SAGAS, data_folder
from tests.sagas.daemon import OPEN, Daemon, check_store

SAMPLE = SAGAS / "sample_orders.jsonl"


@pytest.fixture(autouse=True)
def shop_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOP_DATA", str(tmp_path / "ledgers"))
    monkeypatch.setenv("SHOP_PRODUCTS", str(SAGAS / "sample_products.jsonl"))
    for name in ("INVENTORY", "PAYMENTS", "SHIPPING"):
        monkeypatch.delenv(f"SHOP_{name}", raising=False)
    return tmp_path / "ledgers"


async def fulfil(store: str) -> Counter[str]:
    """All orders of the sample, to their ends."""
    orders = [decode(OrderPlaced, line) for line in SAMPLE.read_bytes().splitlines()]
    async with Orchestrator(app, store=store) as orchestrator:
        runs = [await orchestrator.start(order, OrderFulfilment) for order in orders]
        return Counter([str((await run.end(timeout=30)).status) for run in runs])


# In this process.


async def test_the_sample_ends_well_or_undone_and_the_books_balance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOP_PAYMENTS", "decline=10")
    assert await fulfil(f"sqlite:///{tmp_path}/store.db") == {"completed": 6, "compensated": 6}
    assert await books() == 0
    assert "6 orders paid, 6 shipped; 0 units reserved for the others.\n" in capsys.readouterr().out
    await check_store(f"sqlite:///{tmp_path}/store.db", app)


@pytest.mark.parametrize("mood", ["fail=1 twice=1", "lose=1 late=0.01"])
async def test_whatever_their_mood_the_participants_do_nothing_twice(
    mood: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("INVENTORY", "PAYMENTS", "SHIPPING"):
        monkeypatch.setenv(f"SHOP_{name}", mood)
    assert await fulfil("memory:") == {"completed": 9, "compensated": 3}
    assert await books() == 0
    assert "9 orders paid, 9 shipped; 0 units reserved for the others.\n" in capsys.readouterr().out


async def test_books_that_do_not_balance_are_shown(
    shop_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await fulfil(f"sqlite:///{tmp_path}/store.db")
    with sqlite3.connect(shop_folder / "shipping.db") as shipping:
        shipping.execute("UPDATE shipped SET units = units + 1 WHERE rowid = 1")
    shipping.close()
    assert await books() == 1
    assert "does not add up!" in capsys.readouterr().out


async def test_an_undo_before_its_do_leaves_a_tombstone() -> None:
    do = ReserveStock("1", 1, 4)
    undo = ReleaseStock("1", 1)
    async with open_shop() as shop:
        assert await release_stock(undo, Call(undo, key="k/undo", undoes="k", resources=shop)) is None
        with pytest.raises(Fatal):
            await reserve_stock(do, Call(do, key="k", resources=shop))
        assert await reserve_stock(do, Call(do, key="l", resources=shop)) == StockReserved(36)
        assert await reserve_stock(do, Call(do, key="l", attempt=2, resources=shop)) == StockReserved(36)


async def test_a_key_is_not_carried_out_for_another_product() -> None:
    async with open_shop() as shop:
        do, other = ReserveStock("1", 1, 4), ReserveStock("1", 2, 4)
        await reserve_stock(do, Call(do, key="k", resources=shop))
        with pytest.raises(BadMessage, match="k"):
            await reserve_stock(other, Call(other, key="k", resources=shop))


def test_a_shelf_answers_a_key_as_it_did_before_whatever_came_between() -> None:
    shelf = Shelf.folded("1", [ShelfFilled("Chai", 5), UnitsReserved("a", "1", 3), ReservationRefused("b", "2", 4, 2)])
    shelf.release("a")
    assert shelf.recorded == (ReservationReleased("a"),) and shelf.left == 5
    assert shelf.reserve("b", "2", 4).is_refused
    shelf.release("a")
    shelf.release("b")
    assert shelf.recorded == (ReservationReleased("a"), ReservationReleased("b")) and shelf.left == 5
    with pytest.raises(Fatal, match="undone"):
        shelf.reserve("a", "1", 3)


def test_a_shelf_refuses_what_is_not_there_and_says_what_is() -> None:
    shelf = Shelf.folded("1", [ShelfFilled("Chai", 5)])
    assert shelf.reserve("a", "1", 6).left == 5 and shelf.recorded == (ReservationRefused("a", "1", 6, 5),)
    assert shelf.reserve("b", "2", 5).left == 0
    with pytest.raises(Fatal, match="another"):
        shelf.reserve("b", "2", 4)


def test_a_mood_that_is_misspelt_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PAYMENTS", "decline=10 fial=3")
    with pytest.raises(TypeError, match="fial"):
        Mood.of("payments")


# On a daemon.


@pytest.fixture
def shop_daemon(tmp_path: Path) -> Daemon:
    return Daemon(Path(order_fulfilment.__file__), tmp_path)


def test_a_backoff_goes_on_after_a_restart(shop_daemon: Daemon) -> None:
    shop_daemon.environment["SHOP_SHIPPING"] = "fail=3"
    with shop_daemon:
        shop_daemon.call("emit", "OrderPlaced", SAMPLE.read_text().splitlines()[0])
        shop_daemon.wait_until(lambda: "attempt 2 failed" in shop_daemon.text("history", "OrderFulfilment/A-0001"))
        shop_daemon.kill()
        shop_daemon.start()
        assert shop_daemon.wait_for_ends("OrderFulfilment", 1)["completed"] == 1
    told = shop_daemon.text("history", "OrderFulfilment/A-0001")
    assert "ship#1: attempt 4" in told and "attempt 5" not in told


def test_a_carrier_that_never_works_parks_the_order_until_a_person_retries(shop_daemon: Daemon) -> None:
    shop_daemon.environment["SHOP_SHIPPING"] = "fail=inf"
    with shop_daemon:
        shop_daemon.call("emit", "OrderPlaced", SAMPLE.read_text().splitlines()[0])
        shop_daemon.wait_until(lambda: bool(shop_daemon.ask("list", "--parked")["items"]))
        told = shop_daemon.text("why", "OrderFulfilment/A-0001")
        assert "shipping is down" in told and "ship" in told
        shop_daemon.environment["SHOP_SHIPPING"] = ""
        assert shop_daemon.stop() == 0
        shop_daemon.start()
        shop_daemon.wait_until(shop_daemon.is_up)
        assert shop_daemon.call("retry", "OrderFulfilment/A-0001").returncode == 0
        assert shop_daemon.wait_for_ends("OrderFulfilment", 1)["completed"] == 1
    assert anyio.run(books) == 0


def test_a_bank_that_never_works_undoes_the_order(shop_daemon: Daemon) -> None:
    shop_daemon.environment["SHOP_PAYMENTS"] = "fail=inf"
    with shop_daemon:
        shop_daemon.call("emit", "OrderPlaced", SAMPLE.read_text().splitlines()[0])
        shop_daemon.wait_until(lambda: shop_daemon.counts("OrderFulfilment").get("compensating") == 1)
        told = shop_daemon.text("why", "OrderFulfilment/A-0001")
        assert "undo of charge" in told and "payments is down" in told
        shop_daemon.kill()
        shop_daemon.environment["SHOP_PAYMENTS"] = ""
        shop_daemon.start()
        assert shop_daemon.wait_for_ends("OrderFulfilment", 1)["compensated"] == 1
    assert anyio.run(books) == 0


# Many orders on a daemon: the real ones, or where their folder is not, the sample twenty times over.


@pytest.fixture
def orders(tmp_path: Path, shop_daemon: Daemon) -> Path:
    real = data_folder() / "northwind_orders.jsonl"
    if real.is_file():
        shop_daemon.environment["SHOP_PRODUCTS"] = str(real.with_name("northwind_products.jsonl"))
        return real
    path = tmp_path / "orders.jsonl"
    sample = SAMPLE.read_text()
    path.write_text("".join(sample.replace('"A-', f'"A{number}-') for number in range(20)))
    return path


def lines_in(path: Path) -> int:
    return path.read_text().count("\n")


async def check_books(daemon: Daemon, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """They balance, nothing is reserved, and what the saga says of each order is what the ledgers say."""
    assert await books() == 0
    assert "; 0 units reserved" in capsys.readouterr().out
    completed = {it["key"] for it in daemon.ask("list", "--status", "completed", "-n", "10000")["items"]}
    with sqlite3.connect(folder / "shipping.db") as shipping:
        assert {order_id for (order_id,) in shipping.execute("SELECT order_id FROM shipped")} == completed
    shipping.close()


async def test_many_orders_end_and_a_second_emit_changes_nothing(
    shop_daemon: Daemon, shop_folder: Path, orders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = lines_in(orders)
    emit = ("emit", "OrderPlaced", "--file", str(orders))
    shop_daemon.environment["SHOP_PAYMENTS"] = "decline=10"
    with shop_daemon:
        assert shop_daemon.ask(*emit)["accepted"] == count
        counts = shop_daemon.wait_for_ends("OrderFulfilment", count)
        assert counts["completed"] + counts["compensated"] == count and counts["completed"] >= 5
        assert shop_daemon.ask(*emit)["duplicates"] == count
        assert shop_daemon.counts("OrderFulfilment") == counts
        assert shop_daemon.stop() == 0
    await check_books(shop_daemon, capsys, shop_folder)
    await check_store(shop_daemon.store, app)


async def test_many_orders_end_although_the_daemon_is_killed_again_and_again(
    shop_daemon: Daemon, shop_folder: Path, orders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = lines_in(orders)
    emit = ("emit", "OrderPlaced", "--file", str(orders))
    for name, mood in {"INVENTORY": "late=0.1", "PAYMENTS": "late=0.1 decline=10", "SHIPPING": "late=0.5"}.items():
        shop_daemon.environment[f"SHOP_{name}"] = mood
    chance, kills = random.Random(1), 0
    with shop_daemon:
        emitting = shop_daemon.popen(*emit)
        while True:
            if chance.random() < 0.8:  # else it may be killed before it serves
                shop_daemon.wait_until(shop_daemon.serves)
            await anyio.sleep(chance.uniform(0.3, 2))
            shop_daemon.kill()
            kills += 1
            if emitting.wait(60):  # the daemon was killed under it: what was not accepted goes in now
                emitting = shop_daemon.popen(*emit)
            elif not sum(shop_daemon.counts("OrderFulfilment").get(status, 0) for status in OPEN):
                break
            assert kills < 60, shop_daemon.text("status")
            shop_daemon.start()
    counts = shop_daemon.counts("OrderFulfilment")
    assert kills >= 2 and counts["completed"] + counts["compensated"] == count
    await check_books(shop_daemon, capsys, shop_folder)
    await check_store(shop_daemon.store, app)
