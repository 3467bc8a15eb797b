"""Whom an event is for: the instances whose key it names and the listeners of its type; and its way to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from ..app import App
from ..errors import BadMessage
from ..machine.transition import Outcome, Transition
from ..messages import decode
from ..ports import Clock
from ..recorded import Append
from ..topics import Topics
from ..wire import Address, Envelope, Kind, Outgoing
from .committer import Committer
from .listeners import delivery
from .mailbox import Mail
from .sinks import Sinks
from .supervisor import Supervisor


class Targets(Struct, frozen=True, gc=False):
    """Where one event goes within this process: addressed copies for instances, names of listeners and sinks, and the
    stream that it is appended to.
    """

    letters: Mapping[Address, Envelope] = {}
    listeners: tuple[str, ...] = ()
    stream: str = ""

    def __bool__(self) -> bool:
        return bool(self.letters or self.listeners or self.stream)


NOWHERE = Targets()


def targets(app: App[Any], event: Envelope) -> Targets:
    """Everyone in this app who wants the event; nobody is an empty answer.

    Errors: BadMessage, when its payload is not what its type says (R16) or names no instance: a key is a string, an
    integer or a UUID, and not empty. A field that is None does not address its saga.
    """
    routes = app.routes.get(event.type, ())
    listeners = app.listening.get(event.type, ())
    if not routes and not listeners:
        return NOWHERE
    value = decode(app.event_types[event.type], event.data, event.version)
    letters: dict[Address, Envelope] = {}
    for saga, field in routes:
        key = _key(event, field, getattr(value, field))
        if key is not None and (address := Address(saga, key)) not in letters:
            letters[address] = event.to(address, field)
    if not letters and not listeners:
        raise BadMessage(f"{event.type} {event.id}: none of its keys is given ({', '.join(f for _, f in routes)})")
    return Targets(letters, listeners)


class Audience:
    """Everyone who wants the events of an app: its sagas and listeners; of boundary events the sinks that are there at
    the moment, and the log, if it is to have them.
    """

    def __init__(self, app: App[Any], topics: Topics, sinks: Sinks) -> None:
        """`topics` says whether the log is to have them."""
        self._app = app
        self._topics = topics
        self._sinks = sinks

    def of(self, event: Envelope) -> Targets:
        """Everyone who wants the event. Errors: BadMessage, as `targets`."""
        wanted = targets(self._app, event)
        sinks, stream = self._outside(event)
        if not (sinks or stream):
            return wanted
        return Targets(wanted.letters, (*wanted.listeners, *sinks), stream)

    def wants(self, event: Envelope) -> bool:
        """Whether anybody does, as far as its type says."""
        return event.type in self._app.routes or event.type in self._app.listening or any(self._outside(event))

    def _outside(self, event: Envelope) -> tuple[Sequence[str], str]:
        return self._sinks.wanting(event), self._topics.stream(event.type)


def _key(event: Envelope, field: str, value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str | int | UUID) and not isinstance(value, bool):
        if key := str(value):
            return key
        raise BadMessage(f"{event.type} {event.id}: {field} is empty; it names the instance")
    raise BadMessage(
        f"{event.type} {event.id}: {field} is a {type(value).__name__}; a key is a string, an integer or a UUID"
    )


Outcomes = tuple[tuple[str, Outcome], ...]


class Distribution:
    """The way of one event to all who want it here. `settled` gets what became of it at each when all of it is durable,
    or the exception because of which it is not.
    """

    def __init__(self, parts: int, settled: Callable[[Outcomes | Exception], None]) -> None:
        """`parts`: how many are to report."""
        self._left = parts
        self._settled = settled
        self._outcomes: list[tuple[str, Outcome]] = []
        self._error: Exception | None = None

    def part(self, *names: str) -> Callable[[Transition | Exception], None]:
        """What one of the parts, for these targets, reports to."""

        def settled(told: Transition | Exception) -> None:
            if isinstance(told, Transition):
                for name in names:
                    self._outcomes.append((name, _outcome(told)))
            else:
                self._error = self._error or told
            self._left -= 1
            if not self._left:
                self._settled(tuple(self._outcomes) if self._error is None else self._error)

        return settled


def _outcome(told: Transition) -> Outcome:
    """What became of an event: the row of a bug is applied, but the event that its handler failed on is not (R15)."""
    is_set_aside = told.message is not None and told.message.kind is Kind.BUG
    return Outcome.QUEUED if is_set_aside else told.outcome


class Distributor:
    """Brings events to instances and listeners."""

    def __init__(self, supervisor: Supervisor, committer: Committer, clock: Clock) -> None:
        """Deliver to the instances of `supervisor`; put the rows of listeners into the outbox by `committer`."""
        self._supervisor = supervisor
        self._committer = committer
        self._clock = clock

    def distribute(
        self,
        event: Envelope,
        wanted: Targets,
        settled: Callable[[Outcomes | Exception], None],
        *,
        row: Outgoing | None = None,
        others: int = 0,
    ) -> Distribution:
        """Bring an event to all who want it. `row`: the outbox row it came from; the commit of the only one who wants
        it takes it out, else `settled` is to. `others`: how many more will report to the Distribution.
        """
        parts = len(wanted.letters) + bool(wanted.listeners) + bool(wanted.stream) + others
        distribution = Distribution(parts, settled)
        remove = (row.name,) if row is not None and parts == 1 else ()
        for address, letter in wanted.letters.items():
            self._supervisor.deliver(address, Mail(letter, distribution.part(str(address)), remove=remove))
        if wanted.listeners:
            put = tuple(delivery(event, name, row) for name in wanted.listeners)
            seen = tuple((name, event.id) for name in wanted.listeners)
            transition = Transition(at=self._clock.now(), put=put, seen=seen)
            self._committer.store(transition, distribution.part(*wanted.listeners))
        if wanted.stream:
            append = Append(wanted.stream, None, (replace(event, attempt=0),))
            self._committer.store(Transition(at=self._clock.now(), appends=(append,)), distribution.part())
        return distribution
