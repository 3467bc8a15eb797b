"""Carries commands to the participants of this process, and their answers back."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from ..app import App
from ..errors import BadMessage, Fatal, RetryAfter
from ..event_log import EventLog
from ..machine.hosting import Answer
from ..messages import Failure, Message, Refusal, decode, encode, type_name, type_version
from ..participant import Call, Participant
from ..ports import Clock
from ..wire import Envelope, Kind, Outgoing
from .functions import Functions, OutOfTime
from .pool import Pool, Share, Worker
from .texts import of_error, plain

_log = logging.getLogger(__name__)


class Calls:
    """The queues of commands, one a participant. Attempts and the undo of one key never run at the same time here (R7).

    An attempt that times out is not answered here: the instance's own timer says so (R10). One whose time was over
    before its turn came is not begun.
    """

    def __init__(
        self,
        app: App[Any],
        resources: object,
        functions: Functions,
        pool: Pool,
        share: int,
        clock: Clock,
        answer: Callable[[Outgoing, Envelope], None],
        known: Callable[[Outgoing], Envelope | None],
        out_of_time: Callable[[Outgoing], None],
        events: EventLog,
    ) -> None:
        """Give each participant at most `share` workers of `pool`; hand every reply, addressed, with its command's row
        to `answer`. Of a command of somebody else, `known` gives the answer that it got while it waited, and
        `out_of_time` is told when none will be given; `events` is the log that participants append to.
        """
        self._types = app.types
        self._resources = resources
        self._functions = functions
        self._clock = clock
        self._answer = answer
        self._known = known
        self._out_of_time = out_of_time
        self._events = events
        self._queues = {
            command_type: queue
            for participant in dict.fromkeys(app.participants.values())
            for queue in [_Queue(participant, pool, share, self._carry_out)]
            for command_type in map(type_name, participant.commands)
        }
        self._queue_of: dict[str, _Queue] = {}  # row name -> where it waits
        self._running: dict[str, list[_Order]] = {}  # a do's key -> what waits for the end of its call

    @property
    def waiting(self) -> int:
        """How many commands wait for their turn."""
        return len(self._queue_of)

    @property
    def running(self) -> int:
        """How many are carried out at this moment."""
        return len(self._running)

    def takes(self, command_type: str) -> bool:
        """Whether a participant of this process carries out commands of this type."""
        return command_type in self._queues

    def add(self, outgoing: Outgoing, is_fresh: bool) -> None:
        """Carry out a command of the outbox. `is_fresh`: this process committed it just now and never began it, so
        that the refusal of a first attempt is clean (R6).
        """
        queue = self._queue_of[outgoing.name] = self._queues[outgoing.envelope.type]
        queue.add(_Order(outgoing, is_fresh))

    def forget(self, name: str) -> None:
        """Its row was taken out: do not begin it any more."""
        queue = self._queue_of.pop(name, None)
        if queue is not None:
            queue.orders.pop(name, None)

    async def _carry_out(self, worker: Worker, participant: Participant[Any], order: _Order) -> None:
        outgoing = order.outgoing
        key = outgoing.undoes or outgoing.name
        if key in self._running:
            self._running[key].append(order)
            return
        self._queue_of.pop(outgoing.name, None)
        deadline, seconds = outgoing.deadline, None
        if deadline is not None:
            seconds = deadline - self._clock.now()
            if seconds <= 0:
                self._unanswered(outgoing)
                return
        if outgoing.reply_to and (letter := self._known(outgoing)) is not None:
            self._answer(outgoing, letter)
            return
        self._running[key] = []
        try:
            reply = await self._reply(worker, participant, outgoing, seconds)
            if reply is None:
                self._unanswered(outgoing)
            else:
                is_clean = order.is_fresh and outgoing.envelope.attempt == 1 and not outgoing.reply_to
                self._answer(outgoing, answer_letter(outgoing, reply, self._clock.now(), is_clean))
        finally:
            for behind in self._running.pop(key):
                if behind.outgoing.name in self._queue_of:
                    self._queue_of[behind.outgoing.name].add(behind)

    def _unanswered(self, outgoing: Outgoing) -> None:
        """Its instance takes it out; that of somebody else does not stand in this store."""
        if outgoing.reply_to:
            self._out_of_time(outgoing)

    async def _reply(
        self, worker: Worker, participant: Participant[Any], outgoing: Outgoing, seconds: float | None
    ) -> Answer | None:
        """The answer, or the failure to give one; None when the time was over."""
        envelope = outgoing.envelope
        try:
            command: Any = decode(self._types[envelope.type], envelope.data, envelope.version)
        except BadMessage as error:
            _log.error("%s cannot be decoded", envelope.type, exc_info=error, extra=_where(outgoing))
            return _failure("fatal", of_error(error))
        try:
            arguments: tuple[Any, ...] = (command,)
            if participant.takes_call:
                arguments = (command, Call.of(outgoing, command, self._resources, self._events))
            given = await self._functions.run(worker, participant.function, arguments, participant.is_async, seconds)
            return _answered(participant.reply(command, given, is_undo=bool(outgoing.undoes)))
        except OutOfTime:
            _log.warning("%s did not answer in time", participant.name, extra=_where(outgoing))
            return None
        except RetryAfter as error:
            _log.warning("%s asks for patience: %s", participant.name, error, extra=_where(outgoing))
            return _failure("error", of_error(error), error.seconds)
        except Fatal as error:
            _log.error("%s failed for good", participant.name, exc_info=error, extra=_where(outgoing))
            return _failure("fatal", of_error(error))
        except Exception as error:  # noqa: BLE001 whatever a participant raises is a failure of its attempt
            _log.warning("%s failed", participant.name, exc_info=error, extra=_where(outgoing))
            return _failure("error", of_error(error))


def _where(outgoing: Outgoing) -> dict[str, object]:
    return {"command": outgoing.name, "attempt": outgoing.envelope.attempt}


class _Order(Struct, frozen=True, gc=False):
    """A command that is to be carried out."""

    outgoing: Outgoing
    is_fresh: bool


class _Queue:
    """What one participant has to do."""

    def __init__(
        self,
        participant: Participant[Any],
        pool: Pool,
        share: int,
        carry_out: Callable[[Worker, Participant[Any], _Order], Awaitable[None]],
    ) -> None:
        self.orders: OrderedDict[str, _Order] = OrderedDict()
        self._participant = participant
        self._carry_out = carry_out
        self._share = Share(pool, share, self._take, self.orders)

    def add(self, order: _Order) -> None:
        """A later attempt takes the place of an earlier one that has not begun."""
        self.orders[order.outgoing.name] = order
        self._share.more()

    def _take(self, worker: Worker) -> Awaitable[None]:
        if not self.orders:
            return _nothing()
        _, order = self.orders.popitem(last=False)
        return self._carry_out(worker, self._participant, order)


async def _nothing() -> None: ...


def _answered(message: Message) -> Answer:
    cls = type(message)
    kind = Kind.REFUSAL if isinstance(message, Refusal) else Kind.YES
    return Answer(kind, type_name(cls), Raw(encode(message)), type_version(cls))


def _failure(reason: str, error: str, retry_after: float | None = None) -> Answer:
    failure: dict[str, object] = {"reason": reason, "error": plain(error)}
    if retry_after is not None:
        failure["retry_after"] = retry_after
    return Answer(Kind.FAILURE, type_name(Failure), Raw(msgspec.json.encode(failure)), type_version(Failure))


def answer_letter(outgoing: Outgoing, answer: Answer, now: float, is_clean: bool = False) -> Envelope:
    """The reply to this attempt of a command. `is_clean`: no earlier run of its key ever began (R6); what comes over a
    bus never is, since another process may carry out the same commands.
    """
    command = outgoing.envelope
    return Envelope(
        id=f"{outgoing.name}:{answer.kind}:{command.attempt}",
        kind=answer.kind,
        type=answer.type,
        data=answer.data,
        time=now,
        saga=command.saga,
        key=command.key,
        reply_to=outgoing.name,
        attempt=command.attempt,
        clean=is_clean and answer.kind is Kind.REFUSAL,
        version=answer.version,
        correlation_id=command.correlation_id,
        causation_id=command.id,
        traceparent=command.traceparent,
    )


def failed(outgoing: Outgoing, error: str, now: float, *, is_final: bool = False) -> Envelope:
    """The reply to a command that nobody could be given, or, if `is_final`, never can be."""
    return answer_letter(outgoing, _failure("fatal" if is_final else "error", error), now)


def failure_instead(reply: Envelope, error: str) -> Envelope:
    """The reply to who waits for one that cannot be sent."""
    answer = _failure("fatal", error)
    return replace(
        reply,
        id=f"{reply.reply_to}:{answer.kind}:{reply.attempt}",
        kind=answer.kind,
        type=answer.type,
        data=answer.data,
        version=answer.version,
    )
