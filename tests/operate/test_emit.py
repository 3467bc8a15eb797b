"""`emit`: one event or many, bad lines among them, twice the same; with a daemon and without one."""

import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.operate import protocol
from orchestrator.operate.cli import main

from .processes import APP, PROGRAM, call, daemon, environment, wait_until


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_STORE", "sqlite:///kiosk.db")
    monkeypatch.setenv("ORCHESTRATOR_APP", APP)


def emit(*words: str, said: bytes | None = None) -> Result:
    """Without a daemon, in this process."""
    return CliRunner().invoke(main, ["emit", *words], input=said)


def orders(*numbers: int) -> str:
    return "".join(f'{{"order": "{n}"}}\n' for n in numbers)


def test_one_event_is_on_disk(tmp_path: Path) -> None:
    done = emit("Ordered", '{"order": "1"}')
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["accepted", "  Coffee/1: applied"]
    assert emit("Ordered", '{"order": "1"}').stdout.startswith("duplicate")


def test_an_event_before_its_instance_waits() -> None:
    done = emit("Paid", '{"order": "1"}')
    assert done.exit_code == 0
    assert "waits" in done.stdout


BROKEN = """
from orchestrator import App, Event, Saga, Wait, step

class Opened(Event):
    box: str

class Box(Saga, key="box", starts=Opened):
    box: str

    @step
    def look(self) -> Wait:
        raise KeyError("nobody thought of that")

app = App("boxes", sagas=[Box])
"""


def test_an_event_that_the_sagas_own_code_fails_on_is_not_called_applied(tmp_path: Path) -> None:
    (tmp_path / "boxes.py").write_text(BROKEN)
    done = emit("Opened", '{"box": "1"}', "--app", "boxes.py")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1] == "  Box/1: queued, the saga's own code failed: see `orchestrator why Box/1`"


def test_the_same_event_as_json() -> None:
    done = emit("Ordered", '{"order": "1"}', "--json")
    said = json.loads(done.stdout)
    assert (said["version"], said["fate"]) == (1, "accepted")
    assert said["targets"] == [{"target": "Coffee/1", "outcome": "applied"}]


def test_one_event_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text('{\n  "order": "1"\n}\n')
    assert emit("Ordered", "@event.json").exit_code == 0


def test_a_cloud_event_says_its_type_itself(tmp_path: Path) -> None:
    event = {"specversion": "1.0", "id": "e1", "source": "/test", "type": "Ordered", "data": {"order": "1"}}
    assert "accepted" in emit(json.dumps(event)).stdout
    again = {**event, "data": {"order": "1", "takes": 5.0}}
    (tmp_path / "events.jsonl").write_text(json.dumps(again) + "\n")
    assert emit("--file", "events.jsonl").stdout == "0 accepted, 1 duplicates, 0 waiting, 0 bad\n"


@pytest.mark.parametrize(
    ("type", "payload", "names"),
    [
        ("Ordered", "{", "JSON"),
        ("Ordered", "[]", "object"),
        ("Ordered", '{"order": 7}', "order"),
        ("Ordered", "{}", "order"),
        ("Ordered", '{"order": "1", "takes": NaN}', "JSON"),
        ("Ordered", '{"order": "1", "order": "2"}', "twice"),
        ("Ordred", '{"order": "1"}', "Ordered"),
        ("Ordered", '{"order": "\\ud800"}', "surrogate"),
        ("Ordered", '{"order": "' + "x" * (5 << 20) + '"}', "limits.body_bytes"),
        ("", '{"order": "1"}', "type"),
    ],
)
def test_a_bad_event_is_refused(type: str, payload: str, names: str) -> None:
    done = emit(*([type] if type else []), payload)
    assert done.exit_code == 2
    assert names in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    "words",
    [[], ["Ordered", "@nowhere.json"], ["Ordered", "--file", "nowhere.jsonl"], ["Ordered", "{}", "--file", "x"]],
)
def test_what_is_no_use(words: list[str]) -> None:
    assert emit(*words).exit_code == 2


def test_the_good_lines_go_in_and_every_bad_one_is_named(tmp_path: Path) -> None:
    lines = [f'{{"order": "{n}"}}'.encode() for n in range(1, 31)]
    lines[16] = b'{"order": '
    lines[20] = b""
    lines[22] = b'{"order": "' + b"x" * (3 << 20) + b'"}'
    lines[24] = b"\xff"
    (tmp_path / "orders.jsonl").write_bytes(b"\r\n".join(lines))
    done = emit("Ordered", "--file", "orders.jsonl")
    assert done.exit_code == 1
    assert done.stdout == "26 accepted, 0 duplicates, 0 waiting, 3 bad\n"
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["line 17", "line 23", "line 25"]
    again = json.loads(emit("Ordered", "--file", "orders.jsonl", "--json").stdout)
    assert (again["accepted"], again["duplicates"], again["bad"]) == (0, 26, 3)
    assert [problem["line"] for problem in again["problems"]] == [17, 23, 25]


def test_lines_from_stdin() -> None:
    assert emit("Ordered", "-", said=orders(1, 2).encode()).stdout.startswith("2 accepted")
    assert emit("Ordered", "-", said=b"").stdout.startswith("0 accepted")


@pytest.mark.parametrize("in_flight", [1, 7, 1000])
def test_the_events_of_one_instance_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_flight: int
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_LIMITS__IN_FLIGHT", str(in_flight))
    lines = [json.dumps({"type": type, "data": {"order": str(n)}}) for n in range(200) for type in ("Ordered", "Paid")]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    assert emit("--file", "events.jsonl").stdout == "400 accepted, 0 duplicates, 0 waiting, 0 bad\n"


