"""Loan applications from end to end: every one ends as the log says."""

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

import loan_application
from loan_application import app, events, main, outcomes
from orchestrator.edge import event_line
from orchestrator.machine import Outcome
from orchestrator.runtime.engine import Engine
from orchestrator.runtime.routing import Outcomes
from orchestrator.urls import open_store
from tests.sagas.conftest import SAGAS
from tests.sagas.daemon import Daemon, check_store

SAMPLE = SAGAS / "sample_loans.jsonl"
ENDS = {"A_ACTIVATED": "activated", "A_DECLINED": "declined", "A_CANCELLED": "cancelled"}


def ends_in(log: Iterable[str]) -> dict[str, str]:
    """How each application of the log ended; "" if it did not."""
    ends: dict[str, str] = {}
    for line in map(json.loads, log):
        ends[line["application_id"]] = ENDS.get(line["activity"], ends.get(line["application_id"], ""))
    return ends


@pytest.fixture(autouse=True)
def treasury(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOANS_DATA", str(tmp_path / "ledger"))


def test_the_sample_on_a_daemon_ends_as_its_log_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main("events", str(SAMPLE))
    lines = capsys.readouterr().out
    with Daemon(Path(loan_application.__file__), tmp_path) as daemon:
        assert daemon.call("emit", "-", input=lines.encode()).returncode == 0
        daemon.wait_for_ends("LoanApplication", 7)
        main("outcomes", daemon.store)
        assert daemon.stop() == 0
    assert " ".join(capsys.readouterr().out.split()) == "3 activated 2 cancelled 2 declined 2 open"


async def test_real_applications_end_as_their_log_says(tmp_path: Path, real_data: Path) -> None:
    log = every_fiftieth_application(real_data / "bpic2012_events.jsonl.gz")
    url = f"sqlite:///{tmp_path}/store.db"
    settled: list[Outcomes | Exception] = []
    async with Engine(app, open_store(url)) as engine:
        for line in events(log):
            await engine.submit(event_line(line.encode(), app), settled.append)
        await engine.until_idle()
    assert len(settled) == len(log)
    told = Counter(outcome for outcomes in settled if not isinstance(outcomes, Exception) for _, outcome in outcomes)
    assert told.total() == len(log) and told.keys() == {Outcome.APPLIED, Outcome.KEPT, Outcome.LATE}
    instances = await check_store(url, app)
    assert {instance.key: json.loads(bytes(instance.state))["outcome"] for instance in instances} == ends_in(log)
    assert not [instance for instance in instances if instance.parked]
    assert await outcomes(url) == Counter(end or "open" for end in ends_in(log).values())


def every_fiftieth_application(path: Path) -> list[str]:
    order: dict[str, int] = {}
    with gzip.open(path, "rt") as log:
        return [line for line in log if order.setdefault(json.loads(line)["application_id"], len(order)) % 50 == 0]
