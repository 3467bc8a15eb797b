"""Looks with the catchers named for anything that is wrong with the engine on the path, and says what comes first.

    python -m tests.proof.mutants.hunt SECONDS CATCHER...

    simulation NAME [/ FAULT]... | ...    plain runs, then every single fault (or those kinds only) of these scenarios
    walks SAGA | ...                      random orders of everything at the machine
    conformance memory | sqlite           the suite of the store
    check SAGA | ...                      the exhaustive check of the examples' sagas, and of the machine's tests
    power                                 cuts of the power, under the store
    test NODE | ...                       tests of pytest
    again JSON                            exactly what was found before

Without names, all there are. Prints a Found as JSON, or nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path

import msgspec
import pytest

import orchestrator
from orchestrator import Saga
from orchestrator.checking import check, children_among
from orchestrator.definition import definition_of
from orchestrator.machine import fold
from orchestrator.testing.simulation import Broken, Explorer, Fault, Scenario
from tests.machine.test_any_order import SAGAS
from tests.machine.test_any_order import World as Walk
from tests.proof.simulation.expected import unlike
from tests.proof.simulation.scenarios import SCENARIOS

from .found import Again, Found

ROOT = Path(__file__).parents[3]
SEEDS = (1, 2, 3, 4)  # all plans with the first, then with the next
WALKS = 100
EXAMPLES = ("order_fulfilment", "trip_booking", "loan_application")
CHECK_S = 5.0
IMAGES = 300
PLUGINS = ("-p", "no:cacheprovider", "-p", "anyio.pytest_plugin", "-p", "pytest_timeout")
OPTIONS = ("-x", "-q", "--timeout=30", "--tb=short", "--assert=plain", *PLUGINS)


def hunt(catchers: list[str], until: float) -> Found | None:
    """The first thing that is wrong; None when there is none, or the time (of this process) is over."""
    for catcher in catchers:
        kind, _, names = catcher.partition(" ")
        chosen = [name.strip() for name in names.split(" | ") if name.strip()]
        for found in _CATCHERS[kind](chosen):
            if found is not None:
                return found
            if time.process_time() > until:
                return None
    return None


# Each catcher gives None for all that is well, so that the clock can be looked at between.


def _simulation(names: list[str]) -> Iterator[Found | None]:
    chosen = [_chosen(name) for name in names] or [(scenario, frozenset(Fault)) for scenario in SCENARIOS]
    for seed in SEEDS:
        explorers = [(Explorer(scenario, seed), faults) for scenario, faults in chosen]
        for explorer, _ in explorers:
            yield _plain(explorer)
        for explorer, faults in explorers:
            for plan in explorer.singles():
                if faults.issuperset(plan.values()):
                    _, broken = explorer.play(plan)
                    yield None if broken is None else _broken(broken)


def _chosen(text: str) -> tuple[Scenario, frozenset[Fault]]:
    name, *faults = text.split(" / ")
    scenario = next(each for each in SCENARIOS if each.name == name)
    return scenario, frozenset(map(Fault, faults)) or frozenset(Fault)


def _plain(explorer: Explorer) -> Found | None:
    scenario, plain = explorer.scenario.name, explorer.plain
    wrong = plain.wrong or unlike(scenario, plain)
    return _broken(Broken(scenario, explorer.seed, {}, wrong)) if wrong else None


def _broken(broken: Broken) -> Found:
    faults = "".join(f", {fault} at {number}" for number, fault in broken.plan.items())
    again = Again(scenario=broken.scenario, plan=broken.plan, seed=broken.seed)
    return Found(f"simulation {broken.scenario}{faults}", broken.wrong[0], again)


def _walks(names: list[str]) -> Iterator[Found | None]:
    for saga in SAGAS:
        if not names or saga.__name__ in names:
            for seed in range(WALKS):
                yield _walk(saga.__name__, seed)


def _walk(name: str, seed: int) -> Found | None:
    saga = next(each for each in SAGAS if each.__name__ == name)
    try:
        _walked(saga, seed)
    except Exception as error:
        return Found(f"walks {name}, seed {seed}", f"{type(error).__name__}: {error}", Again(walk=name, seed=seed))
    return None


def _walked(saga: type, seed: int) -> None:
    walk = Walk(saga, seed)
    for _ in range(walk.chance.randrange(1, 40)):
        walk.step()
    folded = fold(walk.definition, walk.entries)
    assert msgspec.json.encode(folded) == msgspec.json.encode(walk.instance), "I2 the history does not lead there"
    if saga.__name__ != "Monthly":
        walk.come_to_rest()


def _checks(names: list[str]) -> Iterator[Found | None]:
    for name in names or _sagas():
        yield _checked(name)


def _checked(name: str) -> Found | None:
    sagas = _sagas()
    is_child = name in children_among(map(definition_of, sagas.values()))
    report = check(sagas[name], strict=False, max_seconds=CHECK_S, as_child=is_child)
    if not report.violations:
        return None
    return Found(f"check {name}", str(report.violations[0].what), Again(check=name))


def _sagas() -> dict[str, type[Saga]]:
    """The examples' sagas, then those of the machine's tests."""
    apps = [import_module(f"sagas.{module}").app for module in EXAMPLES]
    examples = [definition.cls for app in apps for definition in app.sagas.values()]
    return {saga.__name__: saga for saga in (*examples, *SAGAS)}


def _conformance(names: list[str]) -> Iterator[Found | None]:
    yield _tested([f"tests/conformance/test_{name}.py" for name in names or ("memory", "sqlite")])


def _power(names: list[str]) -> Iterator[Found | None]:
    from tests.proof.power.cutting import cut  # its file system takes a while to import

    wrong = cut(0, IMAGES).wrong
    yield Found("power", wrong[0], Again(power=True)) if wrong else None


def _tests(names: list[str]) -> Iterator[Found | None]:
    yield _tested(names)


def _tested(nodes: list[str]) -> Found | None:
    """The first test that fails. Errors: ValueError, when there are no such tests."""
    first = _First()
    with redirect_stdout(StringIO()):
        code = pytest.main([*OPTIONS, *nodes], plugins=[first])
    if code is pytest.ExitCode.OK:
        return None
    if first.failed is None:
        raise ValueError(f"{' '.join(nodes)}: pytest says {code!r}")
    node = first.failed.nodeid
    kind = "conformance" if node.startswith("tests/conformance/") else "test"
    return Found(f"{kind} {node}", _last_line(first.failed), Again(test=node))


class _First:
    """A plugin that keeps the first failure."""

    def __init__(self) -> None:
        self.failed: pytest.TestReport | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.failed is None:
            self.failed = report


def _last_line(report: pytest.TestReport) -> str:
    said = getattr(getattr(report.longrepr, "reprcrash", None), "message", "") or report.longreprtext
    return next((line for line in said.splitlines() if line.strip()), "it failed")


def _again(names: list[str]) -> Iterator[Found | None]:
    every = [msgspec.json.decode(name, type=Again) for name in names]
    explorer = cache(lambda name, seed: Explorer(_chosen(name)[0], seed))
    for one in every:
        if one.scenario:
            here = explorer(one.scenario, one.seed)
            broken = here.play(one.plan)[1]
            yield _plain(here) if broken is None else _broken(broken)
        elif one.walk:
            yield _walk(one.walk, one.seed)
        elif one.check:
            yield _checked(one.check)
        elif one.power:
            yield from _power([])
    if tests := list(dict.fromkeys(one.test for one in every if one.test)):
        yield _tested(tests)


_CATCHERS: dict[str, Callable[[list[str]], Iterator[Found | None]]] = {
    "simulation": _simulation,
    "walks": _walks,
    "conformance": _conformance,
    "check": _checks,
    "power": _power,
    "test": _tests,
    "again": _again,
}


if __name__ == "__main__":
    assert Path(orchestrator.__file__).is_relative_to(ROOT), "the engine on the path is another one"
    found = hunt(sys.argv[2:], float(sys.argv[1]))
    if found is not None:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
