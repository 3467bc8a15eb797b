"""The verbs that act, on one and on many; here mostly without a daemon, so that nothing moves by itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.operate.cli import main

from .processes import APP, call, carried_out, daemon, wait_until


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_STORE", "sqlite:///kiosk.db")
    monkeypatch.setenv("ORCHESTRATOR_APP", APP)
    monkeypatch.setenv("KIOSK_LOG", str(tmp_path / "kiosk.log"))


def do(*words: str, said: str | None = None) -> Result:
    return CliRunner().invoke(main, list(words), input=said)


def ordered(*orders: str) -> None:
    lines = "".join(f'{{"order": "{order}"}}\n' for order in orders)
    assert do("emit", "Ordered", "-", said=lines).exit_code == 0


def shown(order: str) -> Any:
    return json.loads(do("show", f"Coffee/{order}", "--json").stdout)["item"]


def status(order: str) -> str:
    return str(shown(order)["status"])


def acted(*words: str) -> Sequence[Any]:
    done = do(*words, "--json")
    assert done.exit_code == 0, done.stderr
    items: list[Any] = json.loads(done.stdout)["items"]
    return items


def test_cancel_unwinds_and_says_what_it_sends() -> None:
    ordered("1")
    (moved,) = acted("cancel", "Coffee/1", "--reason", "closing time")
    assert (moved["status"], moved["outcome"], moved["preview"]) == ("compensating", "applied", False)
    assert [sent["type"] for sent in moved["sends"]] == ["PourAway"]
    assert status("1") == "compensating"
    assert shown("1")["why"].endswith("closing time")


def test_a_preview_changes_nothing() -> None:
    ordered("1")
    before = do("history", "Coffee/1", "--json").stdout
    done = do("cancel", "Coffee/1", "--preview")
    assert done.exit_code == 0
    assert "PourAway" in done.stdout
    assert "nothing was changed" in done.stderr
    assert do("history", "Coffee/1", "--json").stdout == before


def test_who_asked_is_in_the_history() -> None:
    ordered("1")
    acted("pause", "Coffee/1", "--reason", "lunch")
    history = json.loads(do("history", "Coffee/1", "--json").stdout)["items"]
    assert history[-1]["message"]["user"] not in ("", None)
    assert "lunch" in json.dumps(history[-1])


def test_kill_needs_a_reason() -> None:
    ordered("1")
    assert do("kill", "Coffee/1").exit_code == 2
    assert do("kill", "Coffee/1", "--reason", " ").exit_code == 2
    assert status("1") == "running"
    assert acted("kill", "Coffee/1", "--reason", "fire")[0]["status"] == "killed"


def test_pause_and_resume() -> None:
    ordered("1")
    assert acted("pause", "Coffee/1")[0]["outcome"] == "applied"
    assert shown("1")["paused"]
    assert acted("resume", "Coffee/1")[0]["outcome"] == "applied"
    assert not shown("1")["paused"]


def test_done_with_a_reply_runs_the_handler() -> None:
    ordered("1")
    acted("done", "Coffee/1", "brew", "--reply", '{"cup": "from next door"}')
    assert shown("1")["state"]["cup"] == "from next door"
    assert [step["step"] for step in shown("1")["steps"]] == ["pay"]


def test_skip_goes_on_and_keeps_the_undo() -> None:
    ordered("1", "2")
    acted("skip", "Coffee/1", "brew")
    assert [undo["sends"] for undo in shown("1")["undo"]] == ["PourAway"]
    acted("skip", "brew", "Coffee/2", "--no-undo")
    assert [step["step"] for step in shown("2")["steps"]] == ["pay"]
    assert shown("2")["undo"] == []


@pytest.mark.parametrize("order", ["a/b", "ö ☃", "a~b#1", "-x"])
def test_any_key_can_be_named(order: str) -> None:
    ordered(order)
    assert do("cancel", "--", f"Coffee/{order}").exit_code == 0
    assert do("skip", "--", f"Coffee/{order}", "brew").exit_code in (0, 6)


def test_what_does_not_fit_the_state_is_refused() -> None:
    ordered("1")
    acted("kill", "Coffee/1", "--reason", "fire")
    for words in (["cancel"], ["pause"], ["kill", "--reason", "more"], ["retry"], ["drop"]):
        done = do(words[0], "Coffee/1", *words[1:])
        assert done.exit_code == 6, (words, done.output)
        assert done.stderr.startswith("orchestrator: Coffee/1: ")
    assert do("skip", "Coffee/1", "nonsense").exit_code == 6


def test_what_is_not_there_is_not_found() -> None:
    assert do("cancel", "Coffee/1").exit_code == 69  # not even a store
    assert not Path("kiosk.db").exists()
    ordered("1")
    done = do("cancel", "Coffee/2")
    assert (done.exit_code, "Coffee/2" in done.stderr) == (3, True)
    assert do("cancel", "Tea/1").exit_code == 3
    assert do("cancel", "--parked").exit_code == 3


@pytest.mark.parametrize(
    "words",
    [
        ["cancel"],
        ["skip"],
        ["skip", "Coffee/1"],
        ["skip", "Coffee/1", "brew[x]"],
        ["skip", "Coffee/1", "brew", "more"],
        ["done", "Coffee/1", "brew", "--reply", "{"],
        ["cancel", "Coffee", "--status", "completed"],
        ["dead", "drop"],
        ["dead", "redrive", "1", "--all"],
        ["dead", "redrive", "one"],
    ],
)
def test_what_is_no_use(words: list[str]) -> None:
    ordered("1")
    assert do(*words).exit_code == 2
    assert status("1") == "running"


def test_many_need_a_yes() -> None:
    ordered("1", "2", "3")
    done = do("cancel", "Coffee")
    assert (done.exit_code, "3 instances" in done.stderr) == (2, True)
    assert len(acted("cancel", "Coffee", "--preview")) == 3
    assert {status(order) for order in "123"} == {"running"}
    assert len(acted("cancel", "Coffee", "--yes", "-n", "2")) == 2
    assert [status(order) for order in "123"] == ["running", "compensating", "compensating"]
    assert len(acted("pause", "--status", "compensating", "--yes")) == 2
    assert [item["key"] for item in acted("kill", "--key", "1", "--reason", "done")] == ["1"]
    assert do("kill", "--since", "1h", "--yes", "--reason", "x").exit_code == 0
    assert {status(order) for order in "123"} == {"killed"}


def test_many_in_a_pipe_are_lines_of_fields() -> None:
    ordered("1", "2")
    lines = do("cancel", "Coffee", "--yes").stdout.splitlines()
    assert [line.split("\t")[:3] for line in lines] == [
        ["Coffee/2", "applied", "compensating"],
        ["Coffee/1", "applied", "compensating"],
    ]


def test_some_of_many_refuse() -> None:
    ordered("1", "2")
    acted("pause", "Coffee/1")
    done = do("resume", "Coffee", "--yes")
    assert done.exit_code == 6
    assert "1 of 2" in done.stderr
    assert not shown("1")["paused"]


def test_without_the_app_there_are_three_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered("1")
    monkeypatch.delenv("ORCHESTRATOR_APP")
    done = do("cancel", "Coffee/1")
    assert done.exit_code == 78
    assert all(way in done.stderr for way in ("orchestrator run", "--app", "ORCHESTRATOR_APP"))
    assert do("cancel", "Coffee/1", "--app", APP).exit_code == 0


def test_the_waiting_room_is_emptied() -> None:
    assert do("emit", "Paid", '{"order": "9"}').exit_code == 0
    (waiting,) = json.loads(do("waiting", "list", "--json").stdout)["items"]
    assert do("waiting", "drop", str(waiting["id"])).stdout == "dropped 1\n"
    assert json.loads(do("waiting", "list", "--json").stdout)["items"] == []
    assert do("waiting", "drop", "--all", "--yes").stdout == "dropped 0\n"


def test_dead_letters_are_redriven_and_dropped(tmp_path: Path) -> None:
    ordered("1")
    for n in range(3):
        assert do("emit", json.dumps({"type": "Paid", "id": f"p{n}", "data": {"order": "1"}})).exit_code == 0
    acted("kill", "Coffee/1", "--reason", "x")
    letters = [item["id"] for item in json.loads(do("dead", "list", "--json").stdout)["items"]]
    if letters:
        assert do("dead", "redrive", str(letters[0])).exit_code == 0
    for words in (("dead", "redrive"), ("dead", "drop"), ("waiting", "drop")):
        missing = do(*words, "999")
        assert (missing.exit_code, "not there" in missing.stderr or "no dead letter" in missing.stderr) == (3, True)
    assert do("dead", "drop", "--all", "--yes").exit_code == 0
    assert json.loads(do("dead", "list", "--json").stdout)["items"] == []


def test_through_a_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path):
        assert call(tmp_path, "emit", "Ordered", '{"order": "bad"}').exit_code == 0
        wait_until(lambda: len(carried_out(tmp_path)) == 2)
        assert call(tmp_path, "emit", "Paid", '{"order": "bad"}').exit_code == 0
        wait_until(lambda: shown("bad")["parked"])
        preview = call(tmp_path, "retry", "--parked", "--preview", "--json")
        assert [item["key"] for item in json.loads(preview.stdout)["items"]] == ["bad"]
        assert call(tmp_path, "cancel", "Coffee/bad").exit_code == 6  # past the pivot
        assert call(tmp_path, "cancel", "Coffee/none").exit_code == 3
        done = call(tmp_path, "done", "Coffee/bad", "thank")
        assert done.exit_code == 0, done.stderr
        wait_until(lambda: status("bad") == "completed")
