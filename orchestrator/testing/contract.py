"""What every participant must do (R7), as tests: a service's author inherits the suite and fills a few holes.

    class TestReserveStock(ParticipantContract):
        participant = reserve_stock
        command = ReserveStock("1", product_id=1, units=2)
        undo_participant = release_stock
        undo_command = ReleaseStock("1", product_id=1)
        refused_command = ReserveStock("2", product_id=1, units=1000)

        @asynccontextmanager
        async def open_resources(self, place: Path) -> AsyncGenerator[Shop]:
            with closing(Shop(place)) as shop:
                shop.stock({1: 39})
                yield shop

        def effects(self, resources: Shop) -> object:
            return resources.db.execute("SELECT order_id, units FROM reserved").fetchall()

        def world_turns(self, resources: Shop) -> None:
            resources.db.execute("UPDATE stock SET left = 5000")

Needs pytest and anyio's pytest plugin, which anyio brings along. Crashes are real ones (kill -9), so POSIX only.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, NoReturn

import anyio
import pytest
from anyio import to_thread
from msgspec import structs

from ..errors import Fatal
from ..messages import Command, Message, Refusal, replies_of
from ..participant import Call, Participant
from .crash import AT_THE_END, Killed, killed_at_every_line

PATIENCE_S = 30.0
SHOWN = 400

Outcome = Message | Exception

ONCE = (
    "Put the effect into `async with call.once(db) as first:`, on that connection, and return `first.answer` "
    "when it is not the first."
)
UNDO_ONCE = "Put the undo into `async with call.once(db) as first:` and change something `if first` only."


@pytest.mark.anyio
class ParticipantContract:
    """Inherit at the top level of a test module, and fill the holes.

    participant         who carries out the command
    command             one that is accepted when the resources are fresh, and has an effect
    undo_participant    who undoes it, and
    undo_command        with what; without them the tests of the undo are skipped
    refused_command     one that is refused when the resources are fresh; without it that test is skipped
    other_command       a second payload for the same key (default: `command` with one field changed)
    """

    participant: Participant[Any]
    command: Command[Any, Any]
    undo_participant: Participant[Any] | None = None
    undo_command: Command[Any, Any] | None = None
    refused_command: Command[Any, Any] | None = None
    other_command: Command[Any, Any] | None = None

    def open_resources(self, place: Path) -> AbstractAsyncContextManager[Any]:
        """The participant's resources, of which everything lies in this folder, or goes by its name.

        For an empty folder they are fresh. Opened for the same folder again, by this process or another, they are the
        same as another daemon would find them.
        """
        raise NotImplementedError("open_resources: say how the participant's resources are opened in a folder")

    def effects(self, resources: Any) -> Any:
        """What stands in the participant's own ledger; may be async.

        Any value that compares: not the same with and without the effect, the same as before when it is undone.
        Leave out what differs from run to run, such as times and random ids.
        """
        raise NotImplementedError("effects: say what stands in the participant's own ledger")

    def world_turns(self, resources: Any) -> Any:
        """Change what the participant decides by, so that it would now refuse `command` and accept
        `refused_command`: empty one shelf, fill another. May be async, may do nothing; then less is shown.
        """

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The event loop that the suite runs on."""
        return "asyncio"

    @pytest.fixture
    def key(self, tmp_path: Path) -> str:
        """An idempotency key of this test's own, for participants that remember keys beyond their resources."""
        return f"Contract/{hashlib.sha256(bytes(tmp_path)).hexdigest()[:8]}~k3f9/do#1"

    # --- the same command again ---

    async def test_do_twice(self, tmp_path: Path, key: str) -> None:
        async with self.open_resources(tmp_path) as resources:
            before, answer = await self._done(resources, key)
            once = await self._effects(resources)
            again = await _tried(self.do, resources, key, 2)
            twice = await self._effects(resources)
        if once == before:
            _fail(
                f"{self._name} answered {_short(answer)}, but `effects` shows nothing of it.",
                "Give a command that has an effect on fresh resources, and let `effects` read what it changes.",
                before=before,
            )
        if twice != once:
            _fail(
                f"{self._name} took effect twice for one key.",
                "In production a command comes again after every timeout, crash and lost answer: the card is charged "
                f"twice, the stock is reserved twice. {ONCE}",
                after_the_first=once,
                after_the_second=twice,
            )
        self._expect_same(answer, again)

    async def test_answer_does_not_change(self, tmp_path: Path, key: str) -> None:
        """Though other commands came in between, the world changed, and the process began anew."""
        async with self.open_resources(tmp_path) as resources:
            _, answer = await self._done(resources, key)
            with suppress(Exception):  # whatever becomes of it
                await self.do(resources, f"{key}-another")
            await _awaited(self.world_turns(resources))
            before = await self._effects(resources)
        async with self.open_resources(tmp_path) as resources:
            again = await _tried(self.do, resources, key, 2)
            after = await self._effects(resources)
        self._expect_same(answer, again, "after other commands and a restart")
        if after != before:
            _fail(
                f"{self._name} took effect again for a key that came a second time after a restart.",
                "In production every command in flight comes again when the daemon starts: what is remembered must lie "
                f"in the database, with the effect, not in memory. {ONCE}",
                before=before,
                after=after,
            )

    async def test_same_key_with_another_payload(self, tmp_path: Path, key: str) -> None:
        other = self.other_command or _changed(self.command)
        if other is None:
            pytest.skip(f"no field of {type(self.command).__name__} could be changed: fill other_command")
        async with self.open_resources(tmp_path) as resources:
            _, answer = await self._done(resources, key)
            before = await self._effects(resources)
            reply = await _tried(self._carry_out, self.participant, self._call(resources, key, command=other))
            after = await self._effects(resources)
            again = await _tried(self.do, resources, key, 2)
        if after != before:
            _fail(
                f"{self._name} took effect again, for another payload under a key that it had carried out.",
                "In production a key stands for one command: who sends two under one has a bug, and this makes it a "
                f"double effect that no undo finds, for the undo knows one key. {ONCE}",
                payload=self.command,
                other_payload=other,
                before=before,
                after=after,
            )
        if not isinstance(reply, Fatal):
            _fail(
                f"{self._name} gave {_short(reply)} for another payload under a key that it had carried out.",
                "In production the sender would take the answer to one command for that to another, which was never "
                "carried out. Remember a digest of the payload with the key, and raise Fatal for another one; "
                "`call.once` does that.",
                payload=self.command,
                other_payload=other,
            )
        self._expect_same(answer, again, "after another payload came under its key")

    async def test_a_refusal_is_remembered(self, tmp_path: Path, key: str) -> None:
        if self.refused_command is None:
            _, refusals = replies_of(type(self.command))
            pytest.skip("fill refused_command" if refusals else "its command declares no refusal")
        async with self.open_resources(tmp_path) as resources:
            fresh = await self._effects(resources)
            call = self._call(resources, key, command=self.refused_command)
            refusal = await self._carry_out(self.participant, call)
            if not isinstance(refusal, Refusal) or await self._effects(resources) != fresh:
                _fail(
                    f"{self._name} was to refuse {_short(self.refused_command)}, without effect; "
                    f"it answered {_short(refusal)}.",
                    "Give a refused_command that is refused on fresh resources; a refusal must leave no effect, for "
                    "the saga may not undo what was refused.",
                    before=fresh,
                    after=await self._effects(resources),
                )
            await _awaited(self.world_turns(resources))
            before = await self._effects(resources)
            call = self._call(resources, key, attempt=2, command=self.refused_command)
            again = await _tried(self._carry_out, self.participant, call)
            after = await self._effects(resources)
        if after != before or again != refusal:
            _fail(
                f"{self._name} refused a command, and when it came again gave {_short(again)}.",
                "In production the saga has heard the refusal and goes another way, and the repeated command takes "
                "effect for nobody: nothing will undo it. A refusal is an answer as any other: "
                "`return first.answers(OutOfStock(...))` inside the `call.once` block.",
                refusal=refusal,
                before=before,
                after=after,
            )

    async def test_two_attempts_at_once(self, tmp_path: Path, key: str) -> None:
        """Two with the same resources, and one with resources opened a second time, as another daemon's are."""
        replies: list[Outcome] = []

        async def attempt(resources: Any, number: int) -> None:
            replies.append(await _tried(self.do, resources, key, number))

        place = _made(tmp_path / "at-once")
        async with self.open_resources(place) as mine, self.open_resources(place) as other:
            before = await self._effects(mine)
            async with anyio.create_task_group() as tasks:
                for number, resources in enumerate((mine, mine, other), 1):
                    tasks.start_soon(attempt, resources, number)
            at_once = await self._effects(mine)
            last = await self.do(mine, key, 4)  # what failed for being in the way is tried again
            after = await self._effects(mine)
        async with self.open_resources(_made(tmp_path / "alone")) as resources:
            await self._done(resources, key)
            alone = await self._effects(resources)
        if after != alone or (at_once != after and at_once != before):
            _fail(
                f"{self._name} did not have exactly one effect when attempts of one key came at the same time.",
                "In production an attempt that timed out is still running when the next comes: both look, both find "
                "nothing, both take effect. Attempts of one key must exclude each other from the look to the commit. "
                f"{ONCE}",
                one_alone=alone,
                all_at_once=after,
            )
        for reply in replies:
            if isinstance(reply, Fatal) or (isinstance(reply, Message) and reply != last):
                _fail(
                    f"{self._name} gave {_short(reply)} to one of several attempts of one key at once, and "
                    f"{_short(last)} to another.",
                    "In production the saga takes whichever comes first and would act on an answer that does not "
                    f"stand. {ONCE}",
                )

    # --- a crash ---

    async def test_a_crash_between_effect_and_answer(self, tmp_path: Path, key: str) -> None:
        """The process is killed before each line and at the end; then the same attempt comes again."""
        killed = await self._killed(tmp_path / "killed", key, is_undo=False)
        assert killed[0].where == AT_THE_END
        stands: Any = None
        for death in killed:
            async with self.open_resources(Path(death.folder)) as resources:
                left = await self._effects(resources)
                stands = left if death.where == AT_THE_END else stands
                reply = await _tried(self.do, resources, key)
                after = await self._effects(resources)
                again = await _tried(self.do, resources, key, 2)
            if after != stands:
                _fail(
                    f"{self._name} was killed {death.where}; when the same attempt came again, it did not end with "
                    "exactly one effect.",
                    "In production processes die at any line, and the command comes again: this one is then carried "
                    "out twice, by halves or never. Effect and remembered answer must be one transaction. "
                    f"{ONCE}",
                    one_effect=stands,
                    after_the_crash=left,
                    after_it_came_again=after,
                )
            if isinstance(reply, Exception | Refusal) or again != reply:
                _fail(
                    f"{self._name} was killed {death.where}; when the same attempt came again, it gave "
                    f"{_short(reply)}, and then {_short(again)}.",
                    "In production the saga would never hear the yes to what was carried out: it gives up and undoes "
                    f"it, or acts on another answer. Effect and remembered answer must be one transaction. {ONCE}",
                )

    async def test_a_crash_between_effect_and_answer_of_the_undo(self, tmp_path: Path, key: str) -> None:
        self._needs_undo()
        async with self.open_resources(_made(tmp_path / "fresh")) as resources:
            fresh = await self._effects(resources)
        for death in await self._killed(tmp_path / "killed", key, is_undo=True):
            async with self.open_resources(Path(death.folder)) as resources:
                left = await self._effects(resources)
                reply = await _tried(self.undo, resources, key)
                after = await self._effects(resources)
            if after != fresh:
                _fail(
                    f"{self._undo_name} was killed {death.where}; when the same attempt came again, it did not end "
                    "with everything undone once.",
                    "In production an undo is retried until it is answered: after a crash this one gives back twice, "
                    f"by halves or never. {UNDO_ONCE}",
                    without_effect=fresh,
                    after_the_crash=left,
                    after_it_came_again=after,
                )
            self._expect_undone(reply, f"was killed {death.where}, came again, and")

    # --- the undo ---

    async def test_undo_twice(self, tmp_path: Path, key: str) -> None:
        self._needs_undo()
        async with self.open_resources(tmp_path) as resources:
            before, _ = await self._done(resources, key)
            self._expect_undone(await _tried(self.undo, resources, key), "came after its do and")
            once = await self._effects(resources)
            reply = await _tried(self.undo, resources, key, 2)
            twice = await self._effects(resources)
        if once != before:
            _fail(
                f"{self._undo_name} left something of the do standing.",
                "In production the saga ends as compensated while the customer's money is still taken. Undo what "
                "stands under the key `call.undoes`.",
                before_the_do=before,
                after_the_undo=once,
            )
        if twice != before:
            _fail(
                f"{self._undo_name} took effect twice for one key.",
                "In production an undo comes again until its answer arrives: the money is given back twice. "
                f"{UNDO_ONCE}",
                after_the_first=once,
                after_the_second=twice,
            )
        self._expect_undone(reply, "came a second time and")

    async def test_undo_before_do(self, tmp_path: Path, key: str) -> None:
        """It succeeds, changes nothing, and leaves a tombstone: the do that comes behind is refused."""
        self._needs_undo()
        async with self.open_resources(tmp_path) as resources:
            before = await self._effects(resources)
            reply = await _tried(self.undo, resources, key)
            after = await self._effects(resources)
        self._expect_undone(reply, "came before its do and")
        if after != before:
            _fail(
                f"{self._undo_name} undid what was never done.",
                "In production a do that timed out may never have arrived, and is undone all the same: this gives back "
                f"what nobody took. {UNDO_ONCE}",
                before=before,
                after=after,
            )
        await self._expect_refused(
            tmp_path,
            key,
            "after an undo that overtook it",
            "the undo overtakes a do that is stuck in a queue; the saga ends as compensated, and then the do arrives "
            "and stands for ever. An undo that finds nothing must leave a tombstone.",
        )

    async def test_do_after_undo(self, tmp_path: Path, key: str) -> None:
        self._needs_undo()
        async with self.open_resources(tmp_path) as resources:
            await self._done(resources, key)
            await self.undo(resources, key)
        await self._expect_refused(
            tmp_path,
            key,
            "again after its undo",
            "a late copy of the do arrives when its saga has ended as compensated; nothing will undo it again. What "
            "is undone must stay so.",
        )

    async def test_do_and_undo_at_once(self, tmp_path: Path, key: str) -> None:
        self._needs_undo()
        replies: list[Outcome] = []

        async def undo(resources: Any, key: str) -> None:
            replies.append(await _tried(self.undo, resources, key))

        async with self.open_resources(tmp_path) as mine, self.open_resources(tmp_path) as other:
            before = await self._effects(mine)
            async with anyio.create_task_group() as tasks:
                for act, resources in ((self.do, mine), (undo, mine), (self.do, other)):
                    tasks.start_soon(_tried, act, resources, key)
            if isinstance(replies[0], Exception):  # an undo that failed is tried again; one that was answered is not
                replies.append(await _tried(self.undo, mine, key, 2))
            self._expect_undone(replies[-1], "ran beside its do, alone if that failed, and")
            after = await self._effects(mine)
        if after != before:
            _fail(
                f"{self._name} and {self._undo_name} ran at the same time, and something is left standing.",
                "In production an undo is sent while a do that timed out still runs: the saga ends as compensated, "
                "and the effect stands for ever. A do and its undo must exclude each other by the do's key, "
                "`call.undoes`; `call.once` does that.",
                before=before,
                after=after,
            )

    # --- how it is carried out; not for you to fill ---

    async def do(self, resources: Any, key: str, attempt: int = 1) -> Message:
        """Carry out `command` under this key: its answer."""
        return await self._carry_out(self.participant, self._call(resources, key, attempt))

    async def undo(self, resources: Any, key: str, attempt: int = 1) -> Message:
        """Carry out `undo_command` for the do of this key: its answer."""
        assert self.undo_participant is not None and self.undo_command is not None, "asked before"
        call: Call[Any] = Call(self.undo_command, key=f"{key}/undo", undoes=key, resources=resources, attempt=attempt)
        return await self._carry_out(self.undo_participant, call)

    def source_of(self, is_undo: bool) -> str:
        """The file of the function that is to be interrupted."""
        participant = self.undo_participant if is_undo else self.participant
        assert participant is not None, "asked before"
        file: str = inspect.unwrap(participant.function).__code__.co_filename
        return file

    def _call(self, resources: Any, key: str, attempt: int = 1, command: Command[Any, Any] | None = None) -> Call[Any]:
        return Call(command or self.command, key=key, resources=resources, attempt=attempt)

    async def _carry_out(self, participant: Participant[Any], call: Call[Any]) -> Message:
        given: Any = None
        with anyio.move_on_after(PATIENCE_S) as patience:
            if participant.is_async:
                given = await participant(call.command, call)
            else:
                given = await to_thread.run_sync(participant, call.command, call, abandon_on_cancel=True)
        if patience.cancelled_caught:
            _fail(
                f"{participant.name} did not answer within {PATIENCE_S:g} s.",
                "In production a participant that waits for itself holds a worker of the daemon until the attempt "
                "times out, each time. Does one attempt hold a lock that the next waits for?",
            )
        return participant.answered(call, given)

    async def _done(self, resources: Any, key: str) -> tuple[Any, Message]:
        """The effects before the do, and its answer, which has to be a yes."""
        before = await self._effects(resources)
        answer = await self.do(resources, key)
        if isinstance(answer, Refusal):
            _fail(
                f"{self._name} refused {_short(self.command)}: {_short(answer)}.",
                "Give a command that is accepted when the resources are fresh.",
            )
        return before, answer

    async def _effects(self, resources: Any) -> Any:
        return await _awaited(self.effects(resources))

    async def _killed(self, place: Path, key: str, is_undo: bool) -> list[Killed]:
        try:
            return await to_thread.run_sync(killed_at_every_line, type(self), place, key, is_undo)
        except (RuntimeError, TimeoutExpired) as error:
            pytest.fail(str(error), pytrace=False)

    @property
    def _name(self) -> str:
        return self.participant.name

    @property
    def _undo_name(self) -> str:
        assert self.undo_participant is not None, "asked before"
        return self.undo_participant.name

    def _needs_undo(self) -> None:
        if self.undo_participant is None or self.undo_command is None:
            pytest.skip("no undo_participant and undo_command: right for a command that nothing undoes")

    def _expect_same(self, answer: Message, again: Outcome, when: str = "when it came again") -> None:
        if again != answer:
            _fail(
                f"{self._name} answered {_short(answer)}, and for the same key {when} {_short(again)}.",
                "In production the first answer may be lost, and the saga acts on the second: it ships under a number "
                f"that does not exist, or undoes what was done well. The same key gets the same answer. {ONCE}",
            )

    def _expect_undone(self, reply: Outcome, when: str) -> None:
        if isinstance(reply, Exception | Refusal):
            _fail(
                f"{self._undo_name} {when} gave {_short(reply)}.",
                "In production the undo is tried until its attempts are used up; then the instance is parked until a "
                "person looks at it. An undo succeeds, also when there is nothing left to undo, or never was.",
            )

    async def _expect_refused(self, place: Path, key: str, when: str, production: str) -> None:
        async with self.open_resources(place) as resources:  # after a restart: a tombstone lasts
            before = await self._effects(resources)
            reply = await _tried(self.do, resources, key, 2)
            after = await self._effects(resources)
        if after != before:
            _fail(
                f"{self._name} took effect {when}.",
                f"In production {production} {ONCE}",
                before=before,
                after=after,
            )
        if not isinstance(reply, Fatal):
            _fail(
                f"{self._name} came {when}, and gave {_short(reply)} instead of raising Fatal.",
                "In production an answer would say that it stands, and another exception has it tried again and "
                "again. Raise Fatal; `call.once` does that.",
            )


