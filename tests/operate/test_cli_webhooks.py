"""The verbs about webhooks: without a daemon, and through one to a real receiver."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from standardwebhooks import Webhook as Oracle

from orchestrator.operate.cli import main
from orchestrator.webhooks import new_secret

from ..servers.receiver import receiver
from .processes import daemon, wait_until

APP = f"{Path(__file__).with_name('members.py')}:app"
ALLOWED = {"ORCHESTRATOR_WEBHOOKS__ALLOW": '["127.0.0.1"]', "ORCHESTRATOR_WEBHOOKS__HTTP": "true"}


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_STORE", "sqlite:///kiosk.db")
    monkeypatch.setenv("ORCHESTRATOR_APP", APP)
    for name, value in ALLOWED.items():
        monkeypatch.setenv(name, value)


def do(*words: str, said: str | None = None) -> Result:
    return CliRunner().invoke(main, ["webhooks", *words], input=said)


def done(*words: str, said: str | None = None) -> Any:
    result = do(*words, "--json", said=said)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_webhook_is_added_listed_paused_and_removed_without_a_daemon() -> None:
    secret = done("add", "http://127.0.0.1:9/hook?token=t0p", "--name", "crm", "--type", "member.*")["item"]["secret"]
    assert secret.startswith("whsec_")
    [item] = done("list")["items"]
    assert (item["name"], item["state"], item["types"], item["waiting"]) == ("crm", "active", ["member.*"], 0)
    assert done("pause", "crm", "--reason", "they move")["item"]["done"] == "pause"
    shown = done("show", "crm")["item"]
    assert (shown["state"], shown["why"]) == ("paused", "they move")
    assert [change["what"] for change in shown["changes"]] == ["added", "paused"]
    assert all(change["who"] for change in shown["changes"])
    assert do("pause", "crm").exit_code == 6
    done("resume", "crm")
    assert do("remove", "crm").exit_code == 2  # nobody to ask
    done("remove", "crm", "--yes")
    assert done("list")["items"] == []
    assert do("show", "crm").exit_code == 3


def test_a_secret_is_shown_once_if_it_was_made_here_and_never_again() -> None:
    given = new_secret()
    assert (
        done("add", "http://127.0.0.1:9/a", "--name", "a", "--secret", "-", said=given + "\n")["item"]["secret"] is None
    )
    made = done("rotate", "a")["item"]["secret"]
    texts = [do("list").output, do("show", "a").output, do("list", "--json").output, do("show", "a", "--json").output]
    assert made not in str(texts) and given not in str(texts)
    assert done("show", "a")["item"]["secrets"] == 2
    done("rotate", "a", "--at-once")
    assert done("show", "a")["item"]["secrets"] == 1


def test_a_token_in_a_query_is_not_shown() -> None:
    done("add", "http://127.0.0.1:9/hook?token=t0p", "--name", "crm")
    assert "t0p" not in do("list").output + do("show", "crm").output


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("add", "ftp://crm.example/"), 2, "https://HOST"),
        (("add", "http://10.0.0.1/"), 6, "not public"),
        (("add", "http://127.0.0.1:9/", "--type", "member.lft"), 2, "member.left"),
        (("add", "http://127.0.0.1:9/", "--secret", "-"), 2, "24 to 64 bytes"),
        (("pause", "nobody"), 3, "no webhook nobody"),
        (("remove", "nobody"), 3, "no webhook nobody"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(words: tuple[str, ...], code: int, said: str) -> None:
    done("add", "http://127.0.0.1:9/")
    result = do(*words, said="geheim\n")
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert "geheim" not in result.output


def test_a_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "httpcore2", None)
    monkeypatch.delitem(sys.modules, "orchestrator_adapters.webhook", raising=False)
    result = do("add", "http://127.0.0.1:9/")
    assert result.exit_code == 78
    assert "pip install 'saga-orchestrator[webhooks]'" in result.stderr


def test_through_a_daemon_to_a_receiver_that_verifies(tmp_path: Path) -> None:
    with receiver() as there, daemon(tmp_path, app=APP, **ALLOWED):
        secret = done("add", there.url("/ok"), "--name", "crm")["item"]["secret"]
        assert done("test", "crm")["item"]["status"] == 204
        emitted = CliRunner().invoke(main, ["emit", "Joined", '{"member": "anna"}'])
        assert emitted.exit_code == 0, emitted.stderr
        wait_until(lambda: len(there.came) == 2)
    tested, sent = [Oracle(secret).verify(body, headers) for _, headers, body in there.came]
    assert (tested["type"], sent["type"], sent["data"]) == ("webhook.test", "member.joined", {"member": "anna"})


def test_an_event_that_is_tried_again_shows_its_next_attempt(tmp_path: Path) -> None:
    with receiver() as there, daemon(tmp_path, app=APP, **ALLOWED):
        done("add", there.url("/500"), "--name", "ill")
        CliRunner().invoke(main, ["emit", "Joined", '{"member": "anna"}'])
        wait_until(lambda: done("show", "ill")["item"]["attempt"] == 2)
        item = done("show", "ill")["item"]
    assert (item["state"], item["waiting"]) == ("active", 1)
    assert item["next_at"] > item["added_at"]


def test_what_is_failing_or_paused_by_itself_needs_you(tmp_path: Path) -> None:
    with receiver() as there, daemon(tmp_path, app=APP, **ALLOWED):
        done("add", there.url("/410"), "--name", "gone")
        done("add", there.url("/ok"), "--name", "fine")
        assert do("test", "gone").exit_code == 6
        CliRunner().invoke(main, ["emit", "Joined", '{"member": "anna"}'])
        wait_until(lambda: len(there.came) == 3)
        wait_until(lambda: done("show", "gone")["item"]["state"] == "paused")
        status = json.loads(CliRunner().invoke(main, ["status", "--json"]).stdout)["item"]["needs_you"]["webhooks"]
        assert [(it["name"], it["state"]) for it in status] == [("gone", "paused")]
        assert "410 Gone" in status[0]["why"]
        waiting = {it["name"]: it["waiting"] for it in done("list")["items"]}
        assert waiting == {"gone": 1, "fine": 0}
        done("pause", "fine")
    status = json.loads(CliRunner().invoke(main, ["status", "--json"]).stdout)["item"]["needs_you"]["webhooks"]
    assert [it["name"] for it in status] == ["gone"]  # a person paused the other
    checks = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)["items"]
    [finding] = [it for it in checks if it["check"] == "webhook gone"]
    assert finding["health"] == "warning" and "resume gone" in finding["detail"]


def test_what_was_not_taken_before_a_kill_arrives_after_the_next_start_once(tmp_path: Path) -> None:
    with receiver() as there:
        there.status = 500
        with daemon(tmp_path, app=APP, **ALLOWED):  # killed at the end
            done("add", there.url("/ok"), "--name", "crm")
            for member in ("anna", "bob"):
                CliRunner().invoke(main, ["emit", "Joined", json.dumps({"member": member})])
            wait_until(lambda: len(there.came) == 2)
            wait_until(lambda: done("list")["items"][0]["waiting"] == 2)
        there.came.clear()
        there.status = 0
        with daemon(tmp_path, app=APP, **ALLOWED):
            wait_until(lambda: done("list")["items"][0]["waiting"] == 0)
    assert sorted(json.loads(body)["data"]["member"] for _, _, body in there.came) == ["anna", "bob"]


def test_a_daemon_that_hosts_a_receiver_that_hangs_still_stops_in_time(tmp_path: Path) -> None:
    with receiver() as there, daemon(tmp_path, app=APP, ORCHESTRATOR_LIMITS__DRAIN_S="2", **ALLOWED) as process:
        done("add", there.url("/hang"), "--name", "slow")
        CliRunner().invoke(main, ["emit", "Joined", '{"member": "anna"}'])
        wait_until(lambda: there.came)
        began = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - began < 5
    assert done("list")["items"][0]["waiting"] == 1
