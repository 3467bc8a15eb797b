"""The command line in processes of its own, on a store in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import chdir, contextmanager
from pathlib import Path

from click.testing import CliRunner, Result

from orchestrator.operate import client
from orchestrator.operate.cli import main

ROOT = Path(__file__).parent.parent.parent
PROGRAM = (sys.executable, "-W", "error", "-c", "from orchestrator.operate.cli import main; main()")
APP = f"{Path(__file__).with_name('kiosk.py')}:app"


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
    paths = os.pathsep.join((str(folder), str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")))
    return {
        **kept,
        "PYTHONPATH": paths,
        "ORCHESTRATOR_STORE": f"sqlite:///{folder / 'kiosk.db'}",
        "KIOSK_LOG": str(folder / "kiosk.log"),
        **more,
    }


def call(folder: Path, *words: str, **more: str) -> Result:
    """Run a verb to its end, within this process: that is quicker."""
    with chdir(folder):
        return CliRunner().invoke(main, list(words), env=environment(folder, **more))


def with_file_bus(folder: Path) -> str:
    """The URL of a bus in a file, which processes with this folder on their import path know."""
    entry = folder / "filebus-1.dist-info"
    if not entry.exists():
        entry.mkdir()
        (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: filebus\nVersion: 1\n")
        (entry / "entry_points.txt").write_text("[orchestrator.buses]\nfile = tests.operate.filebus:FileBus\n")
    return f"file://{folder}/bus"


@contextmanager
def daemon(
    folder: Path, *words: str, app: str = APP, verb: str = "run", store: str = "kiosk.db", **more: str
) -> Generator[subprocess.Popen[str]]:
    """A daemon that listens; killed at the end if it still runs. Its log is its stderr."""
    process = subprocess.Popen(
        [*PROGRAM, verb, app, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(folder, **more),
        cwd=folder,
    )
    with process:
        try:
            wait_until(lambda: is_up(folder, process, store))
            yield process
        finally:
            process.kill()


def is_up(folder: Path, process: subprocess.Popen[str], store: str = "kiosk.db") -> bool:
    if process.poll() is not None:
        raise AssertionError(f"the daemon ended with {process.returncode}: {process.communicate()}")
    answer = client.ping(folder / store)
    return answer is not None and answer["pid"] == process.pid


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Until the function gives something true."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it took too long"
        time.sleep(0.02)


def carried_out(folder: Path) -> list[str]:
    """What the participants did, a line each."""
    path = folder / "kiosk.log"
    return path.read_text().splitlines() if path.exists() else []
