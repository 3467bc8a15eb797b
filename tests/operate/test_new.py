"""The sample is what it says: it runs, its test passes."""

import json
import os
import subprocess
import sys
from pathlib import Path

from .processes import PROGRAM, environment


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in environment(folder).items() if name != "ORCHESTRATOR_STORE"}
    return subprocess.run(words, capture_output=True, text=True, cwd=folder, env=plain, timeout=60, check=False)


def made(tmp_path: Path) -> Path:
    done = call(tmp_path, *PROGRAM, "new", "my course")
    assert done.returncode == 0, done.stderr
    assert "cd 'my course'" in done.stdout
    return tmp_path / "my course"


def test_the_sample_runs(tmp_path: Path) -> None:
    folder = made(tmp_path)
    emitted = call(folder, *PROGRAM, "emit", "BookingRequested", "--file", "bookings.jsonl")
    assert emitted.stdout.startswith("6 accepted"), emitted.stderr
    ran = call(folder, *PROGRAM, "run", "--until-idle")
    assert ran.returncode == 0, ran.stderr
    listed = json.loads(call(folder, *PROGRAM, "list", "--json").stdout)["items"]
    statuses = {item["key"]: item["status"] for item in listed}
    undone = {"b3": "compensated", "b5": "compensated"}
    assert statuses == {f"b{n}": "completed" for n in range(1, 7)} | undone
    again = call(folder, *PROGRAM, "emit", "BookingRequested", "--file", "bookings.jsonl")
    assert again.stdout.startswith("0 accepted, 6 duplicates")


def test_the_samples_test_passes(tmp_path: Path) -> None:
    done = call(made(tmp_path), sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for name in ("mine", "file"):
        done = call(tmp_path, *PROGRAM, "new", name)
        assert done.returncode == 2
        assert "not empty" in done.stderr
    assert os.listdir(tmp_path / "mine") == ["notes"]
