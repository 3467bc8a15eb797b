"""One parser at a time: how its cases are made, what it may raise, and what must hold of what it takes."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from msgspec import Struct

from .choices import Choices

CASES = 20_000  # a parser, at a share of 1
SLOW_S = 0.25  # of the processor's time for one case
HANGS_S = 5.0  # the same: then it is stopped
ENOUGH = 400  # cases, to say which share was taken
BYTES = 48  # that decide one case
AT_ONCE = 16  # cases in one example of Hypothesis: it takes longer to draw one than most parsers take to read it


class Wrong(Exception):
    """Something that must not be, said in a sentence."""


class Hangs(BaseException):
    """A case has taken HANGS_S of the processor's time."""


class Parser(Struct, frozen=True):
    """One parser. `attempt` makes a case and tries it: it raises Wrong, and tells how many cases that were and how many
    of them were taken. `least`: the share that must be taken, or most cases fail at the first check and show nothing.
    `of`: its share of CASES, where each costs more; `each`: how many cases one call makes at least.
    """

    name: str
    attempt: Callable[[Choices], tuple[int, int]]
    least: float = 0.1
    of: float = 1.0
    each: int = 1
    slow_s: float = SLOW_S


class Tried(Struct):
    """What came of one parser."""

    cases: int = 0
    taken: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    wrong: tuple[str, ...] = ()


def attempt(parser: Parser, data: bytes) -> tuple[int, int]:
    """Try the one case that `data` decides. Errors: Wrong, also for what the parser must not raise."""
    try:
        with _stopped_when_it_hangs():
            return parser.attempt(Choices(data))
    except Wrong:
        raise
    except Hangs:
        raise Wrong(f"it takes longer than {HANGS_S:g} s") from None
    except Exception as error:
        raise Wrong(f"it raises {type(error).__name__}: {str(error)[:300]!r}") from error


def tried(parser: Parser, seed: int, share: float) -> Tried:
    """Try as many cases as the share says. The first that is wrong ends it, made as short as Hypothesis can."""
    result = Tried()
    wanted = math.ceil(CASES * parser.of * share)
    at_once = AT_ONCE if parser.each == 1 else 1
    found: list[tuple[bytes, Wrong]] = []
    slow: list[str] = []

    @seeded(seed)
    @settings(
        max_examples=math.ceil(wanted / parser.each / at_once),
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(st.binary(min_size=at_once * BYTES, max_size=at_once * BYTES))
    def run(data: bytes) -> None:
        for start in range(0, len(data), BYTES):
            one = data[start : start + BYTES]
            began = time.process_time()
            try:
                cases, taken = attempt(parser, one)
            except Wrong as wrong:
                found.append((one.rstrip(b"\0"), wrong))
                raise
            took = time.process_time() - began
            if took > parser.slow_s * max(1, cases):  # told as it is: to make it short would take all day
                slow.append(_told(parser, one.rstrip(b"\0"), Wrong(f"it takes {took:.2f} s"), seed))
            result.cases += cases
            result.taken += taken
            result.slowest_s = max(result.slowest_s, took / max(1, cases))

    began = time.perf_counter()
    try:
        run()
    except Exception:
        if not found:
            raise
        result.wrong = (_told(parser, *found[-1], seed),)  # the last that Hypothesis tried is the shortest
    result.seconds = time.perf_counter() - began
    if not found and result.cases >= ENOUGH and result.taken < parser.least * result.cases:
        result.wrong = (f"{parser.name}: {result.taken} of {result.cases} were taken, which shows too little",)
    result.wrong += tuple(slow[:1])
    return result


def _told(parser: Parser, data: bytes, wrong: Wrong, seed: int) -> str:
    return f"{parser.name}: {wrong} (seed {seed}; python -m tests.proof.fuzz {parser.name!r} {data.hex() or '-'})"


@contextmanager
def _stopped_when_it_hangs() -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGPROF, _hangs)
    signal.setitimer(signal.ITIMER_PROF, HANGS_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _hangs(number: int, frame: FrameType | None) -> None:
    raise Hangs
