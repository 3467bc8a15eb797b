"""What is shown: whatever is in the data, nothing leaves that a terminal, a log reader or a page would obey."""

from __future__ import annotations

import io
import logging
import os
import re
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import replace as replaced
from functools import cache
from itertools import count
from pathlib import Path
from unittest.mock import patch

import anyio
import msgspec
from click.shell_completion import BashComplete
from click.testing import CliRunner
from msgspec import Raw

from orchestrator import errors
from orchestrator.definition import definition_of
from orchestrator.machine.instance import Bug, Call, CallKind, Do, Instance, Payload, Status, Undo, Visit, VisitState
from orchestrator.machine.transition import Transition
from orchestrator.operate import graph, output
from orchestrator.operate.cli import complain, main
from orchestrator.operate.logs import _JsonLines, _TextLines
from orchestrator.wire import Address, DeadLetter, Envelope, Kind
from orchestrator_adapters.sqlite import SQLiteStore
from tests.operate import shop

from .cases import Parser, Wrong
from .choices import NASTY, TEXTS, WORDS, Choices

APP = f"{Path(shop.__file__)}:app"
INSTANCES = 12
MARK = re.compile("v[0-9]+q")


def check_printable(text: str, where: str) -> None:
    """Nothing but what prints, the end of a line, and the tab between two fields."""
    if text.isprintable():
        return
    for line in text.split("\n"):
        bad = next((character for character in line if not character.isprintable() and character != "\t"), None)
        if bad is not None:
            raise Wrong(f"{where} lets {bad!r} out: {line[:200]!r}")


# A store full of it, through every verb that reads.


class _Values:
    """Nasty texts, each with a mark of its own in front, by which it is found again in what is shown."""

    def __init__(self, c: Choices) -> None:
        self.given: set[str] = set()
        self._c = c
        self._numbers = count()

    def __call__(self) -> str:
        mark = f"v{next(self._numbers)}q"
        self.given.add(mark)
        at = self._c.below(len(NASTY))
        return mark + NASTY[at] + NASTY[(at * 7 + len(self.given)) % len(NASTY)]

    def json(self) -> Raw:
        """A payload with such texts as its names and values, and a secret."""
        return Raw(msgspec.json.encode({self(): self(), "list": [self(), {"$secret": "hidden-4711"}]}))

    def message(self, address: Address) -> Envelope:
        """A message that has one wherever it can."""
        return Envelope(
            id=self(),
            kind=Kind.EVENT,
            type=self(),
            data=self.json(),
            time=self._c.pick((1_700_000_000.0, -1e11, 0.0, 1e300)),
            saga=address.saga,
            key=address.key,
            user=self(),
            reply_to=self(),
        )

    def instance(self, number: int) -> Instance:
        """An instance that has one wherever it can, in one of the states there are."""
        status = tuple(Status)[number % len(Status)]
        call = Call(
            kind=CallKind.COMMAND,
            command=Payload(self(), self.json()),
            undo=Payload(self(), self.json()),
            undo_kind=CallKind.COMMAND,
            do=self._c.pick(tuple(Do)),
            unwinding=self._c.pick(tuple(Undo)),
            child=self() if number % 3 == 0 else "",
            attempt=2,
            first_at=self._c.pick((1_700_000_000.0, 1e300)),
            retry_at=self._c.pick((None, 1_700_000_000.0, 1e300)),
            parked=self() if number % 2 else "",
            error="Traceback\n" + self(),
        )
        visit = Visit(
            serial=0,
            step=self(),
            number=1,
            entered_at=1_700_000_000.0,
            state=self._c.pick(tuple(VisitState)),
            calls=[call, msgspec.structs.replace(call, index=1)],
            parked=self() if number % 5 == 0 else "",
            wake_at=1_700_000_000.0,
        )
        address = Address(self() if number % 4 == 0 else "Order", self())
        return Instance(
            saga=address.saga,
            key=address.key,
            run="k3f9",
            version=1,
            status=status,
            state=self.json(),
            visits=[visit],
            why=self(),
            last_error=self(),
            answer_to=Address(self(), self()),
            bug=Bug(self.message(address), f"Traceback\n  x\n{self()}") if number % 6 == 0 else None,
            started_at=1_700_000_000.0,
            updated_at=1_700_000_001.0,
        )


