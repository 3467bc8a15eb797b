"""The verbs that act: on one instance or on many, through the daemon or, where none runs, by this process itself."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import update_wrapper
from typing import Any

import click
import msgspec
from msgspec import Raw, Struct

from ...errors import NotFound, Refused
from ...event_log import EventStore
from ...machine.instance import Status
from ...machine.transition import Outcome
from ...ports import MAX_PAGE, MAX_ROW_ID, Find, Store
from ...wire import NULL, Address, Request, Verb
from ..output import Cell, rfc3339
from ..protocol import MAX_IDS, Act, Answer, Ask, Counted, DropDead, DropWaiting, Moved, Problem, Redrive, raised
from .letters import check_listener, letters_of, listener_option
from .options import common_options
from .reach import reached
from .session import DURATION, Session, check_saga, complete_saga, no_instance, with_session

MOST = 100_000  # instances or rows one call acts upon

_OPEN = [str(status) for status in Status if not status.is_end]
_STEP = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<element>[0-9]{1,9})\])?")


class Choice(Struct, frozen=True):
    """Which instances a verb is for: one, or those that the filters leave; and whether it really acts."""

    target: str = ""
    status: str | None = None
    parked: bool = False
    key: str = ""
    since: float | None = None
    limit: int = MOST
    preview: bool = False
    yes: bool = False

    @property
    def one(self) -> Address | None:
        """The instance, if one is named."""
        saga, slash, key = self.target.partition("/")
        return Address(saga, key) if slash and saga and key else None

    def query(self, now: float) -> Find:
        """The open instances that the filters leave. Errors: a usage error when nothing filters."""
        if not (self.target or self.status or self.parked or self.key or self.since is not None):
            raise click.UsageError("which? Name one as SAGA/KEY, or give filters as for `list`: SAGA, --parked, --key")
        return Find(
            saga=self.target,
            key=self.key,
            status=Status(self.status) if self.status else None,
            parked=True if self.parked else None,
            is_open=True,
            since=None if self.since is None else now - self.since,
        )


def acting(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options that choose instances; it is called with the Session and the Choice, and with its own."""

    def call(session: Session, /, **given: Any) -> None:
        choice = Choice(**{name: given.pop(name) for name in Choice.__struct_fields__ if name in given})
        verb(session, choice, **given)

    options = (
        click.option("--status", type=click.Choice(_OPEN), help="Those with this status."),
        click.option("--parked", is_flag=True, help="Those that need a person."),
        click.option("--key", default="", help="Those with this key."),
        click.option("--since", type=DURATION, metavar="1h", help="Those updated within this time."),
        click.option("-n", "limit", type=click.IntRange(1, MOST), default=MOST, help="The newest so many."),
        click.option("--preview", is_flag=True, help="Show what would happen; change nothing."),
        click.option("--yes", is_flag=True, help="Do not ask before acting on many."),
        common_options,
    )
    command = with_session(update_wrapper(call, verb))
    for option in reversed(options):
        command = option(command)
    return command


reason_option = click.option("--reason", default="", help="Why; kept in the history.")
target_argument = click.argument("target", metavar="[SAGA/KEY | SAGA]", default="", shell_complete=complete_saga)


@click.command
@target_argument
@click.option("--step", default="", help="Only this step (step[2] for an element of a list).")
@reason_option
@acting
def retry(session: Session, choice: Choice, step: str, reason: str) -> None:
    """Try again now what is parked or waits for its next attempt; after a bug, hand the message over again."""
    name, element = _step(step)
    _act(session, Verb.RETRY, choice, Request(why=reason, step=name, element=element))


@click.command
@click.argument("words", metavar="[SAGA/KEY | SAGA] STEP", nargs=-1, required=True)
@click.option("--no-undo", is_flag=True, help="Take the step's undo out of the plan too.")
@reason_option
@acting
def skip(session: Session, choice: Choice, words: tuple[str, ...], no_undo: bool, reason: str) -> None:
    """Go on without STEP (step[2]: an element of a list). Its undo stays in the plan, because it may have taken effect;
    while undoing: leave its effect standing.
    """
    choice, step = _with_step(choice, words)
    name, element = _step(step)
    request = Request(why=reason, step=name, element=element, undo=not no_undo)
    _act(session, Verb.SKIP, choice, request)


