"""Who carries out commands (`@participant`) and who reacts to events (`@listener`), and what they are told."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, Never, NoReturn, cast, get_args, get_origin, overload

from msgspec import Raw
from typing_extensions import TypeVar

from .errors import DefinitionError, OrchestratorError
from .event_log import EventLog
from .hints import members, resolve
from .ledger import Asked, Database, Once
from .messages import Command, Done, Event, Refusal, encode, replies_of
from .recorded import Cause
from .retry import Retry
from .wire import Address, Envelope, Outgoing

R = TypeVar("R", default=object)
R_contra = TypeVar("R_contra", contravariant=True, default=object)
C = TypeVar("C", bound=Command[Any, Any])
E = TypeVar("E", bound=Event)

Reply = Event | Refusal | None
Told = Event | Sequence[Event] | None


class Call(Generic[R]):
    """What a participant is told about a command beside its payload; `Call[Services]` in an app with resources.

    key        the idempotency key: the same for every attempt
    undoes     for a compensation the key of the do that it undoes, else None
    attempt    counts from 1
    deadline   when this attempt is given up (UTC), None if never
    sender     the instance that asks, where it is known
    resources  what the app's `resources` gave
    command    the command itself
    """

    __slots__ = (
        "_cause",
        "_events",
        "_payload",
        "attempt",
        "command",
        "deadline",
        "key",
        "resources",
        "sender",
        "undoes",
    )

    def __init__(
        self,
        command: Command[Any, Any],
        *,
        key: str,
        resources: R,
        undoes: str | None = None,
        attempt: int = 1,
        deadline: datetime | None = None,
        sender: Address | None = None,
        payload: bytes | Raw | None = None,
        events: EventLog | None = None,
        cause: Cause | Envelope | None = None,
    ) -> None:
        """Made by the daemon, and in the tests of a participant; `payload` is the command as it came (default: its
        JSON), by which `once` knows a key that is used for two different commands; `events` may be any store there,
        and `cause` is what its appends come from.
        """
        self.command = command
        self.key = key
        self.resources = resources
        self.undoes = undoes
        self.attempt = attempt
        self.deadline = deadline
        self.sender = sender
        self._payload = payload
        self._events = events
        self._cause = cause

    @classmethod
    def of(
        cls, outgoing: Outgoing, command: Command[Any, Any], resources: R, events: EventLog | None = None
    ) -> Call[R]:
        """The call that an outbox row asks for; `command` is its decoded payload."""
        deadline = None if outgoing.deadline is None else datetime.fromtimestamp(outgoing.deadline, UTC)
        return cls(
            command,
            key=outgoing.envelope.id,
            resources=resources,
            undoes=outgoing.undoes or None,
            attempt=outgoing.envelope.attempt or 1,
            deadline=deadline,
            sender=outgoing.sender,
            payload=outgoing.envelope.data,
            events=events,
            cause=outgoing.envelope,
        )

    @property
    def events(self) -> EventLog:
        """Streams of events on the store of the daemon, for participants that keep their state there. What is appended
        is caused by this command; under `key=call.key` an append takes effect once, however often the call is made.

        Errors: OrchestratorError in a test that made the Call without `events`.
        """
        if self._events is None:
            raise OrchestratorError("this Call was made without a log of events: Call(..., events=MemoryStore())")
        cause = self._cause or Cause(correlation_id=self.key, causation_id=self.key)
        return self._events.caused_by(Cause.of(cause) if isinstance(cause, Envelope) else cause)

    def once(self, database: Database) -> Once:
        """A block that takes effect once for this key, whatever comes twice, crashes or is undone (R7).

            async with call.once(call.resources.db) as first:       # plain `with` in a participant that is a plain def
                if not first:
                    return first.answer                             # carried out before: the same answer again
                ...                                                 # the effect, on that connection
                return first.answers(StockReserved("r1"))           # remembered with it; Done need not be said

        The block is one transaction of `database`: an open sqlite3 connection, an aiosqlite one, or a `Ledger` for
        anything else. It commits at the end, rolls back when an exception leaves it, and excludes every other block
        of the same key (on SQLite: of the same file). What is remembered is in the table `orchestrator_calls`, made
        when it is not there; rows older than a saga may live can be deleted by their column `at`.

        For an undo, `first` is true if the do of `call.undoes` took effect by a block on the same database and is not
        undone yet. Undoing what never happened, or was refused, succeeds with nothing to do. Either leaves a
        tombstone: a do that comes after it is not carried out.

        Errors: Fatal for a do after its undo, for a key that comes with another payload, for a block left without
        an answer or whose transaction was ended inside; nothing is committed then. OrchestratorError for a
        connection that is in a transaction; the database's own errors, such as its being locked for too long.
        """
        payload = encode(self.command) if self._payload is None else self._payload
        yes, no = replies_of(type(self.command))
        digest = hashlib.sha256(payload).hexdigest()[:32]
        return Once(database, Asked(self.key, self.undoes, digest, (*yes, *no)), self)


class Delivery(Generic[R]):
    """What a listener is told about an event beside its payload; `Delivery[Services]` in an app with resources.

    id, type         of the event; the id is the same for every attempt
    time             when it was made (UTC)
    user             who caused it, where that is known
    correlation_id   the same for all that follows from one starting message
    causation_id     the id of the message that led to it
    attempt          counts from 1
    resources        what the app's `resources` gave
    """

    __slots__ = (
        "_cause",
        "_events",
        "attempt",
        "causation_id",
        "correlation_id",
        "id",
        "resources",
        "time",
        "type",
        "user",
    )

    def __init__(
        self,
        *,
        id: str,
        type: str,
        time: datetime,
        resources: R,
        user: str = "",
        correlation_id: str = "",
        causation_id: str = "",
        attempt: int = 1,
        events: EventLog | None = None,
        cause: Cause | None = None,
    ) -> None:
        """Made by the daemon, and in the tests of a listener; `events` may be any store there, and `cause` is what
        its appends come from.
        """
        self.id = id
        self.type = type
        self.time = time
        self.user = user
        self.correlation_id = correlation_id
        self.causation_id = causation_id
        self.attempt = attempt
        self.resources = resources
        self._events = events
        self._cause = cause or Cause(user=user, correlation_id=correlation_id or id, causation_id=id)

    @classmethod
    def of(cls, envelope: Envelope, resources: R, attempt: int = 1, events: EventLog | None = None) -> Delivery[R]:
        """The delivery of the event in an envelope."""
        return cls(
            id=envelope.id,
            type=envelope.type,
            time=datetime.fromtimestamp(envelope.time, UTC),
            user=envelope.user,
            correlation_id=envelope.correlation_id,
            causation_id=envelope.causation_id,
            attempt=attempt,
            resources=resources,
            events=events,
            cause=Cause.of(envelope),
        )

    @property
    def events(self) -> EventLog:
        """Streams of events on the store of the daemon. What is appended is caused by this event; under
        `key=delivery.id` an append takes effect once, however often the event is delivered.

        Errors: OrchestratorError in a test that made the Delivery without `events`.
        """
        if self._events is None:
            raise OrchestratorError(
                "this Delivery has no log of events: make it as Delivery(..., events=MemoryStore())"
            )
        return self._events.caused_by(self._cause)


class Participant(Generic[R_contra]):
    """A function that carries out commands, as `@participant` makes it.

    commands      the command classes it takes
    answers       the classes it may answer with, Done for None
    is_async      else it runs in a thread
    takes_call    whether its second parameter is the `Call`; else it has none
    resources     what it expects as `call.resources`; object if it does not say
    """

    __slots__ = ("_declared", "answers", "commands", "function", "is_async", "name", "resources", "takes_call")

    def __init__(
        self,
        function: Callable[..., Any],
        commands: tuple[type[Command[Any, Any]], ...],
        answers: tuple[type, ...],
        takes_call: bool,
        resources: Any,
    ) -> None:
        """Made by `@participant`."""
        self.name = function.__name__
        self.function = function
        self.commands = commands
        self.answers = answers
        self.is_async = inspect.iscoroutinefunction(function)
        self.resources = resources
        self.takes_call = takes_call
        self._declared = {cls: _replies(cls) for cls in commands}

    def __call__(self, command: Command[Any, Any], call: Call[R_contra]) -> Any:
        """Run the function: its answer, or for an async one what is to be awaited for it."""
        return self.function(command, call) if self.takes_call else self.function(command)

    def answered(self, call: Call[Any], answer: object) -> Event | Refusal:
        """What the function gave, as a reply to its command: Done for None. Errors: OrchestratorError, if that is
        none that the command declares.
        """
        return self.reply(call.command, answer, is_undo=call.undoes is not None)

    def reply(self, command: Command[Any, Any], answer: object, *, is_undo: bool) -> Event | Refusal:
        """The same, of a command alone."""
        reply = Done() if answer is None else answer
        declared = self._declared[type(command)]
        if is_undo:
            declared = (*replies_of(type(command))[0], Done)
        if isinstance(reply, declared):
            return cast(Event | Refusal, reply)
        names = ", ".join(cls.__name__ for cls in declared)
        raise OrchestratorError(
            f"{self.name} gave {_said(answer)} for {type(command).__name__}, which declares {names}"
        )

    def __repr__(self) -> str:
        return f"<participant {self.name}>"


class Listener(Generic[R_contra]):
    """A function that reacts to events, as `@listener` makes it.

    events        the event classes it takes
    publishes     the event classes it may return
    retry         how often and how far apart a failed delivery is tried; then it is a dead letter
    is_async      else it runs in a thread
    resources     what it expects as `delivery.resources`; object if it does not say
    """

    __slots__ = ("_takes_delivery", "events", "function", "is_async", "name", "publishes", "resources", "retry")

    def __init__(
        self,
        function: Callable[..., Any],
        events: tuple[type[Event], ...],
        publishes: tuple[type[Event], ...],
        retry: Retry,
        takes_delivery: bool,
        resources: Any,
    ) -> None:
        """Made by `@listener`."""
        self.name = function.__name__
        self.function = function
        self.events = events
        self.publishes = publishes
        self.retry = retry
        self.is_async = inspect.iscoroutinefunction(function)
        self.resources = resources
        self._takes_delivery = takes_delivery

    def __call__(self, event: Event, delivery: Delivery[R_contra]) -> Any:
        """Run the function: what it returned, or for an async one what is to be awaited for it."""
        return self.function(event, delivery) if self._takes_delivery else self.function(event)

    def told(self, returned: object) -> tuple[Event, ...]:
        """What the function gave, as events to send. Errors: OrchestratorError, if it is neither an Event, a sequence
        of Events nor None.
        """
        if returned is None:
            return ()
        events: list[object] = [returned]
        if isinstance(returned, Sequence) and not isinstance(returned, str | bytes):
            events = list(cast("Sequence[object]", returned))
        for event in events:
            if not isinstance(event, Event):
                raise OrchestratorError(f"{self.name} returned {_said(event)}: a listener returns Events or None")
        return tuple(cast("list[Event]", events))

    def __repr__(self) -> str:
        return f"<listener {self.name}>"


@overload
def participant(function: Callable[[C, Call[R]], Coroutine[Any, Any, Reply] | Reply]) -> Participant[R]: ...
@overload
def participant(function: Callable[[C], Coroutine[Any, Any, Reply] | Reply]) -> Participant[object]: ...
def participant(function: Callable[..., Any]) -> Participant[Any]:
    """Make a function the participant for the command (or the union of commands) that its first parameter names.

    `async def`, or a plain `def`, which then runs in a thread. A second parameter, if it has one, is the `Call`. It
    returns one of the replies that the command declares, yes or no; None is Done. An exception is a failure, tried
    again as the step's Retry says; `RetryAfter` asks for a time, `Fatal` for no more attempts.
    Errors: DefinitionError, if it may answer what the command does not declare.
    """
    signature = _Signature(function, "participant", _names_around())
    commands = signature.message_types(Command, "a Command")
    resources = signature.resources(Call)
    answers = _answers(signature)
    declared = tuple(dict.fromkeys(reply for command in commands for reply in _replies(command)))
    foreign = [answer for answer in answers if answer not in declared]
    if foreign:
        signature.fail(
            f"may answer {_list(foreign)}, but {_list(commands)} declares {_list(declared)}: "
            f"return one of these, or declare it: class {commands[0].__name__}(Command[..., ...])"
        )
    return Participant(function, commands, answers, signature.takes_second, resources)


@overload
def listener(function: Callable[[E, Delivery[R]], Coroutine[Any, Any, Told] | Told]) -> Listener[R]: ...
@overload
def listener(function: Callable[[E], Coroutine[Any, Any, Told] | Told]) -> Listener[object]: ...
@overload
def listener(*, retry: Retry) -> _ListenerWithRetry: ...
def listener(function: Callable[..., Any] | None = None, *, retry: Retry = Retry()) -> Any:  # noqa: B008 - frozen
    """Make a function the listener for the event (or the union of events) that its first parameter names.

    `async def`, or a plain `def`, which then runs in a thread. A second parameter, if it has one, is the `Delivery`.
    It returns an Event, a sequence of Events or None; what it returns is sent in the commit that settles the
    delivery. An exception is tried again as `retry` says, then the delivery is a dead letter. It may run twice for
    one event; `delivery.id` tells. Errors: DefinitionError.
    """
    if function is None:
        return _ListenerWithRetry(retry)
    return _listener(function, retry, _names_around())


def _names_around() -> dict[str, Any]:
    """The local names where a decorator is used, so that classes defined in a function are found."""
    frame = inspect.currentframe()
    user = frame and frame.f_back and frame.f_back.f_back
    return dict(user.f_locals) if user else {}


class _ListenerWithRetry:
    """What `listener(retry=...)` gives: the decorator."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry

    @overload
    def __call__(self, function: Callable[[E, Delivery[R]], Coroutine[Any, Any, Told] | Told]) -> Listener[R]: ...
    @overload
    def __call__(self, function: Callable[[E], Coroutine[Any, Any, Told] | Told]) -> Listener[object]: ...
    def __call__(self, function: Callable[..., Any]) -> Listener[Any]:
        return _listener(function, self._retry, _names_around())


