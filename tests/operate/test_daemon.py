"""The daemon as a process: started, killed, stopped, refused."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.operate import client
from orchestrator.operate.daemon import has_moved
from orchestrator.operate.protocol import socket_beside
from orchestrator.runtime.engine import Stats
from orchestrator_adapters.sqlite.lock import FileLock

from .processes import APP, PROGRAM, call, carried_out, daemon, environment, is_up, wait_until


def emit(folder: Path, order: str, takes: float = 0.0) -> None:
    done = call(folder, "emit", "Ordered", json.dumps({"order": order, "takes": takes}))
    assert done.exit_code == 0, done.stderr


def stopped(process: "subprocess.Popen[str]", number: int, within_s: float) -> tuple[int, str]:
    """The exit code and the log after a signal."""
    began = time.monotonic()
    process.send_signal(number)
    _, log = process.communicate(timeout=within_s)
    assert time.monotonic() - began < within_s
    return process.returncode, log


def steps(folder: Path, order: str) -> list[str]:
    shown = json.loads(call(folder, "show", f"Coffee/{order}", "--json").stdout)
    return [step["step"] for step in shown["item"]["steps"]]


def test_what_was_in_flight_at_a_kill_goes_on_under_its_key(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        emit(tmp_path, "1", takes=0.3)
        wait_until(lambda: carried_out(tmp_path))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert socket_beside(tmp_path / "kiosk.db").exists()
    with daemon(tmp_path, "--log", "json") as process:
        wait_until(lambda: len(carried_out(tmp_path)) == 3)
        wait_until(lambda: steps(tmp_path, "1") == ["pay"])
        code, log = stopped(process, signal.SIGTERM, 5)
    assert code == 0
    assert json.loads(log.splitlines()[0])["recovered_instances"] == 1
    begun, again, ended = carried_out(tmp_path)
    assert begun == again == ended.replace("end", "begin")
    assert not socket_beside(tmp_path / "kiosk.db").exists()


def test_a_verb_that_still_holds_the_store_is_waited_for(tmp_path: Path) -> None:
    verb = FileLock(tmp_path / "kiosk.db")
    verb.acquire()
    process = subprocess.Popen(
        [*PROGRAM, "run", APP],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
        cwd=tmp_path,
    )
    with process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert f"process {os.getpid()} is writing this store already" in said and "waiting for it" in said
            verb.release()
            wait_until(lambda: is_up(tmp_path, process))
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_in_flight_end(tmp_path: Path, number: int) -> None:
    with daemon(tmp_path) as process:
        emit(tmp_path, "1", takes=0.5)
        wait_until(lambda: carried_out(tmp_path))
        code, log = stopped(process, number, 5)
    assert code == 0
    assert [line.split()[0] for line in carried_out(tmp_path)] == ["begin", "end"]
    assert "cut off" not in log
    assert steps(tmp_path, "1") == ["pay"]


def test_a_sigterm_while_it_starts_ends_it_as_well(tmp_path: Path) -> None:
    """It comes while the library is imported, and while the app is."""
    term = "os.kill(os.getpid(), signal.SIGTERM)"
    (tmp_path / "impatient.py").write_text(f"import os, signal\n{term}\nfrom tests.operate.kiosk import app\n")
    early = f"""
import os, signal, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "anyio":
            {term}