@click.command
@click.argument("words", metavar="[SAGA/KEY | SAGA] STEP", nargs=-1, required=True)
@click.option("--reply", metavar="JSON", help="The reply that counts as the answer.")
@click.option("--reply-type", metavar="TYPE", default="", help="Its type, where the command declares several.")
@reason_option
@acting
def done(
    session: Session, choice: Choice, words: tuple[str, ...], reply: str | None, reply_type: str, reason: str
) -> None:
    """Count STEP (step[2]: an element of a list) as done, as if its participant had said yes with this reply."""
    choice, step = _with_step(choice, words)
    name, element = _step(step)
    request = Request(why=reason, step=name, element=element, reply=_json(reply), reply_type=reply_type)
    _act(session, Verb.DONE, choice, request)


@click.command
@target_argument
@reason_option
@acting
def cancel(session: Session, choice: Choice, reason: str) -> None:
    """Undo what is done, then end as compensated."""
    _act(session, Verb.CANCEL, choice, Request(why=reason))


@click.command
@target_argument
@click.option("--reason", required=True, help="Why; kept in the history.")
@acting
def kill(session: Session, choice: Choice, reason: str) -> None:
    """Stop at once; nothing is undone. Needs a reason."""
    if not reason.strip():
        raise click.UsageError("--reason must say why")
    _act(session, Verb.KILL, choice, Request(why=reason))


@click.command
@target_argument
@reason_option
@acting
def pause(session: Session, choice: Choice, reason: str) -> None:
    """Go on taking messages, but hold what would be sent, until `resume`."""
    _act(session, Verb.PAUSE, choice, Request(why=reason))


@click.command
@target_argument
@reason_option
@acting
def resume(session: Session, choice: Choice, reason: str) -> None:
    """Send what a pause held; the timers of steps start afresh."""
    _act(session, Verb.RESUME, choice, Request(why=reason))


@click.command
@target_argument
@reason_option
@acting
def drop(session: Session, choice: Choice, reason: str) -> None:
    """Give up the message that a handler failed on; it becomes a dead letter."""
    _act(session, Verb.DROP, choice, Request(why=reason))


# What all of them do.


def _act(session: Session, verb: Verb, choice: Choice, request: Request) -> None:
    one = choice.one
    addresses = [one] if one is not None else asyncio.run(_chosen(session, choice))
    if not addresses:
        if choice.target:
            asyncio.run(check_saga(session, choice.target))
        raise NotFound("no open instance is like that")
    if not choice.preview:
        _make_sure(f"{verb} {_count(len(addresses), 'instance')}", choice.yes or len(addresses) == 1)
    moved = _moved(session, _asks(verb, addresses, request, choice.preview))
    if not moved:
        raise no_instance(session, addresses[0])
    _show(session, moved)
    refused = [it for it in moved if it.outcome is Outcome.REFUSED]
    if refused:
        first = f"{refused[0].saga}/{refused[0].key}: {_because(refused[0])}"
        raise Refused(first if len(moved) == 1 else f"{len(refused)} of {len(moved)} refused it; the first: {first}")


def _asks(verb: Verb, addresses: Sequence[Address], request: Request, preview: bool) -> Iterator[Act]:
    for address in addresses:
        yield Act(address.saga, address.key, verb, request, f"{verb}-{secrets.token_hex(12)}", preview)


def _moved(session: Session, asks: Iterator[Act]) -> list[Moved]:
    """What became of each that is there; one may have gone in the meantime."""
    moved: list[Moved] = []
    with reached(session) as desk:
        for answer in desk.ask_all(asks):
            if isinstance(answer, Moved):
                moved.append(answer)
            elif not (isinstance(answer, Problem) and answer.error == NotFound.__name__):
                raise _unexpected(answer)
    return moved


