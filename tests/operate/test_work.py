"""Sagas in one process and their participants in another: `run --sagas-only`, `work`, and a broker that is away."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.operate import client
from orchestrator.operate.cli.run import work_store
from orchestrator.operate.protocol import BusState

from .processes import APP, call, carried_out, daemon, wait_until, with_file_bus


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A broker in a file, for processes and for verbs of this one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return with_file_bus(tmp_path)


def emit(folder: Path, order: str, takes: float = 0.0) -> None:
    done = call(folder, "emit", "Ordered", json.dumps({"order": order, "takes": takes}))
    assert done.exit_code == 0, done.stderr


def steps(folder: Path, order: str) -> list[str]:
    shown = json.loads(call(folder, "show", f"Coffee/{order}", "--json").stdout)
    return [step["step"] for step in shown["item"]["steps"]]


def status(folder: Path, store: str = "kiosk.db", **more: str) -> dict[str, Any]:
    done = call(folder, "status", "--json", "--store", f"sqlite:///{folder / store}", **more)
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["item"]
    return found


def broker(folder: Path, store: str = "kiosk.db") -> BusState:
    answer = client.ping(folder / store)
    assert answer is not None
    state = answer["broker"]
    assert isinstance(state, BusState)
    return state


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=10)
    return process.returncode, log


def worker(folder: Path, bus: str, **more: str) -> Any:
    return daemon(folder, "--bus", bus, verb="work", store="kiosk.work.db", **more)


def test_a_worker_without_a_bus_is_told_what_to_give_it(tmp_path: Path) -> None:
    done = call(tmp_path, "work", APP)
    assert done.exit_code == 78
    assert "--bus" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_app_without_participants_has_nothing_to_work_at(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(
        "from orchestrator import App\nfrom tests.operate.kiosk import Coffee\napp = App('alone', sagas=[Coffee])\n"
    )
    done = call(tmp_path, "work", "alone.py", "--bus", "memory://")
    assert done.exit_code == 78
    assert "no participants and no listeners" in done.stderr


@pytest.mark.parametrize(
    ("sagas", "worker"),
    [
        ("sqlite:///shop.db", "sqlite:///shop.work.db"),
        ("sqlite:////var/lib/shop.v2/sagas", "sqlite:////var/lib/shop.v2/sagas"),
        ("memory:", "memory:"),
    ],
)
def test_the_store_of_a_worker_stands_beside_that_of_the_sagas(sagas: str, worker: str) -> None:
    assert work_store(sagas) == worker


def test_sagas_and_their_participants_in_two_processes(tmp_path: Path, bus: str) -> None:
    with daemon(tmp_path, "--bus", bus, "--sagas-only") as sagas, worker(tmp_path, bus) as hands:
        emit(tmp_path, "1")
        wait_until(lambda: steps(tmp_path, "1") == ["pay"])
        assert len(carried_out(tmp_path)) == 2
        wait_until(lambda: status(tmp_path)["broker"]["state"] == "connected")
        found = status(tmp_path, "kiosk.work.db")
        assert (found["daemon"]["pid"], found["daemon"]["has_sagas"]) == (hands.pid, False)
        assert (found["instances"], found["needs_you"]["dead"]) == ({}, 0)
        assert ended(hands)[0] == ended(sagas)[0] == 0


def test_a_worker_that_is_told_to_end_finishes_what_it_does_and_says_so(tmp_path: Path, bus: str) -> None:
    with daemon(tmp_path, "--bus", bus, "--sagas-only"):
        with worker(tmp_path, bus) as hands:
            emit(tmp_path, "1", takes=1.0)
            wait_until(lambda: carried_out(tmp_path))
            wait_until(lambda: (status(tmp_path, "kiosk.work.db")["work"] or {}).get("commands") == 1)
            code, log = ended(hands)
        assert code == 0
        assert "cut off" not in log
        wait_until(lambda: steps(tmp_path, "1") == ["pay"])
    assert [line.split()[0] for line in carried_out(tmp_path)] == ["begin", "end"]


def test_an_answer_that_could_not_leave_is_kept_for_the_next_start(tmp_path: Path, bus: str) -> None:
    away = tmp_path / "bus.away"
    with daemon(tmp_path, "--bus", bus, "--sagas-only"):
        with worker(tmp_path, bus) as hands:
            emit(tmp_path, "1", takes=1.0)
            wait_until(lambda: carried_out(tmp_path))
            away.touch()
            code, _ = ended(hands)
        assert code == 0
        away.unlink()
        assert [line.split()[0] for line in carried_out(tmp_path)] == ["begin", "end"]
        found = status(tmp_path, "kiosk.work.db", ORCHESTRATOR_BUS=bus)
        assert found["work"] == {"commands": 0, "answers": 1}
        assert (found["broker"]["state"], found["broker"]["to_go"]) == ("unknown", 1)
        assert found["needs_you"]["work_without_daemon"] == 1
        with worker(tmp_path, bus):
            wait_until(lambda: steps(tmp_path, "1") == ["pay"])
    assert len(carried_out(tmp_path)) == 2


def test_a_worker_that_is_killed_goes_on_under_the_same_key(tmp_path: Path, bus: str) -> None:
    with daemon(tmp_path, "--bus", bus, "--sagas-only"):
        with worker(tmp_path, bus) as hands:
            emit(tmp_path, "1", takes=0.5)
            wait_until(lambda: carried_out(tmp_path))
            hands.kill()
            hands.wait()
        with worker(tmp_path, bus):
            wait_until(lambda: steps(tmp_path, "1") == ["pay"])
    begun, again, last = carried_out(tmp_path)
    assert begun == again == last.replace("end", "begin")


def test_a_daemon_whose_broker_is_away_says_so_serves_and_goes_on_when_it_is_back(tmp_path: Path, bus: str) -> None:
    away = tmp_path / "bus.away"
    away.touch()
    with daemon(tmp_path, "--bus", bus, "--sagas-only", "--log", "text") as sagas, worker(tmp_path, bus):
        emit(tmp_path, "1")
        wait_until(lambda: "nothing can be published" in broker(tmp_path).problem)
        found = status(tmp_path)
        assert found["broker"]["state"] == "trouble"
        assert found["broker"]["to_go"] == 1
        assert found["broker"]["oldest_at"] is not None
        assert "the broker is away" in found["needs_you"]["broker"]
        assert found["daemon"]["problem"] == ""
        assert steps(tmp_path, "1") == ["brew"]
        wait_until(lambda: (broker(tmp_path).since or 0) > 0)
        away.unlink()
        wait_until(lambda: steps(tmp_path, "1") == ["pay"])
        wait_until(lambda: broker(tmp_path).problem == "" and broker(tmp_path).is_connected)
        code, log = ended(sagas)
    assert code == 0
    assert log.count("the bus cannot be read: the broker is away") == 2  # that it began, and that it is over
    assert log.count("nothing can be published: the broker is away") == 2


def test_until_idle_does_what_the_broker_holds_and_waits_for_one_that_is_away(tmp_path: Path, bus: str) -> None:
    made = call(tmp_path, "bus", "setup", "--app", APP, "--bus", bus, "--sagas-only", "--work")
    assert made.exit_code == 0, made.stderr
    emit_here = call(tmp_path, "emit", "Ordered", '{"order": "1"}', "--app", APP)
    assert emit_here.exit_code == 0, emit_here.stderr
    with daemon(tmp_path, "--bus", bus, "--sagas-only"):
        wait_until(lambda: status(tmp_path)["broker"]["to_go"] == 0 and status(tmp_path)["outbox"] == 0)
    away = tmp_path / "bus.away"
    away.touch()
    with daemon(tmp_path, "--bus", bus, "--until-idle", verb="work", store="kiosk.work.db") as hands:
        wait_until(lambda: "away" in broker(tmp_path, "kiosk.work.db").problem)
        assert hands.poll() is None
        away.unlink()
        _, log = hands.communicate(timeout=20)
    assert hands.returncode == 0, log
    assert len(carried_out(tmp_path)) == 2
    with daemon(tmp_path, "--bus", bus, "--sagas-only"):
        wait_until(lambda: steps(tmp_path, "1") == ["pay"])


def test_doctor_and_bus_show_what_is_there(tmp_path: Path, bus: str) -> None:
    there = ("--app", APP, "--bus", bus)
    assert {line.split("\t")[2] for line in call(tmp_path, "bus", "show", *there).stdout.splitlines()} == {"missing"}
    assert "made" in call(tmp_path, "bus", "setup", *there).stdout
    assert {line.split("\t")[2] for line in call(tmp_path, "bus", "setup", *there).stdout.splitlines()} == {"there"}
    (tmp_path / "bus.away").touch()
    found = call(tmp_path, "bus", "show", *there)
    assert (found.exit_code, found.stderr) == (69, "orchestrator: the broker is away\n")


def test_what_runs_without_participants_says_so_and_its_broker_is_asked_for_that(tmp_path: Path, bus: str) -> None:
    there = ("--app", APP, "--bus", bus)
    needed = _needed(tmp_path, *there)
    assert "replies.kiosk" not in needed
    with daemon(tmp_path, "--bus", bus, "--sagas-only"):
        assert status(tmp_path)["daemon"]["hosts"] == "sagas"
        assert call(tmp_path, "bus", "show", *there).stderr.startswith("for sagas only, as the daemon runs")
        assert "replies.kiosk" in _needed(tmp_path, *there)
        assert _needed(tmp_path, *there, "--no-sagas-only") == needed
        found = call(tmp_path, "doctor", "--connect", *there).stdout
        assert ", sagas only\n" in found and "replies.kiosk" in found
    assert _needed(tmp_path, *there) == needed


def test_a_worker_says_that_it_is_one_and_its_broker_is_asked_for_that(tmp_path: Path, bus: str) -> None:
    there = ("--app", APP, "--bus", bus)
    with worker(tmp_path, bus):
        store = f"sqlite:///{tmp_path / 'kiosk.work.db'}"
        assert status(tmp_path, "kiosk.work.db")["daemon"]["hosts"] == "work"
        needed = _needed(tmp_path, *there, "--store", store)
        assert "commands.Brew" in needed and "Ordered" not in needed


def test_a_daemon_of_another_app_says_nothing_about_this_one(tmp_path: Path, bus: str) -> None:
    there = ("--app", APP.replace(":app", ":lonely"), "--bus", bus)
    needed = _needed(tmp_path, *there)
    with daemon(tmp_path, "--bus", bus, "--sagas-only"):
        assert _needed(tmp_path, *there) == needed


def _needed(folder: Path, *words: str) -> list[str]:
    """The names of what an app needs of its broker."""
    shown = call(folder, "bus", "show", *words)
    assert shown.exit_code == 0, shown.stderr
    return [line.split("\t")[1] for line in shown.stdout.splitlines()]