def test_without_an_app_and_without_a_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORCHESTRATOR_APP")
    done = emit("Ordered", '{"order": "1"}')
    assert done.exit_code == 78
    assert all(way in done.stderr for way in ("orchestrator run", "--app", "ORCHESTRATOR_APP"))
    assert not Path("kiosk.db").exists()


def test_through_a_daemon_the_classes_are_the_daemons(tmp_path: Path) -> None:
    lines = [f'{{"order": "{n}"}}' for n in range(830)]
    lines[16] = "not JSON"
    (tmp_path / "orders.jsonl").write_text("\n".join(lines))
    with daemon(tmp_path):
        assert call(tmp_path, "emit", "Ordered", '{"order": "x"}').exit_code == 0
        bad = call(tmp_path, "emit", "Ordered", '{"order": 7}')
        began = time.monotonic()
        many = call(tmp_path, "emit", "Ordered", "--file", "orders.jsonl")
        took = time.monotonic() - began
        again = call(tmp_path, "emit", "Ordered", "--file", "orders.jsonl")
    assert (bad.exit_code, "order" in bad.stderr) == (2, True)
    assert many.stdout == "829 accepted, 0 duplicates, 0 waiting, 1 bad\n"
    assert many.exit_code == 1
    assert many.stderr.startswith("line 17: ")
    assert again.stdout == "0 accepted, 829 duplicates, 0 waiting, 1 bad\n"
    assert took < 10


class Cut(io.BytesIO):
    """Lines from stdin, and then Ctrl-C."""

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        if not line:
            signal.raise_signal(signal.SIGINT)
        return line


def test_ctrl_c_says_how_many_lines_were_taken() -> None:
    cut = CliRunner().invoke(main, ["emit", "Ordered", "-"], input=Cut(orders(1, 2, 3).encode()))
    assert (cut.exit_code, cut.stdout, cut.stderr) == (130, "3 accepted, 0 duplicates, 0 waiting, 0 bad\n", "")
    assert emit("Ordered", "-", said=orders(1, 2, 3, 4).encode()).stdout.startswith("1 accepted, 3 duplicates")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_says_how_many_lines_the_daemon_took(tmp_path: Path) -> None:
    with daemon(tmp_path):
        process = subprocess.Popen(
            [*PROGRAM, "emit", "Ordered", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(tmp_path),
        )
        assert process.stdin is not None
        process.stdin.write(orders(1, 2, 3).encode())
        process.stdin.flush()
        wait_until(lambda: len(json.loads(call(tmp_path, "list", "--json").stdout)["items"]) == 3)
        process.send_signal(signal.SIGINT)
        said, complaint = process.communicate(timeout=30)
    assert (process.returncode, said.decode(), complaint) == (130, "3 accepted, 0 duplicates, 0 waiting, 0 bad\n", b"")


def test_a_second_ctrl_c_leaves_at_once_and_says_what_may_be_in() -> None:
    with socket.socket(socket.AF_UNIX) as mute, protocol.short_address(protocol.socket_beside("kiosk.db")) as address:
        mute.bind(address)
        mute.listen()
        mute.settimeout(20)
        takes = threading.Thread(target=_take_two_and_interrupt, args=(mute,))
        takes.start()
        cut = CliRunner().invoke(main, ["emit", "Ordered", "-"], input=Cut(orders(1, 2).encode()))
        takes.join()
    assert (cut.exit_code, cut.stdout) == (130, "0 accepted, 0 duplicates, 0 waiting, 0 bad\n")
    assert cut.stderr == "2 more were sent and are not answered: they may be in too\n"


def _take_two_and_interrupt(mute: socket.socket) -> None:
    """A daemon that does not answer, and a person who does not wait for it."""
    reader = threading.main_thread().ident
    assert reader is not None
    connection, _ = mute.accept()
    with connection, connection.makefile("rb") as asks:
        assert asks.readline() and asks.readline()
        wait_until(lambda: sys._current_frames()[reader].f_code.co_name == "readinto")  # it waits for answers
        signal.pthread_kill(reader, signal.SIGINT)


def test_two_at_once_wait_for_each_other(tmp_path: Path) -> None:
    Path("a.jsonl").write_text(orders(*range(300)))
    Path("b.jsonl").write_text(orders(*range(200, 500)))
    env = environment(tmp_path, ORCHESTRATOR_APP=APP)
    both = [
        subprocess.Popen([*PROGRAM, "emit", "Ordered", "--file", name], stdout=subprocess.PIPE, env=env, text=True)
        for name in ("a.jsonl", "b.jsonl")
    ]
    said = [process.communicate(timeout=30)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(line.split(",")[0] for line in said) == ["200 accepted", "300 accepted"]


def test_a_bar_on_a_terminal_only(tmp_path: Path) -> None:
    Path("orders.jsonl").write_text(orders(*range(50)))
    seen, child = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "emit", "Ordered", "--file", "orders.jsonl"],
        stdout=subprocess.PIPE,
        stderr=child,
        env=environment(tmp_path, ORCHESTRATOR_APP=APP, TERM="xterm"),
    )
    os.close(child)
    drawn: list[bytes] = []
    reading = threading.Thread(target=_read, args=(seen, drawn))
    reading.start()
    said, _ = process.communicate(timeout=30)
    reading.join()
    os.close(seen)
    assert said.decode().startswith("50 accepted")
    assert "━".encode() in b"".join(drawn)


def _read(descriptor: int, drawn: list[bytes]) -> None:
    try:
        while chunk := os.read(descriptor, 1 << 16):
            drawn.append(chunk)
    except OSError:  # the other end is closed
        pass
