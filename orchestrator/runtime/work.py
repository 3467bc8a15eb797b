"""Commands that others sent over the bus, for the participants of this process: kept, carried out, answered (R7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from ..app import App
from ..machine.hosting import Answer, Kept, Misuse, answered, arrived, do_record, own_record, read, undo_record
from ..machine.transition import Record, Transition
from ..ports import Clock, Store
from ..wire import Envelope, Kind, Outgoing, Route
from .calls import answer_letter, failed
from .committer import Committer

Settled = Callable[[object], None]


class Asked(Struct, frozen=True):
    """A command from the bus, as the outbox row that it becomes here; `settled` is called when it is on disk."""

    row: Outgoing
    settled: Settled


class Work:
    """Keeps each command in the outbox of this store until it is answered, and its answer for who asks again."""

    def __init__(self, app: App[Any], store: Store, committer: Committer, clock: Clock) -> None:
        """For the participants of `app`."""
        self._app = app
        self._store = store
        self._committer = committer
        self._clock = clock
        self._written: dict[str, Kept] = {}  # what a read that is under way may miss
        self._reads = 0
        self._on_disk: list[tuple[str, Kept]] = []  # of what is written, to be forgotten when no read is under way
        self._latest: dict[str, int] = {}  # name -> attempt, of the commands taken and not answered

    def carries_out(self, wire_type: str) -> bool:
        """Whether a participant of this process does."""
        return wire_type in self._app.participants

    async def take(self, asked: Sequence[Asked]) -> None:
        """Take commands, in order. Errors: StoreUnavailable, before any of them is taken."""
        names = list(dict.fromkeys(name for each in asked for name in (do_record(each.row), undo_record(each.row))))
        self._reads += 1
        try:
            found = await self._store.records(names)
            kept = {name: read(record) for name, record in zip(names, found, strict=True)}
            for each in asked:
                self._take(each, kept)
        finally:
            self._reads -= 1
            self._forget()

    def known(self, row: Outgoing) -> Envelope | None:
        """The answer to a command that had to wait for another attempt of it, if that has given one."""
        kept = self._written.get(own_record(row))
        return answer_letter(row, kept.answer, self._clock.now()) if kept is not None and kept.answer else None

    def answered(self, row: Outgoing, letter: Envelope) -> None:
        """It was carried out: keep the answer and send it, in the commit that takes the command out."""
        if letter.kind is Kind.FAILURE and self._is_overtaken(row):
            self._commit(row, put=(_reply(row, letter),))
            return
        kept = answered(row, Answer(letter.kind, letter.type, letter.data, letter.version))
        self._latest.pop(row.name, None)
        self._commit(row, put=(_reply(row, letter),), remove=(row.name,), kept=kept)

    def out_of_time(self, row: Outgoing) -> None:
        """Nobody waits for the answer to this attempt any more: its sender's own timer has said so (R10)."""
        if not self._is_overtaken(row):
            self._latest.pop(row.name, None)
            self._commit(row, remove=(row.name,))

    def _take(self, asked: Asked, kept: dict[str, Kept | None]) -> None:
        row, now = asked.row, self._clock.now()
        do, undo = (self._written.get(name) or kept[name] for name in (do_record(row), undo_record(row)))
        if self._is_overtaken(row) or (row.deadline is not None and row.deadline <= now):
            asked.settled(None)  # the sender's own timer has said so already (R10)
            return
        try:
            answer = arrived(row, do, undo)
        except Misuse as misuse:
            letter: Envelope | None = failed(row, str(misuse), now, is_final=True)
        else:
            letter = None if answer is None else answer_letter(row, answer, now)
        if letter is not None:
            self._commit(row, put=(_reply(row, letter),), settled=asked.settled)
            return
        overtaken = (row.undoes,) if row.undoes else ()  # a do that has not begun never will
        self._latest.pop(row.undoes, None)
        self._latest[row.name] = row.envelope.attempt
        self._commit(row, put=(row,), remove=overtaken, kept=Kept.of(row), settled=asked.settled)

    def _is_overtaken(self, row: Outgoing) -> bool:
        """Whether a later attempt has taken its place."""
        return self._latest.get(row.name, 0) > row.envelope.attempt

    def _commit(
        self,
        row: Outgoing,
        *,
        put: tuple[Outgoing, ...] = (),
        remove: tuple[str, ...] = (),
        kept: Kept | None = None,
        settled: Settled | None = None,
    ) -> None:
        name = own_record(row)
        records: tuple[Record, ...] = ()
        if kept is not None:
            self._written[name] = kept
            records = (Record(name, kept.stored()),)

        def is_stored(told: Transition) -> None:
            if kept is not None:
                self._on_disk.append((name, kept))
                self._forget()
            if settled is not None:
                settled(told)

        transition = Transition(at=self._clock.now(), put=put, remove=remove, records=records)
        self._committer.store(transition, is_stored)

    def _forget(self) -> None:
        if not self._reads:
            for name, kept in self._on_disk:
                if self._written.get(name) is kept:  # else what came after it is on its way to the disk
                    del self._written[name]
            self._on_disk.clear()


def _reply(row: Outgoing, letter: Envelope) -> Outgoing:
    return Outgoing(name=letter.id, route=Route.REPLY, envelope=letter, reply_to=row.reply_to, sender=row.sender)
