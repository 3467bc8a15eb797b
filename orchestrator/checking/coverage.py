"""Which steps and handlers of a saga have run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

from ..definition import Definition, Handler, StepDefinition


class Coverage:
    """A definition whose functions note that they ran."""

    def __init__(self, definition: Definition) -> None:
        """Of a definition, which stays as it is."""
        self.ran: set[str] = set()
        self.latest = ""  # the one that ran last
        self.names: list[str] = []
        steps = {name: self._step(step) for name, step in definition.steps.items()}
        always = tuple(self._handler("on", handler) for handler in definition.always)
        self.definition = replace(definition, steps=steps, always=always)

    def missing(self) -> list[str]:
        """The steps and handlers that never ran, as `reserve` or `reserve.refused: sold_out`."""
        return [name for name in self.names if name not in self.ran]

    def _step(self, step: StepDefinition) -> StepDefinition:
        return replace(
            step,
            function=self._counted(step.name, step.function),
            on=tuple(self._handler(f"{step.name}.on", handler) for handler in step.on),
            refused=tuple(self._handler(f"{step.name}.refused", handler) for handler in step.refused),
            failed=self._single(f"{step.name}.failed", step.failed),
            late=self._single(f"{step.name}.late", step.late),
            compensate=self._single(f"{step.name}.compensate", step.compensate),
        )

    def _single(self, where: str, handler: Handler | None) -> Handler | None:
        return None if handler is None else self._handler(where, handler)

    def _handler(self, where: str, handler: Handler) -> Handler:
        name = f"{where}: {handler.function.__name__}"
        return replace(handler, function=self._counted(name, handler.function))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        self.names.append(name)

        @wraps(function)
        def counted(*arguments: Any) -> Any:
            self.ran.add(name)
            self.latest = name
            return function(*arguments)

        return counted


def without_own_frames(traceback: str) -> str:
    """A traceback without the frames that counting added."""
    return _OWN_FRAME.sub("", traceback)


_OWN_FRAME = re.compile(rf'^  File "{re.escape(__file__)}".*\n(?:    .*\n)*', re.MULTILINE)
