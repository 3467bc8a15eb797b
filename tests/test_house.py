"""The house: who may import whom, held with `ast`, so that no arrow runs up."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import orchestrator

ROOT = Path(__file__).parent.parent

# From the ground up; a module may import from its own floor and those below. A package stands for all its modules.
FLOORS: list[set[str]] = [
    {"errors", "lazy", "enums", "nearest"},
    {"retry", "context", "wire", "codec", "hints", "fields", "messages", "recorded"},
    {"steps", "definition", "defining"},
    {"saga", "aggregate"},
    {"machine"},
    {"ports"},
    {"event_log", "grouping"},
    {"participant", "ledger", "repository", "projection"},
    {"app", "cloudevents", "config", "edge", "strictjson", "topics", "urls", "webhooks"},
    {"runtime", "memory", "memory_log", "projecting"},
    {"catalog", "checking", "testing"},
    {"operate"},
]
ALLOWED_TOP = {"pyproject.toml", "orchestrator", "sagas", "adapters", "tests", "README.md"} | {
    "LICENSE",
    "CHANGELOG.md",
    ".ci",
    ".gitignore",
    "docs",
}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the library by the name of its room: `machine` for all of `orchestrator/machine/`."""
    for path in sorted((ROOT / "orchestrator").rglob("*.py")):
        if path.parent.name != "snippets":
            relative = path.relative_to(ROOT / "orchestrator")
            yield (relative.parts[0].removesuffix(".py"), path)


def floor(room: str) -> int:
    return next((n for n, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


def imported(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted name, at the top of the file) of every import."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    top |= {id(inner) for node in tree.body if isinstance(node, ast.If) for inner in node.body + node.orelse}
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}", id(node) in top


def rooms_used(path: Path) -> Iterator[tuple[int, str]]:
    for line, name, _ in imported(path):
        parts = name.split(".")
        if parts[0] == "orchestrator" and len(parts) > 1:
            yield line, parts[1]


def test_every_room_has_a_floor() -> None:
    assert {room for room, _ in modules()} - {"__init__"} <= set().union(*FLOORS)


def test_no_import_runs_up_a_floor() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {used}"
        for room, path in modules()
        if room != "__init__"
        for line, used in rooms_used(path)
        if floor(used) > floor(room)
    ]
    assert wrong == []


def test_nothing_imports_testing() -> None:
    wrong = [
        str(path) for room, path in modules() if room != "testing" for _, used in rooms_used(path) if used == "testing"
    ]
    assert wrong == []


def test_the_library_never_imports_an_adapter() -> None:
    names = [name for _, path in modules() for _, name, _ in imported(path)]
    assert [name for name in names if name.startswith("orchestrator_adapters")] == []


def test_imports_stand_at_the_top_outside_the_command_line() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for room, path in modules()
        if room != "operate"
        for line, name, at_top in imported(path)
        if not at_top
    ]
    assert wrong == []


def test_the_machine_has_no_await_clock_or_chance() -> None:
    forbidden = re.compile(r"\b(async|await|time\.time|random\.|uuid4|datetime\.now)\b")
    for path in sorted((ROOT / "orchestrator" / "machine").glob("*.py")):
        code = ast.unparse(_without_docstrings(ast.parse(path.read_text())))
        assert not forbidden.search(code), path


def test_examples_import_only_the_library_and_the_standard_library() -> None:
    for path in sorted((ROOT / "sagas").glob("*.py")):
        for line, name, _ in imported(path):
            assert name.split(".")[0] in {"orchestrator", *sys.stdlib_module_names}, f"{path.name}:{line} {name}"


def test_no_pickle_eval_or_yaml() -> None:
    for _, path in modules():
        tree = ast.parse(path.read_text())
        names = {name.split(".")[0] for _, name, _ in imported(path)}
        assert not names & {"pickle", "marshal", "yaml", "shelve"}, path
        calls = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"eval", "exec"}, path


def test_the_top_level_holds_what_it_may() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split("/")[0] for line in tracked.splitlines()} <= ALLOWED_TOP


def test_every_public_name_and_method_has_a_docstring() -> None:
    bare: list[str] = []
    for name in orchestrator.__all__:
        value = getattr(orchestrator, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        members = {name: value} | {f"{name}.{key}": member for key, member in _methods(value)}
        bare += [path for path, member in members.items() if not member.__doc__]
    assert bare == []


def _methods(cls: object) -> Iterator[tuple[str, object]]:
    for key, member in vars(cls).items() if inspect.isclass(cls) else ():
        function = getattr(member, "__func__", getattr(member, "fget", member))
        if inspect.isfunction(function) and not key.startswith("_"):
            yield key, function


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    return tree
