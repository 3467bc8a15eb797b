"""`orchestrator preflight`: what other code would make of what is stored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from click.testing import CliRunner, Result

from orchestrator import Event, Orchestrator, load_app
from orchestrator.operate.cli import main
from orchestrator_adapters.sqlite import SQLiteStore

CODE = """
from orchestrator import App, Call, Command, Event, Saga, Wait, participant, step

class Ordered(Event):
    order: str
    price: int

class Paid(Event):
    order: str

class Taken(Event):
    receipt: str

class Take(Command[Taken]):
    amount: int

class Order(Saga, key="order", starts=Ordered):
    order: str
    price: int
    receipt: str = ""

    @step(undo=None)
    def take(self) -> Take:
        return Take(self.price)

    @take.on
    def taken(self, reply: Taken) -> None:
        self.receipt = reply.receipt

    @step
    def wait(self) -> Wait:
        return Wait()

    @wait.on
    def paid(self, event: Paid) -> None:
        pass

@participant
def take(command: Take, call: Call) -> Taken:
    return Taken("r")

app = App("kiosk", sagas=[Order], participants=[take])
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with an order that is done and one that waits; nothing else is set."""
    monkeypatch.chdir(tmp_path)
    for name in ("ORCHESTRATOR_STORE", "ORCHESTRATOR_APP", "ORCHESTRATOR_BUS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in ("old", "new"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "old.py").write_text(CODE)
    app = load_app("old.py", tmp_path)

    async def fill() -> None:
        async with Orchestrator(app, SQLiteStore(tmp_path / "s.db")) as orchestrator:
            types: dict[str, Any] = app.event_types
            for order in ("done", "open"):
                said: Event = types["Ordered"](order, 5)
                await orchestrator.emit(said)
                await orchestrator.until_idle()
            await orchestrator.emit(types["Paid"]("done"))

    anyio.run(fill)


def preflight(*changes: tuple[str, str], json: bool = False) -> Result:
    code = CODE
    for before, after in changes:
        assert before in code
        code = code.replace(before, after)
    Path("new.py").write_text(code)
    return CliRunner().invoke(main, ["preflight", "new.py", "--store", "sqlite:///s.db", *["--json"] * json])


def test_the_same_code_differs_in_nothing() -> None:
    result = preflight()
    assert (result.exit_code, result.stdout) == (0, "Order\t2\t5\t0\t0\n")
    assert "2 instances, 5 transitions in " in result.stderr
    assert "nothing would differ" in result.stderr


def test_another_command_is_shown_with_its_fields() -> None:
    result = preflight(("Take(self.price)", "Take(self.price + 1)"))
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "Order\t2\t5\t0\t2",
        "Order/open: with this code it would hold something else",
        "  visits.take#1.calls[0].command.data.amount: 6 instead of 5",
        "Order/done: with this code it would hold something else",
        "  visits.take#1.calls[0].command.data.amount: 6 instead of 5",
    ]
    assert "2 would differ" in result.stderr


def test_another_way_is_shown_from_its_first_transition() -> None:
    result = preflight(
        (
            "    @step\n    def wait",
            "    @step\n    def rest(self) -> Wait:\n        return Wait(5)\n\n    @step\n    def wait",
        )
    )
    assert result.exit_code == 1
    assert (
        "Order/open: with this code its transition 2 (yes Taken) would be: rest#1 entered (instead of: wait#1 entered)"
        in result.stdout.splitlines()
    )


def test_code_that_raises_is_shown_for_each_instance() -> None:
    result = preflight(("self.receipt = reply.receipt", 'raise ValueError("no \\x1b receipts")'))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1:] == [
        r"Order/open: with this code its transition 2 (yes Taken) raises ValueError: no \x1b receipts",
        r"Order/done: with this code its transition 2 (yes Taken) raises ValueError: no \x1b receipts",
    ]


def test_an_open_instance_in_a_step_that_is_gone() -> None:
    result = preflight(("def wait", "def await_payment"), ("@wait.on", "@await_payment.on"))
    assert result.exit_code == 1
    expected = "the daemon would not start: Order/open: stands in step wait, which Order does not have"
    assert expected in result.stdout.splitlines()


VERSION_2 = ("starts=Ordered)", "starts=Ordered, version=2)")


def test_a_migration_that_is_missing() -> None:
    result = preflight(VERSION_2)
    assert result.exit_code == 1
    expected = "the daemon would not start: Order/open: is of version 1; there is no @migrate(from_version=1)"
    assert expected in result.stdout.splitlines()


def test_what_other_code_made_is_not_compared() -> None:
    migration = "    @staticmethod\n    @migrate(from_version=1)\n    def lift(state):\n        return state\n"
    changed = ("return Take(self.price)\n", f"return Take(self.price + 1)\n\n{migration}")
    result = preflight(VERSION_2, changed, ("import App", "import migrate, App"))
    assert (result.exit_code, result.stdout) == (0, "Order\t2\t5\t2\t0\n")
    assert "2 of another version and not compared: nothing would differ" in result.stderr


def test_json() -> None:
    answer = msgspec.json.decode(preflight(("Take(self.price)", "Take(self.price + 1)"), json=True).stdout)
    assert answer["version"] == 1
    assert answer["items"] == [{"saga": "Order", "instances": 2, "transitions": 5, "not_compared": 0, "differing": 2}]
    assert answer["differences"][0]["key"] == "open"
    assert answer["differences"][0]["fields"] == [
        {"path": "visits.take#1.calls[0].command.data.amount", "here": "6", "there": "5"}
    ]
    assert answer["standing"] == []


def test_an_app_or_a_store_that_is_not_there() -> None:
    run = CliRunner().invoke
    assert run(main, ["preflight", "nowhere.py", "--store", "sqlite:///s.db"]).exit_code == 78
    assert run(main, ["preflight", "--store", "sqlite:///s.db"]).exit_code == 78
    assert run(main, ["preflight", "old.py", "--store", "sqlite:///no.db"]).exit_code == 69
