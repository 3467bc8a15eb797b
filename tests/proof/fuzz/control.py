"""What comes over the socket beside the store: as bytes to the two readers, and to a real listener."""

from __future__ import annotations

import socket
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

import anyio

from orchestrator.errors import BadMessage, NotFound, OrchestratorError
from orchestrator.operate import protocol
from orchestrator.operate.control import Control
from orchestrator.operate.protocol import Answer, Ask, Counted, Emit, Problem, Redrive, Taken
from orchestrator.ports import MAX_ROW_ID

from .cases import Parser, Wrong
from .choices import Choices

_REQUEST = '{"why":"w","step":"charge","element":1,"reply":{"a":1},"reply_type":"T","undo":false}'
_ASKS = (
    (('"ask"', '"emit"'), ('"line"', '"e30="'), ('"type"', '"Ordered"')),
    (('"ask"', '"ping"'),),
    (
        *(('"ask"', '"act"'), ('"saga"', '"Order"'), ('"key"', '"1"'), ('"verb"', '"retry"'), ('"request"', _REQUEST)),
        *(('"id"', '"i"'), ('"preview"', "true")),
    ),
    (('"ask"', '"redrive"'), ('"id"', "7")),
    (('"ask"', '"drop_dead"'), ('"ids"', "[1,2,3]")),
    (('"ask"', '"drop_waiting"'), ('"ids"', "[]")),
    (('"ask"', '"prune"'), ('"ended_before"', "1.5")),
)
_ANSWERS = (
    (
        *(('"answer"', '"pong"'), ('"pid"', "1"), ('"version"', '"1"'), ('"app"', '"a"'), ('"store"', '"s"')),
        *(('"bus"', '""'), ('"uptime"', "1.5"), ('"accepting"', "true"), ('"problem"', '""'), ('"in_flight"', "0")),
        *(('"mailboxes"', "0"), ('"commits"', "1"), ('"transitions"', "2")),
    ),
    (('"answer"', '"taken"'), ('"id"', '"i"'), ('"targets"', '[{"target":"Order/1","outcome":"applied"}]')),
    (
        *(('"answer"', '"moved"'), ('"saga"', '"Order"'), ('"key"', '"1"'), ('"preview"', "false")),
        *(('"outcome"', '"applied"'), ('"notes"', '["n"]'), ('"withdraws"', "[]"), ('"status"', '"running"')),
        *(('"sends"', '[{"route":"command","type":"T","name":"n","due_at":1.5}]'), ('"parked"', '""')),
    ),
    (('"answer"', '"counted"'), ('"count"', "3")),
    (('"answer"', '"problem"'), ('"error"', '"NotFound"'), ('"text"', '"t"')),
)


def _line(c: Choices, of: tuple[tuple[tuple[str, str], ...], ...]) -> bytes:
    return c.bytes_like(c.object(c.pick(of)).encode("utf-8", "surrogatepass"))


def ask(c: Choices) -> tuple[int, int]:
    """An ask that is in range and says the same again, or BadMessage."""
    line = _line(c, _ASKS)
    try:
        said = protocol.decode_ask(line)
    except BadMessage as error:
        str(error).encode()
        return 1, 0
    if protocol.decode_ask(protocol.encode(said)) != said:
        raise Wrong(f"{line!r} comes back as {protocol.encode(said)!r}")
    numbers = (said.id,) if isinstance(said, Redrive) else getattr(said, "ids", ())
    if len(numbers) > protocol.MAX_IDS or any(not 0 <= number <= MAX_ROW_ID for number in numbers):
        raise Wrong(f"{numbers} are no ids")
    return 1, 1


def answer(c: Choices) -> tuple[int, int]:
    """An answer that says the same again, or ConnectionError; a problem can be raised, whatever it is called."""
    line = _line(c, _ANSWERS)
    try:
        told = protocol.decode_answer(line)
    except ConnectionError as error:
        str(error).encode()
        return 1, 0
    if protocol.decode_answer(protocol.encode(told)) != told:
        raise Wrong(f"{line!r} comes back as {protocol.encode(told)!r}")
    if isinstance(told, Problem):
        error = protocol.raised(told)
        again = protocol.problem(error)
        if not isinstance(error, OrchestratorError) or (again.text != told.text and told.text):
            raise Wrong(f"{told} is raised as {error!r}")
    return 1, 1


# A real listener.

LINES = 24  # in one conversation
_BODY_BYTES = 4_000
_FRAMES = (b"\n", b"\n", b"\n", b"\n", b"\r\n", b"\n\n")


class _Listener:
    """A control socket served in a thread for as long as this process lives."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.path = self.folder / "s.sock"
        self._ready = threading.Event()
        threading.Thread(target=anyio.run, args=(self._serve,), daemon=True).start()
        self._ready.wait(30)

    async def _serve(self) -> None:
        control = Control(self.path, _answered, _BODY_BYTES)
        async with anyio.create_task_group() as tasks:
            await tasks.start(control.serve)
            self._ready.set()


async def _answered(said: Ask, who: str) -> Answer:
    match said:
        case Emit():
            return Taken("e", ())
        case Redrive():
            raise NotFound(f"there is no dead letter {said.id}")
        case _:
            return Counted(1)


@cache
def _listener() -> _Listener:
    return _Listener()


def conversation(c: Choices) -> tuple[int, int]:
    """Every line is answered once, in order, a bad one with a Problem; the listener lives on for the next client."""
    lines = [_line(c, _ASKS).replace(b"\n", b" ") for _ in range(LINES)]
    said = b"".join(line + c.pick(_FRAMES) for line in lines)
    whole = c.one_in(8)
    if whole:
        said += b'{"ask":"ping"'  # and no end
    heard = _talk(said).split(b"\n")
    expected = said.split(b"\n")[:-1]
    taken = 0
    for at, line in enumerate(expected):
        if at >= len(heard) - 1:
            raise Wrong(f"{len(expected)} lines, {len(heard) - 1} answers")
        told = protocol.decode_answer(heard[at])
        try:
            asked = protocol.decode_ask(line)
        except BadMessage:
            if not isinstance(told, Problem) or told.error != "BadMessage":
                raise Wrong(f"{line!r} is answered by {told}") from None
            continue
        taken += 1
        fits = {Emit: Taken, Redrive: Problem}.get(type(asked), Counted)
        if not isinstance(told, fits):
            raise Wrong(f"{line!r} is answered by {told}")
    return len(expected), taken


def _talk(said: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(_listener().path))
        heard = b""
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(1 << 16):
                heard += chunk
        return heard


PARSERS = (
    Parser("control ask", ask),
    Parser("control answer", answer),
    Parser("control socket", conversation, of=0.25, each=LINES),
)
