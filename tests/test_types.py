"""What a user writes, under both type checkers: the good module is clean, and each wrong one is wrong where it says."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TYPES = ROOT / "tests" / "types"
WRONG = sorted(path for path in (TYPES / "wrong").glob("*.py") if path.name != "__init__.py")

Errors = dict[str, dict[int, list[str]]]  # file -> line -> texts


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Errors:
    """What one of the checkers, run once over the folder, has to say."""
    return mypy(tmp_path_factory.mktemp("mypy")) if request.param == "mypy" else pyright()


def mypy(cache: Path) -> Errors:
    options = ["--strict", "--config-file", "", "--cache-dir", cache, "--no-error-summary"]
    found: Errors = {}
    for line in run("mypy", *options, TYPES).splitlines():
        at = re.match(r"(?P<file>.+?):(?P<line>\d+): error: (?P<text>.*)", line)
        if at:
            note(found, ROOT / at["file"], int(at["line"]), at["text"])
    return found


def pyright() -> Errors:
    report = json.loads(run("pyright", "--outputjson", "--project", TYPES, "--pythonpath", sys.executable))
    assert report["summary"]["filesAnalyzed"] > len(WRONG)
    found: Errors = {}
    for each in report["generalDiagnostics"]:
        note(found, Path(each["file"]), each["range"]["start"]["line"] + 1, each["message"])
    return found


def run(module: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, f"{module} found nothing wrong, or did not run: {done.stdout}{done.stderr}"
    return done.stdout


def note(found: Errors, file: Path, line: int, text: str) -> None:
    found.setdefault(file.name, {}).setdefault(line, []).append(text)


def test_the_good_modules_are_clean(errors: Errors) -> None:
    assert {file: found for file, found in errors.items() if file.startswith("good")} == {}


def test_the_good_module_defines_its_sagas() -> None:
    importlib.import_module("tests.types.good")
    importlib.import_module("tests.types.good_aggregates")


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_a_wrong_module_is_wrong_where_it_says(errors: Errors, path: Path) -> None:
    marked = {n for n, line in enumerate(path.read_text().splitlines(), 1) if line.endswith("# error")}
    assert marked
    found = errors.get(path.name, {})
    assert set(found) == marked, found
