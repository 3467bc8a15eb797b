"""Users from end to end, in this process: what is asked once happens once, in all the places that want to know."""

import sqlite3
from collections.abc import Awaitable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import anyio
import pytest

import user_registration
from orchestrator import Delivery, NotFound, Orchestrator, Repository, WebhookSettings, open_projection
from orchestrator.memory import MemoryStore
from orchestrator.runtime.embedded import Run
from orchestrator.testing import check, drive
from tests.sagas.daemon import Daemon, check_store
from tests.servers.receiver import receiver
from user_registration import (
    Customer,
    CustomerLeft,
    DeactivationRequested,
    EmailChanged,
    EmailChangeRequested,
    Order,
    OrderCancelled,
    OrderClosed,
    OrderFulfilled,
    OrderPaid,
    OrderPlaced,
    OrderRefused,
    OrderRequested,
    Outside,
    RegistrationRequested,
    ReleaseItem,
    RequestRefused,
    ReserveItem,
    User,
    UserDeactivated,
    UserRegistered,
    Users,
    app,
    change_email,
)

ANNA = RegistrationRequested("anna", "anna@example.org")
NOW = datetime(2026, 5, 4, tzinfo=UTC)
CUSTOMERS = (OrderPlaced, OrderRefused, OrderClosed, OrderCancelled, CustomerLeft)
REGISTERED = UserRegistered("anna", "anna@example.org", "web")


# The decisions, without a store.


def test_a_user_registers_moves_and_leaves_once() -> None:
    user = User.new("anna")
    for _ in range(2):
        user.register("anna@example.org", "web")
        user.change_email("a@example.org")
    user.deactivate("moved away")
    user.deactivate("again")
    user.change_email("late@example.org")
    user.register("back@example.org", "web")
    assert user.recorded == (
        REGISTERED,
        EmailChanged("anna", "a@example.org"),
        UserDeactivated("anna", "a@example.org", "moved away"),
        RequestRefused("anna", "late@example.org", "to change the address"),
        RequestRefused("anna", "back@example.org", "to register again"),
    )


def test_leaving_cancels_what_is_open_and_refuses_what_comes_later() -> None:
    customer = Customer.folded("anna", [OrderPlaced(id, "anna", "tea") for id in "123"] + [OrderClosed("2")])
    customer.leave("moved away")
    customer.order(OrderRequested("1", "anna", "tea"))  # asked a second time
    customer.order(OrderRequested("4", "anna", "tea"))
    assert customer.recorded == (
        CustomerLeft("moved away"),
        OrderCancelled("1", "moved away"),
        OrderCancelled("3", "moved away"),
        OrderRefused("4"),
    )


def test_an_order_that_was_paid_before_it_could_be_cancelled_is_closed() -> None:
    customer = Customer.folded("anna", [OrderPlaced("1", "anna", "tea"), OrderCancelled("1", "moved away")])
    customer.close("1")
    assert customer.recorded == (OrderClosed("1"),)


def test_an_order_is_fulfilled_when_it_is_paid() -> None:
    t = drive(Order, OrderPlaced("1", "anna", "tea"))
    t.expect(ReserveItem("1", "tea")).done()
    t.tell(OrderPaid("1")).expect(OrderFulfilled("1", "anna")).ends("completed")


def test_a_cancelled_order_is_released() -> None:
    t = drive(Order, OrderPlaced("1", "anna", "tea"))
    t.expect(ReserveItem("1", "tea")).done()
    t.tell(OrderCancelled("1", "moved away")).expect(ReleaseItem("1")).done().ends("compensated")


def test_an_order_is_sound_in_every_order_of_what_can_happen() -> None:
    assert check(Order).ok


def moved(email: str, id: str, log: MemoryStore) -> Awaitable[None]:
    asked = EmailChangeRequested("anna", email)
    delivery = Delivery(id=id, type="EmailChangeRequested", time=NOW, resources=None, events=log)
    told: Awaitable[None] = change_email(asked, cast("Delivery[Outside]", delivery))
    return told


