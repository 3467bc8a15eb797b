"""App: what belongs together, and how it is found by name."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator import AppError, Child, Command, Compensate, Event, Refusal, Saga, Wait, on, step
from orchestrator.app import App, load_app
from orchestrator.participant import Call, Delivery, listener, participant


class OrderPlaced(Event):
    order_id: str


class OrderCancelled(Event):
    order_id: str


class StockReserved(Event):
    reservation_id: str


class OutOfStock(Refusal):
    product_id: int


class ReserveStock(Command[StockReserved, OutOfStock]):
    order_id: str


class ReleaseStock(Command):
    order_id: str


class OrderFulfilled(Event):
    order_id: str


class Paid(Event):
    reference: str


class MailSent(Event):
    to: str


class Order(Saga, key="order_id", starts=OrderPlaced):
    order_id: str

    @step
    def reserve(self) -> ReserveStock:
        return ReserveStock(self.order_id)

    @reserve.compensate
    def release(self) -> ReleaseStock:
        return ReleaseStock(self.order_id)

    @step
    def payment(self) -> Wait:
        return Wait(60)

    @payment.on(key="reference")
    def paid(self, event: Paid) -> None: ...

    @step
    def announce(self) -> OrderFulfilled:
        return OrderFulfilled(self.order_id)

    @on
    def cancelled(self, event: OrderCancelled) -> Compensate:
        return Compensate("cancelled")


class Basket(Saga, key="order_id", starts=OrderFulfilled):
    order_id: str

    @step
    def order(self) -> Child[Order]:
        return Child(Order, OrderPlaced(self.order_id))


class Services:
    pass


@asynccontextmanager
async def services() -> AsyncGenerator[Services]:
    yield Services()


@participant
async def reserve_stock(command: ReserveStock, call: Call[Services]) -> StockReserved | OutOfStock:
    return StockReserved(call.key)


@participant
def release_stock(command: ReleaseStock) -> None: ...


@listener
async def mail(event: OrderFulfilled | StockReserved, delivery: Delivery[Services]) -> MailSent | None: ...


def test_what_an_app_knows() -> None:
    app = App("shop", sagas=[Order], participants=[reserve_stock], listeners=[mail], resources=services)
    assert app.sagas["Order"].cls is Order
    assert app.participants == {"ReserveStock": reserve_stock}
    assert app.listeners == {"mail": mail}
    assert app.listening == {"OrderFulfilled": ("mail",), "StockReserved": ("mail",)}
    assert app.routes == {
        "OrderPlaced": (("Order", "order_id"),),
        "OrderCancelled": (("Order", "order_id"),),
        "Paid": (("Order", "reference"),),
    }
    assert app.types["ReleaseStock"] is ReleaseStock
    assert app.types["OutOfStock"] is OutOfStock
    assert app.missing_participants() == (ReleaseStock,)


def test_events_are_what_is_taken_or_published() -> None:
    without = App("shop", sagas=[Order], participants=[release_stock])
    assert without.event_types == {
        "OrderPlaced": OrderPlaced,
        "OrderCancelled": OrderCancelled,
        "Paid": Paid,
        "OrderFulfilled": OrderFulfilled,
    }
    with_listener = App("shop", listeners=[mail], resources=services)
    assert with_listener.event_types == {
        "OrderFulfilled": OrderFulfilled,
        "StockReserved": StockReserved,
        "MailSent": MailSent,
    }


def test_child_sagas_need_not_be_listed() -> None:
    app = App("shop", sagas=[Basket])
    assert list(app.sagas) == ["Basket", "Order"]
    assert ReserveStock in app.missing_participants()


async def test_resources_are_entered_only_on_demand() -> None:
    app = App("shop", participants=[reserve_stock], resources=services)
    async with app.resources() as given:
        assert isinstance(given, Services)
    async with App("bare").resources() as nothing:
        assert nothing is None


def other(kind: str) -> Any:
    class Order(Saga, key="order_id", starts=OrderPlaced):
        order_id: str

        @step
        def announce(self) -> OrderFulfilled:
            return OrderFulfilled(self.order_id)

    class ReserveStock(Command):
        order_id: str

    @participant
    def again(command: ReleaseStock) -> None: ...

    @participant
    def foreign(command: ReserveStock) -> None: ...

    def mail(event: OrderPlaced) -> None: ...

    return {"saga": Order, "participant": again, "foreign": foreign, "listener": listener(mail), "plain": mail}[kind]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"sagas": [Order, other("saga")]},
            "Order and .*other.<locals>.Order are both called Order: rename",
        ),
        ({"sagas": [OrderPlaced]}, "OrderPlaced.* among its sagas is no Saga class"),
        (
            {"participants": [release_stock, other("participant")]},
            "and again both carry out ReleaseStock",
        ),
        (
            {"sagas": [Order], "participants": [other("foreign")]},
            "have the same wire type ReserveStock: rename one, or give it another",
        ),
        ({"participants": [other("plain")]}, "mail among its participants is none: put @participant over it"),
        ({"participants": [mail]}, "among its participants is none"),
        ({"listeners": [mail, other("listener")], "resources": services}, "two listeners are called mail"),
        ({"listeners": [other("plain")]}, "mail among its listeners is none: put @listener over it"),
        ({"participants": [reserve_stock]}, r"reserve_stock wants Services as its resources: give App\(..., resources"),
    ],
)
def test_an_app_that_cannot_be_right(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(AppError, match=said):
        App("shop", **arguments)


def test_an_app_without_name() -> None:
    with pytest.raises(AppError, match="an app needs a name"):
        App("")


# Finding one by name.


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A user's folder; what is imported from it is forgotten afterwards."""
    modules, path = dict(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]


