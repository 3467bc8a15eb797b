"""The pytest plugin: one test a saga of an app, which runs `check` (every order of everything that can happen to it).

    pytest --orchestrator-app shop.py        or, in the configuration:   orchestrator_app = "shop.py"

pytest loads this module wherever the distribution is installed; what it needs comes with the first saga.
"""

from __future__ import annotations

from typing import Literal

import pytest

from .. import testing


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, each also a line of pytest's configuration."""
    group = parser.getgroup("orchestrator", "sagas (orchestrator)")
    for name, kind, meta, text in _OPTIONS:
        flag = f"--{name.replace('_', '-')}"
        if kind == "bool":
            group.addoption(flag, action="store_true", help=text)
        else:
            group.addoption(flag, metavar=meta, help=text)
        parser.addini(name, text, type=kind, default=None)


_OPTIONS: tuple[tuple[str, Literal["bool", "string"], str, str], ...] = (
    ("orchestrator_app", "string", "APP", "Check every saga of this app: module:attribute or file.py:attribute."),
    ("orchestrator_examples", "string", "FILE.py:NAME", "Values to say: a dict of class -> list of its values."),
    ("orchestrator_visits", "string", "N", "How many times round are enough where a loop has no end."),
    ("orchestrator_max_states", "string", "N", "The most states of one saga."),
    ("orchestrator_max_seconds", "string", "S", "The most seconds for one saga."),
    ("orchestrator_verbs", "bool", "", "Play all that an operator can ask, too."),
    ("orchestrator_no_tombstones", "bool", "", "No participant keeps tombstones."),
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the sagas: always for the option; for the configuration's app unless single files or tests were named."""
    asked = config.getoption("orchestrator_app")
    if asked or (config.getini("orchestrator_app") and all(_is_directory(word) for word in config.args)):
        items.extend(testing.sagas_of(session, config))


def _is_directory(word: str) -> bool:
    return "::" not in word and not word.endswith(".py")
