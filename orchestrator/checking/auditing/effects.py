"""What participants got and did, beside what the instances say (I4-I7)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from urllib.parse import unquote

from msgspec import Struct

from ...definition import Definition
from ...machine.instance import Call, CallKind, Do, Status, Undo, Visit
from ...wire import Address, Kind
from .books import Books, Delivered
from .examined import ANSWER_KINDS, TO_PARTICIPANTS, Examined

UNDO = "/undo"
NEVER_ASKED = (Undo.NONE, Undo.WANTED, Undo.NOTHING)


class Asked(Struct, frozen=True):
    """A call of an instance, under the key of its do."""

    key: str
    one: Examined
    definition: Definition
    visit: Visit
    call: Call

    @property
    def name(self) -> str:
        """Whose it is, and which: what sentences begin with."""
        element = f"[{self.call.index}]" if self.call.index >= 0 else ""
        return f"{self.one.address}: {self.visit.step}{element}#{self.visit.number}"

    def named(self, is_undo: bool) -> str:
        """The same of its undo."""
        return f"{self.name}/undo" if is_undo else self.name

    @property
    def undo_type(self) -> str:
        """The wire type of the command that undoes it, or empty."""
        return self.call.undo.type if self.call.undo is not None and self.call.undo_kind is CallKind.COMMAND else ""

    @property
    def do_type(self) -> str:
        """The wire type of its command, or empty where no participant gets one."""
        return self.call.command.type if self.call.command is not None and self.call.kind in TO_PARTICIPANTS else ""

    def is_answered(self, is_undo: bool, kinds: tuple[Kind, ...] = ANSWER_KINDS) -> bool:
        """Whether the history holds such an answer to it, or to its undo; an operator's word is none."""
        return any((self.key + UNDO * is_undo, kind) in self.one.answered for kind in kinds)


def disagreeing(all: Mapping[Address, Examined], sagas: Mapping[str, Definition], books: Books) -> Iterator[str]:
    """Every sentence about what the books and the instances do not agree in."""
    if not (books.delivered or books.effects or books.complete):
        return
    asked = {each.key: each for one in all.values() for each in _asked(one)}
    yield from _Deliveries(asked, books).wrong()
    yield from _Effects(asked, books).wrong()
    keys = dict.fromkeys(
        [*(each.key.removesuffix(UNDO) for each in books.delivered), *(it.key for it in books.effects)]
    )
    for key in keys:
        if key not in asked and _should_be_known(key, all, sagas):
            yield f"I7 {_address(key)}: {key} reached a participant, and no history asks for it"


class _Deliveries:
    """Each command that was answered was delivered, always the same (I7), and never without need (I5, I6)."""

    def __init__(self, asked: Mapping[str, Asked], books: Books) -> None:
        self._asked = asked
        self._first: dict[str, Delivered] = {}
        self._later = [each for each in books.delivered if self._first.setdefault(each.key, each) is not each]
        known = [(asked[key], is_undo) for key, is_undo in map(_parted, self._first) if key in asked]
        self._types = {*books.complete, *(it.undo_type if is_undo else it.do_type for it, is_undo in known)}

    def wrong(self) -> Iterator[str]:
        for each in self._first.values():
            key, is_undo = _parted(each.key)
            it = self._asked.get(key)
            if it is None:
                continue
            if each.undoes != (key if is_undo else None):
                yield f"I7 {it.named(is_undo)} was delivered as an undo of {each.undoes or 'nothing'}"
            if not is_undo and it.call.do is Do.WAITING:
                yield f"I7 {it.name} was delivered, and was never sent"
            if is_undo and it.call.unwinding in NEVER_ASKED:
                yield f"{'I6' if it.visit.closed else 'I5'} {it.named(True)} was delivered, and was never asked for"
        yield from dict.fromkeys(self._changed())
        for it in self._asked.values():
            for is_undo, type in ((False, it.do_type), (True, it.undo_type)):
                key = it.key + UNDO * is_undo
                if type and type in self._types and key not in self._first and it.is_answered(is_undo):
                    yield f"I7 {it.named(is_undo)} was answered, and never delivered"

    def _changed(self) -> Iterator[str]:
        for each in self._later:
            key, is_undo = _parted(each.key)
            first = self._first[each.key]
            name = self._asked[key].named(is_undo) if key in self._asked else f"{_address(key)}: {each.key}"
            if each.data != first.data:
                yield f"I7 {name} was delivered with different data"
            if each.undoes != first.undoes:
                yield f"I7 {name} was delivered as an undo of different commands"


