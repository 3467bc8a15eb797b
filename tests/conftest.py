"""Tests of what only an extra brings say so and are skipped where it is not installed; with CI=true they fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from .servers.process import missing

EXTRAS = {  # module -> the extra that brings it
    "aio_pika": "servers",
    "aiobotocore": "sqs",
    "aiokafka": "kafka",
    "aiormq": "amqp",
    "cloudevents": "servers",
    "cryptography": "servers",
    "httpcore2": "webhooks",
    "nats": "nats",
    "standardwebhooks": "servers",
}
_IMPORT = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)


class _Absent(pytest.Module):
    """A module of tests that cannot be imported here."""

    extra = ""

    def collect(self) -> Iterator[pytest.Item]:  # type: ignore[override]
        missing(f"what {self.name} needs", f"pip install 'saga-orchestrator[{self.extra}]'")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Nothing, as long as all that the module imports is there."""
    for name in _IMPORT.findall(module_path.read_text()):
        if name in EXTRAS and find_spec(name) is None:
            absent = _Absent.from_parent(parent, path=module_path)
            absent.extra = EXTRAS[name]
            return absent
    return None
