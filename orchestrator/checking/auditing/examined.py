"""One instance with its history, examined by itself (I1-I6, I8, I9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Struct

from ...definition import Definition
from ...machine.instance import Bug, CallKind, Do, Instance, Visit
from ...machine.limits import MachineLimits
from ...machine.transition import Entry
from ...wire import Address, Envelope, Kind, Verb
from ..judge import Broken
from .replayed import Replayed, replayed
from .stored import Story

ANSWER_KINDS = (Kind.YES, Kind.REFUSAL)
TO_PARTICIPANTS = (CallKind.COMMAND, CallKind.QUERY)
MOST_FIELDS = 5  # named in one sentence


class Examined(Struct, frozen=True):
    """What is known of an instance.

    ids        of the messages in its history.
    answered   the key of each command that was answered, and how: yes, or no.
    wrong      each violation.
    """

    instance: Instance
    definition: Definition | None
    transitions: int
    visits: tuple[Visit, ...]
    ids: frozenset[str]
    answered: frozenset[tuple[str, Kind]]
    wrong: tuple[Broken, ...]
    replayed: Replayed

    @property
    def address(self) -> Address:
        """The instance's."""
        return self.instance.address


def examined(sagas: Mapping[str, Definition], story: Story, limits: MachineLimits) -> Examined:
    """Look whether a history is whole; if it is, go through it once more."""
    instance, entries = story.instance, story.entries
    definition = sagas.get(instance.saga)
    wrong = [Broken("I1", f"message {id} is in its history twice") for id in _twice(entries)]
    gaps = list(_gaps(instance, entries))
    if definition is None or gaps:
        again = Replayed(visits=tuple(instance.visits))
    else:
        again = replayed(definition, story, limits)
    wrong += [Broken("I3", gap) for gap in gaps]
    if definition is None:
        wrong.append(Broken("I2", f"there is no saga {instance.saga} in this app"))
    if not again.is_the_same:
        wrong.append(Broken("I2", _how_it_differs(again)))
    wrong += again.broken
    messages = [_inner(entry.message) for entry in entries]
    answered = frozenset((message.reply_to, message.kind) for message in messages if message.kind in ANSWER_KINDS)
    is_by_hand = any(entry.message.kind is Kind.VERB and entry.message.type == Verb.DONE for entry in entries)
    if again.is_the_same and not (gaps or is_by_hand):
        wrong += [Broken("I4", what) for what in _unanswered(instance, again.visits, answered)]
    return Examined(
        instance=instance,
        definition=definition,
        transitions=len(entries),
        visits=again.visits,
        ids=frozenset(entry.message.id for entry in entries),
        answered=answered,
        wrong=tuple(wrong),
        replayed=again,
    )


def named(entry: Entry) -> str:
    """A transition as people name it: `transition 3 (yes StockReserved)`."""
    return f"transition {entry.version} ({entry.message.kind} {entry.message.type})"


def _inner(message: Envelope) -> Envelope:
    """The message itself, of one that was set aside with its bug (R15)."""
    return msgspec.json.decode(message.data, type=Bug).message if message.kind is Kind.BUG else message


def _unanswered(instance: Instance, visits: tuple[Visit, ...], answered: frozenset[tuple[str, Kind]]) -> Iterator[str]:
    """Calls that count as done, and no answer under their own key says so (R4)."""
    for visit in visits:
        for call in visit.calls:
            is_done = call.do is Do.YES and call.kind in TO_PARTICIPANTS
            if is_done and (instance.command_id(visit, call), Kind.YES) not in answered:
                yield f"{visit.step}#{visit.number} counts as done, and nobody answered it"


def _twice(entries: tuple[Entry, ...]) -> Iterator[str]:
    seen: set[str] = set()
    for entry in entries:
        if entry.message.id in seen:
            yield entry.message.id
        seen.add(entry.message.id)


def _gaps(instance: Instance, entries: tuple[Entry, ...]) -> Iterator[str]:
    """Where the versions are not 1, 2, 3 … up to the instance's (I3)."""
    before = 0
    for entry in entries:
        if entry.version != before + 1:
            yield f"its history jumps from {before} to {entry.version}"
        before = entry.version
    if before != instance.version:
        yield f"its history ends with {before}, and it is at version {instance.version}"


def _how_it_differs(again: Replayed) -> str:
    if again.raised:
        assert again.parted is not None
        return f"{named(again.parted)} of its history raises: {again.instead}"
    paths = [difference.path for difference in again.differences]
    more = f" and {len(paths) - MOST_FIELDS} more" if len(paths) > MOST_FIELDS else ""
    since = "" if again.parted is None else f", from {named(again.parted)} on"
    return f"its history leads to another {', '.join(paths[:MOST_FIELDS])}{more} than is stored{since}"
