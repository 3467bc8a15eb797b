"""The command line: `orchestrator VERB`. A verb's module is imported when it is invoked, so that --help stays fast."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from io import TextIOWrapper
from types import FrameType
from typing import Any, NamedTuple, cast

import click
from click.shell_completion import CompletionItem

from ... import errors
from ..output import escape, use_colour
from .options import common_options


class Exit(IntEnum):
    """The exit codes (130: interrupted)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    PARKED = 4
    UNDONE = 5
    REFUSED = 6
    UNREACHABLE = 69
    TIMED_OUT = 75
    MISCONFIGURED = 78
    INTERRUPTED = 130


EXIT_CODES = """\b
Exit codes:
  0   done
  1   failed
  2   usage
  3   not found
  4   the watched instance is parked: it needs a person
  5   it ended compensated or killed
  6   refused: not in a state for it
  69  store, bus or daemon not reachable
  75  timed out, may still succeed
  78  bad configuration or app
  130 interrupted
"""

_CODES: tuple[tuple[tuple[type[BaseException], ...], Exit], ...] = (
    ((errors.BadMessage,), Exit.USAGE),
    ((errors.NotFound,), Exit.NOT_FOUND),
    ((errors.Refused,), Exit.REFUSED),
    ((errors.StoreError, errors.BusUnavailable, ConnectionError), Exit.UNREACHABLE),
    ((TimeoutError, errors.NotAccepting), Exit.TIMED_OUT),
    ((errors.AppError, errors.ConfigError, errors.DefinitionError), Exit.MISCONFIGURED),
)


def complain(error: BaseException) -> Exit:
    """Say on stderr in one sentence what a verb raised (of an app that cannot be imported: its own traceback).

    Returns the exit code that goes with it.
    """
    cause = _first_cause(error)
    code = next((code for types, code in _CODES if isinstance(cause, types)), Exit.FAILED)
    text = _sentence(cause)
    if code is Exit.FAILED and not isinstance(cause, (errors.OrchestratorError, OSError)):
        text = f"internal error, please report it: {text} ({_place(cause)})"
    lines = text.split("\n") if isinstance(cause, errors.AppError) else [text]
    click.echo("orchestrator: " + "\n".join(map(escape, lines)), err=True)
    return code


