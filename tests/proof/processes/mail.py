"""Events on their way into a daemon that may be killed at any moment: what was acknowledged is remembered."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from orchestrator.machine.transition import Outcome
from orchestrator.messages import Event, encode, type_name
from orchestrator.operate import client
from orchestrator.operate.protocol import Act, Answer, Ask, Emit, Moved, Problem, Taken
from orchestrator.wire import Request, Verb

BATCH = 8  # asks under way at a time
PAUSE_S = 0.02
PATIENCE_S = 30.0
LATER = ("NotAccepting", "OrchestratorError")  # there is no room, or the daemon stops: to be sent again


class Letter(Struct, frozen=True):
    """An ask, under the id that its message has."""

    id: str
    ask: Ask


def event(id: str, said: Event) -> Letter:
    """An event, as a line of an NDJSON file."""
    line = {"type": type_name(type(said)), "id": id, "data": msgspec.Raw(encode(said))}
    return Letter(id, Emit(msgspec.json.encode(line)))


def cancel(id: str, saga: str, key: str) -> Letter:
    return Letter(id, Act(saga, key, Verb.CANCEL, Request(why="somebody changed their mind"), id))


class Mail:
    """What is to be sent, and what became of it. A letter is sent until it is answered, under the same id."""

    def __init__(self) -> None:
        self.accepted: dict[str, None] = {}
        self.refused: list[str] = []  # answers that should not be
        self.stored_unanswered = 0  # committed by a daemon that did not live to say so
        self.returned = 0
        self.under_way = 0  # sent, and not answered yet
        self._letters: deque[Letter] = deque()
        self._tried: set[str] = set()

    def add(self, *letters: Letter) -> None:
        self._letters += letters

    @property
    def is_empty(self) -> bool:
        """Whether all is answered."""
        return not (self._letters or self.under_way)

    def take(self) -> list[Letter]:
        """The next ones to send."""
        self.under_way = min(BATCH, len(self._letters))  # before they are taken: it is never empty too early
        return [self._letters.popleft() for _ in range(self.under_way)]

    def put_back(self, letters: list[Letter]) -> None:
        """They were not answered."""
        self._tried.update(letter.id for letter in letters)
        self._letters.extendleft(reversed(letters))
        self.under_way = 0

    def answered(self, letter: Letter, answer: Answer) -> None:
        """The daemon's word on a letter."""
        match answer:
            case Taken():
                is_known = {target.outcome for target in answer.targets} == {Outcome.DUPLICATE}
                if is_known and letter.id in self._tried and letter.id not in self.accepted:
                    self.stored_unanswered += 1
                self.accepted[letter.id] = None
            case Moved():
                if answer.outcome is Outcome.APPLIED:
                    self.accepted[letter.id] = None
            case Problem(error="NotFound"):
                pass  # a cancel that came before its instance
            case Problem() if answer.error in LATER:
                self.returned += 1
                self._letters.append(letter)
            case _:
                self.refused.append(f"{letter.id}: {answer}")
        self.under_way -= 1


class Postman(threading.Thread):
    """Takes mail to the daemon of a store, until that is gone or the block is left."""

    def __init__(self, mail: Mail, store: Path) -> None:
        super().__init__(daemon=True)
        self._mail = mail
        self._store = store
        self._is_left = threading.Event()

    def __enter__(self) -> Postman:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_left.set()
        self.join(PATIENCE_S)
        assert not self.is_alive(), "a daemon that is gone keeps its client waiting"

    def run(self) -> None:
        with suppress(OSError):
            daemon = client.connect(self._store, PATIENCE_S)
            if daemon is None:
                return
            with daemon:
                while not self._is_left.is_set():
                    self._deliver(daemon, self._mail.take())
                    self._is_left.wait(PAUSE_S)

    def _deliver(self, daemon: client.Daemon, letters: list[Letter]) -> None:
        try:
            for answer in daemon.ask_all([letter.ask for letter in letters]):
                self._mail.answered(letters[0], answer)
                del letters[0]
        finally:
            self._mail.put_back(letters)
