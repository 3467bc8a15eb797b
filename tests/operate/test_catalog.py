"""`orchestrator catalog`, as a shell sees it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from orchestrator.operate.cli import main

CODE = """
from orchestrator import Aggregate, App, Call, Command, Event, Refusal, Saga, apply, listener, participant, step

class Ordered(Event):
    order: str

class Taken(Event):
    receipt: str

class Poor(Refusal):
    pass

class Take(Command[Taken, Poor], participant="bank"):
    order: str

class Told(Event, version=1):
    order: str
    total: int = 0

class Order(Saga, key="order", starts=Ordered):
    \"\"\"One order.\"\"\"

    order: str

    @step(undo=None)
    def take(self) -> Take:
        return Take(self.order)

    @step
    def tell(self) -> Told:
        return Told(self.order)

class Tally(Aggregate):
    count: int = 0

    @apply
    def ordered(self, event: Ordered) -> None:
        self.count += 1

@listener
def note(event: Told) -> None:
    pass

app = App("kiosk", sagas=[Order], listeners=[note])
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("ORCHESTRATOR_STORE", "ORCHESTRATOR_APP", "ORCHESTRATOR_BUS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def app_of(folder: Path, name: str, *changes: tuple[str, str]) -> str:
    """A file with the app, changed so."""
    code = CODE
    for before, after in changes:
        assert before in code
        code = code.replace(before, after)
    path = folder / f"{name}.py"
    path.write_text(code)
    return str(path)


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["catalog", *words])
    assert result.exit_code == code, result.output
    return result


def test_in_a_pipe_every_line_is_whole_and_tab_separated(folder: Path) -> None:
    lines = [line.split("\t") for line in run(app_of(folder, "kiosk_lines")).stdout.splitlines()]
    assert lines == [
        ["event", "Ordered", "1", "Ordered", "starts Order; kept in streams"],
        ["refusal", "Poor", "1", "", "answers Take"],
        ["command", "Take", "1", "commands.bank", LONG],
        ["event", "Taken", "1", "", "answers Take"],
        ["event", "Told", "1", "Told", "taken by note; published"],
        ["saga", "Order", "1", "", "key order; started by Ordered; steps take, tell; publishes Told"],
        ["listener", "note", "", "", "takes Told"],
        ["aggregate", "Tally", "", "", "applies Ordered"],
    ]


LONG = "answered by Taken, Poor; asked by Order; carried out elsewhere, by bank"


def test_json_is_versioned_and_holds_every_schema(folder: Path) -> None:
    found = msgspec.json.decode(run(app_of(folder, "kiosk_json"), "--json").stdout)
    assert found["version"] == 1
    assert (found["app"], found["group"], found["replies"]) == ("kiosk", "kiosk", "replies.kiosk")
    [told] = [it for it in found["messages"] if it["type"] == "Told"]
    assert told["schema"]["properties"]["total"] == {"type": "integer", "default": 0}
    assert told["sent"] and told["received"] and not told["appended"]
    [saga] = found["sagas"]
    assert saga["about"] == "One order."
    assert [step["name"] for step in saga["steps"]] == ["take", "tell"]


def test_what_is_kept_in_a_file_is_what_check_reads(folder: Path) -> None:
    app = app_of(folder, "kiosk_kept")
    assert "is written" in run(app, "--out", "old.json").stderr
    kept = msgspec.json.decode(Path("old.json").read_bytes())
    assert kept == msgspec.json.decode(run(app, "--json").stdout)
    result = run(app, "--check", "old.json")
    assert (result.stdout, result.stderr) == ("", "nothing has changed\n")
    run(app, "--check", "old.json", "--out", "old.json")
    assert msgspec.json.decode(Path("old.json").read_bytes()) == kept


def test_every_breaking_change_is_named_with_its_remedy_and_fails(folder: Path) -> None:
    run(app_of(folder, "kiosk_before"), "--out", "old.json")
    after = app_of(folder, "kiosk_after", ("    order: str\n    total: int = 0", "    order: str\n    other: int"))
    result = run(after, "--check", "old.json", code=1)
    assert [line.split("\t")[:4] for line in result.stdout.splitlines()] == [
        ["producers,stored", "new required field", "event Told.other", "is new and has no default"],
        ["consumers", "removed field", "event Told.total", "is not there any more"],
    ]
    assert "give it a default" in result.stdout
    assert result.stderr == "2 breaking changes, 0 other\n"
    said: Any = msgspec.json.decode(run(after, "--check", "old.json", "--json", code=1).stdout)
    assert (said["version"], said["breaking"]) == (1, 2)
    assert said["items"][1]["breaks"] == ["consumers"]


def test_a_change_that_breaks_nobody_is_said_and_passes(folder: Path) -> None:
    run(app_of(folder, "kiosk_small"), "--out", "old.json")
    after = app_of(folder, "kiosk_large", ("total: int = 0", "total: int = 0\n    note: str = ''"))
    result = run(after, "--check", "old.json")
    assert result.stdout == "\tchanged schema\tevent Told\tis read as before\t\n"
    assert result.stderr == "no breaking changes, 1 other\n"


def test_asyncapi_is_a_document_of_its_own(folder: Path) -> None:
    app = app_of(folder, "kiosk_async")
    document = msgspec.json.decode(run(app, "--asyncapi").stdout)
    assert document["asyncapi"] == "3.0.0"
    assert document["channels"]["commands_bank"]["address"] == "commands.bank"
    run(app, "--asyncapi", "--out", "shop.json")
    assert msgspec.json.decode(Path("shop.json").read_bytes()) == document


def test_the_topics_are_those_of_the_settings(folder: Path) -> None:
    (folder / "orchestrator.toml").write_text(f'app = "{app_of(folder, "kiosk_set")}"\n[topics]\nprefix = "eu."\n')
    assert "\teu.commands.bank\t" in run().stdout


def test_what_cannot_be_is_said(folder: Path) -> None:
    app = app_of(folder, "kiosk_wrong")
    Path("no.json").write_text("{}")
    assert "this is no catalog" in run(app, "--check", "no.json", code=2).stderr
    assert "No such file" in run(app, "--check", "none.json", code=2).stderr
    assert "leave out --asyncapi" in run(app, "--check", "no.json", "--asyncapi", code=2).stderr
    assert "no app is given" in run(code=78).stderr or "--app" in run(code=78).stderr
