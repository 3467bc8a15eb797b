"""The first command of the README does what it says."""

import os
import subprocess
import sys
from pathlib import Path

from tests.sagas.conftest import SAGAS


def test_the_demo_kills_the_daemon_and_its_books_balance(tmp_path: Path) -> None:
    environment = {**os.environ, "ORCHESTRATOR_DATA": str(tmp_path / "no real data"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(SAGAS / "demo.py")], env=environment, capture_output=True, timeout=120)
    told = done.stdout.decode()
    assert done.returncode == 0, told + done.stderr.decode()
    for said in (
        "12 accepted",
        "$ kill -9",
        "daemon dead",
        "6 fulfilled    6 undone",
        "12 duplicates",
        "The books balance.",
    ):
        assert said in told, told