async def _chosen(session: Session, choice: Choice) -> list[Address]:
    """The newest first, up to the limit."""
    query = choice.query(session.now().timestamp())
    found: list[Address] = []
    async with session.reading() as store:
        while True:
            page = await store.find(msgspec.structs.replace(query, limit=min(choice.limit - len(found), MAX_PAGE)))
            found += [instance.address for instance in page.items]
            query = msgspec.structs.replace(query, cursor=page.next)
            if not page.next or len(found) >= choice.limit:
                return found


def _make_sure(what: str, is_sure: bool) -> None:
    """Ask a person, where there is one. Errors: Abort, or a usage error where nobody can be asked."""
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"this would {what}: add --yes, or look first with --preview")
    click.confirm(f"{what}?", abort=True, err=True)


# What they say.


TITLES = ("SAGA/KEY", "OUTCOME", "STATUS", "WHAT HAPPENED", "WHAT LEAVES")


def _show(session: Session, moved: Sequence[Moved]) -> None:
    out = session.output
    if out.as_json:
        out.json({"items": list(moved)})
    elif not out.on_terminal or len(moved) > 1:
        out.table(TITLES, [_row(it) for it in moved])
    else:
        for it in moved:
            _show_one(session, it)
    if moved and moved[0].preview and not out.as_json:
        out.note("a preview: nothing was changed")


def _row(it: Moved) -> list[Cell]:
    sends = ", ".join(f"{sent.type} {sent.name}" for sent in it.sends)
    texts = (f"{it.saga}/{it.key}", str(it.outcome), _standing(it), "; ".join(it.notes), sends)
    return [Cell(text) for text in texts]


def _show_one(session: Session, it: Moved) -> None:
    out = session.output
    if it.outcome is Outcome.REFUSED:
        return  # the error says why
    would = "would be " if it.preview else ""
    out.line(f"{it.saga}/{it.key}: {would}{_standing(it)}")
    for note in it.notes:
        out.line(f"  {note}")
    for sent in it.sends:
        when = f", not before {rfc3339(sent.due_at)}" if sent.due_at is not None else ""
        out.line(f"  {'would send' if it.preview else 'sends'} {sent.type}, {sent.name}{when}")
    for name in it.withdraws:
        out.line(f"  {'would take back' if it.preview else 'takes back'} {name}")


def _standing(it: Moved) -> str:
    return f"{it.status}, parked: {it.parked}" if it.parked else it.status


def _because(it: Moved) -> str:
    return "; ".join(it.notes) or "it is not in a state for that"


# Dead letters and the waiting room.

ids_argument = click.argument("ids", metavar="[ID]...", nargs=-1, type=click.IntRange(1, MAX_ROW_ID))
all_option = click.option("--all", "everything", is_flag=True, help="All that there are.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask before acting on many.")


@click.command("redrive")
@ids_argument
@all_option
@listener_option
@yes_option
@common_options
@with_session
def dead_redrive(session: Session, ids: tuple[int, ...], everything: bool, listener: str, yes: bool) -> None:
    """Take dead letters as if they had just come; what fails again is a dead letter again."""
    chosen = _chosen_letters(session, ids, everything, listener, "redrive", yes)
    _tell_count(session, "redriven", [Redrive(id) for id in chosen])


@click.command("drop")
@ids_argument
@all_option
@listener_option
@yes_option
@common_options
@with_session
def dead_drop(session: Session, ids: tuple[int, ...], everything: bool, listener: str, yes: bool) -> None:
    """Remove dead letters for good."""
    chosen = _chosen_letters(session, ids, everything, listener, "drop", yes)
    count = _tell_count(session, "dropped", [DropDead(tuple(part)) for part in _parts(chosen)])
    _miss(len(set(ids)) - count, session.command("dead", "list"))


@click.command("drop")
@ids_argument
@all_option
@yes_option
@common_options
@with_session
def waiting_drop(session: Session, ids: tuple[int, ...], everything: bool, yes: bool) -> None:
    """Remove messages of the waiting room for good."""
    chosen = _chosen_ids(session, ids, everything, _waiting_ids, "drop", yes)
    count = _tell_count(session, "dropped", [DropWaiting(tuple(part)) for part in _parts(chosen)])
    _miss(len(set(ids)) - count, session.command("waiting", "list"))


