"""`orchestrator projections`, and what `status` and `doctor` say of them: with a daemon and without one."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from orchestrator import Orchestrator, open_projection
from orchestrator.operate import output
from orchestrator.projecting.files import Claim, Files, directory_of

from . import teller
from .processes import PROGRAM, call, daemon, environment, wait_until

APP = f"{Path(__file__).with_name('teller.py')}:app"


def pay(folder: Path, *cents: int, keep: bool = True) -> None:
    """Append payments, without a daemon; with `keep` the projection gets them."""

    async def append() -> None:
        app = teller.app if keep else teller.App("nobody")
        async with Orchestrator(app, f"sqlite:///{folder / 'kiosk.db'}") as orchestrator:
            await orchestrator.events.append("till", [teller.Paid(each) for each in cents])
            await orchestrator.until_idle()

    anyio.run(append)


def till(folder: Path) -> list[int]:
    with closing(open_projection(folder / "kiosk.db", "Till")) as db:
        return [cents for (cents,) in db.execute("SELECT cents FROM till ORDER BY position")]


def listed(folder: Path, **more: str) -> dict[str, Any]:
    result = call(folder, "projections", "list", "--json", **more)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["version"], document["next"]) == (1, None)
    [item] = document["items"]
    assert isinstance(item, dict)
    return item


def test_list_shows_where_a_projection_is(tmp_path: Path) -> None:
    pay(tmp_path, 1, 2)
    pay(tmp_path, 3, keep=False)
    item = listed(tmp_path)
    assert {name: item[name] for name in ("name", "state", "version", "position", "behind", "applied")} == {
        "name": "Till",
        "state": "live",
        "version": 1,
        "position": 2,
        "behind": 1,
        "applied": 2,
    }
    assert item["behind_s"] > 0
    assert Path(item["file"]).resolve().is_file()
    [name, state, version, behind, _, position, *_] = call(tmp_path, "projections", "list").stdout.split("\t")
    assert (name, state, version, behind, position) == ("Till", "live", "1", "1", "2")


def test_a_projection_of_the_app_that_nothing_has_run_is_listed(tmp_path: Path) -> None:
    pay(tmp_path, 1, keep=False)
    assert call(tmp_path, "projections", "list").stdout == ""
    assert listed(tmp_path, ORCHESTRATOR_APP=APP)["state"] == "not built"


def test_status_and_doctor_tell_of_a_projection_that_stopped(tmp_path: Path) -> None:
    pay(tmp_path, 1)
    with daemon(tmp_path, app=APP, TELLER_BAD="13"):
        for cents in (13, 2):
            assert call(tmp_path, "emit", "Paid", json.dumps({"cents": cents}), ORCHESTRATOR_APP=APP).exit_code == 0
        wait_until(lambda: listed(tmp_path)["problem"])
        wait_until(lambda: listed(tmp_path)["behind"] == 2)
        item = listed(tmp_path)
        assert (item["state"], item["position"], item["problem"]["position"]) == ("stopped", 1, 2)
        assert "this coin is bent" in item["problem"]["reason"]

        status = call(tmp_path, "status")
        assert "projection\tTill\tstopped\t2\t" in status.stdout
        [seen] = json.loads(call(tmp_path, "status", "--json").stdout)["item"]["projections"]
        assert (seen["name"], seen["behind"]) == ("Till", 2)
        doctor = call(tmp_path, "doctor", ORCHESTRATOR_APP=APP)
        assert doctor.exit_code == 1
        assert "projection Till\tfailed\tstopped: till@2 (Paid) at position 2: ValueError: this coin is bent" in (
            doctor.stdout
        )

        failed = call(tmp_path, "projections", "rebuild", "Till")
        assert failed.exit_code == 1
        assert "building Till has stopped at till@2 (Paid) at position 2: ValueError" in failed.stderr
        assert till(tmp_path) == [1]  # what was there is there
    with daemon(tmp_path, app=APP):  # code that can take it
        wait_until(lambda: till(tmp_path) == [1, 13, 2])
        wait_until(lambda: listed(tmp_path)["state"] == "live")


def test_the_daemon_builds_pauses_and_resumes(tmp_path: Path) -> None:
    pay(tmp_path, *range(1000))
    files = Files(directory_of(tmp_path / "kiosk.db"), "Till")
    with daemon(tmp_path, app=APP):
        assert call(tmp_path, "projections", "rebuild", "Till").stdout == "Till\t1\t1000\n"
        assert files.current() == 2
        assert call(tmp_path, "projections", "rebuild", "Till", "--no-wait").exit_code == 0
        wait_until(lambda: files.current() == 3)
        assert till(tmp_path) == [*range(1000)]

        assert call(tmp_path, "projections", "pause", "Till", "--reason", "a look").exit_code == 0
        assert listed(tmp_path)["paused"]["why"] == "a look"
        assert call(tmp_path, "projections", "pause", "Till").exit_code == 6
        assert call(tmp_path, "projections", "rebuild", "Till").exit_code == 6
        assert call(tmp_path, "emit", "Paid", '{"cents": 7}', ORCHESTRATOR_APP=APP).exit_code == 0
        wait_until(lambda: listed(tmp_path)["behind"] == 1)
        assert call(tmp_path, "projections", "resume", "Till").exit_code == 0
        wait_until(lambda: till(tmp_path)[-1] == 7)
        assert call(tmp_path, "projections", "resume", "Till").exit_code == 6
        assert call(tmp_path, "projections", "pause", "Nothing").exit_code == 3


def test_without_a_daemon_the_verb_builds(tmp_path: Path) -> None:
    pay(tmp_path, *range(1000), keep=False)
    assert call(tmp_path, "projections", "rebuild", "Till").exit_code == 78  # it needs the classes
    built = call(tmp_path, "projections", "rebuild", "Till", ORCHESTRATOR_APP=APP)
    assert (built.exit_code, built.stdout) == (0, "Till\t1\t1000\n")
    assert till(tmp_path) == [*range(1000)]
    again = call(tmp_path, "projections", "rebuild", "Till", "--json", ORCHESTRATOR_APP=APP)
    assert json.loads(again.stdout)["item"]["position"] == 1000
    bent = call(tmp_path, "projections", "rebuild", "Till", ORCHESTRATOR_APP=APP, TELLER_BAD="500")
    assert bent.exit_code == 1
    assert "at position 501: ValueError: this coin is bent" in bent.stderr
    assert till(tmp_path) == [*range(1000)]
    assert call(tmp_path, "projections", "rebuild", "Nothing", ORCHESTRATOR_APP=APP).exit_code == 3
    assert call(tmp_path, "projections", "rebuild", "Till", "--no-wait", ORCHESTRATOR_APP=APP).exit_code == 6


def test_without_a_daemon_pause_and_resume_hold_for_its_next_start(tmp_path: Path) -> None:
    assert call(tmp_path, "projections", "pause", "Till").exit_code == 3
    pay(tmp_path, 1)
    assert call(tmp_path, "projections", "pause", "Till").exit_code == 0
    assert call(tmp_path, "projections", "pause", "Till").exit_code == 6
    pay(tmp_path, 2)
    assert till(tmp_path) == [1]
    assert call(tmp_path, "projections", "rebuild", "Till", ORCHESTRATOR_APP=APP).exit_code == 6
    assert call(tmp_path, "projections", "resume", "Till").exit_code == 0
    assert call(tmp_path, "projections", "resume", "Till").exit_code == 6
    pay(tmp_path, 3)
    assert till(tmp_path) == [1, 2, 3]


def test_a_projection_that_a_program_keeps_is_left_alone(tmp_path: Path) -> None:
    pay(tmp_path, 1)
    claim = Claim(Files(directory_of(tmp_path / "kiosk.db"), "Till"))
    claim.acquire()
    try:
        for words in (("rebuild", "Till"), ("pause", "Till")):
            result = call(tmp_path, "projections", *words, ORCHESTRATOR_APP=APP)
            assert result.exit_code == 69, result.output
            assert "keeps this projection" in result.stderr
    finally:
        claim.release()


def test_a_rebuild_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    pay(tmp_path, *range(5_000), keep=False)
    files = Files(directory_of(tmp_path / "kiosk.db"), "Till")
    slowly = environment(tmp_path, ORCHESTRATOR_APP=APP, TELLER_SLOW_S="0.002")
    process = subprocess.Popen([*PROGRAM, "projections", "rebuild", "Till"], env=slowly, cwd=tmp_path)
    wait_until(lambda: files.numbers() and listed(tmp_path)["position"] >= 500)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = listed(tmp_path)
    assert 500 <= begun["position"] < 5_000
    assert (begun["state"], begun["version"], begun["building"]["version"]) == ("building", None, 1)
    assert call(tmp_path, "projections", "rebuild", "Till", ORCHESTRATOR_APP=APP).exit_code == 0
    assert files.numbers() == [1]
    assert listed(tmp_path)["applied"] == 5_000
    assert till(tmp_path) == [*range(5_000)]


def test_a_terminal_shows_what_stopped_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    pay(tmp_path, 1, 500)
    assert call(tmp_path, "projections", "rebuild", "Till", ORCHESTRATOR_APP=APP, TELLER_BAD="500").exit_code == 1
    status = call(tmp_path, "status").stdout
    assert "Till        live, rebuilt 50% (stopped)" in status
    assert "building projection Till stopped" in status
    assert "till@2 (Paid) at position 2: ValueError: this coin is bent" in status
    assert "once its code is mended: orchestrator run" in status
    assert {"building", "anew", "coin"} <= set(call(tmp_path, "projections", "list").stdout.split())
    assert call(tmp_path, "projections", "rebuild", "Till", ORCHESTRATOR_APP=APP).stdout == "Till is built\n"
    assert "nothing needs you" in call(tmp_path, "status").stdout


def test_preflight_tells_which_projections_a_start_would_build_anew(tmp_path: Path) -> None:
    pay(tmp_path, 1)
    words = [*PROGRAM, "preflight", "--json"]
    for version, rebuilt in (("1", []), ("2", ["Till"])):
        variables = environment(tmp_path, ORCHESTRATOR_APP=APP, TELLER_VERSION=version)
        done = subprocess.run(words, env=variables, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["rebuilt"] == rebuilt
