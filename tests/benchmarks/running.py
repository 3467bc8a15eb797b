"""Runs a participant as a process of its own, in an empty directory, and reads what it measured."""

from __future__ import annotations

import compileall
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct

from tests.benchmarks.environments import Environment

ROOT = Path(__file__).parent.parent.parent
LONGEST_S = 600


class Measured(Struct, frozen=True, kw_only=True):
    """What one run of a participant says of itself, and its cold start and size seen from outside."""

    sagas: int
    wall_s: float
    cpu_s: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    peak_bytes: int = 0
    first_at: float = 0.0
    all_sagas: int = 0
    commits: int = 0
    commit_ms: float = 0.0  # the median of one durable commit
    cold_s: float = 0.0  # from the start of the process to the end of its first saga
    disk_bytes: int = 0

    @property
    def rate(self) -> float:
        return self.sagas / self.wall_s

    @property
    def cpu_ms(self) -> float:
        """Processor time of a saga."""
        return 1000 * self.cpu_s / self.sagas


def run(module: str, *arguments: str, environment: Environment | None = None, within: Path | None) -> Measured:
    """Errors: RuntimeError, with the last that it wrote."""
    _compile()
    environment = environment or Environment(Path(sys.executable))
    path = os.pathsep.join(map(str, (ROOT / "adapters", *environment.path)))
    with TemporaryDirectory(dir=within) as directory:
        began = time.monotonic()
        process = subprocess.Popen(
            [str(environment.python), "-m", f"tests.benchmarks.{module}", "--dir", directory, *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": path} | environment.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, errors = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its servers
            process.communicate()
            raise RuntimeError(f"it was not done after {LONGEST_S} s") from None
        if process.returncode:
            raise RuntimeError(errors.strip().splitlines()[-1] if errors.strip() else f"exit {process.returncode}")
        measured = msgspec.json.decode(out.splitlines()[-1], type=Measured)
        size = sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())
        return msgspec.structs.replace(measured, cold_s=measured.first_at - began, disk_bytes=size)


@cache
def _compile() -> None:
    """Our own modules, as pip compiles what it installs: the peers come compiled, and a cold start is to compare."""
    for place in ("orchestrator", "adapters", "tests/benchmarks"):
        compileall.compile_dir(ROOT / place, quiet=2)