async def test_somebody_unknown_cannot_move() -> None:
    log = MemoryStore()
    with pytest.raises(NotFound):
        await moved("b@example.org", "1", log)
    assert await log.stream_version("User-anna") == 0


async def test_a_request_that_comes_again_after_others_changes_nothing() -> None:
    log = MemoryStore()
    await log.append("User-anna", REGISTERED)
    for email, id in [("b@example.org", "1"), ("c@example.org", "2"), ("b@example.org", "1")]:
        await moved(email, id, log)
    user = await Repository(User, log).load("anna")
    assert (user.version, user.email) == (3, "c@example.org")


# All of it.


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USERS_DATA", str(tmp_path / "outside"))
    return tmp_path


def url(place: Path) -> str:
    return f"sqlite:///{place}/store.db"


def opened(place: Path) -> Orchestrator:
    return Orchestrator(app, url(place), webhooks=WebhookSettings(allow=("127.0.0.0/8",), http=True))


async def ask(orchestrator: Orchestrator, *requests: RegistrationRequested | OrderRequested | OrderPaid) -> None:
    for request in requests:
        await orchestrator.emit(request)
        await orchestrator.until_idle()


def mails(place: Path) -> list[str]:
    return sorted(file.read_text() for file in (place / "outside" / "mail").iterdir())


def rows(place: Path, name: str, question: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(place / "outside" / f"{name}.db")) as db:
        return db.execute(question).fetchall()


def counted(place: Path) -> list[tuple[str, ...]]:
    return rows(place, "analytics", "SELECT what, user_id FROM seen ORDER BY what, user_id")


async def read_model(orchestrator: Orchestrator) -> list[tuple[str, str, bool]]:
    """The rows of the read model, as soon as they have all that is stored."""
    users = orchestrator.projection(Users)
    positions = [recorded.position async for recorded in orchestrator.events.read_all()]
    await users.reached(positions[-1])
    with closing(users.open()) as db:
        return [
            (user_id, email, bool(is_active))
            for user_id, email, is_active in db.execute("SELECT user_id, email, is_active FROM users ORDER BY user_id")
        ]


async def test_what_is_asked_twice_happens_once_everywhere(place: Path) -> None:
    async with opened(place) as orchestrator:
        for id in ("1", "1", "2"):  # the second by its id, the third by what the user is already
            await orchestrator.emit(ANNA, id=id)
            await orchestrator.until_idle()
        await orchestrator.emit(EmailChangeRequested("anna", "a@example.org"))
        await orchestrator.until_idle()
        events = [recorded.event async for recorded in orchestrator.events.read("User-anna")]
        assert await read_model(orchestrator) == [("anna", "a@example.org", True)]
    assert events == [REGISTERED, EmailChanged("anna", "a@example.org")]
    assert mails(place) == [
        "To: a@example.org\n\nThis is your new address.\n",
        "To: anna@example.org\n\nWelcome!\n",
    ]
    assert counted(place) == [("UserRegistered", "anna")]
    await check_store(url(place), app)


async def test_the_read_model_says_what_the_aggregates_say(place: Path) -> None:
    names = [f"user{number:02}" for number in range(30)]
    async with opened(place) as orchestrator:
        for name in names:
            await orchestrator.emit(RegistrationRequested(name, f"{name}@example.org"))
        await orchestrator.until_idle()
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(orchestrator.emit, EmailChangeRequested(name, f"{name}@example.com"))
                if name.endswith("3"):
                    tasks.start_soon(orchestrator.emit, DeactivationRequested(name, "moved away"))
        await orchestrator.until_idle()
        repository = Repository(User, orchestrator.events)
        users = [await repository.load(name) for name in names]
        assert await read_model(orchestrator) == [(user.id, user.email, user.is_active) for user in users]
        assert [user.id for user in users if not user.is_active] == ["user03", "user13", "user23"]
        before = [await repository.load(name, at_version=1) for name in names]
    assert [(user.email, user.is_active) for user in before] == [(f"{name}@example.org", True) for name in names]


