"""Adapters are found by the scheme of a URL among what is installed."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from orchestrator import urls
from orchestrator.errors import ConfigError
from orchestrator.memory import MemoryBus, MemoryStore


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = EntryPoints(
        [
            EntryPoint("memory", "orchestrator.memory:MemoryStore", urls.STORES),
            EntryPoint("moon", "no_such_driver.adapter:MoonStore", urls.STORES),
            EntryPoint("memory", "orchestrator.memory:MemoryBus", urls.BUSES),
        ]
    )
    monkeypatch.setattr(urls, "entry_points", lambda group: entries.select(group=group))


def test_a_scheme_finds_its_adapter() -> None:
    assert isinstance(urls.open_store("memory://"), MemoryStore)
    assert isinstance(urls.open_bus("memory://"), MemoryBus)


@pytest.mark.parametrize("url", ["postgres://db", "shop.db", ""])
def test_an_unknown_scheme_names_the_known_ones(url: str) -> None:
    with pytest.raises(ConfigError, match="known are memory:, moon:"):
        urls.open_store(url)


def test_a_driver_that_is_missing_says_how_to_install_it() -> None:
    with pytest.raises(ConfigError, match=r"needs no_such_driver, which is not installed: .* -m pip install"):
        urls.open_store("moon://base")


def test_nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(group: str) -> list[Any]:
        return []

    monkeypatch.setattr(urls, "entry_points", none)
    with pytest.raises(ConfigError, match="is saga-orchestrator installed"):
        urls.open_bus("moon://")


def test_our_own_are_those_that_the_project_declares() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    groups = project["entry-points"]
    ours = [group for group in groups if group.startswith("orchestrator.")]
    assert {(group, name): groups[group][name] for group in ours for name in groups[group]} == urls.OWN


def test_a_password_is_not_shown() -> None:
    with pytest.raises(ConfigError) as problem:
        urls.open_bus("natz://user:secret@host")
    assert "secret" not in str(problem.value)
