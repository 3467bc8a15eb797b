"""What became of a catalog, and whom it breaks: consumers of what is sent, producers of what is taken, the stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import cast

from msgspec import Struct

from .entries import Catalog, MessageEntry, SagaEntry, Sort, StepEntry
from .fitting import Misfit, Reader, misfits


class Breaks(StrEnum):
    """Whom a change breaks.

    CONSUMERS  who gets what this app sends: listeners elsewhere, participants, who asked
    PRODUCERS  who sends what this app takes
    STORED     what is kept and on its way: streams, states of sagas, commands and replies in flight, histories
    """

    CONSUMERS = "consumers"
    PRODUCERS = "producers"
    STORED = "stored"


class Change(Struct, frozen=True):
    """One difference. `where` names it, as `event OrderPlaced.total`; `breaks` is empty if nobody is broken."""

    kind: str
    where: str
    what: str
    breaks: tuple[Breaks, ...] = ()
    remedy: str = ""


def changes(old: Catalog, new: Catalog) -> list[Change]:
    """Every difference that matters, the breaking ones first."""
    found = [*_app(old, new), *_messages(old, new), *_sagas(old, new), *_listeners(old, new), *_aggregates(old, new)]
    return sorted(_merged(found), key=lambda change: not change.breaks)


def _merged(found: Iterable[Change]) -> list[Change]:
    """What is said twice, for different readers, is said once."""
    merged: dict[tuple[str, str, str], Change] = {}
    for change in found:
        key = (change.kind, change.where, change.what)
        before = merged.get(key)
        if before is not None:
            breaks = tuple(each for each in Breaks if each in (*before.breaks, *change.breaks))
            remedies = dict.fromkeys(text for text in (before.remedy, change.remedy) if text)
            change = Change(*key, breaks, "; ".join(remedies))
        merged[key] = change
    return list(merged.values())


def _app(old: Catalog, new: Catalog) -> Iterator[Change]:
    if (old.group, old.replies) != (new.group, new.replies):
        yield Change(
            "changed group",
            f"app {new.app}",
            f"was {old.group}, is {new.group} now: what waits for {old.group} at a broker, answers at {old.replies} "
            "among it, is not read",
            (Breaks.STORED,),
            f'set topics.group = "{old.group}"',
        )


# Messages.


def _messages(old: Catalog, new: Catalog) -> Iterator[Change]:
    after = new.by_type
    for message in old.messages:
        now = after.get(message.type)
        if now is None:
            yield _removed(message)
        else:
            yield from _message(message, now, new)
    yield from _new((f"{it.kind} {it.type}", it.type) for it in new.messages if it.type not in old.by_type)


def _removed(message: MessageEntry) -> Change:
    breaks = _those(consumers=message.sent, producers=message.received, stored=_is_kept(message))
    remedy = "keep its class until nobody sends it and nothing of it is stored" if _is_kept(message) else ""
    if message.sent:
        remedy = remedy or "send it until nobody wants it any more"
    return Change("removed message", f"{message.kind} {message.type}", "is not there any more", breaks, remedy)


def _is_kept(message: MessageEntry) -> bool:
    """Whether we read stored ones again: all but events that are only published."""
    return message.appended or message.received or message.kind is not Sort.EVENT or bool(message.answers)


def _message(old: MessageEntry, new: MessageEntry, catalog: Catalog) -> Iterator[Change]:
    where = f"{new.kind} {new.type}"
    if {old.kind, new.kind} not in ({old.kind}, {Sort.COMMAND, Sort.QUERY}):
        breaks = _those(consumers=old.sent, producers=old.received, stored=_is_kept(old))
        yield Change("changed kind", where, f"was a {old.kind}", breaks, "give the new class another type=")
    yield from _version(old, new, where)
    yield from _payload(old, new, where)
    yield from _road(old, new, where)
    yield from _replies(old, new, where)
    yield from _takers(old, new, where, catalog)


def _version(old: MessageEntry, new: MessageEntry, where: str) -> Iterator[Change]:
    ours = _those(producers=old.received, stored=_is_kept(old))
    if new.version < old.version:
        what = f"was version {old.version}, is {new.version} now, which reads no later ones"
        yield Change("lowered version", where, what, ours, f"say version={old.version}, or more")
    elif new.version > old.version:
        what = f"was version {old.version}, is {new.version} now, and earlier code does not read it"
        remedy = "bring the new class to its readers first, or send it under another type= beside the old"
        yield Change("raised version", where, what, _those(consumers=old.sent and new.sent), remedy if old.sent else "")
    for version in _not_lifted((*old.lifts, old.version), new.lifts, new.version):
        what = f"has no @upcast from version {version}"
        yield Change("missing upcast", where, what, ours, f"write @upcast({new.type}, from_version={version})")


def _not_lifted(versions: Iterable[int], lifts: Iterable[int], now: int) -> list[int]:
    """The steps that are missing from any of these versions to the present one."""
    needed = {step for version in versions for step in range(version, now)}
    return sorted(needed.difference(lifts))


def _payload(old: MessageEntry, new: MessageEntry, where: str) -> Iterator[Change]:
    ours = _those(producers=old.received, stored=_is_kept(old))
    read: list[Misfit] = []
    if new.version == old.version and ours:  # else an @upcast makes it fit
        read = misfits(old.schema, new.schema, Reader.OURS)
        upcast = f"or say version={new.version + 1} and write @upcast({new.type}, from_version={new.version})"
        yield from (_misfit(wrong, where, ours, upcast) for wrong in read)
    sent = misfits(new.schema, old.schema, Reader.THEIRS) if old.sent and new.sent else []
    instead = "or send what is new under another type= beside the old"
    yield from (_misfit(wrong, where, (Breaks.CONSUMERS,), instead) for wrong in sent)
    if new.version == old.version and not (read or sent) and _bare(old.schema) != _bare(new.schema):
        yield Change("changed schema", where, "is read as before")


_REMEDIES = {
    "new required field": "give it a default",
    "removed field": "keep the field",
    "removed value": "keep the value",
    "new value": "keep to the values that are known",
    "changed type": "give the new form a name of its own, beside the old",
    "narrowed type": "allow what was allowed",
    "widened type": "keep to what was promised",
}


def _misfit(wrong: Misfit, where: str, breaks: tuple[Breaks, ...], otherwise: str) -> Change:
    return Change(wrong.kind, where + wrong.path, wrong.why, breaks, f"{_REMEDIES[wrong.kind]}, {otherwise}")


def _road(old: MessageEntry, new: MessageEntry, where: str) -> Iterator[Change]:
    if old.topic and new.topic and old.topic != new.topic:
        breaks = _those(consumers=old.sent, producers=old.received)
        what = f"was at the topic {old.topic}, is at {new.topic} now"
        yield Change("changed topic", where, what, breaks, f'set topics.routes."{new.type}" = "{old.topic}"')
    if old.boundary and not new.boundary:
        what = "is no boundary event any more: webhooks do not get it"
        yield Change("not sent", where, what, (Breaks.CONSUMERS,), "say boundary=True as before")
    if old.answers or new.answers:  # goes where its command says
        return
    is_event = new.kind is Sort.EVENT
    if old.sent and not new.sent and is_event:
        yield Change("not sent", where, "is not published any more", (Breaks.CONSUMERS,), "publish it as before")
    if old.received and not new.received and (is_event or not new.sent):
        who = "no saga and no listener takes it" if is_event else "no participant here carries it out"
        remedy = "take it, if only to pass over it" if is_event else "leave it to another service, and ask that one"
        yield Change("not taken", where, f"{who} any more", (Breaks.PRODUCERS,), remedy)


def _replies(old: MessageEntry, new: MessageEntry, where: str) -> Iterator[Change]:
    before, after = (*old.replies, *old.refusals), (*new.replies, *new.refusals)
    for reply in after:
        if reply not in before:
            breaks = _those(consumers=old.received and new.received)
            yield Change("new reply", where, f"may be answered by {reply} now", breaks, "ask for it by a new command")
    for reply in before:
        if reply not in after:
            breaks = _those(producers=new.sent, stored=True)
            yield Change("removed reply", where, f"is not answered by {reply} any more", breaks, "keep it declared")


def _takers(old: MessageEntry, new: MessageEntry, where: str, catalog: Catalog) -> Iterator[Change]:
    both = (Breaks.PRODUCERS, Breaks.STORED)
    there = {saga.name for saga in catalog.sagas}
    now = {taken.saga: taken for taken in new.sagas}
    for before in old.sagas:
        after = now.get(before.saga)
        if after is None:
            if before.saga in there:
                yield Change("not taken", where, f"{before.saga} does not take it any more", both, "take it as before")
            continue
        if set(before.keys) - set(after.keys):
            what = f"{before.saga} finds its instance by {_listed(after.keys)}, and did by {_listed(before.keys)}"
            yield Change("changed key field", where, what, both, f"keep {_listed(before.keys)} as its key")
        if before.starts and not after.starts:
            what = f"does not start {before.saga} any more"
            yield Change("starts nothing", where, what, both, "start it as before")


# Sagas.


def _sagas(old: Catalog, new: Catalog) -> Iterator[Change]:
    after = {saga.name: saga for saga in new.sagas}
    for saga in old.sagas:
        now = after.get(saga.name)
        if now is None:
            remedy = "keep the class until its instances have ended and are pruned"
            yield Change("removed saga", f"saga {saga.name}", "is not there any more", (Breaks.STORED,), remedy)
        else:
            yield from _saga(saga, now)
    before = {saga.name for saga in old.sagas}
    yield from _new((f"saga {saga.name}", saga.name) for saga in new.sagas if saga.name not in before)


def _saga(old: SagaEntry, new: SagaEntry) -> Iterator[Change]:
    where, stored = f"saga {new.name}", (Breaks.STORED,)
    if old.key != new.key:
        what = f"its key was {old.key}, is {new.key} now"
        yield Change("changed key field", where, what, (Breaks.PRODUCERS, Breaks.STORED), "make it another saga")
    if new.version < old.version:
        what = f"was version {old.version}, is {new.version} now, which reads no later ones"
        yield Change("lowered version", where, what, stored, f"say version={old.version}, or more")
    for version in _not_lifted((*old.migrations, old.version), new.migrations, new.version):
        what = f"there is no @migrate from version {version}"
        yield Change("missing migration", where, what, stored, f"write @migrate(from_version={version})")
    if new.version == old.version:
        otherwise = f"or say version={new.version + 1} and write @migrate(from_version={new.version})"
        for wrong in misfits(old.schema, new.schema, Reader.OURS):
            yield _misfit(wrong, where, stored, otherwise)
    yield from _steps(old, new)


def _steps(old: SagaEntry, new: SagaEntry) -> Iterator[Change]:
    after = {step.name: step for step in new.steps}
    for step in old.steps:
        where = f"saga {new.name}, step {step.name}"
        if step.name not in after:
            remedy = "keep it until no open instance stands in it: `orchestrator preflight` says"
            yield Change("removed step", where, "is not there any more", (Breaks.STORED,), remedy)
        else:
            yield from _step(step, after[step.name], where)


def _step(old: StepEntry, new: StepEntry, where: str) -> Iterator[Change]:
    remedy = "make it another step, and keep this one until no open instance stands in it"
    if old.kind != new.kind:
        what = f"was of the kind {old.kind}, is {new.kind} now"
        yield Change("changed step", where, what, (Breaks.STORED,), remedy)
        return
    for message in old.sends:
        if message not in new.sends:
            is_told = old.kind == "publish"
            what = f"does not send {message} any more" + ("" if is_told else ", of which the answer may be on its way")
            yield Change("changed step", where, what, () if is_told else (Breaks.STORED,), "" if is_told else remedy)
    for event in old.waits_for:
        if event not in new.waits_for:
            what = f"does not wait for {event} any more"
            yield Change("changed step", where, what, (Breaks.STORED,), remedy)


# Listeners and aggregates.


def _listeners(old: Catalog, new: Catalog) -> Iterator[Change]:
    after, before = {it.name for it in new.listeners}, {it.name for it in old.listeners}
    for name in sorted(before - after):
        remedy = "keep the name, or wait until no event is on its way to it"
        yield Change("removed listener", f"listener {name}", "is not there any more", (Breaks.STORED,), remedy)
    yield from _new((f"listener {name}", name) for name in sorted(after - before))


def _aggregates(old: Catalog, new: Catalog) -> Iterator[Change]:
    after = {aggregate.name: aggregate for aggregate in new.aggregates}
    for aggregate in old.aggregates:
        where, now = f"aggregate {aggregate.name}", after.get(aggregate.name)
        if now is None:
            remedy = f'call its class so: name="{aggregate.name}"'
            yield Change("removed aggregate", where, "is not there any more", (Breaks.STORED,), remedy)
            continue
        for event in aggregate.applies:
            if event not in now.applies:
                what = f"does not apply {event} any more, and cannot be loaded where it happened"
                yield Change("removed apply", where, what, (Breaks.STORED,), "keep an @apply, with `pass`")
    yield from _new((f"aggregate {name}", name) for name in after if name not in {it.name for it in old.aggregates})


# What all use.


def _new(named: Iterable[tuple[str, str]]) -> Iterator[Change]:
    for where, _ in named:
        yield Change(f"new {where.partition(' ')[0]}", where, "is new")


def _those(consumers: bool = False, producers: bool = False, stored: bool = False) -> tuple[Breaks, ...]:
    asked = ((Breaks.CONSUMERS, consumers), (Breaks.PRODUCERS, producers), (Breaks.STORED, stored))
    return tuple(who for who, is_so in asked if is_so)


def _listed(names: Iterable[str]) -> str:
    return " or ".join(names)


_REMARKS = ("title", "description", "default", "$schema")


def _bare(schema: object) -> object:
    """A schema without what says nothing of its values; a field may be called as a remark is."""
    match schema:
        case list():
            return [_bare(part) for part in cast("list[object]", schema)]
        case dict():
            parts = cast("dict[str, object]", schema).items()
            return {name: _bare_part(name, part) for name, part in parts if name not in _REMARKS}
        case _:
            return schema


def _bare_part(name: str, part: object) -> object:
    if name in ("properties", "$defs"):
        return {key: _bare(value) for key, value in cast("dict[str, object]", part).items()}
    return _bare(part)
