"""Plants one bug after another, and tells what notices each of them."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from tests.proof.proved import Proved

from .found import Found
from .patches import Mutant, mutants
from .trees import DoesNotApply, Tree, tree

LADDER = ("simulation", "walks", "conformance", "check")  # after what a patch names
LADDER_S = 60.0  # of a processor: how long is looked for one bug, at most
SLOWER = 20  # how many times longer that may take by the clock: a bug may hang what looks for it
WIDTH = 110


class Hunted(Struct, frozen=True):
    """What became of one bug: what caught it, or why it counts as not caught."""

    mutant: Mutant
    found: Found | None
    survives: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        one = self.mutant
        end = f"{self.found.catcher} | {self.found.said}" if self.found is not None else f"nothing | {self.survives}"
        return f"{one.name} | {one.rule} | {end.splitlines()[0][:WIDTH]}"


def prove(*, seed: int = 0, share: float = 1.0) -> Proved:
    """Look for every bug, or for a part of them drawn by `seed`; what caught them must be silent without them."""
    chosen = mutants()
    if share < 1:
        number = max(1, round(len(chosen) * share))
        chosen = sorted(random.Random(seed).sample(chosen, number), key=lambda one: one.name)
    with tree() as here:
        return proved(here, chosen)


def proved(here: Tree, chosen: Sequence[Mutant]) -> Proved:
    """Look for each of these bugs in turn; what caught them must be silent without them."""
    all = [hunted(here, mutant) for mutant in chosen]
    found = [one.found for one in all if one.found is not None]
    by = Counter(one.catcher.split()[0] for one in found)
    return Proved(
        "mutants",
        {
            "deliberate bugs": len(all),
            "caught": len(found),
            **{f"caught by {catcher}": number for catcher, number in by.most_common()},
            "mutant | rule | caught by | what it said": "".join(f"\n    {one}" for one in all),
        },
        (*(f"{one.mutant.name}: {one.survives}" for one in all if one.found is None), *false_alarms(here, found)),
    )


def hunted(here: Tree, mutant: Mutant, within_s: float = LADDER_S, ladder: tuple[str, ...] = LADDER) -> Hunted:
    """Plant one bug and look for it."""
    begun = time.monotonic()
    try:
        with here.with_bug(mutant):
            found = _found(here, (*mutant.hints, *ladder), within_s)
    except DoesNotApply as error:
        return Hunted(mutant, None, f"patch {mutant.name} no longer applies: {error}")
    except subprocess.TimeoutExpired:
        return Hunted(mutant, None, "what looks for it hangs")
    except subprocess.CalledProcessError as error:
        return Hunted(mutant, None, f"what looks for it does not run: {_last_line(error.stderr)}")
    seconds = time.monotonic() - begun
    return Hunted(mutant, found, "" if found is not None else "it survives", seconds)


def _found(here: Tree, catchers: tuple[str, ...], within_s: float) -> Found | None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.proof.mutants.hunt", str(within_s), *catchers],
        cwd=here.path,
        env=here.environment,
        capture_output=True,
        text=True,
        timeout=max(60.0, SLOWER * within_s),
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=Found) if done.stdout.strip() else None


def false_alarms(here: Tree, found: Sequence[Found]) -> tuple[str, ...]:
    """Exactly what caught the bugs, once more without any."""
    if not found:
        return ()
    again = " | ".join(dict.fromkeys(msgspec.json.encode(one.again).decode() for one in found))
    without = _found(here, (f"again {again}",), 10 * LADDER_S)
    return () if without is None else (f"{without.catcher} says so without any bug: {without.said}",)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "nothing was said")
