"""`orchestrator new`: a runnable sample to start from."""

from __future__ import annotations

from pathlib import Path

import click

from ..output import Output, shell_word

SAMPLE = Path(__file__).parent.parent / "sample"


@click.command
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def new(directory: Path) -> None:
    """Write a runnable sample into DIR: a saga, its participants, a test, the configuration.

    DIR is made; one that holds something already is refused.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise click.UsageError(f"{directory} is there already and is not empty: name a new folder")
    directory.mkdir(parents=True, exist_ok=True)
    out = Output()
    for source in sorted(SAMPLE.glob("*.txt")):
        target = directory / source.name.removesuffix(".txt")
        target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        out.line(f"wrote {target}")
    out.line()
    for command, comment in _NEXT:
        out.line(f"  {command.format(directory=shell_word(str(directory))):<60} # {comment}")


_NEXT = (
    ("cd {directory}", "everything below runs there"),
    ("orchestrator run", "the daemon; Ctrl-C ends it, `run` again goes on where it was"),
    ("orchestrator emit BookingRequested --file bookings.jsonl", "in a second terminal: six bookings"),
    ("orchestrator status", "what runs, and what needs you"),
    ("orchestrator list", "four end well, two are undone: a card over its limit, a full course"),
    ("orchestrator history Booking/b3", "what happened to the declined one"),
    ("python -m pytest", "the saga's test"),
)
