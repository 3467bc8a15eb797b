"""What else befalls a daemon under load: signals, pauses, a full disk, rivals, a clock that is set, a backup.

Each is one function that makes a place in a folder, troubles its daemon, lets it come to the end, and audits it.
"""

from __future__ import annotations

import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import msgspec

from orchestrator.checking.audit import Books
from orchestrator.operate import client

from . import works
from .books import audited, read_books, wrong_in_the_end
from .customers import works_letters
from .kills import END_S, WORKS, Found, Harness, calls_under_way
from .lives import PROGRAM, START_S, Life, Place, until
from .mail import Letter, Postman, event
from .works import ATTEMPT_S, STEP_S, Decided, LinearWanted, WaitingWanted

HOUR_S = 3600
RIVALS = 10
BACKUPS = 3
PAUSES = 3
ROOMY = Path(__file__).with_name("roomy.py")
SKEWED = Path(__file__).with_name("skewed.c")


def terminated(folder: Path, rng: random.Random, times: int) -> Found:
    """SIGTERM at any moment: exit code 0 within ten seconds. Only before it can handle signals may it end by this one;
    that is while Python itself starts.
    """
    harness = Harness(Place(folder, WORKS), rng, works_letters(rng))
    place, mail = harness.place, harness.mail
    early = 0
    with _told(harness, "SIGTERM"):
        with Life(place) as life:
            start_s = life.is_ready().age
        for number in range(times):
            harness.write(8)
            with Life(place) as life:
                if number % 2:
                    life.lives(start_s * rng.uniform(0.1, 1.1))
                    can_handle = _catches(life.pid, signal.SIGTERM)
                    early += not life.holds_the_store
                    code = life.terminate()
                else:
                    can_handle = True
                    life.is_ready()
                    with Postman(mail, place.store):
                        life.lives(rng.uniform(0, 0.4))
                        code = life.terminate()
                assert code == 0 or (not can_handle and code == -signal.SIGTERM), f"it ended with {code}"
    return _ended(harness, {"SIGTERM": times, "SIGTERM before it had the store": early})


def terminated_at_first(folder: Path) -> Found:
    """SIGTERM as soon as it can be handled, which is long before the daemon serves."""
    harness = Harness(Place(folder, WORKS), random.Random(0), iter(()))
    with _told(harness, "the first SIGTERM"), Life(harness.place) as life:
        assert until(lambda: _catches(life.pid, signal.SIGTERM)), "it never handles SIGTERM"
        code = life.terminate()
        assert code == 0, f"it ended with {code}"
        assert not life.has_said(b"READY=1"), "it was not early enough to mean something"
    return Found({}, tuple(harness.wrong))


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, as the kernel says."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def paused(folder: Path, rng: random.Random) -> Found:
    """SIGSTOP for longer than an attempt may take, and once for longer than a step."""
    harness = Harness(Place(folder, WORKS), rng, works_letters(rng))
    place, mail = harness.place, harness.mail
    caught = 0
    with _told(harness, "SIGSTOP"), Life(place) as life:
        life.is_ready()
        for number in range(PAUSES):
            harness.write(12)
            with Postman(mail, place.store):
                _until_it_calls(harness, life)
                life.send(signal.SIGSTOP)
                caught += calls_under_way(folder, life.pid)
                life.lives((STEP_S if number == 0 else ATTEMPT_S) + rng.uniform(0.1, 0.5))
                life.send(signal.SIGCONT)
        with Postman(mail, place.store):
            assert until(lambda: mail.is_empty and not place.open_instances(), END_S), f"stuck: {place.counts()}"
        assert life.terminate() == 0, "SIGTERM after a pause"
    return _ended(harness, {"pauses": PAUSES, "calls that were paused": caught})


def _until_it_calls(harness: Harness, life: Life) -> None:
    """Until a participant is at work, with something slow to do for it whenever there is nothing else."""
    numbers = count()

    def calls() -> int:
        if harness.mail.is_empty:
            key = f"slow {life.age:.6f} {next(numbers)}"
            harness.mail.add(event(f"want-{key}", LinearWanted(key, ("late",) * 4)))
        return calls_under_way(life.place.folder, life.pid)

    assert until(calls), "nothing is called"


