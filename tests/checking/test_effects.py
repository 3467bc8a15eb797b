"""What a participant may have done, read off a call, against a participant that is played out delivery by delivery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from orchestrator.checking.effects import Effect, possible
from orchestrator.machine import Call, CallKind, Do, Payload, Undo

UNDO = Payload(type="Release", data=b"{}")  # type: ignore[arg-type]


class Played(NamedTuple):
    """One key: the books of its participant; what the orchestrator knows; what was ever sent, and is answered."""

    book: Effect = Effect.NONE
    do: Do = Do.WAITING
    unwinding: Undo = Undo.NONE
    yes_on_its_way: bool = False
    undone_on_its_way: bool = False

    def steps(self, tombstone: bool) -> Iterator[Played]:
        """Everything that can happen next: sends, deliveries (also late and again), answers, giving up."""
        if self.do is Do.WAITING:
            yield self._replace(do=Do.ASKED)
            return
        # The do is delivered, now or once more, whatever the orchestrator has made of it since; it may stop before
        # its answer. After an undo it finds the tombstone; or there is none, and it is done.
        if self.book is Effect.NONE or (self.book is Effect.UNDONE and not tombstone):
            yield self._replace(book=Effect.DONE)
        if self.book is Effect.DONE:
            yield self._replace(yes_on_its_way=True)
        if self.do is Do.ASKED:
            if self.yes_on_its_way:
                yield self._replace(do=Do.YES)
            yield from (self._replace(do=given_up) for given_up in (Do.FAILED, Do.LEFT, Do.REFUSED, Do.SKIPPED))
            return
        match self.unwinding:
            case Undo.NONE:
                yield self._replace(unwinding=Undo.WANTED)
                yield self._replace(unwinding=Undo.NOTHING)
            case Undo.WANTED:
                yield self._replace(unwinding=Undo.ASKED)
                yield self._replace(unwinding=Undo.STANDING)
            case Undo.ASKED | Undo.DONE:  # the undo is delivered, for the first time or again
                yield self._replace(book=Effect.UNDONE, undone_on_its_way=True)
                if self.undone_on_its_way:
                    yield self._replace(unwinding=Undo.DONE)
            case _:
                pass

    def call(self) -> Call:
        """What the orchestrator has of it."""
        asked = self.do is not Do.WAITING
        return Call(
            kind=CallKind.COMMAND,
            undo=UNDO,
            undo_kind=CallKind.COMMAND,
            do=self.do,
            unwinding=self.unwinding,
            attempt=int(asked),
        )


@pytest.mark.parametrize("tombstone", [True, False])
def test_what_may_have_been_done_is_what_some_order_of_deliveries_leads_to(tombstone: bool) -> None:
    seen: dict[tuple[Do, Undo], set[Effect]] = {}
    known = {Played()}
    waiting = list(known)
    while waiting:
        state = waiting.pop()
        seen.setdefault((state.do, state.unwinding), set()).add(state.book)
        for reached in state.steps(tombstone):
            if reached not in known:
                known.add(reached)
                waiting.append(reached)
    assert len(seen) > 25
    for (do, unwinding), books in seen.items():
        call = Played(do=do, unwinding=unwinding).call()
        assert possible(call, tombstone) == books, (do, unwinding)


def test_with_tombstones_nothing_that_was_undone_is_ever_done_again() -> None:
    for do in (Do.YES, Do.FAILED, Do.LEFT, Do.REFUSED):
        call = Played(do=do, unwinding=Undo.DONE).call()
        assert possible(call) == {Effect.UNDONE}
        assert possible(call, tombstone=False) == {Effect.UNDONE, Effect.DONE}


def test_what_never_left_was_never_done() -> None:
    held = Call(kind=CallKind.COMMAND, do=Do.ASKED, attempt=1, held=True)
    assert possible(held) == {Effect.NONE}
    assert possible(Call(kind=CallKind.COMMAND, do=Do.CLEAN, attempt=1)) == {Effect.NONE}
