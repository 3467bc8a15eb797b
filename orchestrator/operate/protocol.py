"""What the command line and the daemon say to each other over the socket beside the store: one JSON object a line.

The client may send many asks before it reads; answers come in the order of the asks.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from .. import errors
from ..machine.transition import Outcome
from ..ports import MAX_ROW_ID
from ..wire import Request, Verb

MAX_ASK = 2 << 20  # bytes of one ask, unless the limit of an event asks for more: see max_ask
MAX_ANSWER = 64 << 20  # bytes of one answer
PREFETCH = 1024  # asks the daemon works on at once for one client; then it reads no further
PREFETCH_BYTES = 16 << 20  # the same in bytes
WINDOW = 512  # asks a client sends before it reads an answer: less than PREFETCH, so that neither waits for the other
WINDOW_BYTES = 8 << 20  # the same in bytes
MAX_IDS = 1000  # ids in one ask

_MAX_SOCKET_PATH = 107  # bytes, Linux
_MAX_SOCKET_NAME = 80


RowId = Annotated[int, Meta(ge=0, le=MAX_ROW_ID)]


class _Said(Struct, frozen=True, tag_field="ask", forbid_unknown_fields=True):
    pass


class _Told(Struct, frozen=True, tag_field="answer"):
    pass


class Ping(_Said, frozen=True, tag="ping"):
    """Are you there, and how are you? Answered by Pong."""


class Emit(_Said, frozen=True, tag="emit"):
    """Take an event: the bytes of one line, a CloudEvent or the payload of an event of this type. Answered by Taken."""

    line: bytes
    type: str = ""


class Act(_Said, frozen=True, tag="act"):
    """Carry out a verb (R17), or only show what it would do. Answered by Moved. `id` makes a second ask harmless."""

    saga: str
    key: str
    verb: Verb
    request: Request
    id: str
    preview: bool = False


class Redrive(_Said, frozen=True, tag="redrive"):
    """Take a dead letter as if it had just come. Answered by Counted."""

    id: RowId


class DropDead(_Said, frozen=True, tag="drop_dead"):
    """Remove dead letters for good. Answered by Counted."""

    ids: tuple[RowId, ...]


class DropWaiting(_Said, frozen=True, tag="drop_waiting"):
    """Remove rows of the waiting room for good. Answered by Counted."""

    ids: tuple[RowId, ...]


class Prune(_Said, frozen=True, tag="prune"):
    """Remove instances that ended before this moment, in seconds since 1970 (R14). Answered by Counted."""

    ended_before: float


class ProjectionVerb(StrEnum):
    """What can be asked of a projection."""

    REBUILD = "rebuild"
    PAUSE = "pause"
    RESUME = "resume"


class Project(_Said, frozen=True, tag="project"):
    """Do this to a projection; `why` it is paused. Answered by Projected."""

    name: str
    verb: ProjectionVerb
    why: str = ""


class AddWebhook(_Said, frozen=True, tag="add_webhook", kw_only=True):
    """Send boundary events of these types (none: all) to a URL. An empty secret: make one. Answered by WebhookTold."""

    url: str
    name: str = ""
    types: tuple[str, ...] = ()
    secret: str = ""
    insecure: bool = False

    def __repr__(self) -> str:
        return f"AddWebhook({self.name!r})"


class ChangeWebhook(_Said, frozen=True, tag="change_webhook"):
    """Do this to a webhook. Answered by WebhookTold, redrive by Counted."""

    name: str
    what: Literal["pause", "resume", "remove", "redrive"]
    why: str = ""


class RotateWebhook(_Said, frozen=True, tag="rotate_webhook"):
    """Sign with a new secret; `at_once`: no more with the old one. Answered by WebhookTold."""

    name: str
    secret: str = ""
    at_once: bool = False

    def __repr__(self) -> str:
        return f"RotateWebhook({self.name!r})"


class TestWebhook(_Said, frozen=True, tag="test_webhook"):
    """Send a test event. Answered by WebhookTested."""

    __test__ = False  # pytest would take it for one of its own

    name: str


Ask = (
    Ping
    | Emit
    | Act
    | Redrive
    | DropDead
    | DropWaiting
    | Prune
    | Project
    | AddWebhook
    | ChangeWebhook
    | RotateWebhook
    | TestWebhook
)


class BusState(Struct, frozen=True, kw_only=True):
    """How the daemon stands with its bus: `problem` is what is wrong, or empty, `since` when; `is_connected`: the
    broker answered the last time; `lag`: messages that it holds for us, null: not known; `unpublished`: messages in
    memory that wait for it, `oldest` when the longest waiting of them was made, `has_left_some`: more, later ones,
    stand in the store alone. Moments in seconds since 1970.
    """

    problem: str
    since: float | None
    is_connected: bool
    lag: int | None
    unpublished: int
    has_left_some: bool
    oldest: float | None


class Hosts(StrEnum):
    """How much of its app a daemon hosts: how it was started."""

    ALL = "all"  # run
    SAGAS = "sagas"  # run --sagas-only
    WORK = "work"  # work

    @property
    def words(self) -> str:
        """Behind the app's name: empty for all of it."""
        return {Hosts.ALL: "", Hosts.SAGAS: "sagas only", Hosts.WORK: "a worker"}[self]