def without_room(folder: Path, rng: random.Random) -> Found:
    """The store may not grow: nothing is accepted, `status` answers; with room again it goes on by itself."""
    room = folder / "room"
    settings = {"PROOF_ROOM": str(room), "ORCHESTRATOR_LIMITS__STORE_FULL_S": "0.2"}
    place = Place(folder, WORKS, settings, (sys.executable, "-W", "error", str(ROOMY)))
    harness = Harness(place, rng, works_letters(rng))
    with _told(harness, "a full disk"), Life(place) as life:
        life.is_ready()
        _fill(harness, lambda: room.write_text("1"))
        room.write_text("0")
        with Postman(harness.mail, place.store):
            assert until(lambda: life.pong.get("accepting")), f"it does not go on: {life.pong}"
            assert until(lambda: harness.mail.is_empty, END_S), "the mail could not be delivered"
        assert life.terminate() == 0, "SIGTERM after a full disk"
    return _ended(harness, {"returned for want of room": harness.mail.returned})


def within_a_file_size(folder: Path, rng: random.Random) -> Found:
    """No file may grow (RLIMIT_FSIZE): the same, until it is started again without the limit."""
    settings = {"ORCHESTRATOR_LIMITS__STORE_FULL_S": "0.2", "ORCHESTRATOR_LIMITS__DRAIN_S": "3"}
    place = Place(folder, WORKS, settings)
    harness = Harness(place, rng, works_letters(rng))
    with _told(harness, "RLIMIT_FSIZE"), Life(place) as life:
        life.is_ready()

        def limit() -> None:
            size = place.store.with_name(place.store.name + "-wal").stat().st_size
            resource.prlimit(life.pid, resource.RLIMIT_FSIZE, (size + 10_000, resource.RLIM_INFINITY))

        _fill(harness, limit)
        code = life.terminate()
        assert code == 0, f"SIGTERM on a disk that takes nothing ended it with {code}"
    return _ended(harness, {"returned for want of file size": harness.mail.returned})


def _fill(harness: Harness, limit: Callable[[], object]) -> None:
    """Some mail, then the limit, then mail until no more is accepted; `status` says why."""
    place, mail = harness.place, harness.mail
    harness.write(10)
    with Postman(mail, place.store):
        assert until(lambda: mail.is_empty and mail.accepted), "the first mail could not be delivered"
        limit()
        mail.add(*(_large(number) for number in range(60)))
        assert until(lambda: mail.returned), "it accepts more than there is room for"
        shown = place.call("status", "--json")
        assert shown.returncode == 0, f"status: {shown.stderr}"
        daemon = msgspec.json.decode(shown.stdout)["item"]["daemon"]
        assert daemon and daemon["problem"], f"status does not say why it takes nothing: {daemon}"


def _large(number: int) -> Letter:
    """A linear saga that needs some room."""
    moods = ("well",) * 4 + ("x" * 6000,)
    return event(f"large-{number}", LinearWanted(f"large {number}", moods))


