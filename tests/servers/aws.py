"""SNS and SQS by moto: an emulation over HTTP, which forgets everything when it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from .process import START_S, Server, folder, free_port, listens, missing, package_folder

REGION = "eu-central-1"
FIRST = {
    "sts": "GetCallerIdentity&Version=2011-06-15",
    "sns": "ListTopics&Version=2010-03-31",
    "sqs": "ListQueues&Version=2012-11-05",
}
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


class Aws:
    """A running emulation. `kill` is SIGKILL; `start` after it has the same port and nothing else of before."""

    def __init__(self, server: Server, port: int) -> None:
        """Of a server that is started by `aws`."""
        self._server = server
        self.port = port
        self.kill = server.kill
        self.start = server.start

    @property
    def endpoint(self) -> str:
        """Its address for any client of AWS."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Of the bus; more options may follow."""
        return bus_url(self.port)


def bus_url(port: int, **options: object) -> str:
    """The URL of the bus at a port of loopback: the server's own, or a proxy's."""
    more = "".join(f"&{name}={value}" for name, value in options.items())
    return f"sqs://{REGION}/?endpoint=http://127.0.0.1:{port}{more}"


@contextmanager
def aws() -> Iterator[Aws]:
    """Start it, with credentials in the environment of the tests."""
    for module in ("moto", "aiobotocore", "flask"):
        if package_folder(module) is None:
            missing(module, "pip install 'saga-orchestrator[sqs,servers]'")
    port = free_port()
    script = Path(__file__).parent / "moto_server.py"
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    with folder() as place:
        environment = {**os.environ, **CREDENTIALS}
        server = Server([sys.executable, script, port], lambda _: _serves(port), place / "log", environment)
        server.start()
        os.environ.update(CREDENTIALS)
        try:
            yield Aws(server, port)
        finally:
            server.kill()
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _serves(port: int) -> bool:
    """Whether each service answers: moto loads one when it is first asked, which takes a second or more."""
    return listens(port) and all(_answers(port, service, action) for service, action in FIRST.items())


def _answers(port: int, service: str, action: str) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=START_S)
    credential = f"Credential=test/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0"
    headers = {"Authorization": f"AWS4-HMAC-SHA256 {credential}", "Content-Type": "application/x-www-form-urlencoded"}
    try:
        connection.request("POST", "/", f"Action={action}", headers)
        return connection.getresponse().status < 500
    finally:
        connection.close()
