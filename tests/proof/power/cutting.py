"""Power cuts at every act of a workload: what was acknowledged is there, whole groups and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import anyio
from msgspec import Struct

from orchestrator.testing import audit
from orchestrator_adapters.sqlite import SQLiteStore
from tests.runtime import shop

from .disk import Disk, Image, Platter
from .reopening import Found, place, reopen, reopen_on, room
from .workload import PoweredStore, State, app, run

SECOND = 24  # every so many images the power fails again while the store recovers from the first cut
SECOND_IMAGES = 2


class Cuts(Struct):
    """What became of the images."""

    acts: int = 0
    images: int = 0
    distinct: int = 0  # each is opened once, and judged as often as it comes
    second: int = 0  # images of a cut during the recovery from the first
    audits: int = 0
    ahead: int = 0  # the group under way was there as a whole, though nobody had been told
    lost: int = 0
    broken: int = 0  # does not open, or not in order
    torn: int = 0  # holds what never was
    wrong: list[str] = []


def cut(seed: int, number: int, instead: Mapping[str, str] | None = None, *, audited: bool = False) -> Cuts:
    """So many images, spread evenly over all acts of the workload under these settings.

    `audited`: one image of each transaction is put before the auditor, and some are cut again.
    """
    store = PoweredStore(Disk(), instead)
    run(store)
    log = store.disk.log
    cuts = Cuts(acts=len(log))
    platter, seen, judged = Platter(store.disk.image), dict[int, Found](), set[int]()
    with room() as directory:
        for index, op in enumerate(log):
            for turn in range(number * index // len(log), number * (index + 1) // len(log)):
                name = f"seed {seed}, image {turn} at act {index} ({op.act.name})"
                chance = Random(f"{seed} {turn}")
                image = platter.image(chance, op)
                cuts.images += 1
                key = hash(tuple(image.items()))
                found = seen.get(key) or _shared(reopen(image, directory), store.states[op.acked : op.acked + 2])
                seen[key] = found
                _judge(cuts, store, found, op.acked, name)
                if not audited or found.problem:
                    continue
                if op.acked not in judged:
                    judged.add(op.acked)
                    _audit(cuts, image, directory, name)
                if turn % SECOND == 0:
                    _cut_again(cuts, image, found, chance, directory, name)
            platter.apply([op])
    cuts.distinct = len(seen)
    return cuts


def _shared(found: Found, states: Sequence[State]) -> Found:
    """The same, without a copy of its own of what is known."""
    return next((Found(state) for state in states if not found.problem and found.state == state), found)


def _judge(cuts: Cuts, store: PoweredStore, found: Found, acked: int, name: str) -> None:
    states = store.states
    if found.problem:
        cuts.broken += 1
        cuts.wrong.append(f"{name}: {found.problem}")
    elif found.state == states[acked]:
        pass
    elif acked + 1 < len(states) and found.state == states[acked + 1]:
        cuts.ahead += 1
    elif found.state in states[:acked]:
        cuts.lost += 1
        cuts.wrong.append(f"{name}: {acked} transactions were acknowledged, {states.index(found.state)} are there")
    else:
        cuts.torn += 1
        cuts.wrong.append(f"{name}: after {acked} transactions it holds what never was")


def _audit(cuts: Cuts, image: Image, directory: Path, name: str) -> None:
    """The invariants of what is there, read by the store itself."""
    with place(image, directory) as path:

        async def look() -> tuple[str, ...]:
            async with SQLiteStore(path) as store:
                return (await audit(app(shop.World()), store)).violations

        cuts.audits += 1
        cuts.wrong += [f"{name}: {violation}" for violation in anyio.run(look)]


def _cut_again(cuts: Cuts, image: Image, first: Found, chance: Random, directory: Path, name: str) -> None:
    """What was there after the first cut stays there, wherever its recovery is cut."""
    disk = Disk(image)
    if reopen_on(disk) != first:
        cuts.wrong.append(f"{name}: recovered otherwise on the disk that forgets")
    if not disk.log:
        return
    for _ in range(SECOND_IMAGES):
        index = chance.randrange(len(disk.log))
        platter = Platter(image)
        platter.apply(disk.log[:index])
        cuts.second += 1
        again = reopen(platter.image(chance, disk.log[index]), directory)
        if again != first:
            cuts.wrong.append(f"{name}, again at act {index} of its recovery: {again.problem or 'not what was there'}")
