"""What a participant may have done, from what the orchestrator knows of a call.

A participant keeps one of three books for each key: nothing done, done, undone with a tombstone. Dos and undos of it
reach it late, twice, in any order and as often as the network likes, once they were sent; it may stop between its
effect and its answer, and then answers the next attempt the same (R7). None of this needs a place in the states that
are explored: which books are possible follows from the call alone, and `tests/checking/test_effects.py` compares this
page with every order of deliveries.
"""

from __future__ import annotations

from enum import StrEnum

from ..definition import StepDefinition
from ..machine import Call, CallKind, Do, Undo, Visit


class Effect(StrEnum):
    """The books of a participant for one key."""

    NONE = "none"
    DONE = "done"
    UNDONE = "undone"


NOT_BEGUN = frozenset({Effect.NONE})


def possible(call: Call, tombstone: bool = True) -> frozenset[Effect]:
    """What may have become of a command at its participant, now or by deliveries still under way."""
    if not call.has_left or call.do is Do.CLEAN:
        return NOT_BEGUN
    found = {Effect.DONE} if call.do is Do.YES else {Effect.NONE, Effect.DONE}
    if call.unwinding is Undo.ASKED and (call.undo_kind is not None and not (call.held and call.attempt <= 1)):
        found |= {Effect.UNDONE}
    elif call.unwinding is Undo.DONE:  # a do that comes now finds the tombstone, or there is none
        found = {Effect.UNDONE} if tombstone else {Effect.UNDONE, Effect.DONE}
    return frozenset(found)


def may_remain(step: StepDefinition, visit: Visit, call: Call) -> bool:
    """Whether an effect of a call that nothing will undo any more may be left, and may not (R6, I5).

    A yes whose compensation said, with the reply at hand, that there is nothing to undo is believed. So is the no of a
    pivot without compensation (R6), and an operator who leaves an effect standing (R17).
    """
    if step.may_stand or step.past_pivot or visit.closed or call.kind not in (CallKind.COMMAND, CallKind.CHILD):
        return False
    if call.unwinding in (Undo.DONE, Undo.STANDING) or call.do in (Do.YES, Do.SKIPPED):
        return False
    if call.do is Do.REFUSED and step.compensate is None:
        return False
    return Effect.DONE in possible(call)


def may_land_after_undo(call: Call) -> bool:
    """Whether a do may be delivered after its answered undo: one that was lost on the way, or a second time."""
    return call.kind is CallKind.COMMAND and call.unwinding is Undo.DONE and Effect.DONE in possible(call, False)