def _fill(path: Path, values: _Values) -> list[Instance]:
    instances = [values.instance(number) for number in range(INSTANCES)]
    transitions = [
        Transition(at=it.updated_at, instance=it, message=values.message(it.address), notes=(values(), values()))
        for it in instances
    ]
    for _ in range(4):
        letter = DeadLetter(
            1.0, values(), values.message(Address(values(), values())), listener=values(), error=values()
        )
        raw = DeadLetter(1e300, values(), None, values().encode() + b"\xff\x1b{", error=values())
        early = values.message(Address(values(), values()))
        transitions += [
            Transition(at=1.0, dead=(letter, raw)),
            Transition(at=1.0, message=early, wait_until=1e300),
        ]

    async def fill() -> None:
        async with SQLiteStore(path) as store:
            await store.commit(transitions)

    anyio.run(fill)
    return instances


def verbs(c: Choices) -> tuple[int, int]:
    """Every reading verb over one store, as a table, in a pipe and as JSON. A case is a value that was shown."""
    values = _Values(c)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        path = Path(folder) / "shop.db"
        instances = _fill(path, values)
        shown: set[tuple[str, str]] = set()
        for arguments in _calls(c, instances):
            for form in ("pipe", "terminal", "json"):
                said = _said([*arguments, "--store", f"sqlite:///{path}"], form)
                where = f"{' '.join(arguments[:2])} ({form})"
                check_printable(said, where)
                if "hidden-4711" in said:
                    raise Wrong(f"{where} shows a secret")
                if form == "json":
                    for line in filter(None, said.splitlines()):
                        msgspec.json.decode(line)
                shown |= {(mark, f"{arguments[0]} {form}") for mark in MARK.findall(said) if mark in values.given}
    return len(shown), len(shown)


def _calls(c: Choices, instances: list[Instance]) -> Iterator[list[str]]:
    yield from (["status"], ["list"], ["dead", "list"], ["waiting", "list"], ["list", "--parked"], ["doctor"])
    yield ["dead", "show", str(1 + c.below(8))]
    one = c.pick(instances)
    for verb in ("show", "why", "history"):
        yield [verb, f"{one.saga}/{one.key}"]
    yield ["show", f"{c.text(NASTY)}/{c.text(WORDS)}"]
    yield ["list", c.text(WORDS), "--key", c.text(WORDS)]
    yield ["config", "show", "--app", c.text(WORDS)]
    yield ["watch", f"{one.saga}/{one.key}", "--timeout", "0"]


def _said(arguments: list[str], form: str) -> str:
    environ = {"NO_COLOR": "1", "COLUMNS": "100"}
    given = [*arguments, "--json"] if form == "json" else arguments
    with patch.object(output, "is_terminal", lambda: form == "terminal"):
        result = CliRunner().invoke(main, given, prog_name="orchestrator", env=environ)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if "internal error" in result.stderr:
        raise Wrong(f"{arguments[:2]}: {result.stderr[:400]}")
    check_printable(result.stderr, f"stderr of {arguments[0]}")
    return result.stdout


# The completion of a shell.


def completion(c: Choices) -> tuple[int, int]:
    """What a shell is offered is a word; a shell would obey the rest."""
    values = _Values(c)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        path = Path(folder) / "shop.db"
        instances = _fill(path, values)
        words = {"COMP_WORDS": f"orchestrator list --store sqlite:///{path} ", "COMP_CWORD": "4"}
        with patch.dict(os.environ, words):
            said = BashComplete(main, {}, "orchestrator", "_X").complete()
    check_printable(said, "completion")
    sagas = {it.saga for it in instances}
    return len(sagas), sum(saga in said.split() or f"plain,{saga}" in said for saga in sagas)


# Errors, logs, pictures.


