"""The reading verbs, as a shell sees them: stdout, stderr, exit code. No daemon runs."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result
from msgspec import Raw
from msgspec.structs import replace

from orchestrator import Secret
from orchestrator.errors import (
    AppError,
    BadMessage,
    BusUnavailable,
    ConfigError,
    NoStore,
    NotFound,
    Refused,
    StoreCorrupt,
    StoreFull,
    StoreLocked,
    StoreUnavailable,
)
from orchestrator.machine import Outcome, Transition
from orchestrator.memory import MemoryBus
from orchestrator.operate import client, output, view
from orchestrator.operate.cli import (
    BUS,
    CONFIG,
    DEAD,
    SECTIONS,
    WAITING,
    WEBHOOKS,
    Exit,
    LazyGroup,
    complain,
    main,
    reading,
)
from orchestrator.operate.cli.session import Session
from orchestrator.operate.protocol import BusState, Hosts
from orchestrator.ports import Place
from orchestrator.testing import Dialogue, drive
from orchestrator.testing.drive import START
from orchestrator.wire import DeadLetter, Envelope, Kind
from orchestrator_adapters.sqlite import SQLiteStore

from ..machine import cast
from . import shop

ROOT = Path(__file__).parent.parent.parent
APP = f"{ROOT / 'tests/operate/shop.py'}:app"
TELLER = f"{ROOT / 'tests/operate/teller.py'}:app"
BUS_APP = f"{ROOT / 'tests/operate/kiosk.py'}:app"
NASTY = "k\x1b[31m\te\u202ey/with\nslashes and 'quotes'"
LATER_S = 5.0


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty directory, a bare environment, a clock that stands a little after the stories."""
    monkeypatch.chdir(tmp_path)
    for name in ("ORCHESTRATOR_STORE", "ORCHESTRATOR_APP", "ORCHESTRATOR_BUS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    stand_at(monkeypatch, LATER_S)


def stand_at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let it be so long after the stories began."""

    def now(session: Session) -> datetime:
        return view.moment(START + seconds)

    monkeypatch.setattr(Session, "now", now)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


def early(number: int) -> Transition:
    """A message for an instance that is not there yet."""
    envelope = Envelope(
        id=f"early-{number}", kind=Kind.EVENT, type="Approved", data=Raw(b'{"order":"9"}'), saga="Order", key="9"
    )
    return Transition(at=START, message=envelope, outcome=Outcome.WAITING, wait_until=START + 86_400)


def dead(number: int) -> Transition:
    """A dead letter."""
    letter = DeadLetter(
        START, f"no class is of type Foo{number}", None, b'{"card":{"$secret":"4111"}}\x1b', error="E\nlast"
    )
    return Transition(at=START, dead=(letter,))


def buried(number: int, listener: str) -> Transition:
    """A dead letter of a listener or webhook."""
    paid = Envelope(f"paid-{number}", Kind.EVENT, "Paid", Raw(b'{"cents":1}'), START)
    return Transition(at=START, dead=(DeadLetter(START, "it was not taken", paid, listener=listener),))


ALL: tuple[Callable[[], Dialogue], ...] = (
    shop.reserving,
    shop.waiting,
    shop.charging,
    shop.backing_off,
    shop.undoing,
    shop.undone,
    shop.with_child,
    shop.parked,
    shop.completed,
    shop.paused,
    shop.killed,
)


@pytest.fixture
def full(tmp_path: Path) -> str:
    """A store with an instance in every state."""
    path = tmp_path / "full.db"
    return shop.store(path, [begin() for begin in ALL], early(1), early(2), *(dead(n) for n in range(3)))


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments, prog_name="orchestrator")
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    return result


def json(*arguments: str) -> dict[str, Any]:
    text = run(*arguments, "--json").stdout
    decoded: dict[str, Any] = msgspec.json.decode(text)
    assert text.count("\n") == 1
    assert decoded["version"] == 1
    return decoded


def rows(*arguments: str) -> list[list[str]]:
    return [line.split("\t") for line in run(*arguments).stdout.splitlines()]


# What is not there.


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["list"],
        ["show", "Order/1"],
        ["why", "Order/1"],
        ["history", "Order/1"],
        ["watch"],
        ["watch", "Order/1"],
        ["dead", "list"],
        ["dead", "show", "1"],
        ["waiting", "list"],
        ["backup", "copy.db"],
        ["prune", "--yes"],
    ],
)
def test_a_missing_store_is_one_line_and_nothing_is_made(tmp_path: Path, arguments: Sequence[str]) -> None:
    result = run(*arguments, "--store", f"sqlite:///{tmp_path}/none.db", code=69)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert str(tmp_path / "none.db") in line
    assert "orchestrator run" in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "no.db").write_text("hello " * 1000)
    line = run("status", "--store", "sqlite:///no.db", code=69).stderr
    assert "not a SQLite database" in line
    assert len(line.splitlines()) == 1


def test_a_url_of_no_known_store(tmp_path: Path) -> None:
    assert len(run("status", "--store", "nonsense://x", code=78).stderr.splitlines()) == 1
    assert "sqlite:///shop.db" in run("status", "--store", "shop.db", code=78).stderr


def test_a_verb_that_is_mistyped_is_guessed() -> None:
    assert "Did you mean status?" in run("staus", code=2).stderr
    assert "Did you mean redrive?" in run("dead", "redive", code=2).stderr
    assert "Did you mean" not in run("xyzzy", code=2).stderr


def test_an_instance_that_is_not_there(full: str) -> None:
    line = run("show", "Order/404", "--store", full, code=3).stderr
    assert line == (
        f"orchestrator: there is no instance Order/404: `orchestrator list Order --store {full}` shows what there is\n"
    )


@pytest.mark.parametrize("address", ["Order", "Order/", "/1", ""])
def test_what_is_not_saga_slash_key(full: str, address: str) -> None:
    assert "is not SAGA/KEY" in run("show", address, "--store", full, code=2).stderr


# Status.


@pytest.mark.usefixtures("terminal")
def test_status_says_what_needs_me(full: str) -> None:
    text = run("status", "--store", full).stdout
    lines = text.splitlines()
    assert len(lines) <= 40
    assert lines[0] == "daemon   not running"
    assert f"store    {full}" in lines[1]
    counts = next(line.split() for line in lines if line.startswith("Order "))
    assert counts == ["Order", "7", "1", "1", "1", "1"]
    assert "needs you" in lines
    assert "  1 parked" in lines
    assert any("Order/parked: ship: ship#1 failed: no driver\\x1b[31m today" in line for line in lines)
    assert f"      orchestrator show Order/parked --store {full}" in lines
    assert "  3 dead letters" in lines
    assert any("no class is of type Foo0" in line for line in lines)
    assert "  no daemon runs, and there is work for one" in lines


@pytest.mark.usefixtures("terminal")
def test_status_when_nothing_needs_me(tmp_path: Path) -> None:
    url = shop.store(tmp_path / "s.db", [shop.waiting(), shop.killed()])
    text = run("status", "--store", url).stdout
    assert "nothing needs you" in text
    assert "needs you\n" not in text.replace("nothing needs you", "")


@pytest.mark.usefixtures("terminal")
def test_status_of_an_empty_store(tmp_path: Path) -> None:
    text = run("status", "--store", shop.store(tmp_path / "s.db", [])).stdout
    assert "no instances yet" in text
    assert "nothing needs you" in text


def test_status_in_json_and_in_a_pipe(full: str) -> None:
    status = json("status", "--store", full)["item"]
    assert status["daemon"] is None
    assert status["instances"]["Order"]["running"] == 7
    assert status["waiting"] == 2
    needs = status["needs_you"]
    assert (needs["parked"], needs["dead"]) == (1, 3)
    assert needs["first_parked"][0]["key"] == "parked"
    fields = rows("status", "--store", full)
    assert ["instances", "Order", "running", "7"] in fields
    assert ["dead", "3"] in fields


def test_a_retry_is_worth_a_look_only_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = shop.store(tmp_path / "retry.db", [shop.backing_off()])
    assert json("status", "--store", url)["item"]["needs_you"]["oldest_retry"] is None
    stand_at(monkeypatch, 600)
    retry = json("status", "--store", url)["item"]["needs_you"]["oldest_retry"]
    assert (retry["key"], retry["step"]["step"], retry["step"]["error"]) == ("backing-off", "charge", "gateway timeout")


def test_status_of_a_store_with_a_daemon(full: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = {"pid": 412, "version": "0.1.0", "app": "shop", "bus": "nats://me:x@h", "uptime": 7200.0, "in_flight": 3}
    asked: list[Path] = []

    def ping(path: Path) -> dict[str, Any]:
        asked.append(path)
        return answer | {"problem": "no room"}

    monkeypatch.setattr(client, "ping", ping)
    status = json("status", "--store", full)["item"]
    assert asked == [tmp_path / "full.db"]
    assert status["daemon"]["uptime_s"] == 7200
    assert status["bus"] == "nats://me:***@h"
    assert status["needs_you"]["work_without_daemon"] == 0
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    lines = run("status", "--store", full).stdout.splitlines()
    assert lines[0] == "daemon   runs shop, pid 412, version 0.1.0, up 2 h, 3 commands in flight"
    assert lines[1].strip() == "takes nothing in: no room"


def with_broker(monkeypatch: pytest.MonkeyPatch, outbox: int = 0, **state: Any) -> None:
    """A daemon runs, and says so much of its bus."""
    usual = {"problem": "", "since": None, "is_connected": True, "lag": 0, "unpublished": 0}
    broker = BusState(**(usual | {"has_left_some": False, "oldest": None} | state))
    answer = {"pid": 412, "app": "shop", "bus": "nats://me:x@h", "problem": "", "outbox": outbox, "broker": broker}
    monkeypatch.setattr(client, "ping", lambda path: answer)


def test_status_says_how_it_stands_with_the_broker(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    with_broker(monkeypatch)
    assert "bus      nats://me:***@h, connected" in run("status", "--store", full).stdout.splitlines()
    with_broker(monkeypatch, is_connected=False, lag=None)
    assert "bus      nats://me:***@h, connecting" in run("status", "--store", full).stdout.splitlines()
    with_broker(monkeypatch, lag=1234, unpublished=1, oldest=START - 7)
    lines = run("status", "--store", full).stdout.splitlines()
    assert "bus      nats://me:***@h, connected, it holds 1,234 messages for us" in lines
    assert "         1 message to go, the oldest from 12 s ago" in lines


def test_a_broker_in_trouble_needs_somebody(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = "nothing can be published: no servers; the bus cannot be read: no servers"
    with_broker(monkeypatch, problem=trouble, since=START - 60, lag=None, unpublished=4, oldest=START - 60)
    status = json("status", "--store", full)["item"]
    assert status["broker"] == {
        "state": "trouble",
        "problem": trouble,
        "since": "2023-11-14T22:12:20Z",
        "lag": None,
        "to_go": 4,
        "oldest_at": "2023-11-14T22:12:20Z",
    }
    assert status["needs_you"]["broker"] == trouble
    fields = rows("status", "--store", full)
    assert ["broker", "trouble", trouble, "2023-11-14T22:12:20.000Z"] in fields
    assert ["to_go", "4"] in fields
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    lines = run("status", "--store", full).stdout.splitlines()
    assert "bus      nats://me:***@h, trouble for 65 s" in lines
    assert "    nothing can be published: no servers" in lines
    assert "    the bus cannot be read: no servers" in lines
    assert f"      orchestrator doctor --connect --store {full}" in lines


def test_what_memory_does_not_hold_is_counted_in_the_store(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_store = json("status", "--store", full)["item"]["outbox"]
    assert in_store > 3
    with_broker(monkeypatch, outbox=3, unpublished=2, has_left_some=True)
    assert json("status", "--store", full)["item"]["broker"]["to_go"] == 2 + in_store - 3


def test_without_a_daemon_the_outbox_says_what_is_to_go(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_BUS", "nats://h")
    broker = json("status", "--store", full)["item"]["broker"]
    assert (broker["state"], broker["lag"]) == ("unknown", None)
    assert broker["to_go"] > 0
    assert broker["oldest_at"] is not None


# List.


def test_list_gives_the_newest_first_and_pages(full: str) -> None:
    everything = json("list", "--store", full)
    assert everything["next"] is None
    keys = [item["key"] for item in everything["items"]]
    assert keys == [begin().instance.key for begin in reversed(ALL)]  # type: ignore[union-attr]
    first = json("list", "--store", full, "-n", "4")
    second = json("list", "--store", full, "-n", "20", "--cursor", first["next"])
    assert [item["key"] for item in first["items"] + second["items"]] == keys


@pytest.mark.parametrize(
    ("filters", "keys"),
    [
        (["--parked"], ["parked"]),
        (["--status", "killed"], ["killed"]),
        (["Order", "--key", "waiting"], ["waiting"]),
        (["Order", "--key", "Pack"], []),
        (["--since", "4.9s", "--parked"], ["parked"]),
        (["--since", "1s"], []),
    ],
)
def test_list_filters(full: str, filters: list[str], keys: list[str]) -> None:
    assert [item["key"] for item in json("list", *filters, "--store", full)["items"]] == keys


@pytest.mark.parametrize("words", [("list",), ("cancel", "--yes"), ("retry", "--parked")])
def test_a_saga_that_the_app_does_not_have(full: str, words: Sequence[str]) -> None:
    there = (*words, "--store", full, "--app", APP)
    assert "no saga is called Ordre; did you mean Order?" in run(*there, "Ordre", code=2).stderr
    assert "no saga is called Nope; there is Order, Pack" in run(*there, "Nope", code=2).stderr


@pytest.mark.parametrize(("words", "code"), [(("list",), 0), (("cancel", "--yes"), 3)])
def test_a_saga_of_which_the_store_has_nothing(full: str, words: Sequence[str], code: int) -> None:
    there = (*words, "--store", full)
    assert "no instance in this store is of a saga Ordre; did you mean Order?" in run(*there, "Ordre", code=code).stderr
    assert "is of a saga Nope; there is Order" in run(*there, "Nope", code=code).stderr


def test_a_saga_without_instances_is_no_mistake(full: str, tmp_path: Path) -> None:
    assert rows("list", "Pack", "--store", full, "--app", APP) == []
    assert rows("list", "Order", "--status", "killed", "--since", "0s", "--store", full) == []
    assert rows("list", "Nope", "--store", shop.store(tmp_path / "empty.db", [])) == []  # which sagas, it cannot say


def test_list_in_a_pipe_gives_whole_values(full: str) -> None:
    found = {row[0]: row for row in rows("list", "--store", full)}
    assert found["Order/parked"][1:3] == ["running, parked", "ship"]
    assert found["Order/backing-off"][2:4] == ["charge", "1"]
    assert found["Order/backing-off"][4].startswith("2023-11-14T22:13:2")
    assert {len(row) for row in found.values()} == {7}
    assert found["Order/with-child"][0] == "Order/with-child"


@pytest.mark.usefixtures("terminal")
def test_list_on_a_terminal_keeps_to_its_width(full: str) -> None:
    lines = run("list", "--store", full).stdout.splitlines()
    assert lines[0].split()[:3] == ["SAGA/KEY", "STATUS", "STEP"]
    assert max(map(len, lines)) <= 100
    assert any("ago" in line for line in lines)


@pytest.mark.usefixtures("terminal")
def test_an_empty_list_says_so(full: str) -> None:
    result = run("list", "--key", "nobody", "--store", full)
    assert (result.stdout, result.stderr) == ("", "no instance is like that\n")


@pytest.mark.parametrize("value", ["1", "2m", "x", "-3s", "1e99d", "nan"])
def test_lengths_of_time(full: str, value: str) -> None:
    run("list", "--since", value, "--store", full, code=0 if value in ("1", "2m") else 2)


# Show and why.


def test_show_in_json(full: str) -> None:
    item = json("show", "Order/backing-off", "--store", full)["item"]
    assert item["state"] == {"card": "***", "lines": ["tea", "jam"], "order": "backing-off"}
    assert [undo["sends"] for undo in item["undo"]] == ["Release", "Release"]
    assert item["waits_for"][0].startswith("step charge backs off")
    assert item["can_do"][0] == f"orchestrator retry Order/backing-off --store {full}"
    assert item["steps"][0]["attempts"] is None


def test_show_knows_more_with_the_app(full: str) -> None:
    item = json("show", "Order/backing-off", "--store", full, "--app", APP)["item"]
    assert item["steps"][0]["attempts"] == 3


def test_show_goes_on_without_an_app_that_does_not_load(full: str) -> None:
    result = run("show", "Order/waiting", "--store", full, "--app", "no_such_module:app")
    assert "without the app's classes" in result.stderr
    assert "Order" in result.stdout


@pytest.mark.usefixtures("terminal")
def test_show_on_a_terminal(full: str) -> None:
    text = run("show", "Order/parked", "--store", full, "--app", APP).stdout
    for part in (
        "Order/parked\n  running, parked\n",
        "started     2023-11-14 22:13:20 UTC (5 s ago)",
        "pivot       passed: only forward from here",
        '"card": "***"',
        "waits for\n    step ship is parked: ship#1 failed: no driver\\x1b[31m today",
        f"orchestrator skip Order/parked ship --reason WHY --store {full}",
    ):
        assert part in text, part
    ship = next(line for line in text.splitlines() if line.startswith("  ship "))
    assert "parked" in ship
    assert "2 of 2" in ship


@pytest.mark.usefixtures("terminal")
def test_show_counts_the_commands_of_a_long_list_that_stand_alike(tmp_path: Path) -> None:
    lines = tuple(f"line {number}" for number in range(40))
    dialogue = shop.placed("many", lines=lines)
    for line in lines[:20]:
        dialogue.expect(shop.Reserve(line)).answer(shop.Reserved())
    url = shop.store(tmp_path / "one.db", [dialogue])
    text = run("show", "Order/many", "--store", url).stdout
    assert text.count("reserve[") == 8 + 1 + 8 + 8 + 1  # done, asked, queued; their undos; what it waits for
    assert re.search(r"and 12 more of reserve +done", text)
    assert re.search(r"and 11 more of reserve +queued", text)
    assert re.search(r"and 13 more of reserve +planned", text)


def test_show_in_a_pipe(full: str) -> None:
    fields = rows("show", "Order/undoing", "--store", full)
    assert ["status", "compensating"] in fields
    assert ["why", "charge#1 was refused: Declined"] in fields
    assert [row[1:] for row in fields if row[0] == "undo"] == [
        ["reserve[0]", "1", "Release", "asked"],
        ["reserve[1]", "1", "Release", "to come"],
    ]


def test_show_and_why_say_with_what_a_step_was_refused(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (refusal,) = json("show", "Order/undone", "--store", full)["item"]["refusals"]
    assert (refusal["step"], refusal["type"], refusal["data"]) == ("charge", "Declined", {"reason": "limit"})
    fields = rows("show", "Order/undone", "--store", full)
    assert [row[1:3] + row[4:] for row in fields if row[0] == "refused"] == [
        ["charge#1", "1", "Declined", '{"reason":"limit"}']
    ]
    told = 'The refusal of charge#1 was Declined {"reason":"limit"}.'
    assert told in run("why", "Order/undone", "--store", full).stdout
    assert json("show", "Order/completed", "--store", full)["item"]["refusals"] == []
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    text = run("show", "Order/undone", "--store", full).stdout
    assert '\n  refused\n    charge#1: Declined {"reason":"limit"}\n' in text


def test_a_past_version_shows_no_refusal_that_came_later(full: str) -> None:
    then = json("history", "Order/undone", "--store", full)["items"]
    at = next(item["version"] for item in then if item["message"]["kind"] == "refusal")
    past = [json("history", "Order/undone", "--at", str(n), "--store", full, "--app", APP) for n in (at - 1, at)]
    assert [len(each["item"]["refusals"]) for each in past] == [0, 1]


@pytest.mark.usefixtures("terminal")
def test_a_refusal_is_cut_masked_and_escaped(tmp_path: Path) -> None:
    sold_out = shop.SoldOut(Secret("4111-1111"), "\u202etea" + "x" * 1000)
    url = shop.store(tmp_path / "one.db", [shop.placed("long").expect(shop.Reserve("tea")).answer(sold_out)])
    for words in (["show", "Order/long"], ["why", "Order/long"]):
        text = run(*words, "--store", url).stdout
        assert '"card":"***","line":"\\u202eteaxxx' in text and "\u202e" not in text and "4111" not in text
        assert "xxx…" in text and text.count("x") < 200


def test_a_refusal_that_the_saga_took_well_is_shown_but_explains_nothing(tmp_path: Path) -> None:
    begun = drive(cast.FanOut, cast.Placed("1", ("a", "b")))
    dialogue = begun.answer(cast.Reserve("1", "a"), cast.SoldOut("no a left"))
    url = shop.store(tmp_path / "one.db", [dialogue])
    (refused,) = [row[5] for row in rows("show", "FanOut/1", "--store", url) if row[0] == "refused"]
    assert refused == '{"line":"no a left"}'
    assert "no a left" not in run("why", "FanOut/1", "--store", url).stdout


def test_show_of_a_bug_has_the_traceback(tmp_path: Path) -> None:
    url = shop.store(tmp_path / "bug.db", [shop.bug()])
    item = json("show", "Order/waiting", "--store", url)["item"]
    assert item["bug"]["type"] == "Denied"
    assert "nobody thought of that" in item["bug"]["traceback"]
    assert item["parked"] == "KeyError: 'nobody thought of that'"


def test_why_is_one_paragraph(full: str) -> None:
    text = run("why", "Order/waiting", "--store", full, "--app", APP).stdout
    assert text.count("\n") == 1
    assert "Step approval waits for Approved or Denied" in text
    item = json("why", "Order/parked", "--store", full)["item"]
    assert set(item) == {"why", "saga", "key", "status", "waits_for", "can_do"}
    assert "parked" in item["why"]


@pytest.mark.usefixtures("terminal")
def test_why_on_a_terminal_wraps_and_gives_the_commands(full: str) -> None:
    lines = run("why", "Order/parked", "--store", full).stdout.splitlines()
    assert f"  orchestrator retry Order/parked --store {full}" in lines
    assert all(len(line) <= 100 for line in lines if not line.startswith("  "))


# History.


def test_history_lists_the_transitions(full: str) -> None:
    items = json("history", "Order/backing-off", "--store", full)["items"]
    assert [item["version"] for item in items] == list(range(1, len(items) + 1))
    assert items[0]["message"]["type"] == "Placed"
    assert items[0]["message"]["data"]["card"] == "***"
    assert items[-1]["outcome"] == "applied"
    assert any("again in" in note for note in items[-1]["notes"])
    table = rows("history", "Order/backing-off", "--store", full)
    assert [row[0] for row in table] == [str(item["version"]) for item in items]
    assert table[0][1:4] == ["2023-11-14T22:13:20.000Z", "event Placed", "applied"]


@pytest.mark.usefixtures("terminal")
def test_history_on_a_terminal_has_a_line_for_each_thing_that_happened(full: str) -> None:
    lines = run("history", "Order/waiting", "--store", full).stdout.splitlines()
    assert lines[0].split() == ["N", "AT", "(UTC)", "MESSAGE", "WHAT", "HAPPENED"]
    assert any(line.strip() == "approval#1 entered" for line in lines)


@pytest.mark.usefixtures("terminal")
def test_history_on_a_terminal_names_an_outcome_that_is_not_the_usual(tmp_path: Path) -> None:
    url = shop.store(tmp_path / "one.db", [shop.completed().cancel("too late")])
    lines = run("history", "Order/completed", "--store", url).stdout.splitlines()
    assert not any("applied" in line for line in lines)
    assert [line.split()[-1] for line in lines if "verb cancel" in line] == ["refused"]
    assert lines[-1].strip() == "it is completed already"


def test_history_at_folds_the_first_transitions(full: str) -> None:
    item = json("history", "Order/undone", "--at", "3", "--store", full, "--app", APP)["item"]
    assert (item["version"], item["status"], item["steps"][0]["step"]) == (3, "running", "approval")
    now = json("show", "Order/undone", "--store", full, "--app", APP)["item"]
    last = json("history", "Order/undone", "--at", str(now["version"]), "--store", full, "--app", APP)["item"]
    assert last == now


def test_history_at_needs_the_app_and_a_number_that_is_there(full: str) -> None:
    line = run("history", "Order/undone", "--at", "3", "--store", full, code=78).stderr
    assert "--app" in line
    assert "ORCHESTRATOR_APP" in line
    line = run("history", "Order/undone", "--at", "99", "--store", full, "--app", APP, code=3).stderr
    assert "there is no number 99" in line


def test_history_follows_to_the_end(full: str) -> None:
    followed = run("history", "Order/undone", "-f", "--store", full).stdout
    assert followed == run("history", "Order/undone", "--store", full).stdout


# Watch.


@pytest.mark.parametrize(
    ("key", "code"), [("completed", 0), ("parked", 4), ("undone", 5), ("killed", 5), ("waiting", 75)]
)
def test_the_exit_code_of_watch_is_the_outcome(full: str, key: str, code: int) -> None:
    (line,) = run("watch", f"Order/{key}", "--timeout", "0", "--store", full, code=code).stdout.splitlines()
    assert line.startswith(f"Order/{key}\t")


def test_watching_all_shows_what_changes(full: str) -> None:
    result = run("watch", "--timeout", "0", "--store", full, "--json", code=75)
    assert "the time for watching is over" in result.stderr
    run("watch", "Order/nobody", "--store", full, code=3)


@pytest.fixture
def growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store in which the story of an order goes on by one transition whenever a verb rests."""
    dialogue = shop.undone()
    still_to_come = dialogue.history[2:]
    dialogue.history = dialogue.history[:2]

    async def go_on() -> None:
        async with SQLiteStore(tmp_path / "growing.db") as store:
            await store.commit([still_to_come.pop(0)])

    monkeypatch.setattr(reading, "rest", go_on)
    return shop.store(tmp_path / "growing.db", [dialogue])


def test_history_follows_what_comes_until_the_end(growing: str) -> None:
    table = rows("history", "Order/undone", "-f", "--store", growing)
    assert [row[0] for row in table] == ["1", "2", "3", "4", "5", "6", "7"]
    assert table[-1][-1].endswith("compensated")


def test_watch_shows_each_change_until_the_end(growing: str) -> None:
    lines = run("watch", "Order/undone", "--store", growing, code=5).stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["running"] * 3 + ["compensating"] * 2 + ["compensated"]


def test_watching_all_shows_each_change_once(growing: str) -> None:
    times = count(START - 1, 0.3)

    def now(session: Session) -> datetime:
        return view.moment(next(times))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "now", now)
        result = CliRunner().invoke(main, ["watch", "--json", "--timeout", "2s", "--store", growing])
    assert result.exit_code == 75
    versions = [msgspec.json.decode(line)["item"]["version"] for line in result.stdout.splitlines()]
    assert versions == sorted(set(versions))
    assert len(versions) > 2


