"""Which transitions share a commit."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from orchestrator.machine.transition import Transition
from orchestrator.ports import Result
from orchestrator.runtime.committer import Committer
from orchestrator.runtime.waking import Bell
from tests.runtime.faulty import FaultyStore
from tests.runtime.virtual import START, LoopClock


class Client:
    """Gives transitions, and counts the answers."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self.given = self.answered = 0

    def give(self) -> None:
        self.given += 1
        self._committer.add(Transition(at=START, seen=(("client", str(self.given)),)), self._answered)

    def _answered(self, _transition: Transition, _result: Result | Exception) -> None:
        self.answered += 1


async def groups(*turns: int) -> list[int]:
    """How many share each commit, when so many are given in each turn of the event loop."""
    store = FaultyStore()
    committer = Committer(store, LoopClock(), 1_000, Bell())
    client = Client(committer)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(committer.run)
        await anyio.sleep(1)
        for number in turns:
            for _ in range(number):
                client.give()
            await checkpoint()
        await anyio.sleep(1)
        assert client.answered == client.given
        tasks.cancel_scope.cancel()
    return store.groups


async def test_what_comes_in_the_next_turns_of_the_loop_shares_the_commit() -> None:
    assert await groups(8, 8, 8, 4, 0) == [28]


async def test_a_commit_waits_for_no_more_than_make_it_worth_while() -> None:
    assert max(await groups(*[8] * 100)) < 64 + 8


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_few_do_not_wait(number: int) -> None:
    assert (await groups(number, number))[0] == number