sys.meta_path.insert(0, Finder)
from orchestrator.operate.cli import main
main()
"""
    for words in (["-c", early, "run", APP], [*PROGRAM[1:], "run", "impatient.py"]):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment(tmp_path), capture_output=True, timeout=30
        )
        assert (done.returncode, done.stderr) == (0, b""), words
    assert [path.name for path in tmp_path.iterdir()] == ["impatient.py"]


def test_a_command_that_hangs_is_cut_off(tmp_path: Path) -> None:
    with daemon(tmp_path, ORCHESTRATOR_LIMITS__DRAIN_S="2") as process:
        emit(tmp_path, "1", takes=60)
        wait_until(lambda: carried_out(tmp_path))
        code, log = stopped(process, signal.SIGTERM, 4)
    assert code == 0
    assert "1 commands were cut off" in log


def test_a_thread_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with daemon(tmp_path, ORCHESTRATOR_LIMITS__DRAIN_S="2") as process:
        emit(tmp_path, "stuck")
        wait_until(lambda: steps(tmp_path, "stuck") == ["pay"])
        assert call(tmp_path, "emit", "Paid", '{"order": "stuck"}').exit_code == 0
        wait_until(lambda: steps(tmp_path, "stuck") == ["serve"])
        code, _ = stopped(process, signal.SIGTERM, 4)
    assert code == 0


def test_an_interpreter_that_ends_slowly_is_not_killed_by_the_alarm(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "from tests.operate.kiosk import app\n"
        "class Slow:\n"
        "    def __del__(self, sleep=time.sleep):\n"
        "        sleep(1.2)\n"
        "slow = Slow()\n"
    )
    with daemon(tmp_path, app="slow.py", ORCHESTRATOR_LIMITS__DRAIN_S="1") as process:
        assert stopped(process, signal.SIGTERM, 10)[0] == 0


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        emit(tmp_path, "1", takes=60)
        wait_until(lambda: carried_out(tmp_path))
        process.send_signal(signal.SIGINT)
        wait_until(lambda: client.ping(tmp_path / "kiosk.db") is None)
        assert stopped(process, signal.SIGINT, 2)[0] == 130


def test_a_second_daemon_is_refused_at_once(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        began = time.monotonic()
        second = call(tmp_path, "run", APP)
        assert time.monotonic() - began < 5
        assert second.exit_code == 69
        assert f"process {process.pid} " in second.stderr
        assert "Traceback" not in second.stderr
        assert client.ping(tmp_path / "kiosk.db") is not None


def test_it_says_what_it_serves(tmp_path: Path) -> None:
    with daemon(tmp_path, "--log", "text") as process:
        code, log = stopped(process, signal.SIGTERM, 5)
    assert code == 0
    first, *lines = log.splitlines()
    assert first.startswith("orchestrator ")
    assert first.endswith(f"serves kiosk, pid {process.pid}")
    assert f"  store      sqlite:///{tmp_path}/kiosk.db" in lines
    assert any(line.startswith("  recovered  ") for line in lines)


def test_every_line_is_json_where_that_is_asked_for(tmp_path: Path) -> None:
    with daemon(tmp_path, "--log", "json") as process:
        emit(tmp_path, "secret-order-1")
        code, log = stopped(process, signal.SIGTERM, 5)
    lines = [json.loads(line) for line in log.splitlines()]
    assert code == 0
    assert (lines[0]["app"], lines[0]["pid"], lines[-1]["message"]) == ("kiosk", process.pid, "stopped")
    assert "cup of" not in log


def test_until_idle(tmp_path: Path) -> None:
    emitted = call(tmp_path, "emit", "Ordered", '{"order": "1"}', "--app", APP)
    assert emitted.exit_code == 0, emitted.stderr
    done = call(tmp_path, "run", APP, "--until-idle")
    assert done.exit_code == 0, done.stderr
    assert steps(tmp_path, "1") == ["pay"]


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(10)
        with daemon(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000") as process:
            told = [supervisor.recv(4096) for _ in range(4)]
            stopped(process, signal.SIGTERM, 5)
            supervisor.settimeout(0.2)
            while not told[-1].startswith(b"STOPPING"):
                told.append(supervisor.recv(4096))
    assert told[0].startswith(b"READY=1\n")
    assert set(told[1:-1]) == {b"WATCHDOG=1"}


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((5, 0, ""), (5, 0, ""), True),  # nothing to write
        ((5, 9, ""), (6, 9, ""), True),
        ((5, 9, ""), (5, 9, ""), False),  # a write that does not come back
        ((5, 9, ""), (5, 9, "no room"), True),
    ],
)
def test_what_counts_as_alive(before: tuple[int, int, str], now: tuple[int, int, str], expected: bool) -> None:
    def stats(commits: int, mailboxes: int, problem: str) -> Stats:
        return Stats(
            in_flight=0,
            mailboxes=mailboxes,
            commits=commits,
            transitions=0,
            accepting=not problem,
            problem=problem,
            not_accepting=problem,
        )

    assert has_moved(stats(*before), stats(*now)) is expected


# What cannot be served: one sentence, the right exit code, nothing left behind.


def refused(folder: Path, *words: str, **more: str) -> tuple[int, str]:
    done = call(folder, "run", *words, **more)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("orchestrator: ")
    return done.exit_code, done.stderr


def test_an_app_with_a_typo(tmp_path: Path) -> None:
    code, said = refused(tmp_path, APP.replace(":app", ":ap"))
    assert code == 78
    assert "app" in said
    assert refused(tmp_path, "no_such_module:app")[0] == 78
    assert list(tmp_path.iterdir()) == []


def test_no_app(tmp_path: Path) -> None:
    code, said = refused(tmp_path)
    assert code == 78
    assert "ORCHESTRATOR_APP" in said


def test_commands_without_a_participant_are_named(tmp_path: Path) -> None:
    code, said = refused(tmp_path, APP.replace(":app", ":lonely"))
    assert code == 78
    assert "PourAway, Serve, Thank" in said
    assert "--bus" in said


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "kiosk.db").write_text("Dear diary, " * 1000)
    code, said = refused(tmp_path, APP)
    assert code == 69
    assert "kiosk.db" in said
    assert (tmp_path / "kiosk.db").read_text().startswith("Dear diary")


def test_a_store_of_a_newer_version(tmp_path: Path) -> None:
    assert call(tmp_path, "run", APP, "--until-idle").exit_code == 0
    with sqlite3.connect(tmp_path / "kiosk.db") as db:
        db.execute("PRAGMA user_version = 9999")
    db.close()
    code, said = refused(tmp_path, APP)
    assert code == 69
    assert "newer" in said


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    code, said = refused(tmp_path, APP, "--store", f"sqlite:///{tmp_path}/nowhere/kiosk.db")
    assert code == 69
    assert "nowhere" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir(mode=0o500)
    code, said = refused(tmp_path, APP, "--store", f"sqlite:///{tmp_path}/ro/kiosk.db")
    assert code == 69
    assert "ermission" in said


def test_something_else_where_the_socket_belongs(tmp_path: Path) -> None:
    socket_beside(tmp_path / "kiosk.db").write_text("mine")
    code, said = refused(tmp_path, APP)
    assert code == 78
    assert "not a socket" in said