def rivals(folder: Path, rng: random.Random) -> Found:
    """Ten daemons on one file, under three names: one lives, the others name it and leave."""
    place = Place(folder, WORKS)
    harness = Harness(place, rng, works_letters(rng))
    (folder / "link.db").symlink_to(place.store)
    (folder / "linked").symlink_to(folder)
    names = ("store.db", str(place.store), str(folder / "link.db"), "linked/store.db", "./linked/link.db")
    commands = [[*PROGRAM, "run", "--store", f"sqlite:///{names[n % len(names)]}"] for n in range(RIVALS)]
    with _told(harness, "rivals"):
        processes = [
            subprocess.Popen(
                command, cwd=folder, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for command in commands
        ]
        try:
            assert until(lambda: sum(process.poll() is not None for process in processes) >= RIVALS - 1), "they linger"
            living = [process for process in processes if process.poll() is None]
            assert len(living) == 1, f"{len(living)} of {RIVALS} live"
            assert until(lambda: (client.ping(place.store) or {}).get("pid") == living[0].pid), (
                "the one that lives does not answer"
            )
            for process in processes:
                if process is not living[0]:
                    _, said = process.communicate(timeout=START_S)
                    assert process.returncode == 69, f"a rival left with {process.returncode}: {said}"
                    assert f"process {living[0].pid} " in said, f"a rival does not say who has the store: {said}"
            living[0].terminate()
            living[0].communicate(timeout=START_S)
            assert living[0].returncode == 0, f"the one that lived left with {living[0].returncode}"
        finally:
            for process in processes:
                process.kill()
                process.communicate()
    harness.write(5)
    return _ended(harness, {"rivals": RIVALS})


def _pid(place: Place) -> object:
    """Of the daemon that answers."""
    return (client.ping(place.store) or {}).get("pid")


def compiler() -> str | None:
    """What a moved clock needs."""
    return shutil.which("cc") if sys.platform == "linux" else None


def clock_set(folder: Path, rng: random.Random) -> Found:
    """The wall clock is set an hour ahead, back, an hour behind, and two ahead, while timers are armed. What was armed
    while it was ahead is late once it is right again; it comes when its hour comes.
    """
    clock, shim = folder / "clock", folder / "skewed.so"
    clock.write_text("0")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, SKEWED], check=True, timeout=START_S)
    place = Place(folder, WORKS, {"LD_PRELOAD": str(shim), "PROOF_CLOCK": str(clock)})
    harness = Harness(place, rng, works_letters(rng))
    mail = harness.mail
    armed, decided = _waiting("armed all the time")
    jumps = 0
    with _told(harness, "a clock that is set"), Life(place) as life:
        life.is_ready()
        mail.add(armed)
        with Postman(mail, place.store):
            for hour in (1, 0, -1, 2):
                harness.write(8)
                mail.add(*_waiting(f"pausing {jumps}"))
                assert until(lambda: mail.is_empty), "the mail could not be delivered"
                life.lives(rng.uniform(0.0, 0.3))
                assert place.open_instances(), "nothing was under way when the clock was set"
                replacement = clock.with_name("clock.new")
                replacement.write_text(str(hour * HOUR_S))
                replacement.replace(clock)
                jumps += 1
            mail.add(decided, *_waiting("after all"))
            assert until(lambda: mail.is_empty and not place.open_instances(), END_S), f"stuck: {place.counts()}"
        assert life.terminate() == 0, "SIGTERM after the clock was set"
    return _ended(harness, {"clock jumps": jumps})


def _waiting(key: str) -> tuple[Letter, Letter]:
    """A saga that waits for two days, and the decision that brings it to a short pause."""
    return event(f"want-{key}", WaitingWanted(key, ("well",) * 4)), event(f"decide-{key}", Decided(key, True))


def backed_up(folder: Path, rng: random.Random) -> Found:
    """Copies made under load open, and are right as far as they go."""
    harness = Harness(Place(folder, WORKS), rng, works_letters(rng))
    place, mail = harness.place, harness.mail
    sizes = []
    with _told(harness, "backups"), Life(place) as life:
        life.is_ready()
        with Postman(mail, place.store):
            for number in range(BACKUPS):
                harness.write(20)
                _until_it_calls(harness, life)
                accepted = tuple(mail.accepted)
                copy = folder / f"copy-{number}.db"
                made = place.call("backup", str(copy))
                assert made.returncode == 0, f"backup: {made.stderr}"
                with closing(sqlite3.connect(copy)) as opened:
                    assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",), f"{copy} is damaged"
                found = audited(works.app, f"sqlite:///{copy}", Books(accepted=accepted), idle=False)
                harness.wrong += [f"{copy.name}: {violation}" for violation in found.violations]
                sizes.append(found.transitions)
        assert life.terminate() == 0, "SIGTERM after backups"
    if sorted(sizes) != sizes or not sizes or not sizes[-1]:
        harness.wrong.append(f"the copies hold {sizes} transitions")
    return _ended(harness, {"backups": BACKUPS})


@contextmanager
def _told(harness: Harness, trouble: str) -> Generator[None]:
    """What does not hold is wrong, and said with the trouble's name."""
    try:
        yield
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        harness.wrong.append(f"{trouble}: {error}")


def _ended(harness: Harness, figures: dict[str, int | float | str]) -> Found:
    """All mail delivered, all sagas at their end, and the books right."""
    harness.let_live()
    place = harness.place
    _, wrong = wrong_in_the_end(place, works.app, read_books(place.folder, harness.mail.accepted))
    return Found(figures, (*harness.wrong, *harness.crimes, *wrong))