def _listener(function: Callable[..., Any], retry: Retry, local_names: Mapping[str, Any]) -> Listener[Any]:
    signature = _Signature(function, "listener", local_names)
    events = signature.message_types(Event, "an Event")
    return Listener(
        function, events, _published(signature), retry, signature.takes_second, signature.resources(Delivery)
    )


class _Signature:
    """The annotations of a participant's or listener's function, resolved."""

    def __init__(self, function: Callable[..., Any], role: str, local_names: Mapping[str, Any]) -> None:
        self.role = role
        self.name = getattr(function, "__name__", repr(function))
        if not inspect.isfunction(function):
            self.fail("is no function: put the decorator over a `def` or `async def` of a module")
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            self.fail("yields: let it return its answer")
        self._hints = self._resolved(function, local_names)
        parameters = list(inspect.signature(function).parameters.values())
        if not 1 <= len(parameters) <= 2 or any(p.kind not in _POSITIONAL for p in parameters):
            second = "call: Call" if role == "participant" else "delivery: Delivery"
            self.fail(f"takes {len(parameters)} parameters: it takes the message and, if it likes, `{second}`")
        self._parameters = [p.name for p in parameters]
        self.takes_second = len(parameters) == 2

    def fail(self, what: str) -> NoReturn:
        """Refuse the function, with the remedy."""
        raise DefinitionError(f"{self.role} {self.name} {what}")

    def message_types(self, base: type, wanted: str) -> tuple[Any, ...]:
        """The classes that the first parameter's annotation names."""
        name = self._parameters[0]
        found = _flat(self._hint(name))
        for cls in found:
            if not (isinstance(cls, type) and issubclass(cls, base)) or cls is base:
                self.fail(f"takes {name}: {_shown(cls)}, which is not {wanted} class: annotate it with one, or a union")
        return found

    def resources(self, context: type) -> Any:
        """What the second parameter's annotation, `Call[X]` or `Delivery[X]`, says of the resources."""
        if not self.takes_second:
            return object
        name = self._parameters[1]
        hint = self._hint(name)
        if (get_origin(hint) or hint) is not context:
            self.fail(f"takes {name}: {_shown(hint)} as its second parameter: annotate it with {context.__name__}")
        return (*get_args(hint), object)[0]

    def returns(self) -> Any:
        """The return annotation."""
        if "return" not in self._hints:
            self.fail("does not say what it returns: annotate it, with `-> None` if it returns nothing")
        return self._hints["return"]

    def _hint(self, name: str) -> Any:
        if name not in self._hints:
            self.fail(f"does not say what its parameter {name} is: annotate it")
        return self._hints[name]

    def _resolved(self, function: Callable[..., Any], local_names: Mapping[str, Any]) -> dict[str, Any]:
        global_names = inspect.unwrap(function).__globals__
        try:
            return {
                name: resolve(annotation, global_names, local_names)
                for name, annotation in function.__annotations__.items()
            }
        except NameError as error:
            self.fail(f"has an annotation that is not defined before it ({error}): define or import it above")


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _answers(signature: _Signature) -> tuple[type, ...]:
    return tuple(Done if hint in (None, type(None)) else hint for hint in _flat(signature.returns()))