# Dead letters and the waiting room.


def test_dead_letters(full: str) -> None:
    first = json("dead", "list", "-n", "2", "--store", full)
    assert [item["reason"] for item in first["items"]] == ["no class is of type Foo0", "no class is of type Foo1"]
    rest = json("dead", "list", "--cursor", first["next"], "--store", full)
    assert [item["reason"] for item in rest["items"]] == ["no class is of type Foo2"]
    assert rest["next"] is None
    number = str(first["items"][0]["id"])
    item = json("dead", "show", number, "--store", full)["item"]
    assert item["error"] == "E\nlast"
    assert "there is no dead letter 99" in run("dead", "show", "99", "--store", full, code=3).stderr


def test_dead_letters_of_one_listener(full: str) -> None:
    url = letters()
    there = ("dead", "list", "--store", url)
    assert [row[0] for row in rows(*there, "--listener", "keep")] == ["1", "4"]
    first = json(*there, "--listener", "webhook:crm", "-n", "1")
    assert ([item["id"] for item in first["items"]], first["next"]) == ([2], "2")
    assert [item["id"] for item in json(*there, "--listener", "webhook:crm", "--cursor", "2")["items"]] == [5]
    assert "did you mean webhook:crm?" in run(*there, "--listener", "crm", code=2).stderr
    assert "did you mean keep?" in run(*there, "--listener", "keeep", code=2).stderr
    assert "there are keep, webhook:crm" in run(*there, "--listener", "nobody", code=2).stderr
    assert "there is none" in run("dead", "list", "--store", full, "--listener", "keep", code=2).stderr
    assert rows("dead", "list", "--store", full, "--app", TELLER, "--listener", "keep") == []  # known, and well


