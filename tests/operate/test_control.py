"""The socket beside the store: for its owner, bounded, in order, and gone when the daemon is."""

import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from orchestrator.errors import BadMessage, ConfigError, NotFound
from orchestrator.operate import client, control, protocol
from orchestrator.operate.control import Control
from orchestrator.operate.protocol import (
    Answer,
    Ask,
    Counted,
    DropDead,
    Emit,
    Peer,
    Ping,
    Pong,
    Problem,
    Redrive,
    Taken,
    raised,
    socket_beside,
)

PONG = Pong(
    pid=os.getpid(),
    version="1",
    app="shop",
    store="sqlite:///shop.db",
    bus="",
    uptime=1.5,
    accepting=True,
    problem="",
    in_flight=0,
    mailboxes=0,
    commits=0,
    transitions=0,
)


async def echo(ask: Ask, who: str) -> Answer:
    """Answers later asks sooner."""
    match ask:
        case Emit():
            await anyio.sleep(0.02 if ask.line.endswith(b"0") else 0)
            return Taken(f"{who} {ask.line.decode()}", ())
        case Redrive():
            raise NotFound(f"there is no dead letter {ask.id}")
        case DropDead():
            raise RuntimeError("a mistake of ours")
        case _:
            return PONG


@asynccontextmanager
async def serving(store: Path, answer: Callable[[Ask, str], Awaitable[Answer]] = echo) -> AsyncIterator[Control]:
    served = Control(socket_beside(store), answer)
    async with anyio.create_task_group() as tasks:
        await tasks.start(served.serve)
        try:
            yield served
        finally:
            served.stop()


def ask_all(store: Path, *asks: Ask) -> list[Answer]:
    daemon = client.connect(store)
    assert daemon is not None
    with daemon:
        return list(daemon.ask_all(asks))


