"""One message being handled: a working copy of the instance, the user's code on it, and what is to go out."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

from msgspec import Raw, Struct
from msgspec.structs import replace

from ..codec import decode as decode_json
from ..codec import encode_again
from ..context import Handling, handled
from ..definition import Definition, StepDefinition
from ..errors import OrchestratorError
from ..messages import decode
from ..saga import Saga, decode_state, definition_of
from ..wire import Address, DeadLetter, Envelope, Kind, Outgoing, Route
from .instance import Call, Do, Instance, Payload, Undo, Visit, VisitState, run_id
from .limits import MachineLimits
from .transition import Outcome, Transition

_TO_ALL = Address("", "")
_copied: Callable[[Any], Any] = Struct.__copy__  # type: ignore[attr-defined]  # half the time of `replace`
# Looking up a member of an Enum costs thirty times a name of the module: what every message asks for has one, here and
# in the other modules of the machine.
_OPEN, _UNDONE, _APPLIED = VisitState.OPEN, VisitState.UNDONE, Outcome.APPLIED
_ASKED, _YES, _NOT_ASKED_FOR = Do.ASKED, Do.YES, Undo.NONE


Scope: TypeAlias = tuple[Visit | None, Call | None, str]
"""In what the user's code runs: the visit, one of its calls, and which part of it. Ids are unique in it (R3)."""


class HandlerBug(OrchestratorError):
    """A saga's own code raised or returned what makes no sense there; the text is the traceback (R15)."""


