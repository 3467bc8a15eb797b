"""How each scenario ends without faults, and when; `python -m tests.proof.simulation.expected` writes it down anew."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct

from orchestrator.testing.simulation import Played, play
from tests.proof.simulation.scenarios import SCENARIOS

PLACE = Path(__file__).with_name("expected.json")
SEED = 1
SLACK_S = 15.0  # a simulation looks every ten seconds whether anything outside is still under way


class End(Struct, frozen=True):
    """The instances, each with its status or "parked", and the seconds of virtual time until all is over."""

    seconds: float
    ends: dict[str, str]


def unlike(scenario: str, played: Played) -> tuple[str, ...]:
    """In what a run without faults, of any seed, differs from what is written down."""
    end = _written().get(scenario)
    if end is None:
        return ()
    if dict(played.ends) != end.ends:
        return (f"it ends as {dict(played.ends)}, and should as {end.ends}",)
    if abs(played.seconds - end.seconds) > SLACK_S + 0.2 * end.seconds:
        return (f"it takes {played.seconds:.1f} s, and should {end.seconds:.1f}",)
    return ()


@cache
def _written() -> Mapping[str, End]:
    return msgspec.json.decode(PLACE.read_bytes(), type=dict[str, End])


def _write() -> None:
    played = {scenario.name: play(scenario, {}, SEED) for scenario in SCENARIOS}
    found = {name: End(round(one.seconds, 1), dict(one.ends)) for name, one in played.items()}
    PLACE.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")


if __name__ == "__main__":
    _write()