def test_the_dead_letters_of_one_listener_are_redriven_or_dropped() -> None:
    there = ("--store", letters(), "--app", TELLER)
    assert "add --yes" in run("dead", "drop", "--listener", "keep", *there, code=2).stderr
    assert "give one of them" in run("dead", "drop", "1", "--listener", "keep", *there, code=2).stderr
    assert "did you mean keep?" in run("dead", "redrive", "--listener", "kep", "--yes", *there, code=2).stderr
    assert run("dead", "drop", "--listener", "webhook:crm", "--yes", *there).stdout == "dropped 2\n"
    assert run("dead", "redrive", "--listener", "keep", "--yes", *there).stdout == "redriven 2\n"
    assert [item["listener"] for item in json("dead", "list", *there)["items"]] == ["", ""]
    assert json("status", *there)["item"]["outbox"] == 2
    assert run("dead", "redrive", "--listener", "keep", "--yes", *there).stdout == "redriven 0\n"


def letters() -> str:
    """A store with two dead letters each of a listener, of a webhook and of nobody."""
    whose = ("keep", "webhook:crm", "") * 2
    return shop.store(Path("letters.db"), [], *(buried(n, listener) for n, listener in enumerate(whose)))


@pytest.mark.usefixtures("terminal")
def test_a_dead_letter_on_a_terminal(full: str) -> None:
    text = run("dead", "show", "1", "--store", full).stdout
    assert f"orchestrator dead redrive 1 --store {full}" in text
    assert "no class is of type Foo0" in text
    assert "last" in run("dead", "list", "--store", full).stdout