SHOP = """
from orchestrator import Event
from orchestrator.app import App

class Placed(Event):
    order_id: str

app = App("shop")
other = App("other")
number = 3
"""


def write(path: Path, text: str = SHOP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("shop_a", "shop"),
        ("shop_a:app", "shop"),
        ("shop_a:other", "other"),
        ("shop_a.py", "shop"),
        ("./shop_a.py:other", "other"),
    ],
)
def test_by_module_and_by_file(place: Path, spec: str, name: str) -> None:
    write(place / "shop_a.py")
    assert load_app(spec, place).name == name


def test_the_current_directory_is_the_default(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place / "shop_b.py")
    monkeypatch.chdir(place)
    assert load_app("shop_b:app").name == "shop"


def test_a_file_is_loaded_once_under_its_own_name(place: Path) -> None:
    path = write(place / "sagas" / "shop_c.py")
    app = load_app("sagas/shop_c.py", place)
    assert load_app(str(path), place) is app
    assert sys.modules["shop_c"].__dict__["Placed"].__module__ == "shop_c"


def test_a_file_sees_its_neighbours_and_a_package_its_relatives(place: Path) -> None:
    write(place / "plain" / "words_d.py", "name = 'neighbours'")
    write(place / "plain" / "shop_d.py", "from words_d import name\nfrom orchestrator.app import App\napp = App(name)")
    assert load_app("plain/shop_d.py", place).name == "neighbours"
    write(place / "pack_d" / "__init__.py", "")
    write(place / "pack_d" / "words.py", "name = 'relatives'")
    write(place / "pack_d" / "shop.py", "from .words import name\nfrom orchestrator.app import App\napp = App(name)")
    assert load_app("pack_d/shop.py", place).name == "relatives"
    assert load_app("pack_d.shop", place) is load_app("pack_d/shop.py", place)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "no app is given"),
        ("shop_ee", "there is no module 'shop_ee', looked for in .* did you mean shop_e?"),
        ("shop_ee.py", r"there is no file .*shop_ee.py; did you mean shop_e.py\?"),
        ("nowhere/shop_e.py", "there is no file .*nowhere/shop_e.py$"),
        ("pack_e.shpo", r"there is no module 'pack_e.shpo' in the package pack_e; did you mean shop\?"),
        ("shop_e.app", "shop_e is not a package; write `shop_e:attribute`"),
        ("shop_e:ap", "shop_e has no 'ap'; its apps are app, other"),
        ("shop_e:number", "'number' of shop_e is int, not an App; its apps are app, other"),
        ("empty_e", r"empty_e has no 'app'; it has none: write app = App\('name'"),
        ("json.py", "json.py cannot be imported as 'json', which is .*json/__init__.py: rename the file"),
    ],
)
def test_a_typo(place: Path, spec: str, said: str) -> None:
    write(place / "shop_e.py")
    write(place / "empty_e.py", "")
    write(place / "json.py", "")
    write(place / "pack_e" / "__init__.py", "")
    write(place / "pack_e" / "shop.py")
    with pytest.raises(AppError, match=said):
        load_app(spec, place)


def test_a_failing_import_gives_the_users_own_traceback(place: Path) -> None:
    write(place / "inner_f.py", "def fail():\n    raise ValueError('no luck')\n")
    write(place / "shop_f.py", "import inner_f\ninner_f.fail()\n")
    with pytest.raises(AppError) as raised:
        load_app("shop_f", place)
    text = str(raised.value)
    assert text.startswith("Traceback")
    assert text.endswith("ValueError: no luck")
    assert f'File "{place}/shop_f.py", line 2' in text
    assert f'File "{place}/inner_f.py", line 2' in text
    assert text.count('File "') == 2


def test_a_definition_error_ends_at_the_users_line(place: Path) -> None:
    write(place / "shop_g.py", "from orchestrator.participant import participant\n\n@participant\ndef f(x): ...\n")
    with pytest.raises(AppError) as raised:
        load_app("shop_g", place)
    assert str(raised.value).count('File "') == 1
    assert "DefinitionError: participant f does not say what its parameter x is" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:", "SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("from orchestrator.app import App\nApp('')", "AppError: an app needs a name"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_other_failing_imports(place: Path, text: str, said: str) -> None:
    write(place / "shop_h.py", text)
    with pytest.raises(AppError, match=r"shop_h\.py") as raised:
        load_app("shop_h", place)
    assert said in str(raised.value)
