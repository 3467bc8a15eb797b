"""RabbitMQ, as Debian packages it: a private node with an epmd of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from .process import Server, folder, free_port, listens, missing, needs

BINARY = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one in /usr/sbin switches to another user
CONTROL = BINARY.with_name("rabbitmqctl")


class RabbitMQ:
    """One node. `start` after `kill` or `stop` is the same node on the same files and port."""

    def __init__(self, server: Server, port: int, environment: dict[str, str]) -> None:
        """Made by `rabbitmq`."""
        self.port = port
        self._server = server
        self._environment = environment
        self.start = server.start
        self.kill = server.kill
        self.stop = server.stop

    @property
    def url(self) -> str:
        """Of the default virtual host."""
        return self.url_at(self.port)

    def url_at(self, port: int, options: str = "") -> str:
        """The same by way of a proxy, or with options."""
        return f"amqp://guest:guest@127.0.0.1:{port}/{options}"

    def freeze(self) -> None:
        """It neither answers nor hangs up, until it is thawed or killed."""
        os.kill(self._server.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._server.pid, signal.SIGCONT)

    def remember(self) -> None:
        """Have on disk what was declared: for some seconds after it, SIGKILL takes it away."""
        self.control("eval", "mnesia:sync_log(), [dets:sync(Table) || Table <- dets:all()].")

    def control(self, *words: str) -> None:
        """What those who administer it tell it; takes seconds."""
        subprocess.run([CONTROL, *words], env=self._environment, check=True, capture_output=True, timeout=60)


@contextmanager
def rabbitmq(*settings: str) -> Generator[RabbitMQ]:
    """A node that runs; `settings` are further lines of rabbitmq.conf."""
    needs("aiormq", "amqp")
    epmd = shutil.which("epmd")
    if not BINARY.exists() or epmd is None:
        missing("RabbitMQ", "apt-get install --no-install-recommends rabbitmq-server")
    with folder() as home, _names(epmd, home) as names_port:
        port = free_port()
        (home / "enabled_plugins").write_text("[].\n")
        lines = ("loopback_users = none", f"listeners.tcp.1 = 127.0.0.1:{port}", "log.file.level = warning")
        (home / "rabbitmq.conf").write_text("\n".join([*lines, *settings, ""]))
        environment = _environment(home, port, names_port)
        server = Server([BINARY], lambda _: _answers(port), home / "server.log", environment)
        try:
            server.start()
            yield RabbitMQ(server, port, environment)
        finally:
            server.kill()


@contextmanager
def _names(epmd: str, home: Path) -> Generator[int]:
    """Erlang's register of names, in the foreground: one that the node starts becomes a daemon and outlives it."""
    port = free_port()
    server = Server([epmd, "-port", str(port), "-address", "127.0.0.1"], lambda _: listens(port), home / "epmd.log")
    server.start()
    try:
        yield port
    finally:
        server.kill()


def _environment(home: Path, port: int, names_port: int) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),  # the cookie goes there
        "LANG": "C.UTF-8",
        "ERL_CRASH_DUMP_BYTES": "0",  # else a crash writes where the tests run
        "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the node, so that a signal reaches it
        "RABBITMQ_NODENAME": f"t{port}@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        # By its tick a channel sees that a message was held for too long: every minute, if we let it.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +S 2:2 +sbwt none -rabbit channel_tick_interval 250",
        "ERL_EPMD_PORT": str(names_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }


def _answers(port: int) -> bool:
    """Whether it answers a header of a version that it does not speak."""
    with socket.create_connection(("127.0.0.1", port), 1) as probe:
        probe.sendall(b"AMQP\x00\x00\x09\x01")
        return bool(probe.recv(1))
