"""Tests of what only an extra brings say so and are skipped where it is not installed; with CI=true they fail.

Those that wait for a real broker are marked `broker`, so that they can run beside the others.
"""

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
DRIVERS = {"kafka": "aiokafka", "nats": "nats", "rabbitmq": "aiormq", "sqs": "aiobotocore", "webhook": "httpcore2"}
_IMPORT = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)
_ADAPTER = re.compile(r"^\s*from orchestrator_adapters\.(\w+)", re.MULTILINE)

_BROKER = re.compile(r"^\s*from (?:tests|\.+)\.?servers\.(?:aws|kafka|nats|rabbitmq) import", re.MULTILINE)


class _Absent(pytest.Module):
    """A module of tests that cannot be imported here."""

    extra = ""

    def collect(self) -> Iterator[pytest.Item]:  # type: ignore[override]
        missing(f"what {self.name} needs", f"pip install 'saga-orchestrator[{self.extra}]'")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Nothing, as long as all that the module imports is there."""
    text = module_path.read_text()
    drivers = [DRIVERS[adapter] for adapter in _ADAPTER.findall(text) if adapter in DRIVERS]
    for name in (*_IMPORT.findall(text), *drivers):
        if name in EXTRAS and find_spec(name) is None:
            absent = _Absent.from_parent(parent, path=module_path)
            absent.extra = EXTRAS[name]
            return absent
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    waiting = {path for path in {item.path for item in items} if _BROKER.search(path.read_text())}
    for item in items:
        if item.path in waiting:
            item.add_marker("broker")