def _replies(command: type[Command[Any, Any]]) -> tuple[type, ...]:
    yes, no = replies_of(command)
    return (*yes, *no)


def _published(signature: _Signature) -> tuple[type[Event], ...]:
    found: list[type[Event]] = []
    for hint in _flat(signature.returns()):
        if hint in (None, type(None)):
            continue
        if get_origin(hint) in (list, tuple, Sequence):
            inner = [cls for arg in get_args(hint) if arg is not Ellipsis for cls in _flat(arg)]
        else:
            inner = [hint]
        for cls in inner:
            if not (isinstance(cls, type) and issubclass(cls, Event)):
                signature.fail(f"may return {_shown(cls)}: a listener returns Events, a sequence of Events or None")
            found.append(cls)
    return tuple(found)


def _flat(hint: Any) -> tuple[Any, ...]:
    """The members of a union, aliases followed; nothing for Never."""
    if hint in (NoReturn, Never):
        return ()
    hint = getattr(hint, "__value__", hint)
    parts = members(hint)
    return parts if parts == (hint,) else tuple(part for each in parts for part in _flat(each))


def _list(hints: Iterable[Any]) -> str:
    return ", ".join(_shown(hint) for hint in hints)


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _said(value: object) -> str:
    return f"a {type(value).__name__}" if value is not None else "nothing"
