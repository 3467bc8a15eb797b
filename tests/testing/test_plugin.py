"""The pytest plugin: a test a saga."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import orchestrator.app  # loaded here, for a session within this one forgets what it loads
import orchestrator.checking  # noqa: F401

pytest_plugins = ["pytester"]

SHOP = """
from orchestrator import App, Command, Event, Saga, step
from orchestrator.messages import Refusal

class Placed(Event):
    order: str

class Reserved(Event):
    number: int

class Reserve(Command[Reserved]):
    order: str

class Release(Command):
    order: str

class Order(Saga, key="order", starts=Placed):
    order: str

    @step
    def reserve(self) -> Reserve:
        return Reserve(self.order)

    @reserve.on
    def reserved(self, reply: Reserved) -> None:
        BODY

    @reserve.compensate
    def release(self) -> Release:
        return Release(self.order)

app = App("shop", sagas=[Order])
examples = {Reserved: [Reserved(7)]}
"""
PLUGIN = "orchestrator.testing.plugin"
FINE, SULKS = "...", 'assert reply.number == 7, "in a bad mood"'


@pytest.fixture(autouse=True)
def with_plugin(pytester: pytest.Pytester) -> None:
    """In a session that takes warnings for errors."""
    pytester.makeini("[pytest]\nfilterwarnings = error")


def _is_installed() -> bool:
    return any(it.value == PLUGIN for it in entry_points(group="pytest11"))


def shop(pytester: pytest.Pytester, body: str) -> None:
    pytester.makepyfile(shop=SHOP.replace("BODY", body))


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    loaded = () if _is_installed() else ("-p", PLUGIN)
    return pytester.runpytest_inprocess(*loaded, *words)


def test_a_saga_of_the_app_is_a_test(pytester: pytest.Pytester) -> None:
    shop(pytester, FINE)
    result = run(pytester, "--orchestrator-app", "shop.py", "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*shop.py::Order*PASSED*"])


def test_a_failure_is_the_report_and_no_traceback(pytester: pytest.Pytester) -> None:
    shop(pytester, SULKS)
    result = run(pytester, "--orchestrator-app", "shop:app")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*Order: *1 thing wrong",
            "1. reserve.on: reserved raises AssertionError: in a bad mood",
            "def test_order() -> None:",
            "*1 failed*",
        ]
    )
    assert "plugin.py" not in result.stdout.str()


def test_options_are_those_of_check(pytester: pytest.Pytester) -> None:
    shop(pytester, SULKS)
    run(pytester, "--orchestrator-app", "shop", "--orchestrator-examples", "shop:examples").assert_outcomes(passed=1)
    shop(pytester, FINE)
    result = run(pytester, "--orchestrator-app", "shop", "--orchestrator-no-tombstones")
    result.stdout.fnmatch_lines(["*missing tombstone: reserve*"])
    result = run(pytester, "--orchestrator-app", "shop", "--orchestrator-max-states", "2")
    result.stdout.fnmatch_lines(["*stopped unfinished at 2 states*"])
    run(pytester, "--orchestrator-app", "shop", "--orchestrator-verbs").assert_outcomes(passed=1)


def test_the_configuration_names_the_app_and_single_tests_do_without(pytester: pytest.Pytester) -> None:
    shop(pytester, FINE)
    pytester.makeini("[pytest]\nfilterwarnings = error\norchestrator_app = shop.py\norchestrator_verbs = true")
    pytester.makepyfile(test_other="def test_other(): ...")
    run(pytester).assert_outcomes(passed=2)
    run(pytester, "test_other.py").assert_outcomes(passed=1)
    run(pytester, "-k", "Order").assert_outcomes(passed=1, deselected=1)


def test_without_an_app_nothing_is_added(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_other="def test_other(): ...")
    run(pytester).assert_outcomes(passed=1)


def test_what_cannot_be_loaded_is_a_usage_error(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--orchestrator-app", "nothing.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*orchestrator: there is no file*nothing.py*"])


def test_it_loads_nothing_of_the_library_before_it_is_used() -> None:
    code = """if True:
        import sys, pytest
        before = set(sys.modules)
        import orchestrator.testing.plugin
        new = {name for name in set(sys.modules) - before if name.startswith(("orchestrator", "msgspec", "tenacity"))}
        assert new == {"orchestrator", "orchestrator.lazy", "orchestrator.testing", "orchestrator.testing.plugin"}, new
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
