"""Where each message and row is, and whether it may be there (I1, I8, I9, I10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...app import App
from ...errors import BadMessage
from ...machine.exchange import exchange_id
from ...machine.instance import Call, Instance, Visit
from ...runtime.routing import targets
from ...wire import Address, Envelope, Kind, Route
from ..judge import ANSWERS, is_asked_of_child
from .examined import Examined
from .stored import Rows

All = Mapping[Address, Examined]

NOBODY = Address("", "")


def misplaced(app: App[Any], all: All, rows: Rows, accepted: Iterable[str | Envelope]) -> Iterator[str]:
    """Messages in two places (I1), and those in none that somebody was promised (I10)."""
    for row in rows.waiting:
        one = all.get(row.envelope.address)
        if one is not None and row.envelope.id in one.ids:
            yield f"I1 {one.address}: message {row.envelope.id} is in its history and in the waiting room"
    if not accepted:
        return
    outside = set(_outside(rows))
    anywhere = _with_redriven(id for id, _ in outside).union(*(_with_redriven(one.ids) for one in all.values()))
    anywhere |= {row.envelope.id for row in rows.outbox}
    for message in accepted:
        if isinstance(message, Envelope):
            for where in _missed_at(app, all, outside, message):
                yield f"I10 {where}: message {message.id} was accepted, and is nowhere"
        elif message not in anywhere and not any(message.encode() in letter.raw for letter in rows.dead):
            yield f"I10 message {message}: it was accepted, and is nowhere"


def miscounted(all: All, counted: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """What `status` would say wrongly."""
    there = Counter((one.instance.saga, str(one.instance.status)) for one in all.values())
    said = Counter({(saga, status): number for saga, of in counted.items() for status, number in of.items()})
    for saga, status in sorted(there.keys() | said.keys()):
        if there[saga, status] != said[saga, status]:
            yield f"I1 {saga}: {said[saga, status]} are counted as {status}, and there are {there[saga, status]}"


def left_over(all: All, rows: Rows) -> Iterator[str]:
    """What ended instances have still to send (I8), and children that parents wait for in vain (I9)."""
    for row in rows.outbox:
        one = None if row.sender is None else all.get(row.sender)
        if one is not None and one.instance.status.is_end and row.envelope.kind not in ANSWERS:
            yield f"I8 {one.address}: it is {one.instance.status}, and {row.name} is still to be sent"
    names = {row.name for row in rows.outbox}
    answers = {(row.sender, row.envelope.address) for row in rows.outbox if row.route is Route.INSTANCE}
    for one in all.values():
        for visit, call in _asked_of_children(one.instance):
            name, child = _child(one.instance, visit, call)
            of_child = all.get(child)
            is_open = of_child is not None and not of_child.instance.status.is_end
            if not (is_open or name in names or (child, one.address) in answers or _is_held_up(one.instance, name)):
                yield f"I9 {one.address}: {visit.step} waits for {child}, which is neither open nor about to answer"


def under_way(all: All, rows: Rows) -> Iterator[str]:
    """What could still go, where nothing is under way any more (I9). Of an instance that is paused or parked over a
    message, commands that were sent before may stay: their answers cannot be applied, or do not come.
    """
    for row in rows.outbox:
        one = None if row.sender is None else all.get(row.sender)
        if one is None or not _is_stopped(one.instance) or row.route is not Route.COMMAND:
            yield f"I9 {row.sender or row.envelope.address}: {row.name} is still in the outbox"
    for one in all.values():
        if _is_busy(one.instance):
            yield f"I9 {one.address}: it still waits for an answer or a retry of {', '.join(one.instance.stands_in)}"
    for waiting in rows.waiting:
        one = all.get(waiting.envelope.address)
        if one is not None and not (one.instance.status.is_end and one.definition and one.definition.restartable):
            yield f"I9 {one.address}: message {waiting.envelope.id} is still in the waiting room"


def _outside(rows: Rows) -> Iterator[tuple[str, Address]]:
    """What is in the store for an instance, but in no history; addressed to nobody: it could not be."""
    for envelope in (
        *(row.envelope for row in rows.outbox if row.route is not Route.LISTENER),
        *(row.envelope for row in rows.waiting),
        *(letter.envelope for letter in rows.dead if letter.envelope is not None and not letter.listener),
    ):
        yield envelope.id, envelope.address


def _with_redriven(ids: Iterable[str]) -> set[str]:
    """A dead letter that was tried again has its number behind its id."""
    found = set(ids)
    for id in tuple(found):
        first, _, number = id.rpartition("~")
        if number.isdigit():
            found.add(first)
    return found


def _missed_at(
    app: App[Any], all: All, outside: set[tuple[str, Address]], message: Envelope
) -> Iterator[Address | str]:
    """The instances that were to get it, and have it nowhere. What listeners got leaves no row."""
    if (message.id, NOBODY) in outside:
        return
    if message.kind is Kind.EVENT:
        try:
            addresses: Iterable[Address] = targets(app, message).letters
        except BadMessage:
            yield message.type  # it had to become a dead letter (R16)
            return
    else:
        addresses = [message.address] if message.address in all else []  # a reply to nobody is stale, leaves no row
    for address in addresses:
        one, definition = all.get(address), app.sagas[address.saga]
        known = one is not None and (definition.restartable or message.id in _with_redriven(one.ids))
        if not known and (message.id, address) not in outside:
            yield address


def _asked_of_children(instance: Instance) -> Iterator[tuple[Visit, Call]]:
    if not instance.status.is_end:
        for visit in instance.visits:
            for call in visit.calls:
                if is_asked_of_child(call) and not call.parked:
                    yield visit, call


def _child(instance: Instance, visit: Visit, call: Call) -> tuple[str, Address]:
    """The name of what was asked, and whom."""
    return exchange_id(instance, visit, call), Address(call.child, instance.command_id(visit, call))


def _is_held_up(instance: Instance, name: str) -> bool:
    """Whether what was asked, or its answer, is kept by the parent itself."""
    behind = [*instance.queue, *([instance.bug.message] if instance.bug is not None else [])]
    return any(row.name == name for row in instance.held) or any(message.reply_to == name for message in behind)


def _is_stopped(instance: Instance) -> bool:
    return instance.paused or instance.bug is not None


def _is_busy(instance: Instance) -> bool:
    """Whether it waits for more than its children, who are looked at for themselves and have no timer."""
    return instance.is_busy and (
        bool(instance.queue)
        or any(
            call.timeout_at is not None or call.retry_at is not None
            for visit in instance.visits
            for call in visit.calls
        )
    )