class Pong(_Told, frozen=True, tag="pong", kw_only=True):
    """The daemon, alive. `uptime` in seconds; `problem`: why it does not accept, or empty; `in_flight`: commands at
    participants of this process; `mailboxes`: instances with messages under way; `outbox`: rows of it in memory;
    `has_sagas`: it is no worker; `hosts`: how it was started; `broker` null: there is none; the rest counted since its
    start.
    """

    pid: int
    version: str
    app: str
    store: str
    bus: str
    uptime: float
    accepting: bool
    problem: str
    in_flight: int
    mailboxes: int
    commits: int
    transitions: int
    outbox: int = 0
    has_sagas: bool = True
    hosts: Hosts = Hosts.ALL
    broker: BusState | None = None


class Target(Struct, frozen=True):
    """Where an event went (`saga/key` or a listener) and what became of it there."""

    target: str
    outcome: Outcome


class Taken(_Told, frozen=True, tag="taken"):
    """The event is on disk."""

    id: str
    targets: tuple[Target, ...]


class Sent(Struct, frozen=True):
    """A row that a transition puts into the outbox: what it is, of which type, under which key, not before when."""

    route: str
    type: str
    name: str
    due_at: float | None = None


class Moved(_Told, frozen=True, tag="moved", kw_only=True):
    """What a verb did, or with `preview` would do, to an instance; afterwards it has this status."""

    saga: str
    key: str
    preview: bool
    outcome: Outcome
    notes: tuple[str, ...]
    sends: tuple[Sent, ...]
    withdraws: tuple[str, ...]
    status: str
    parked: str


class Counted(_Told, frozen=True, tag="counted"):
    """So many were redriven, dropped or pruned."""

    count: int


class Projected(_Told, frozen=True, tag="projected"):
    """It is done, or for a rebuild begun: the file of this number takes the other's place when it has caught up."""

    name: str
    number: int


class WebhookTold(_Told, frozen=True, tag="webhook"):
    """It is done; `secret` is one that was made for it, else empty."""

    name: str
    secret: str = ""

    def __repr__(self) -> str:
        return f"WebhookTold({self.name!r})"


class WebhookTested(_Told, frozen=True, tag="webhook_tested"):
    """What a test came to: the status that was answered (0: none) and what is wrong, or empty."""

    status: int
    problem: str


class Problem(_Told, frozen=True, tag="problem"):
    """It could not be done: the name of an exception class of `orchestrator.errors`, and its text."""

    error: str
    text: str


Answer = Pong | Taken | Moved | Counted | Projected | WebhookTold | WebhookTested | Problem

_RAISED = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.OrchestratorError) and kind is not errors.RetryAfter
}
_ask_decoder: msgspec.json.Decoder[Ask] = msgspec.json.Decoder(Ask)
_answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def max_ask(body_bytes: int) -> int:
    """Bytes of one ask at most: room for an event of so many bytes in base64, and for what stands around it."""
    return max(MAX_ASK, 2 * body_bytes)


def encode(said: Ask | Answer) -> bytes:
    """One line. Errors: BadMessage for half a surrogate pair in a text."""
    try:
        return msgspec.json.encode(said) + b"\n"
    except UnicodeEncodeError as error:
        raise errors.BadMessage("a text holds half a surrogate pair, which is no character") from error


def decode_ask(line: bytes) -> Ask:
    """What a client asks. Errors: BadMessage."""
    try:
        ask = _ask_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.BadMessage(f"not a request: {error}") from None
    if isinstance(ask, (DropDead, DropWaiting)) and len(ask.ids) > MAX_IDS:
        raise errors.BadMessage(f"more than {MAX_IDS} ids in one request")
    return ask


def decode_answer(line: bytes) -> Answer:
    """What the daemon answers. Errors: ConnectionError when it is none of the answers this release knows."""
    try:
        return _answer_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConnectionError(f"the daemon's answer is not understood ({error}): is it of another release?") from None


def problem(error: errors.OrchestratorError) -> Problem:
    """An error as an answer: under the nearest class that the other side knows."""
    known = next(kind for kind in type(error).__mro__ if kind.__name__ in _RAISED)
    return Problem(known.__name__, str(error).encode("utf-8", "backslashreplace").decode() or known.__name__)


def raised(answer: Problem) -> errors.OrchestratorError:
    """The error that an answer stands for."""
    return _RAISED.get(answer.error, errors.OrchestratorError)(answer.text)


def socket_beside(store_path: str | os.PathLike[str]) -> Path:
    """Where the daemon of this store listens: `FILE.sock` beside the file itself, whatever links lead to it."""
    path = Path(os.path.realpath(store_path))
    name = path.name + ".sock"
    if len(os.fsencode(name)) > _MAX_SOCKET_NAME:
        name = hashlib.blake2b(os.fsencode(path.name), digest_size=16).hexdigest() + ".sock"
    return path.with_name(name)


@contextmanager
def short_address(path: Path) -> Generator[str]:
    """An address for bind and connect, also where the path is longer than a socket's address may be."""
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def is_socket(path: Path) -> bool:
    """Whether a socket, and not a link to one, is there."""
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


class Peer(NamedTuple):
    """The process at the other end of a socket."""

    pid: int
    uid: int


def peer(connection: socket.socket) -> Peer:
    """Who is at the other end, as the kernel says. Where it cannot (not Linux), the socket file's mode is the guard."""
    if not hasattr(socket, "SO_PEERCRED"):
        return Peer(0, os.geteuid())
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return Peer(pid, uid)