class _Effects:
    """One effect a command, none after its undo (I7); at the end what may remain, and no more (I4, I5); and nothing
    is undone after its pivot (I6).
    """

    def __init__(self, asked: Mapping[str, Asked], books: Books) -> None:
        self._asked = asked
        self._of: dict[str, list[bool]] = defaultdict(list)  # key -> whether each was an undo
        self._done_at: dict[str, int] = {}
        self._undone_at: dict[str, int] = {}
        for position, effect in enumerate(books.effects):
            self._of[effect.key].append(effect.is_undo)
            (self._undone_at if effect.is_undo else self._done_at)[effect.key] = position
        done, undone = self._done_at.keys() & asked.keys(), self._undone_at.keys() & asked.keys()
        self._types = {*books.complete, *(asked[key].do_type for key in done)}
        self._undo_types = {*books.complete, *(asked[key].undo_type for key in undone)}

    def wrong(self) -> Iterator[str]:
        for key, it in self._asked.items():
            if it.call.kind is CallKind.COMMAND:
                effects = self._of.get(key, [])
                yield from (f"I7 {it.name} {what}" for what in _impossible(effects))
                if not effects and it.do_type in self._types and it.is_answered(False, kinds=(Kind.YES,)):
                    yield f"I7 {it.name} was answered yes, and never took effect"
                if effects[-1:] == [False]:
                    yield from self._remains(it)
        yield from self._undone_after_the_pivot()

    def _remains(self, it: Asked) -> Iterator[str]:
        """The effect of a command that was never undone, or not for good."""
        status, undo = it.one.instance.status, it.undo_type
        if undo and undo not in self._undo_types:
            return  # nobody tells of such undos
        if it.is_answered(True, kinds=(Kind.YES,)):
            yield f"I5 {it.named(True)} was answered yes, and its effect remains"
        elif status is Status.COMPENSATED and not _may_stand(it):
            yield f"I5 {it.name} took effect, which remains, and it is {status}"
        elif status is Status.COMPLETED and not (_is_kept(it) or _may_stand(it)):
            yield f"I4 {it.name} took effect, which remains though the step was left, and it is {status}"

    def _undone_after_the_pivot(self) -> Iterator[str]:
        pivots: dict[Address, list[tuple[int, int]]] = defaultdict(list)  # serial, and where its effect stands
        for key, it in self._asked.items():
            if key in self._done_at and it.call.do is Do.YES and it.definition.steps[it.visit.step].pivot:
                pivots[it.one.address].append((it.visit.serial, self._done_at[key]))
        for key, at in self._undone_at.items():
            undone = self._asked.get(key)
            if undone is None or undone.call.unwinding is Undo.STANDING or _is_by_hand(undone):
                continue
            if any(undone.visit.serial < serial and at > passed for serial, passed in pivots[undone.one.address]):
                yield f"I6 {undone.name} was undone after the pivot"


def _impossible(effects: list[bool]) -> Iterator[str]:
    """What there is in the effects under one key beside a do and then its undo."""
    if effects[:1] == [True]:
        yield "was undone, and had not taken effect"
    for before, is_undo in pairwise(effects):
        if is_undo and before:
            yield "was undone twice"
        elif not is_undo:
            yield "took effect after its undo" if before else "took effect twice"


def _may_stand(it: Asked) -> bool:
    """Whether its effect may remain though all is undone (I5)."""
    step, call = it.definition.steps[it.visit.step], it.call
    if step.may_stand or step.past_pivot or it.visit.closed:
        return True
    if call.unwinding is Undo.STANDING or _is_by_hand(it) or call.undo_kind is CallKind.EVENT:
        return True
    return call.undo_kind is None and call.do in (Do.YES, Do.SKIPPED)  # the saga, or an operator, wanted no undo


def _is_kept(it: Asked) -> bool:
    """Whether it was done and nobody wanted it back."""
    return it.call.do in (Do.YES, Do.SKIPPED) and it.call.unwinding in (Undo.NONE, Undo.NOTHING)


def _is_by_hand(it: Asked) -> bool:
    """Whether an operator said that the undo is done (R17)."""
    return it.call.unwinding is Undo.DONE and not it.is_answered(True, kinds=(Kind.YES,))


def _asked(one: Examined) -> Iterator[Asked]:
    if one.definition is None:
        return
    for visit in one.visits:
        if visit.step in one.definition.steps:
            for call in visit.calls:
                yield Asked(one.instance.command_id(visit, call), one, one.definition, visit, call)


# Keys (R3).


def _parted(key: str) -> tuple[str, bool]:
    """The key of the do, and whether the key is its undo's."""
    return key.removesuffix(UNDO), key.endswith(UNDO)


def _address(key: str) -> Address:
    saga, _, rest = key.partition("/")
    return Address(unquote(saga), unquote(rest.partition("/")[0].rpartition("~")[0]))


def _should_be_known(key: str, all: Mapping[Address, Examined], sagas: Mapping[str, Definition]) -> bool:
    """Whether there has to be an instance that asks for it: not of an earlier run, nor where it is not compared."""
    address = _address(key)
    definition, one = sagas.get(address.saga), all.get(address)
    return definition is not None and not definition.restartable and (one is None or one.replayed.is_compared)