_ERRORS: tuple[Callable[[str], BaseException], ...] = (
    errors.BadMessage,
    errors.AppError,
    errors.StoreCorrupt,
    errors.NotFound,
    OSError,
    RuntimeError,
    TimeoutError,
    KeyError,
    lambda text: OSError(2, text, text),
    lambda text: ExceptionGroup(text, [errors.Refused(text), ValueError(text)]),
)


def complaint(c: Choices) -> tuple[int, int]:
    """What a verb says on stderr, whatever was raised: one line, or those of a traceback."""
    said = io.StringIO()
    text = c.text(TEXTS)
    with redirect_stderr(said):
        complain(c.pick(_ERRORS)(text))
    check_printable(said.getvalue(), "a complaint")
    said.getvalue().encode()
    return 1, 1


def log_line(c: Choices) -> tuple[int, int]:
    """A log line, as text and as JSON, with any message, name, field and exception: no line but its own."""
    fields = {
        c.text(TEXTS): c.pick((c.text(TEXTS), c.text(TEXTS), 1, 2**70, -(2**70), 1e400, None, True, [1], b"\xff"))
    }
    record = logging.makeLogRecord(
        {"name": c.text(TEXTS), "msg": c.text(TEXTS), "levelno": 30, "levelname": "WARNING"}
        | {f"f{k}": v for k, v in fields.items()}
    )
    if c.one_in(8):
        try:
            raise KeyError(c.text(TEXTS))
        except KeyError as error:
            record.exc_info = (KeyError, error, error.__traceback__)
    text, line = _TextLines().format(record), _JsonLines().format(record)
    check_printable(text, "the text log")
    check_printable(line, "the JSON log")
    if "\n" in line or not isinstance(msgspec.json.decode(line), dict):
        raise Wrong(f"no line of JSON: {line!r}")
    if record.exc_info is None and "\n" in text:
        raise Wrong(f"more than a line: {text!r}")
    return 1, 1


_SVG = "{http://www.w3.org/2000/svg}"
_ELEMENTS = {_SVG + name for name in ("svg", "title", "defs", "marker", "path", "rect", "text")}
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_DOT = re.compile(r"[\w\s{}\[\];=,>.-]*")
_MERMAID = re.compile(r"[\w\s()\[\]>.:-]*")


@cache
def _definition() -> object:
    return definition_of(shop.Order)


def picture(c: Choices) -> tuple[int, int]:
    """A graph whose names hold anything: nothing in it is taken for more than a text, and the svg is well-formed."""
    definition = _definition()
    drawn = replaced(
        definition,  # type: ignore[type-var]
        name=c.text(NASTY),
        starters={c.text(NASTY): print for _ in range(1 + c.below(3))},
    )
    forms = {form: graph.draw(drawn, form) for form in graph.Form}
    for form, text in forms.items():
        check_printable(text, form)
    boxes = len(graph.picture(drawn).boxes)
    root = ElementTree.fromstring(forms[graph.Form.SVG])
    elements = list(root.iter())
    if {it.tag for it in elements} - _ELEMENTS or sum(it.tag == _SVG + "rect" for it in elements) != boxes + 1:
        raise Wrong(f"the svg has other elements: {forms[graph.Form.SVG]}")
    if (root.findtext(_SVG + "title") or "") != output.escape(drawn.name):
        raise Wrong(f"{drawn.name!r} is not the title")
    if not _DOT.fullmatch(_QUOTED.sub("", forms[graph.Form.DOT])):
        raise Wrong(f"a text ends early in {forms[graph.Form.DOT]}")
    if not _MERMAID.fullmatch(re.sub('"[^"]*"', "", forms[graph.Form.MERMAID])):
        raise Wrong(f"a text ends early in {forms[graph.Form.MERMAID]}")
    if re.search("<(?!br/>)", forms[graph.Form.MERMAID]):
        raise Wrong(f"an element in {forms[graph.Form.MERMAID]}")
    return 1, 1


PARSERS = (
    Parser("output of the verbs", verbs, least=1.0, each=450),
    Parser("completion", completion, least=0.1, of=0.01, each=4),
    Parser("complaints", complaint, least=1.0),
    Parser("log lines", log_line, least=1.0),
    Parser("graphs", picture, least=1.0, of=0.25),
)
