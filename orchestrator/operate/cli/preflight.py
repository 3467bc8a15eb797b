"""`preflight`: this code against every stored instance and history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import click
from msgspec import Struct, field

from ...checking.auditing.differences import Difference
from ...checking.auditing.examined import Examined, examined, named
from ...checking.auditing.stored import stories
from ...projecting.files import Files, directory_of
from ...projecting.rows import bookmark_of
from ...projection import shape_of
from ...runtime.admission import problems
from ..output import Cell
from ..places import store_file
from . import Exit
from .options import common_options
from .session import Session, with_session

MOST_SHOWN = 20  # instances, for people
MOST_FIELDS = 5  # of one instance, for people


class Counted(Struct):
    """What was gone through of one saga. `not_compared`: of another version, or begun under one (R18)."""

    saga: str
    instances: int = 0
    transitions: int = 0
    not_compared: int = 0
    differing: int = 0


class Differing(Struct):
    """An instance that this code would not have brought to where it is; `what` in sentences."""

    saga: str
    key: str
    what: list[str]
    fields: list[Difference]


class Found(Struct):
    """All that a preflight finds. `standing`: what the daemon would refuse to start with; `rebuilt`: the projections
    that its start would build anew, which is no fault.
    """

    sagas: dict[str, Counted] = field(default_factory=dict[str, Counted])
    differences: list[Differing] = field(default_factory=list[Differing])
    standing: list[str] = field(default_factory=list[str])
    rebuilt: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing would differ."""
        return not (self.differences or self.standing)


@click.command
@click.argument("place", required=False, metavar="[APP]")
@common_options
@with_session
def preflight(session: Session, place: str | None) -> None:
    """Go through every stored history once more with this code, and tell what would differ: before it is deployed.

    Nothing is written, sent or asked for, and a daemon may run beside. Instances of another version of their saga,
    or begun under one, were made by other code: they are counted and not compared. Exit code 1 if anything differs, or
    if the daemon would refuse to start with an open instance.

    JSON: items (saga, instances, transitions, not_compared, differing), differences (saga, key, what,
    fields: path, here, there), standing, rebuilt (projections that a start would build anew), seconds.
    """
    if place:
        session = Session(replace(session.given, app=place))
    _ = session.app  # an app that cannot be loaded is said before the store is looked for
    found = asyncio.run(_look(session))
    if session.output.as_json:
        session.output.json(
            {
                "items": list(found.sagas.values()),
                "differences": found.differences,
                "standing": found.standing,
                "rebuilt": found.rebuilt,
                "seconds": round(found.seconds, 3),
            }
        )
    else:
        _print(session, found)
    if not found.ok:
        raise click.exceptions.Exit(Exit.FAILED)


async def _look(session: Session) -> Found:
    found, sagas, started = Found(), session.app.sagas, time.monotonic()
    async with session.reading() as store:
        found.standing = [line for each in await store.standing() for line in problems(sagas, each)]
        async for story in stories(store):
            _count(found, examined(sagas, story, session.settings.limits))
    found.rebuilt = list(_rebuilt(session))
    found.seconds = time.monotonic() - started
    return found


def _rebuilt(session: Session) -> Iterator[str]:
    path = store_file(session.settings.store)
    if path is None:
        return
    for name, projection in session.app.projections.items():
        files = Files(directory_of(path), name)
        number = files.current()
        bookmark = bookmark_of(files.path(number)) if number is not None else None
        if bookmark is not None and not bookmark.is_of(shape_of(projection)):
            yield name


def _count(found: Found, one: Examined) -> None:
    counted = found.sagas.setdefault(one.instance.saga, Counted(one.instance.saga))
    counted.instances += 1
    counted.transitions += one.transitions
    counted.not_compared += not one.replayed.is_compared
    if what := list(_sentences(one)):
        counted.differing += 1
        found.differences.append(Differing(one.instance.saga, one.instance.key, what, list(one.replayed.differences)))


def _sentences(one: Examined) -> Iterator[str]:
    """What differs, for people; what is broken besides is said as in an audit."""
    again = one.replayed
    if again.raised and again.parted is not None:
        yield f"with this code its {named(again.parted)} raises {again.instead}"
    elif again.parted is not None:
        yield f"with this code its {named(again.parted)} would be: {again.instead} (instead of: {again.before})"
    elif again.differences:
        yield "with this code it would hold something else"
    yield from (str(broken) for broken in one.wrong if again.is_the_same or broken.rule != "I2")


def _print(session: Session, found: Found) -> None:
    output = session.output
    rows = [
        [
            Cell(each.saga),
            *(Cell(f"{n:,}", str(n), right=True) for n in (each.instances, each.transitions, each.not_compared)),
            Cell(f"{each.differing:,}", str(each.differing), "red" if each.differing else "", right=True),
        ]
        for each in sorted(found.sagas.values(), key=lambda each: each.saga)
    ]
    if rows:
        output.table(("SAGA", "INSTANCES", "TRANSITIONS", "NOT COMPARED", "DIFFER"), rows)
    for each in found.differences[:MOST_SHOWN]:
        for what in each.what:
            output.line(f"{each.saga}/{each.key}: {what}")
        for difference in each.fields[:MOST_FIELDS]:
            output.line(f"  {difference.path}: {difference.here} instead of {difference.there}")
        if len(each.fields) > MOST_FIELDS:
            output.line(f"  and {len(each.fields) - MOST_FIELDS} more fields")
    if len(found.differences) > MOST_SHOWN:
        output.line(f"and {len(found.differences) - MOST_SHOWN} more instances: --json has them all")
    for line in found.standing:
        output.line(f"the daemon would not start: {line}", style="red")
    for name in found.rebuilt:
        output.line(f"projection {name} would be built anew; what is there is read until then")
    output.note(_summary(found))


def _summary(found: Found) -> str:
    instances = sum(each.instances for each in found.sagas.values())
    transitions = sum(each.transitions for each in found.sagas.values())
    others = sum(each.not_compared for each in found.sagas.values())
    said = f"{instances:,} instances, {transitions:,} transitions in {found.seconds:.2f} s"
    if others:
        said += f", {others:,} of another version and not compared"
    differing = len(found.differences)
    return f"{said}: {f'{differing:,} would differ' if differing else 'nothing would differ'}"
