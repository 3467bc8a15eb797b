"""`orchestrator check`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from orchestrator import App
from orchestrator.operate.cli import main

from . import wrong

SOUND = "sagas/order_fulfilment.py"
HERE = "tests.checking.test_command"

app = App("wrong", sagas=[wrong.Moody, wrong.Pack])


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


def test_json() -> None:
    answer = msgspec.json.decode(run(HERE, "--json").output)
    assert answer["version"] == 1
    assert [(item["saga"], item["ok"]) for item in answer["items"]] == [("Moody", False), ("Pack", True)]
    assert answer["items"][0]["violations"][0]["moves"] == 3