def _first_cause(error: BaseException) -> BaseException:
    """Out of a task group's errors the one with a meaning here, else the first."""
    leaves = list(_leaves(error))
    return next((leaf for leaf in leaves if isinstance(leaf, errors.OrchestratorError)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = str(error).strip()
    if isinstance(error, (errors.OrchestratorError, OSError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "nowhere"


class Entry(NamedTuple):
    """Where a verb is found, and its line in --help."""

    module: str
    attribute: str
    help: str
    leaves_on_sigterm: bool = False  # with exit code 0, also before it has handlers of its own


def _suggestion(wrong: str, verbs: Iterable[str]) -> str:
    from difflib import get_close_matches  # only now: --help is to be fast

    near = get_close_matches(wrong, list(verbs), 1)
    return f" Did you mean {near[0]}?" if near else ""


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is invoked. `sections`: title -> verb -> entry."""

    def __init__(self, *args: Any, sections: Mapping[str, Mapping[str, Entry]], **attributes: Any) -> None:
        """A group of the verbs in `sections`."""
        super().__init__(*args, **attributes)
        self.sections = sections
        self.entries = {verb: entry for section in sections.values() for verb, entry in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of the sections."""
        return list(self.entries)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb's name, command and arguments."""
        entry = self.entries.get(args[0])
        if entry is not None and entry.leaves_on_sigterm:
            ctx.with_resource(_leaving_on_sigterm())  # before the imports, which take a while
        if entry is None and not ctx.resilient_parsing and not args[0].startswith("-"):
            raise click.UsageError(f"No such command {args[0]!r}.{_suggestion(args[0], self.entries)}", ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, its module imported now."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        for title, entries in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(verb, entry.help) for verb, entry in entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the verbs without importing them."""
        verbs = [CompletionItem(v, help=e.help) for v, e in self.entries.items() if v.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; whatever it raises becomes a sentence and an exit code."""
        return speaking(lambda: super(LazyGroup, self).invoke(ctx))


@contextmanager
def _leaving_on_sigterm() -> Generator[None]:
    """Until the verb sets its own handler, SIGTERM ends the process at once, with exit code 0: nothing is begun yet."""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is _leave:
            signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(Exit.DONE)


def speaking(verb: Callable[[], Any]) -> Any:
    """Run a verb; turn what it raises into a sentence and an exit code."""
    try:
        return verb()
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt:
        raise click.exceptions.Exit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        raise  # click leaves quietly: the reader has seen enough
    except Exception as error:
        raise click.exceptions.Exit(complain(error)) from error


_HERE = __name__

SECTIONS: dict[str, dict[str, Entry]] = {
    "Run": {
        "new": Entry(f"{_HERE}.new", "new", "Write a runnable sample into a folder."),
        "run": Entry(f"{_HERE}.run", "run", "Run the daemon, in the foreground.", leaves_on_sigterm=True),
        "work": Entry(f"{_HERE}.run", "work", "Run participants and listeners behind a bus.", leaves_on_sigterm=True),
        "emit": Entry(f"{_HERE}.emit", "emit", "Send one event, or many from a file."),
    },
    "Look (needs no daemon, never writes)": {
        "status": Entry(f"{_HERE}.reading", "status", "Daemon, store, counts, and what needs you."),
        "list": Entry(f"{_HERE}.reading", "list_", "Instances, the newest first."),
        "show": Entry(f"{_HERE}.reading", "show", "All about one instance, and what you can do now."),
        "why": Entry(f"{_HERE}.reading", "why", "In words: what an instance waits for, what would move it."),
        "history": Entry(f"{_HERE}.reading", "history", "The transitions of an instance."),
        "watch": Entry(f"{_HERE}.reading", "watch", "Changes as they come; one instance until its end."),
        "graph": Entry(f"{_HERE}.reading", "graph", "A saga's steps as mermaid, dot or svg."),
        "catalog": Entry(f"{_HERE}.catalog", "catalog", "Messages and sagas with their schemas; what a change breaks."),
        "check": Entry(f"{_HERE}.checking", "check", "Every order of events, through the sagas of an app."),
        "preflight": Entry(
            f"{_HERE}.preflight", "preflight", "This code against every stored history: what would differ."
        ),
    },
    "Act": {
        "retry": Entry(f"{_HERE}.acting", "retry", "Try a parked or waiting step again now."),
        "skip": Entry(f"{_HERE}.acting", "skip", "Go on without a step, or without its undo."),
        "done": Entry(f"{_HERE}.acting", "done", "Count a step as done, with its reply."),
        "cancel": Entry(f"{_HERE}.acting", "cancel", "Undo what is done, then end."),
        "kill": Entry(f"{_HERE}.acting", "kill", "Stop at once; nothing is undone."),
        "pause": Entry(f"{_HERE}.acting", "pause", "Hold what an instance sends."),
        "resume": Entry(f"{_HERE}.acting", "resume", "Let a paused instance go on."),
        "drop": Entry(f"{_HERE}.acting", "drop", "Give up the message a handler failed on."),
        "dead": Entry(_HERE, "dead", "Dead letters: list, show, redrive, drop."),
        "waiting": Entry(_HERE, "waiting", "The waiting room: list, drop."),
        "projections": Entry(_HERE, "projections", "Read models: list, rebuild, pause, resume."),
        "webhooks": Entry(_HERE, "webhooks", "Who gets boundary events: add, list, pause, test, ..."),
    },
    "Keep house": {
        "prune": Entry(f"{_HERE}.keeping", "prune", "Remove instances that ended long ago."),
        "backup": Entry(f"{_HERE}.keeping", "backup", "Copy the store to a file, also while the daemon runs."),
        "doctor": Entry(f"{_HERE}.keeping", "doctor", "Check the machine, the store, the configuration, the app."),
        "bus": Entry(_HERE, "bus", "What the app needs of its broker: show, setup."),
        "config": Entry(_HERE, "config", "The settings in force and where each comes from."),
        "completion": Entry(f"{_HERE}.keeping", "completion", "The completion script for bash, zsh or fish."),
    },
}

DEAD = {
    "Commands": {
        "list": Entry(f"{_HERE}.reading", "dead_list", "Dead letters, the oldest first."),
        "show": Entry(f"{_HERE}.reading", "dead_show", "One dead letter with all that is known of it."),
        "redrive": Entry(f"{_HERE}.acting", "dead_redrive", "Take dead letters as if they had just come."),
        "drop": Entry(f"{_HERE}.acting", "dead_drop", "Remove dead letters for good."),
    }
}

WAITING = {
    "Commands": {
        "list": Entry(f"{_HERE}.reading", "waiting_list", "Early messages, the oldest first."),
        "drop": Entry(f"{_HERE}.acting", "waiting_drop", "Remove early messages for good."),
    }
}

BUS = {
    "Commands": {
        "show": Entry(f"{_HERE}.broker", "bus_show", "What the app needs of the broker, there or not."),
        "setup": Entry(f"{_HERE}.broker", "bus_setup", "Make at the broker what is missing."),
    }
}

PROJECTIONS = {
    "Commands": {
        "list": Entry(f"{_HERE}.projecting", "list_", "How they stand, and how far behind the log."),
        "rebuild": Entry(f"{_HERE}.projecting", "rebuild", "Build one anew, beside the one that is read."),
        "pause": Entry(f"{_HERE}.projecting", "pause", "Leave one as it is; the others go on."),
        "resume": Entry(f"{_HERE}.projecting", "resume", "Let one go on that is paused or has stopped."),
    }
}

WEBHOOKS = {
    "Commands": {
        "add": Entry(f"{_HERE}.subscribing", "add", "Send boundary events to a URL from now on."),
        "list": Entry(f"{_HERE}.subscribing", "list_", "All webhooks and how they fare."),
        "show": Entry(f"{_HERE}.subscribing", "show", "One webhook, and what happened to it."),
        "pause": Entry(f"{_HERE}.subscribing", "pause", "Deliver nothing; what comes is kept for a week."),
        "resume": Entry(f"{_HERE}.subscribing", "resume", "Deliver again, first what was kept."),
        "test": Entry(f"{_HERE}.subscribing", "test", "Send a test event now."),
        "rotate": Entry(f"{_HERE}.subscribing", "rotate", "Sign with a new secret."),
        "redrive": Entry(f"{_HERE}.subscribing", "redrive", "Deliver again what was not taken."),
        "remove": Entry(f"{_HERE}.subscribing", "remove", "Forget a webhook, and what it has not got."),
    }
}

CONFIG = {"Commands": {"show": Entry(f"{_HERE}.keeping", "config_show", "Every setting, its value and its origin.")}}


@click.group(
    cls=LazyGroup, sections=SECTIONS, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]}
)
@common_options
@click.version_option(package_name="saga-orchestrator", prog_name="orchestrator")
@click.pass_context
def group(context: click.Context) -> None:
    """Run sagas, look at them, and put them right.

    SAGA/KEY names an instance: the saga's name, a slash, the key as it is.
    The store, the bus and the app come from the options, from ORCHESTRATOR_STORE,
    ORCHESTRATOR_BUS and ORCHESTRATOR_APP, or from orchestrator.toml.
    """
    context.color = use_colour()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of a narrow encoding is no error


@click.group(cls=LazyGroup, sections=DEAD)
def dead() -> None:
    """Messages that nobody could use, kept for a person."""


@click.group(cls=LazyGroup, sections=WAITING)
def waiting() -> None:
    """Messages that came before their instance (the waiting room)."""


@click.group(cls=LazyGroup, sections=BUS)
def bus() -> None:
    """The streams, topics, queues and consumers that an app needs of its broker."""


@click.group(cls=LazyGroup, sections=PROJECTIONS)
def projections() -> None:
    """Read models: tables that hold what the events of the log come to."""


@click.group(cls=LazyGroup, sections=WEBHOOKS)
def webhooks() -> None:
    """Who gets the events that say boundary=True, over HTTP, signed."""


@click.group(cls=LazyGroup, sections=CONFIG)
def config() -> None:
    """The settings."""


main = group
