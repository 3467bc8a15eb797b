"""`orchestrator check`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from orchestrator import App
from orchestrator.operate.cli import main
from tests.machine import cast

from . import odd, wrong

SOUND = "sagas/order_fulfilment.py"
HERE = "tests.checking.test_command"

app = App("wrong", sagas=[wrong.Moody, wrong.Pack])
family = App("family", sagas=[odd.Family, cast.Disk, odd.Counted])
good = {wrong.Reserved: [wrong.Reserved("r", wrong.Mood.GOOD)]}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.delenv("ORCHESTRATOR_APP", raising=False)


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["check", *words])


def test_a_sound_app_is_green() -> None:
    result = run(SOUND)
    assert result.exit_code == 0
    assert result.output.startswith("OrderFulfilment: ")
    assert "nothing wrong" in result.output


def test_a_mistake_fails_and_is_shown_as_a_test() -> None:
    result = run(HERE, "Moody")
    assert result.exit_code == 1
    assert "def test_moody() -> None:" in result.output
    assert "Pack" not in result.output


def test_one_word_names_a_saga_where_an_app_is_given() -> None:
    assert run("--app", HERE, "Pack").exit_code == 0
    assert run("--app", HERE).exit_code == 1
    assert run("--app", HERE, "Unknown").exit_code == 3
    assert run("a", "b", "c").exit_code == 2
    assert run().exit_code == 78


def test_a_bound_fails() -> None:
    result = run(SOUND, "--max-states", "5")
    assert result.exit_code == 1
    assert "stopped unfinished at 5 states" in result.output


def test_several_sagas_end_in_one_table() -> None:
    lines = run(f"{HERE}:family").output.splitlines()
    rows = [line.split("\t") for line in lines if "\t" in line]
    assert [row[0] for row in rows] == ["Family", "Disk", "Counted"]
    assert [row[4:6] for row in rows] == [["3 of 3", "2 of 2"], ["1 of 1", "2 of 2"], ["1 of 1", "1 of 1"]]
    assert [row[6] for row in rows[:2]] == ["nothing wrong", "nothing wrong"]
    assert "stopped unfinished at 10 visits" in rows[2][6]


def test_a_bound_that_is_given_is_accepted_and_said() -> None:
    result = run(f"{HERE}:family", "Counted", "--visits", "3")
    assert result.exit_code == 0
    assert "nothing wrong within 3 visits" in result.output


def test_a_saga_that_another_starts_is_checked_as_its_child() -> None:
    inside = run(f"{HERE}:family", "Disk").output
    alone = run("--app", HERE, "Pack").output
    assert _states(inside) > _states(alone)  # both have one step


def test_examples_are_given_by_a_name_in_a_module_or_file() -> None:
    assert run(HERE, "Moody", "--examples", f"{HERE}:good").exit_code == 0
    assert run(HERE, "Moody", "--examples", "tests/checking/test_command.py:good").exit_code == 0
    nothing = run(HERE, "Moody", "--examples", f"{HERE}:HERE")
    assert (nothing.exit_code, "a dict of class -> list of its values" in nothing.output) == (78, True)
    unknown = run(HERE, "Moody", "--examples", f"{HERE}:goods")
    assert (unknown.exit_code, "did you mean good?" in unknown.output) == (78, True)


def test_participants_without_tombstones() -> None:
    assert run(HERE, "Pack").exit_code == 0
    every = run(HERE, "Pack", "--no-tombstones")
    assert (every.exit_code, "missing tombstone: reserve" in every.output) == (1, True)
    assert run(HERE, "Pack", "--no-tombstone", "Reserve").exit_code == 1
    assert run(HERE, "Pack", "--no-tombstone", "Release").exit_code == 0
    assert run(HERE, "Pack", "--no-tombstone", "Nothing").exit_code == 3


def test_verbs() -> None:
    result = run(HERE, "Pack", "--verbs")
    assert result.exit_code == 0
    assert "killed" in result.output


def _states(output: str) -> int:
    return int(output.split(": ")[1].split(" states")[0])


def test_json() -> None:
    answer = msgspec.json.decode(run(HERE, "--json").output)
    assert answer["version"] == 1
    assert [(item["saga"], item["ok"]) for item in answer["items"]] == [("Moody", False), ("Pack", True)]
    assert answer["items"][0]["violations"][0]["moves"] == 3