async def test_the_outside_gets_the_boundary_event_signed_and_no_core_event(place: Path) -> None:
    standardwebhooks = pytest.importorskip("standardwebhooks")
    pytest.importorskip("httpcore2")
    with receiver() as crm:
        async with opened(place) as orchestrator:
            webhook = await orchestrator.webhooks.add(crm.url("/ok"), name="crm", types=("user.*",))
            await ask(orchestrator, ANNA)
            [secret] = webhook.signing(0)
    [(_, headers, body)] = crm.came
    event = standardwebhooks.Webhook(secret).verify(body, headers)
    assert (event["type"], event["dataversion"]) == ("user.registered", 1)
    assert event["data"] == {"user_id": "anna", "source": "web"}
    assert b"anna@example.org" not in body


async def test_a_deactivation_cancels_open_orders_and_nothing_else(place: Path) -> None:
    async with opened(place) as orchestrator:
        await ask(orchestrator, ANNA, RegistrationRequested("bert", "bert@example.org"))
        await ask(orchestrator, *(OrderRequested(f"{number}", "anna", "tea") for number in range(3)))
        await ask(orchestrator, OrderRequested("9", "bert", "rum"), OrderPaid("0"))
        await orchestrator.emit(DeactivationRequested("anna", "moved away"))
        await orchestrator.until_idle()
    async with opened(place) as orchestrator:
        runs: dict[str, Run[Order]] = {id: orchestrator.get(Order, id) for id in ("0", "1", "2", "3", "9")}
        assert [await runs[id].status() for id in "0129"] == ["completed", "compensated", "compensated", "running"]
        await ask(orchestrator, OrderRequested("3", "anna", "tea"))
        with pytest.raises(NotFound):
            await runs["3"].status()
        events = [recorded.event async for recorded in orchestrator.events.read("Customer-anna", types=CUSTOMERS)]
        assert await read_model(orchestrator) == [
            ("anna", "anna@example.org", False),
            ("bert", "bert@example.org", True),
        ]
        await ask(orchestrator, OrderPaid("9"))
    assert events[3:] == [
        OrderClosed("0"),
        CustomerLeft("moved away"),
        OrderCancelled("1", "moved away"),
        OrderCancelled("2", "moved away"),
        OrderRefused("3"),
    ]
    assert rows(place, "warehouse", "SELECT order_id, item FROM reserved ORDER BY order_id") == [
        ("0", "tea"),
        ("9", "rum"),
    ]
    assert "To: anna@example.org\n\nGoodbye.\n" in mails(place)
    await check_store(url(place), app)


def test_a_mail_server_that_is_down_delays_only_the_mail_and_nothing_is_lost_by_a_kill(place: Path) -> None:
    mail, down = place / "outside" / "mail", place / "outside" / "down"
    with Daemon(Path(user_registration.__file__), place) as daemon:
        mail.rename(down)
        daemon.call("emit", "RegistrationRequested", '{"user_id": "anna", "email": "anna@example.org"}')
        daemon.call("emit", "OrderRequested", '{"order_id": "1", "user_id": "anna", "item": "tea"}')
        daemon.wait_until(lambda: counted(place) == [("UserRegistered", "anna")])
        daemon.wait_until(lambda: rows(place, "warehouse", "SELECT order_id, item FROM reserved") == [("1", "tea")])
        daemon.kill()
        assert not mail.exists() and not list(down.iterdir())
        daemon.start()  # it makes the folder anew
        daemon.wait_until(daemon.is_up)
        daemon.call("emit", "DeactivationRequested", '{"user_id": "anna", "reason": "moved away"}')
        assert daemon.wait_for_ends("Order", 1) == {"compensated": 1}
        daemon.wait_until(lambda: len(mails(place)) == 2)
        assert daemon.stop() == 0
    assert mails(place) == ["To: anna@example.org\n\nGoodbye.\n", "To: anna@example.org\n\nWelcome!\n"]
    assert counted(place) == [("UserDeactivated", "anna"), ("UserRegistered", "anna")]
    assert rows(place, "warehouse", "SELECT * FROM reserved") == []
    with closing(open_projection(daemon.store, Users)) as db:
        assert db.execute("SELECT user_id, is_active FROM users").fetchall() == [("anna", 0)]