def test_the_waiting_room(full: str) -> None:
    items = json("waiting", "list", "--store", full)["items"]
    assert [item["message"]["id"] for item in items] == ["early-1", "early-2"]
    assert items[0]["until"] == "2023-11-15T22:13:20Z"
    assert rows("waiting", "list", "--store", full)[0][1:3] == ["Order/9", "Approved"]


# Graph, configuration, house.


def test_graph(full: str) -> None:
    assert run("graph", "Order", "--app", APP).stdout.startswith("flowchart TD")
    assert run("graph", "Order", "-o", "svg", "--app", APP).stdout.startswith("<svg")
    assert "it has Order, Pack" in run("graph", "Ordr", "--app", APP, code=3).stderr
    assert "--app" in run("graph", "Order", code=78).stderr
    assert "no file" in run("graph", "Order", "--app", "none.py:app", code=78).stderr


def test_config_shows_values_origins_and_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "orchestrator.toml").write_text(
        'store = "sqlite:///shop.db"\n[limits]\nmailbox = 7\n[topics]\nprefix = "eu."\nroutes = {"*" = "orders"}\n'
    )
    monkeypatch.setenv("ORCHESTRATOR_BUS", "nats://me:s3cret@host")
    items = {item["setting"]: item for item in json("config", "show", "--app", "shop:app")["items"]}
    assert items["store"]["origin"].endswith("orchestrator.toml")
    assert items["bus"] == {"setting": "bus", "value": "nats://me:***@host", "origin": "ORCHESTRATOR_BUS"}
    assert items["limits.mailbox"]["value"] == 7
    assert (items["topics.prefix"]["value"], items["topics.routes"]["value"]) == ("eu.", {"*": "orders"})
    shown = {row[0]: row[1] for row in rows("config", "show")}
    assert (shown["topics.routes"], shown["topics.plain"]) == ('{"*":"orders"}', "")
    assert (shown["topics.core"], shown["webhooks.allow"], shown["limits.retention_s"]) == ("true", "", "2592000")
    assert items["app"]["origin"] == "--app"


