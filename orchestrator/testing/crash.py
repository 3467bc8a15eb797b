"""Kills a process (kill -9) before every line of a participant, for the participant contract.

`killed_at_every_line` starts a fresh interpreter, which imports the contract class once and forks a child for each
line. The child opens the resources in a folder of its own, carries the command out, and dies at its line; what it
leaves behind is there for the test. POSIX only.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import linecache
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import traceback
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import anyio
import msgspec
from msgspec import Struct

MAX_CRASHES = 60  # lines beyond are left out evenly, the first and the end never
PATIENCE_S = 120.0
AT_THE_END = "after its last line, before the answer left"


class Killable(Protocol):
    """What is used of a contract."""

    def open_resources(self, place: Path) -> AbstractAsyncContextManager[Any]: ...
    def source_of(self, is_undo: bool) -> str: ...
    async def do(self, resources: Any, key: str) -> object: ...
    async def undo(self, resources: Any, key: str) -> object: ...


class Errand(Struct, frozen=True):
    """What the fresh interpreter is told."""

    path: list[str]  # its sys.path
    module: str
    file: str
    contract: str  # the class's name in the module
    place: str
    key: str
    is_undo: bool


class Killed(Struct, frozen=True):
    """A process that died: what it left lies in `folder`."""

    folder: str
    where: str  # AT_THE_END, or `before file:line, ...`


def killed_at_every_line(contract: type, place: Path, key: str, is_undo: bool) -> list[Killed]:
    """Kill a process at the end of the command (first), and before each of its lines. Errors: RuntimeError with what
    the process said, when it could not be brought to die there.
    """
    if "<locals>" in contract.__qualname__:
        raise RuntimeError(f"{contract.__qualname__} is imported by a new process: put it at the top level of a module")
    errand = Errand(
        sys.path, contract.__module__, inspect.getfile(contract), contract.__qualname__, str(place), key, is_undo
    )
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *errand.path],
        input=msgspec.json.encode(errand),
        capture_output=True,
        timeout=PATIENCE_S,
    )
    if done.returncode:
        raise RuntimeError(f"the process to be killed could not carry the command out:\n{done.stderr.decode()}")
    return msgspec.json.decode((place / "killed.json").read_bytes(), type=list[Killed])


_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from orchestrator.testing.crash import main; main()"


def main() -> None:
    """The fresh interpreter."""
    errand = msgspec.json.decode(sys.stdin.buffer.read(), type=Errand)
    contract = _imported(errand)
    anyio.run(anyio.sleep, 0)  # loads what every child would load again
    _die_in_child(errand, contract, 0)
    lines = msgspec.json.decode((Path(errand.place) / "lines.json").read_bytes(), type=list[tuple[str, int]])
    killed = [Killed(_folder(errand, 0), AT_THE_END)]
    for number in chosen(len(lines)):
        _die_in_child(errand, contract, number)
        file, line = lines[number - 1]
        where = f"before {Path(file).name}:{line}, `{linecache.getline(file, line).strip()}`"
        killed.append(Killed(_folder(errand, number), where))
    (Path(errand.place) / "killed.json").write_bytes(msgspec.json.encode(killed))


def _imported(errand: Errand) -> Killable:
    try:
        module = importlib.import_module(errand.module)
    except ModuleNotFoundError:
        module = None
    if module is None or getattr(module, "__file__", None) != errand.file:  # as with pytest's importmode=importlib
        spec = importlib.util.spec_from_file_location(errand.module, errand.file)
        assert spec is not None and spec.loader is not None, "a class comes from a file that Python can load"
        module = sys.modules[errand.module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    found: Any = module
    for name in errand.contract.split("."):
        found = getattr(found, name)
    contract: Killable = found()
    return contract


def chosen(count: int) -> list[int]:
    """The numbers of the lines to die at, from 1."""
    if count <= MAX_CRASHES:
        return list(range(1, count + 1))
    return sorted({1 + n * (count - 1) // (MAX_CRASHES - 1) for n in range(MAX_CRASHES)})


def _folder(errand: Errand, number: int) -> str:
    return str(Path(errand.place) / str(number))


def _die_in_child(errand: Errand, contract: Killable, number: int) -> None:
    """Fork a child that dies before its `number`-th line, or at the end for 0; then it writes down its lines."""
    os.mkdir(_folder(errand, number))
    child = os.fork()
    if child == 0:
        try:
            anyio.run(_die, errand, contract, number)
        except BaseException:  # noqa: BLE001 the child must not go on as a second parent
            traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise SystemExit(f"line {number} was not reached again: does the participant take another way each time?")


async def _die(errand: Errand, contract: Killable, number: int) -> None:
    tracer = _Tracer(contract.source_of(errand.is_undo), number)
    threading.settrace(tracer)  # before the resources are opened, which may begin the threads that are used later
    sys.settrace(tracer)
    async with contract.open_resources(Path(_folder(errand, number))) as resources:
        if errand.is_undo:
            await contract.do(resources, errand.key)
        tracer.is_on = True
        await (contract.undo if errand.is_undo else contract.do)(resources, errand.key)
        tracer.is_on = False
        if number == 0:
            (Path(errand.place) / "lines.json").write_bytes(msgspec.json.encode(tracer.lines))
            os.kill(os.getpid(), signal.SIGKILL)


class _Tracer:
    """Counts the lines of the user's code while it is on, and dies before one of them."""

    def __init__(self, source: str, number: int) -> None:
        """`source` is the participant's file, wherever it lies."""
        self.is_on = False
        self.lines: list[tuple[str, int]] = []
        self._source = source
        self._number = number
        places = map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))
        self._foreign = ("<", *(os.path.join(place, "") for place in (*places, str(Path(__file__).parents[1]))))

    def __call__(self, frame: FrameType, event: str, argument: object) -> _Tracer | None:
        if not self.is_on:
            return None
        file = frame.f_code.co_filename
        if event == "line":
            self.lines.append((file, frame.f_lineno))
            if len(self.lines) == self._number:
                os.kill(os.getpid(), signal.SIGKILL)
        return self if file == self._source or not file.startswith(self._foreign) else None