def _miss(missing: int, listing: str) -> None:
    if missing > 0:
        raise NotFound(f"{missing} of these {'is' if missing == 1 else 'are'} not there: `{listing}` shows what is")


def _chosen_letters(
    session: Session, ids: tuple[int, ...], everything: bool, listener: str, what: str, yes: bool
) -> list[int]:
    if not listener:
        return _chosen_ids(session, ids, everything, _dead_ids, what, yes)
    if ids:
        raise click.UsageError("ids and --listener: give one of them")

    async def of_listener(store: EventStore) -> list[int]:
        found = await _dead_ids(store, listener)
        if not found:
            await check_listener(session, store, listener)
        return found

    return _chosen_ids(session, (), True, of_listener, what, yes)


def _chosen_ids(
    session: Session,
    ids: tuple[int, ...],
    everything: bool,
    all_ids: Callable[[EventStore], Awaitable[list[int]]],
    what: str,
    yes: bool,
) -> list[int]:
    if bool(ids) == everything:
        raise click.UsageError("which? Give their ids, as `list` shows them, or --all")
    if not everything:
        return list(dict.fromkeys(ids))

    async def read() -> list[int]:
        async with session.reading() as store:
            return await all_ids(store)

    found = asyncio.run(read())
    if found:
        _make_sure(f"{what} {_count(len(found), 'message')}", yes)
    return found


async def _dead_ids(store: EventStore, listener: str = "") -> list[int]:
    found: list[int] = []
    read = letters_of(store, listener)
    while page := await read(found[-1] if found else 0, MAX_PAGE):
        found += [letter.id for letter in page]
    return found


async def _waiting_ids(store: Store) -> list[int]:
    found: list[int] = []
    while page := await store.waiting(after=found[-1] if found else 0):
        found += [row.id for row in page]
    return found


def _tell_count(session: Session, what: str, asks: Sequence[Ask]) -> int:
    count = 0
    problems: list[Problem] = []
    if asks:
        with reached(session) as desk:
            for answer in desk.ask_all(asks):
                if isinstance(answer, Counted):
                    count += answer.count
                elif isinstance(answer, Problem):
                    problems.append(answer)
                else:
                    raise _unexpected(answer)
    if session.output.as_json:
        session.output.json({what: count, "problems": [problem.text for problem in problems]})
    else:
        session.output.line(f"{what} {count}")
    if problems:
        for problem in problems[:-1]:
            session.output.note(problem.text)
        raise raised(problems[-1])
    return count


# Small things.


def _with_step(choice: Choice, words: tuple[str, ...]) -> tuple[Choice, str]:
    """`SAGA/KEY STEP`; and STEP alone, or behind a SAGA, where filters choose the instances."""
    *before, step = list(words)
    if len(before) > 1:
        raise click.UsageError("too many words: SAGA/KEY STEP")
    target = "".join(before)
    if "/" in step and "/" not in target:
        target, step = step, target
    if not step:
        raise click.UsageError("which step? Write SAGA/KEY STEP")
    return msgspec.structs.replace(choice, target=target), step


def _step(text: str) -> tuple[str, int]:
    if not text:
        return "", -1
    match = _STEP.fullmatch(text)
    if match is None:
        raise click.UsageError(f"{text!r} is not a step: write its name, or name[2] for an element of a list")
    return match["name"], int(match["element"]) if match["element"] else -1


def _json(text: str | None) -> Raw:
    if text is None:
        return NULL
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise click.UsageError(f"--reply is not JSON: {error}") from None
    return Raw(text.encode())


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), MAX_IDS):
        yield ids[start : start + MAX_IDS]


def _unexpected(answer: Answer) -> Exception:
    return raised(answer) if isinstance(answer, Problem) else ConnectionError(f"an answer that does not fit: {answer}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
