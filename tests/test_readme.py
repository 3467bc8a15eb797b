"""What the README shows is run, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import click

from orchestrator.operate.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_saga_in_thirty_lines_runs() -> None:
    code = next(block for block in _blocks("python") if "drive(" in block)
    saga = [line for line in code.splitlines() if line.strip() and not line.startswith(("from ", "t", "assert "))]
    assert len(saga) <= 30
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_verbs_it_lists_are_the_verbs_there_are() -> None:
    table = README[README.index("## The command line") : README.index("Looking needs no daemon")]
    named = {
        match.split()[0] for match in re.findall(r"`([a-z]+[^`]*)`", table) if match.split()[0] != "module:attribute"
    }
    listed = set(main.list_commands(click.Context(main)))
    assert named - {"orchestrator", "file.py:attribute"} == listed - {"run"}


def test_its_two_commands_name_what_is_there() -> None:
    commands = _blocks("sh")
    assert len(commands) == 2
    assert "sagas/demo.py" in commands[0] and (ROOT / "sagas" / "demo.py").exists()
    assert "-e '.[test]'" in commands[0] and commands[1].strip().endswith("-m pytest")


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
