"""A copy of the source in which one bug at a time is planted."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from .patches import Mutant

ROOT = Path(__file__).parents[3]
COPIED = ("orchestrator", "adapters", "sagas", "tests", "pyproject.toml")
SHM = Path("/dev/shm")


class DoesNotApply(Exception):
    """The code has changed where the patch would change it."""


class Tree:
    """The copy, as the tests see it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(path), str(path / "adapters")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }

    @contextmanager
    def with_bug(self, mutant: Mutant) -> Generator[None]:
        """Inside, the bug is there. Errors: DoesNotApply."""
        before = {name: path.read_bytes() for name in mutant.files if (path := self.path / name).is_file()}
        for name in mutant.files:
            _forget_compiled(self.path / name)
        try:
            self._apply(mutant)
            yield
        finally:
            for name, text in before.items():
                (self.path / name).write_bytes(text)

    def _apply(self, mutant: Mutant) -> None:
        done = subprocess.run(
            ["git", "apply", "--recount", "-C1", "--whitespace=nowarn", "-"],
            cwd=self.path,
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(self.path.parent)},  # not in whose repository it lies
            input=mutant.diff,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DoesNotApply(done.stderr.strip())


@contextmanager
def tree(root: Path = ROOT) -> Generator[Tree]:
    """A copy of what stands under `root`, compiled; gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix="mutants", dir=SHM if SHM.is_dir() else None)).resolve()
    try:
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, place / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copy2(root / name, place / name)
        compileall.compile_dir(place, quiet=2, workers=1)
        yield Tree(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _forget_compiled(path: Path) -> None:
    """It is told by its time and size from the source it was made of, and a bug may have the same."""
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()