async def _tried(act: Callable[..., Any], *arguments: Any) -> Outcome:
    """The answer, or what was raised instead."""
    try:
        reply: Message = await act(*arguments)
    except Exception as error:  # noqa: BLE001 whatever a participant raises is an outcome
        return error
    return reply


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _changed(command: Command[Any, Any]) -> Command[Any, Any] | None:
    """The same command with another value in one field; None if there is none that is easily changed."""
    struct: Any = command
    for name in struct.__struct_fields__:
        match getattr(command, name):
            case Enum():
                continue
            case bool() as value:
                other: Any = not value
            case int() | float() | Decimal() as value:
                other = value + 1
            case str() as value:
                other = f"{value}x"
            case date() as value:
                other = value + timedelta(days=1)
            case _:
                continue
        changed: Command[Any, Any] = structs.replace(struct, **{name: other})
        return changed
    return None


def _short(value: object) -> str:
    text = f"{type(value).__name__}: {value}" if isinstance(value, Exception) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _fail(fact: str, production: str, **seen: object) -> NoReturn:
    """Fail with what happened, what that means in production and how to mend it, and what was seen."""
    lines = [f"  {name.replace('_', ' ')}: {_short(value)}" for name, value in seen.items()]
    pytest.fail("\n".join([f"{fact} {production}", *lines]), pytrace=False)