@pytest.mark.parametrize("option", ["--store", "--app", "--bus"])
def test_an_empty_option_is_not_guessed_at(tmp_path: Path, option: str) -> None:
    (tmp_path / "orchestrator.toml").write_text('bus = "memory://file"\n')
    for empty in ("", " "):
        assert f"'{option}': it is empty" in run("config", "show", option, empty, code=2).stderr


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "orchestrator.toml").write_text('bus = "memory://file"\nstore = "sqlite:///of_file.db"\n')
    monkeypatch.setenv("ORCHESTRATOR_BUS", "")
    monkeypatch.setenv("ORCHESTRATOR_STORE", "")
    values = {row[0]: row[1] for row in rows("config", "show")}
    assert (values["bus"], values["store"]) == ("memory://file", f"sqlite:///{tmp_path}/of_file.db")


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "orchestrator.toml").write_text('stoer = "x"\n')
    (line,) = run("status", code=78).stderr.splitlines()
    assert "did you mean 'store'?" in line


def test_backup_makes_a_copy_once(full: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert rows("backup", str(copy), "--store", full) == [[str(copy), str(copy.stat().st_size)]]
    assert json("list", "--store", f"sqlite:///{copy}") == json("list", "--store", full)
    assert "exists already" in run("backup", str(copy), "--store", full, code=2).stderr
    assert "cannot write" in run("backup", str(tmp_path / "none" / "copy.db"), "--store", full, code=2).stderr


def test_prune_removes_what_ended_long_ago(full: str) -> None:
    assert "--yes" in run("prune", "--store", full, code=2).stderr
    assert rows("prune", "--older-than", "1h", "--yes", "--store", full) == [["0"]]
    assert rows("prune", "--older-than", "1s", "--yes", "--store", full) == [["3"]]
    assert json("list", "--status", "completed", "--store", full)["items"] == []


def test_doctor_finds_what_is_wrong(full: str, tmp_path: Path) -> None:
    found = {row[0]: row[1] for row in rows("doctor", "--store", full, "--app", APP, "--bus", "memory://")}
    assert found["store"] == found["clock"] == found["app"] == "ok"
    result = run("doctor", "--store", f"sqlite:///{tmp_path}/none.db", code=1)
    assert "failed\tno store at" in result.stdout


def test_doctor_asks_the_broker_when_it_is_told_to(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = ("--store", full, "--app", BUS_APP, "--bus", "memory://")
    assert [row for row in rows("doctor", *there) if row[0] == "bus"] == [
        ["bus", "ok", "memory://, not asked: --connect does"]
    ]
    found = [row for row in rows("doctor", *there, "--connect") if row[0] == "bus"]
    assert found[0] == ["bus", "ok", "memory:// answers"]
    assert {health for _, health, _ in found[1:]} == {"warning"}
    assert "are missing, `orchestrator bus setup --app" in found[-1][2]
    queues = [told for _, _, told in found if told.startswith("queues kiosk ")]
    assert len(queues) == 1 and "kiosk Ordered" in queues[0]  # what holds for many is said once
    monkeypatch.setattr(MemoryBus, "survey", _nobody_answers)
    result = run("doctor", *there, "--connect", code=1)
    assert "bus\tfailed\tthe broker is away" in result.stdout
    assert (
        "bus\tfailed\tthere is no bus"
        in run("doctor", "--store", full, "--app", BUS_APP, "--bus", "zeromq://x", code=1).stdout
    )


def test_doctor_asks_the_broker_for_what_the_daemon_hosts(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = ("--store", full, "--app", BUS_APP, "--bus", "memory://", "--connect")
    answer = {"pid": 412, "app": "kiosk", "problem": "", "hosts": Hosts.SAGAS}
    monkeypatch.setattr(client, "ping", lambda path: answer)
    found = rows("doctor", *there)
    assert ["daemon", "ok", "running, pid 412, sagas only"] in found
    assert "--sagas-only" in found[-1][2] and any("replies.kiosk" in row[2] for row in found)
    flagged = rows("doctor", *there, "--no-sagas-only")
    assert "--no-sagas-only" in flagged[-1][2] and not any("replies.kiosk" in row[2] for row in flagged)
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    first = run("status", "--store", full).stdout.splitlines()[0]
    assert first.startswith("daemon   runs kiosk (sagas only), pid 412")


async def _nobody_answers(bus: object, topology: object) -> list[Place]:
    raise BusUnavailable("the broker is away")


def test_the_bus_is_shown_and_set_up_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ("--app", BUS_APP, "--bus", "memory://")
    assert {(row[2], row[3]) for row in rows("bus", "show", *there)} == {("missing", "kiosk")}
    split = rows("bus", "show", *there, "--sagas-only", "--work")
    assert ["queue", "kiosk replies.kiosk", "missing", "kiosk", ""] in split
    assert ["queue", "kiosk.work commands.Brew", "missing", "kiosk.work", ""] in split
    assert not any("replies" in row[1] for row in rows("bus", "show", *there))
    done = json("bus", "setup", *there, "--work")
    assert done["made"] == len(done["items"]) > 3
    assert all(item["exists"] for item in done["items"])
    assert {row[2] for row in rows("bus", "setup", *there)} == {"made"}
    assert "--bus nats" in run("bus", "setup", "--app", BUS_APP, code=78).stderr
    monkeypatch.setattr(MemoryBus, "survey", _nobody_answers)
    assert "away" in run("bus", "show", *there, code=69).stderr


def test_completion_prints_a_script() -> None:
    script = run("completion", "zsh").stdout
    assert "_ORCHESTRATOR_COMPLETE" in script


def test_completion_offers_verbs_and_sagas(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(words: str) -> list[str]:
        environment = {
            "_ORCHESTRATOR_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split())),
        }
        result = CliRunner().invoke(main, env=environment, prog_name="orchestrator")
        return [line.partition(",")[2] for line in result.stdout.splitlines()]

    assert {"status", "show", "retry", "prune"} <= set(offered("orchestrator"))
    assert offered(f"orchestrator list --store {full}") == ["Order"]
    assert offered(f"orchestrator dead list --store {letters()} --listener") == ["keep", "webhook:crm"]


# All verbs.


def verbs() -> Iterator[tuple[str, ...]]:
    for section in SECTIONS.values():
        for verb in section:
            yield (verb,)
    groups = (("dead", DEAD), ("waiting", WAITING), ("bus", BUS), ("webhooks", WEBHOOKS), ("config", CONFIG))
    for group, sections in groups:
        for section in sections.values():
            for verb in section:
                yield (group, verb)


@pytest.mark.parametrize("words", list(verbs()), ids=" ".join)
def test_every_verb_in_help_is_there_and_says_what_it_does(words: tuple[str, ...]) -> None:
    text = run(*words, "--help").stdout
    assert text.startswith(f"Usage: orchestrator {' '.join(words)}")
    assert max(map(len, text.splitlines())) <= 80
    group: click.Command = main
    for word in words:
        assert isinstance(group, LazyGroup)
        found = group.get_command(click.Context(group), word)
        assert found is not None
        assert found.help
        group = found


def test_help_names_the_exit_codes() -> None:
    text = run("--help").stdout
    for code in Exit:
        assert re.search(rf"^ +{code.value} ", text, re.MULTILINE)
    for section in SECTIONS:
        assert section in text


def test_help_imports_no_verb() -> None:
    code = """
import sys
from orchestrator.operate.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
for name in ("rich", "anyio", "aiosqlite", "orchestrator.operate.cli.reading", "orchestrator.runtime"):
    assert name not in sys.modules, name
"""
    python(code)


def test_reading_imports_neither_rich_nor_the_runtime(full: str) -> None:
    code = f"""
import sys
from orchestrator.operate.cli import main
try:
    main(["status", "--store", {full!r}])
except SystemExit as end:
    assert not end.code, end.code
for name in ("rich", "orchestrator.runtime.engine"):
    assert name not in sys.modules, name
"""
    python(code)


def python(code: str) -> None:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadMessage("x"), 2),
        (NotFound("x"), 3),
        (Refused("x"), 6),
        (NoStore("x"), 69),
        (StoreLocked("x"), 69),
        (StoreFull("x"), 69),
        (StoreCorrupt("x"), 69),
        (StoreUnavailable("x"), 69),
        (BusUnavailable("x"), 69),
        (ConnectionError("x"), 69),
        (TimeoutError("x"), 75),
        (ConfigError("x"), 78),
        (AppError("x"), 78),
        (ExceptionGroup("several", [ValueError("y"), ExceptionGroup("inner", [Refused("x")])]), 6),
        (PermissionError(13, "x"), 1),
    ],
)
def test_each_error_has_its_exit_code(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert complain(error) == code
    assert capsys.readouterr().err == "orchestrator: x\n"


def test_an_internal_error_is_a_sentence_that_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert complain(KeyError("gone")) == 1
    assert "internal error, please report it: KeyError: 'gone'" in capsys.readouterr().err


def test_nothing_that_is_stored_can_write_on_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = shop.store(tmp_path / "n.db", [nasty()], dead(1), replace(early(1), message=nasty_envelope()))
    address = f"Order/{NASTY}"
    for on_terminal in (False, True):
        monkeypatch.setattr(output, "is_terminal", lambda there=on_terminal: there)
        for arguments in (
            ["status"],
            ["list"],
            ["show", address],
            ["why", address],
            ["history", address],
            ["watch", address],
            ["dead", "list"],
            ["dead", "show", "1"],
            ["waiting", "list"],
            ["show", address + "?"],
        ):
            for extra in ([], ["--json"]):
                result = CliRunner().invoke(main, [*arguments, "--store", url, *extra], prog_name="orchestrator")
                assert result.exit_code in (0, 3, 4), (arguments, result.output)
                for character in result.output.replace("\n", "").replace("\t", ""):
                    assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"), arguments


def nasty() -> Dialogue:
    t = shop.shipping(NASTY)
    return t.expect(shop.Ship(NASTY)).fail(f"boom {NASTY}\nsecond line")


def nasty_envelope() -> Envelope:
    return Envelope(id=NASTY, kind=Kind.EVENT, type=NASTY, saga="Order", key=NASTY)