class Turn:
    """Everything one message changes, until it is a Transition. Only the copy is touched; a raise leaves nothing."""

    __slots__ = (
        "_before",
        "_saga",
        "_scope",
        "arrived",
        "dead",
        "definition",
        "instance",
        "limits",
        "message",
        "notes",
        "now",
        "outcome",
        "prefix",
        "put",
        "remove",
    )

    def __init__(
        self, definition: Definition, instance: Instance, message: Envelope, now: float, limits: MachineLimits
    ) -> None:
        """Begin to handle `message` at `now` (seconds since 1970)."""
        self.definition = definition
        self._before = instance
        self.instance = _working_copy(instance, now)
        self.message = message  # the one whose content is handled: of a NEXT, the queued one
        self.arrived = message  # the one that becomes the history row
        self.now = now
        self.limits = limits
        self.prefix = run_id(instance.saga, instance.key, instance.run)  # what all ids of this run begin with (R3)
        self.outcome = _APPLIED
        self.notes: list[str] = []
        self.put: dict[str, Outgoing] = {}
        self.remove: dict[str, None] = {}
        self.dead: list[DeadLetter] = []
        self._saga: Any = None
        self._scope: Scope

    # What the turn becomes.

    def transition(self) -> Transition:
        """The finished value."""
        return Transition(
            at=self.now,
            instance=self.instance,
            message=self.arrived,
            outcome=self.outcome,
            notes=tuple(self.notes),
            put=tuple(self.put.values()),
            remove=tuple(self.remove),
            dead=tuple(self.dead),
        )

    def note(self, text: str) -> None:
        """Say what happened, for people."""
        self.notes.append(text)

    def ends_as(self, outcome: Outcome, why: str) -> None:
        """The message changes nothing but is on record, with the reason."""
        self.outcome = outcome
        self.note(why)

    def refuse(self, why: str) -> None:
        """Take back all that was changed: the message is on record, refused, and nothing else (R17)."""
        self.instance = _working_copy(self._before, self.now)
        self.put, self.remove, self.dead, self.notes = {}, {}, [], []
        self._saga = None
        self.ends_as(Outcome.REFUSED, why)

    # Looking around.

    def step_of(self, visit: Visit) -> StepDefinition:
        """The definition of the step that is visited."""
        return self.definition.steps[visit.step]

    def open_visits(self) -> list[Visit]:
        """The visits under way, in the order entered."""
        return [visit for visit in self.instance.visits if visit.state is _OPEN]

    def command_id(self, visit: Visit, call: Call) -> str:
        """As the instance's, with the beginning known already."""
        if call.index < 0:
            return f"{self.prefix}/{visit.step}#{visit.number}"
        return f"{self.prefix}/{visit.step}[{call.index}]#{visit.number}"

    # The user's code.

    @property
    def saga(self) -> Any:
        """The user's object with the present state."""
        if self._saga is None:
            cls: type[Any] = self.definition.cls
            self._saga = decode_json(cls, self.instance.state, self.definition.name)
        return self._saga

    def begin(self, starter: Callable[[Any], Any], event: Any) -> None:
        """Let the starter make the first state."""
        self._saga = self._run((None, None, "start"), starter, (event,))
        if not isinstance(self._saga, self.definition.cls):
            raise HandlerBug(
                f"the start of {self.definition.name} returned {self._saga!r}, not a {self.definition.name}"
            )
        self.instance.state = self._encoded()

    def ask(self, scope: Scope, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a step or handler on the saga and keep what it wrote."""
        result = self._run(scope, function, (self.saga, *arguments))
        self.instance.state = self._encoded()
        return result

    def compensation(self, scope: Scope, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a `.compensate`: it may run again any time, so it must not write."""
        result = self._run(scope, function, (self.saga, *arguments))
        if self._encoded() is not self.instance.state:
            raise HandlerBug(
                f"{self.definition.name}.{function.__name__} wrote to the saga: a compensation must not write"
            )
        return result

    def decoded(self, type_name: str, data: Raw, version: int = 1) -> Any:
        """A message of one of the definition's types (or a child's state). Errors: BadMessage."""
        cls: Any = self.definition.types[type_name]
        if issubclass(cls, Saga):
            return decode_state(definition_of(cls), data)
        return decode(cls, data, version)

    def _run(self, scope: Scope, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        self._scope = scope
        token = handled.set(self._about)
        try:
            return function(*arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise HandlerBug(_users_traceback(error)) from error
        finally:
            handled.reset(token)

    def _about(self) -> tuple[Handling, float, str]:
        """The message as the user's code may see it, in the scope that it runs in."""
        message, instance = self.message, self.instance
        seen = Handling(
            id=message.id,
            type=message.type,
            time=datetime.fromtimestamp(message.time, UTC),
            user=message.user,
            correlation_id=message.correlation_id or instance.correlation_id,
            causation_id=message.causation_id,
        )
        return seen, self.now, f"{instance.saga}/{instance.key}~{instance.run}/{self._scope_id()}"

    def _scope_id(self) -> str:
        visit, call, part = self._scope
        if visit is None:
            return part
        place = self.instance.visit_id(visit) if call is None else self.command_id(visit, call)
        return f"{place}/{part}" if part else place

    def _encoded(self) -> Raw:
        """The saga's state as it is now; the very value stored, if that is the same."""
        try:
            return encode_again(self._saga, self.instance.state)
        except Exception as error:
            raise HandlerBug(f"the state of {self.definition.name} cannot be stored: {error}") from error

    # What goes out.

    def send(self, outgoing: Outgoing) -> None:
        """Put a row into the outbox, or hold it while the instance is paused (R17)."""
        if self.instance.paused:
            self.instance.held = [*self.instance.held, outgoing]
            return
        self.put[outgoing.name] = outgoing
        if self.remove:
            self.remove.pop(outgoing.name, None)

    def take_out(self, name: str) -> None:
        """Take a row out of the outbox that became pointless (R1)."""
        if self.put:
            self.put.pop(name, None)
        self.remove[name] = None
        if self.instance.held:
            self.instance.held = [row for row in self.instance.held if row.name != name]

    def publish(self, name: str, event: Payload) -> None:
        """Publish an event under a derived id (R3)."""
        envelope = self.envelope(Kind.EVENT, name, event)
        self.send(Outgoing(name=name, route=Route.EVENT, envelope=envelope, sender=self.instance.address))

    def envelope(self, kind: Kind, id: str, payload: Payload, address: Address = _TO_ALL, attempt: int = 0) -> Envelope:
        """A message of this instance's making, to (or in the name of) the instance at `address`."""
        return Envelope(
            id=id,
            kind=kind,
            type=payload.type,
            data=payload.data,
            time=self.now,
            saga=address.saga,
            key=address.key,
            attempt=attempt,
            version=payload.version,
            correlation_id=self.instance.correlation_id,
            causation_id=self.arrived.id,
            traceparent=self.instance.traceparent,
        )

    def answer_parent(self, reply: Envelope) -> None:
        """Answer the command of the parent (R22)."""
        parent = self.instance.answer_to
        if parent is not None:
            addressed = replace(reply, saga=parent.saga, key=parent.key)
            row = Outgoing(name=reply.id, route=Route.INSTANCE, envelope=addressed, sender=self.instance.address)
            self.put[row.name] = row  # past `send`: an answer is never held, and none was taken out

    def discard(self, message: Envelope, reason: str, error: str = "") -> None:
        """Make a dead letter of a message."""
        self.dead.append(DeadLetter(at=self.now, reason=reason, envelope=message, error=error))


def silence(call: Call) -> None:
    """Nothing of this call's present exchange is under way any more."""
    call.timeout_at = call.retry_at = None
    call.parked = ""
    call.held = False


def own_calls(visit: Visit) -> list[Call]:
    """The calls of a visit, all of them free to be changed: in place of those that are shared with earlier versions
    stand copies.
    """
    visit.calls = [_copied(call) if call.do is _YES else call for call in visit.calls]
    return visit.calls


def is_awaited(visit: Visit, call: Call) -> bool:
    """Whether the do of this call may still be answered: from its first send until answered, left or given up (R4)."""
    return visit.state is _OPEN and call.do is _ASKED and call.unwinding is _NOT_ASKED_FOR


def _working_copy(instance: Instance, now: float) -> Instance:
    """The next version: it and its visits and calls are free to be changed, but for the visits that are undone and the
    calls that were answered yes, which `own_calls` gives to whoever wants them undone; its other lists are only to be
    replaced.
    """
    after: Instance = _copied(instance)
    after.version += 1
    after.updated_at = now
    visits: list[Visit] = []
    after.visits = visits
    for visit in instance.visits:
        if visit.state is _UNDONE:
            visits.append(visit)
        else:
            visits.append(own := _copied(visit))
            own.calls = [
                call if call.do is _YES and call.unwinding is _NOT_ASKED_FOR else _copied(call) for call in visit.calls
            ]
    return after


def _users_traceback(error: BaseException) -> str:
    """The traceback from the user's first frame on."""
    frames = error.__traceback__
    own = frames.tb_frame.f_code.co_filename if frames else ""
    while frames is not None and frames.tb_frame.f_code.co_filename == own:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))
