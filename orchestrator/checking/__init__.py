"""The exhaustive checker of a saga: the real machine and the user's handlers over every order of what can happen."""

from __future__ import annotations

from .check import MAX_SECONDS, MAX_STATES, VISITS, as_examples, check, children_among, commands_named
from .report import Report
from .trace import Violation

__all__ = [
    "MAX_SECONDS",
    "MAX_STATES",
    "VISITS",
    "Report",
    "Violation",
    "as_examples",
    "check",
    "children_among",
    "commands_named",
]
