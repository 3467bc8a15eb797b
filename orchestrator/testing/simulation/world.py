"""The world around the simulated process: it goes on when the process is killed."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import anyio

from .faults import JUMP_S, POSSIBLE, STALL_S, Fault, Plan, Port
from .loop import SimulatedLoop

START = 1_700_000_000.0
LATENCY_S = 0.05  # of a port call, at most
MAX_CALLS = 3_000

T = TypeVar("T")


class World:
    """Counts the port calls, lets go wrong what the plan says, and writes down what happened.

    calls   what each port call was, from the first
    fired   the faults that came to pass
    skew    seconds that the machine's clock is ahead
    wrong   what must not happen and did
    """

    def __init__(self, plan: Plan, seed: int) -> None:
        """A plan of no faults, and how long everything takes is drawn from the seed."""
        self.plan = plan
        self.chance = random.Random(seed)
        self.calls: list[tuple[Port, str]] = []
        self.fired: list[tuple[int, Fault]] = []
        self.skew = 0.0
        self.wrong: list[str] = []
        self._trace = hashlib.sha256()

    def note(self, text: str) -> None:
        """Something that must be the same in every run of the same seed and plan."""
        self._trace.update(text.encode())
        self._trace.update(b"\n")

    @property
    def digest(self) -> str:
        """Of all that was noted."""
        return self._trace.hexdigest()

    def next_call(self, port: Port, what: str, now: float) -> Fault | None:
        """Count a port call, and tell what goes wrong with it."""
        self.calls.append((port, what))
        number = len(self.calls)
        fault = self.plan.get(number)
        if fault not in POSSIBLE[port]:
            fault = None
        if fault is not None:
            self.fired.append((number, fault))
        self.note(f"{number} {now:.6f} {port} {what} {fault or ''}")
        return fault


class Life:
    """One life of the simulated process: its loop, and whether it was killed. A dead process never acts again."""

    def __init__(self, world: World, loop: SimulatedLoop) -> None:
        """It begins now."""
        self.world = world
        self.loop = loop
        self.is_dead = False

    def wall(self) -> float:
        """What the machine's clock shows."""
        return START + self.loop.now + self.world.skew

    async def port(
        self, port: Port, what: str, effect: Callable[[], Awaitable[T]], error: Callable[[str], Exception]
    ) -> T:
        """Do `effect`, or what the plan makes of it; `error` makes what is raised when it is said to have failed."""
        await self.fence()
        await anyio.sleep(self.world.chance.random() * LATENCY_S)
        await self.fence()
        fault = self.world.next_call(port, what, self.loop.now)
        if len(self.world.calls) > MAX_CALLS:
            self.world.wrong.append(f"L1 it has called its ports {MAX_CALLS} times and not come to rest")
            await self.die()
        match fault:
            case Fault.CRASH_BEFORE:
                await self.die()
            case Fault.STALL:
                await anyio.sleep(STALL_S)
                await self.fence()
            case Fault.ERROR_BEFORE | Fault.FULL | Fault.REFUSED:
                raise error(fault)
            case Fault.FORWARD:
                self.world.skew += JUMP_S
            case Fault.BACK:
                self.world.skew -= JUMP_S
            case Fault.TWICE:
                await _ignoring_errors(effect)
                await self.fence()
            case _:
                pass
        result = await effect()
        match fault:
            case Fault.CRASH_AFTER:
                await self.die()
            case Fault.ERROR_AFTER:
                raise error(fault)
            case Fault.STALL_AFTER:
                await anyio.sleep(STALL_S)
            case _:
                pass
        await self.fence()
        return result

    async def die(self) -> NoReturn:
        """kill -9: no `finally`, no `except`, no cancellation."""
        self.is_dead = True
        self.loop.stop()
        await self.fence()
        raise AssertionError("the dead do not act")

    async def fence(self) -> None:
        """Nothing passes here after death."""
        if self.loop.is_buried:
            raise asyncio.CancelledError
        if self.is_dead:
            await self.loop.create_future()


async def _ignoring_errors(effect: Callable[[], Awaitable[object]]) -> None:
    try:
        await effect()
    except Exception:  # noqa: BLE001 the second time counts
        return