def connected(store: Path) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(str(socket_beside(store)))
    return stream


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def talk(store: Path, said: bytes, *, hang_up: bool = True) -> bytes:
    """What comes back for raw bytes, until the other side hangs up."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(socket_beside(store)))
        heard = b""
        with suppress(OSError):  # it may have hung up already
            connection.sendall(said)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):  # it hung up with something of ours unread
            while chunk := connection.recv(1 << 16):
                heard += chunk
        return heard


async def test_a_ping_is_answered(tmp_path: Path) -> None:
    store = tmp_path / "shop.db"
    assert client.ping(store) is None
    async with serving(store):
        answer = await to_thread.run_sync(client.ping, store)
    assert answer is not None
    assert (answer["pid"], answer["app"], answer["uptime"]) == (os.getpid(), "shop", 1.5)
    assert client.ping(store) is None


async def test_a_socket_that_somebody_removes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LOOK_S", 0.01)
    store = tmp_path / "shop.db"
    async with serving(store):
        socket_beside(store).unlink()
        with anyio.fail_after(5):
            while not socket_beside(store).exists():
                await checkpoint()
        assert stat.S_IMODE(socket_beside(store).stat().st_mode) == 0o600
        assert await to_thread.run_sync(ask_all, store, Ping()) == [PONG]


async def test_answers_come_in_the_order_of_the_asks(tmp_path: Path) -> None:
    who = control.user_name(os.geteuid())
    count = 3 * protocol.PREFETCH
    async with serving(tmp_path / "shop.db"):
        asks = [Emit(str(n).encode(), "T") for n in range(count)]
        answers = await to_thread.run_sync(ask_all, tmp_path / "shop.db", *asks)
    assert answers == [Taken(f"{who} {n}", ()) for n in range(count)]


async def test_asks_begin_in_their_order(tmp_path: Path) -> None:
    begun: list[bytes] = []

    async def note(ask: Ask, who: str) -> Answer:
        assert isinstance(ask, Emit)
        begun.append(ask.line)
        await checkpoint()
        return Counted(1)

    asks = [Emit(str(n).encode()) for n in range(1000)]
    async with serving(tmp_path / "shop.db", note):
        await to_thread.run_sync(ask_all, tmp_path / "shop.db", *asks)
    assert begun == [ask.line for ask in asks]


async def test_a_client_that_sends_too_much_at_once_is_not_read_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MAX_ASK", 10_000)
    begun = 0
    go_on = anyio.Event()

    async def slow(ask: Ask, who: str) -> Answer:
        nonlocal begun
        begun += 1
        await go_on.wait()
        return Counted(1)

    async with serving(tmp_path / "shop.db", slow):
        with connected(tmp_path / "shop.db") as stream:
            stream.setblocking(False)
            many, sent, was = protocol.encode(Ping()) * 400_000, 0, -1
            while was != sent:
                was = sent
                with suppress(BlockingIOError):
                    sent += stream.send(many[sent:])
                await anyio.sleep(0.05)
            assert sent < len(many)
            assert begun == protocol.PREFETCH
        go_on.set()


async def test_large_asks_are_bounded_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WINDOW_BYTES", 50_000)
    monkeypatch.setattr(protocol, "PREFETCH_BYTES", 100_000)
    under_way: list[int] = [0]

    async def slow(ask: Ask, who: str) -> Answer:
        under_way.append(under_way[-1] + 1)
        await anyio.sleep(0.001)
        under_way.append(under_way[-1] - 1)
        return Counted(1)

    async with serving(tmp_path / "shop.db", slow):
        asks = [Emit(b"x" * 10_000) for _ in range(100)]
        answers = await to_thread.run_sync(ask_all, tmp_path / "shop.db", *asks)
    assert len(answers) == 100
    assert 1 < max(under_way) <= 4


async def test_what_goes_wrong_is_an_answer(tmp_path: Path) -> None:
    async with serving(tmp_path / "shop.db"):
        answers = await to_thread.run_sync(ask_all, tmp_path / "shop.db", Redrive(7), DropDead((1,)), Ping())
    missing, mistake, pong = answers
    assert missing == Problem("NotFound", "there is no dead letter 7")
    assert isinstance(missing, Problem)
    assert isinstance(raised(missing), NotFound)
    assert isinstance(mistake, Problem)
    assert "mistake of ours" not in mistake.text
    assert pong == PONG


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"{}",
        b"[]",
        b'{"ask": "shutdown"}',
        b'{"ask": "ping", "extra": 1}',
        b'{"ask": "redrive", "id": "one"}',
        b'{"ask": "emit", "line": "not base 64"}',
        b'{"ask": "act", "saga": "S", "key": "k", "verb": "explode", "request": {}, "id": "x"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"ask": "drop_dead", "ids": [' + b"1, " * protocol.MAX_IDS + b"1]}",
    ],
)
async def test_what_is_no_request_is_refused_and_the_next_is_answered(tmp_path: Path, line: bytes) -> None:
    async with serving(tmp_path / "shop.db"):
        heard = await to_thread.run_sync(talk, tmp_path / "shop.db", line + b"\n" + protocol.encode(Ping()))
    refused, pong = [protocol.decode_answer(answer) for answer in heard.splitlines()]
    assert isinstance(refused, Problem)
    assert refused.error == BadMessage.__name__
    assert pong == PONG


async def test_a_request_without_an_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_ASK", 10_000)
    async with serving(tmp_path / "shop.db"):
        heard = await to_thread.run_sync(lambda: talk(tmp_path / "shop.db", b"x" * 80_000, hang_up=False))
        assert heard == b""
        assert await to_thread.run_sync(client.ping, tmp_path / "shop.db") is not None


async def test_a_client_that_goes_away_harms_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path / "shop.db"):
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(socket_beside(tmp_path / "shop.db")))
                connection.send(protocol.encode(Emit(b"10")) * 50 + b"half a li")
        await anyio.sleep(0.05)
        assert await to_thread.run_sync(client.ping, tmp_path / "shop.db") is not None


async def test_more_clients_than_there_may_be_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CLIENTS", 2)
    async with serving(tmp_path / "shop.db"):
        streams = [connected(tmp_path / "shop.db") for _ in range(2)]
        await anyio.sleep(0.02)
        assert b"too many clients" in await to_thread.run_sync(talk, tmp_path / "shop.db", b"")
        for stream in streams:
            stream.close()


async def test_what_was_asked_before_the_end_is_answered(tmp_path: Path) -> None:
    asked, go_on = anyio.Event(), anyio.Event()

    async def slow(ask: Ask, who: str) -> Answer:
        asked.set()
        await go_on.wait()
        return Counted(1)

    async with serving(tmp_path / "shop.db", slow) as served, anyio.create_task_group() as tasks:
        answers: list[Answer] = []

        async def asking() -> None:
            answers.extend(await to_thread.run_sync(ask_all, tmp_path / "shop.db", Ping()))

        tasks.start_soon(asking)
        await asked.wait()
        served.stop()
        go_on.set()
    assert answers == [Counted(1)]


async def test_another_user_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path / "shop.db"):
        monkeypatch.setattr(protocol, "peer", lambda _: Peer(1, os.geteuid() + 1))
        assert await to_thread.run_sync(talk, tmp_path / "shop.db", protocol.encode(Ping())) == b""


async def test_what_listens_under_another_user_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path / "shop.db"):
        monkeypatch.setattr(protocol, "peer", lambda _: Peer(1, os.geteuid() + 1))
        with pytest.raises(ConnectionError, match="another user"):
            client.connect(tmp_path / "shop.db")
        assert client.ping(tmp_path / "shop.db") is None


async def test_only_the_owner_can_open_it(tmp_path: Path) -> None:
    async with serving(tmp_path / "shop.db"):
        mode = socket_beside(tmp_path / "shop.db").stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not socket_beside(tmp_path / "shop.db").exists()


async def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    path = socket_beside(tmp_path / "shop.db")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert client.connect(tmp_path / "shop.db") is None
    async with serving(tmp_path / "shop.db"):
        assert await to_thread.run_sync(client.ping, tmp_path / "shop.db") is not None


@pytest.mark.parametrize("make", [lambda path: path.write_text("mine"), lambda path: path.symlink_to("/etc/passwd")])
async def test_something_else_at_its_place_is_left_alone(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = socket_beside(tmp_path / "shop.db")
    make(path)
    with pytest.raises(ExceptionGroup) as caught:
        async with serving(tmp_path / "shop.db"):
            pass
    assert caught.group_contains(ConfigError, match="not a socket")
    assert names(tmp_path) == ["shop.db.sock"]


@pytest.mark.parametrize("name", ["shop.db", "s" * 200 + ".db", "böök ☃.db"])
async def test_a_path_longer_than_a_sockets_address(tmp_path: Path, name: str) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    async with serving(folder / name):
        answer = await to_thread.run_sync(client.ping, folder / name)
    assert answer is not None
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert names(folder) == []


def test_links_lead_to_the_same_socket(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "other.db").symlink_to(tmp_path / "real" / "shop.db")
    assert socket_beside(tmp_path / "link" / "shop.db") == tmp_path / "real" / "shop.db.sock"
    assert socket_beside(tmp_path / "other.db") == tmp_path / "real" / "shop.db.sock"


async def test_a_daemon_that_dies_is_told_from_one_that_answers(tmp_path: Path) -> None:
    path = socket_beside(tmp_path / "shop.db")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        daemon = client.connect(tmp_path / "shop.db")
        assert daemon is not None
        accepted, _ = listener.accept()
        accepted.close()
        with daemon, pytest.raises(ConnectionError, match="went away"):
            daemon.ask(Ping())


async def test_a_daemon_that_says_nothing_is_not_waited_for_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_beside(tmp_path / "shop.db")))
        listener.listen()
        monkeypatch.setattr(client, "PING_TIMEOUT_S", 0.05)
        answer = client.ping(tmp_path / "shop.db")
        assert answer is not None
        assert answer["pid"] == os.getpid()
        assert "not answered" in answer["problem"]
        daemon = client.connect(tmp_path / "shop.db", timeout_s=0.05)
        assert daemon is not None
        with daemon, pytest.raises(TimeoutError, match="may still"):
            daemon.ask(Ping())
