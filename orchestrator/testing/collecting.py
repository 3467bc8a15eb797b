"""Sagas as tests of pytest: what the plugin loads once an app is given."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..app import load_app, load_object
from ..checking import MAX_SECONDS, MAX_STATES, Report, as_examples, check, children_among
from ..errors import OrchestratorError


def sagas_of(session: pytest.Session, config: pytest.Config) -> Iterator[SagaItem]:
    """The sagas of the app that was given, each as a test. Errors: pytest.UsageError."""
    spec = str(_given(config, "orchestrator_app"))
    examples = _given(config, "orchestrator_examples")
    visits = _given(config, "orchestrator_visits")
    try:
        app = load_app(spec, config.rootpath)
        options: dict[str, Any] = {
            "examples": as_examples(load_object(examples, config.rootpath), examples) if examples else None,
            "visits": int(visits) if visits else None,
            "max_states": int(_given(config, "orchestrator_max_states") or MAX_STATES),
            "max_seconds": float(_given(config, "orchestrator_max_seconds") or MAX_SECONDS),
            "verbs": bool(_given(config, "orchestrator_verbs")),
            "no_tombstones": bool(_given(config, "orchestrator_no_tombstones")),
        }
    except (OrchestratorError, ValueError) as error:
        raise pytest.UsageError(f"orchestrator: {error}") from None
    children = children_among(app.sagas.values())
    for name, definition in app.sagas.items():
        yield SagaItem.from_parent(  # pyright: ignore[reportUnknownMemberType]
            session,
            name=name,
            nodeid=f"{spec}::{name}",
            saga=definition.cls,
            options={**options, "as_child": name in children},
        )


class SagaItem(pytest.Item):
    """The check of one saga."""

    def __init__(self, *, saga: type[Any], options: dict[str, Any], **place: Any) -> None:
        """With the options of `check`."""
        super().__init__(**place)  # pyright: ignore[reportUnknownMemberType]
        self._saga, self._options = saga, options

    def runtest(self) -> None:
        """Check it."""
        report = check(self._saga, **self._options, strict=False)
        self.add_report_section("call", "saga", str(report))
        if not report.ok:
            raise SagaIsWrong(report)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What was found, as `orchestrator check` says it."""
        if isinstance(excinfo.value, SagaIsWrong):
            self._report_sections.clear()
            return str(excinfo.value.report)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it stands."""
        file = getattr(sys.modules.get(self._saga.__module__), "__file__", None)
        return Path(file) if file else self.path, None, self.name


class SagaIsWrong(Exception):
    """A check found something, or was stopped by a bound."""

    def __init__(self, report: Report) -> None:
        """With all that was found."""
        super().__init__(report.verdict)
        self.report = report


def _given(config: pytest.Config, name: str) -> Any:
    return config.getoption(name) or config.getini(name)
