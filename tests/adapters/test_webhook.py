"""Webhooks over real HTTP: what is sent, what is read of an answer, and where requests do not go."""

from __future__ import annotations

import datetime
import ipaddress
import resource
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from standardwebhooks import Webhook as Oracle
from standardwebhooks import WebhookVerificationError

from orchestrator import App, Event, NotSent, Orchestrator, listener
from orchestrator.config import WebhookSettings
from orchestrator.ports import Post, Posted
from orchestrator.webhooks import Networks
from orchestrator_adapters.webhook import HttpSender

from ..servers.receiver import Receiver, receiver

pytestmark = pytest.mark.anyio

HERE = Networks(("127.0.0.0/8",)).takes


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def sender(
    takes: Callable[[str], bool] = HERE, context: ssl.SSLContext | None = None
) -> AsyncGenerator[HttpSender]:
    found = HttpSender(takes, context)
    try:
        yield found
    finally:
        await found.close()


async def posted(found: HttpSender, url: str, **headers: str) -> Posted:
    return await found.post(Post(url, {"webhook-id": "1", **headers}, b'{"a":1}'))


async def test_a_request_arrives_as_it_was_meant() -> None:
    with receiver() as there:
        async with sender() as out:
            assert await posted(out, there.url("/ok/x?y=1")) == Posted(204)
    [(path, headers, body)] = there.came
    assert (path, body) == ("/ok/x?y=1", b'{"a":1}')
    assert headers["host"] == f"127.0.0.1:{there.port}" and headers["webhook-id"] == "1"
    assert "cookie" not in headers and "authorization" not in headers


async def test_a_connection_is_used_again_after_a_short_answer() -> None:
    with receiver() as there:
        async with sender() as out:
            for _ in range(5):
                assert (await posted(out, there.url("/200"))).status == 200
    assert there.connections == 1


async def test_no_cookie_is_kept_and_no_proxy_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with receiver() as there:
        async with sender() as out:
            await posted(out, there.url("/cookie"))
            await posted(out, there.url("/cookie"))
    assert all("cookie" not in headers for _, headers, _ in there.came)


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    with receiver() as there:
        async with sender(takes=lambda address: True) as out:
            assert (await posted(out, there.url("/redirect"))).status == 302
    assert len(there.came) == 1


async def test_retry_after_is_told() -> None:
    with receiver() as there:
        async with sender() as out:
            assert await posted(out, there.url("/busy")) == Posted(503, "120")


async def test_of_megabytes_little_is_read() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with receiver() as there:
        async with sender() as out:
            began = time.monotonic()
            assert (await posted(out, there.url("/megabytes"))).status == 200
            assert time.monotonic() - began < 2
        assert there.sent_bytes < 16 << 20  # what fits into the sockets' buffers
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


async def test_a_body_that_drips_is_not_waited_for() -> None:
    with receiver() as there:
        async with sender() as out:
            began = time.monotonic()
            assert (await posted(out, there.url("/drip"))).status == 200
            assert time.monotonic() - began < 3


@pytest.mark.parametrize("path", ["/hang", "/headers_drip"])
async def test_one_that_hangs_can_be_cut_off_and_leaves_the_sender_fit_for_use(path: str) -> None:
    with receiver() as there:
        async with sender() as out:
            with pytest.raises(TimeoutError), anyio.fail_after(0.5):
                await posted(out, there.url(path))
            assert (await posted(out, there.url("/ok"))).status == 204


async def test_what_is_no_http_and_nobody_listening_are_said() -> None:
    with receiver() as there:
        async with sender() as out:
            with pytest.raises(NotSent, match="this is no HTTP"):
                await posted(out, there.url("/nonsense"))
    async with sender() as out:
        with pytest.raises(NotSent, match="no connection"):
            await posted(out, there.url("/ok"))
        with pytest.raises(NotSent, match="was not found"):
            await out.check("https://nobody.invalid/")


class Names:
    """A resolver that answers what a test says, in turn."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int, **more: Any) -> list[Any]:
        try:
            ipaddress.ip_address(host)
            addresses = [host]
        except ValueError:
            self.asked += 1
            addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]


async def test_a_name_that_changes_its_address_after_the_check_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as there:
        monkeypatch.setattr(socket, "getaddrinfo", Names(["93.184.216.34"], ["127.0.0.1"]))
        async with sender(Networks().takes) as out:
            await out.check(there.url("/ok", "crm.example"))
            with pytest.raises(NotSent, match="not public"):
                await posted(out, there.url("/ok", "crm.example"))
    assert there.came == []


async def test_the_address_that_was_looked_at_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    with receiver() as there:
        monkeypatch.setattr(socket, "getaddrinfo", names)
        async with sender() as out:
            assert (await posted(out, there.url("/ok", "crm.example"))).status == 204
    assert names.asked == 1
    assert there.came[0][1]["host"] == f"crm.example:{there.port}"


async def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names(["93.184.216.34", "10.0.0.7"]))
    async with sender(Networks().takes) as out:
        with pytest.raises(NotSent, match="not public"):
            await out.check("https://crm.example/")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0", "localhost", "[::1]", "[::ffff:7f00:1]"]
)
async def test_however_this_machine_is_written_it_is_not_public(host: str) -> None:
    async with sender(Networks().takes) as out:
        with pytest.raises(NotSent, match="not public"):
            await posted(out, f"http://{host}:9/")


async def test_the_certificate_is_checked_against_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server, trusting = certified(tmp_path, "crm.example")
    monkeypatch.setattr(socket, "getaddrinfo", Names(["127.0.0.1"]))
    with receiver(server) as there:
        async with sender(context=trusting) as out:
            assert (await posted(out, there.url("/ok", "crm.example"))).status == 204
            with pytest.raises(NotSent, match=r"(?i)certificate"):
                await posted(out, there.url("/ok", "evil.example"))
        async with sender() as out:
            with pytest.raises(NotSent, match=r"(?i)certificate"):
                await posted(out, there.url("/ok", "crm.example"))


def certified(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate of this name, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem, secret)
    return server, ssl.create_default_context(cafile=str(pem))


# The whole way.


class Registered(Event):
    user: str


class Joined(Event, type="user.registered", boundary=True):
    user: str


@listener
async def translate(event: Registered) -> Joined:
    return Joined(event.user)


async def test_a_real_receiver_verifies_what_an_orchestrator_sends(tmp_path: Path) -> None:
    settings = WebhookSettings(allow=("127.0.0.1",), http=True)
    app = App("users", listeners=[translate])
    with receiver() as there:
        async with Orchestrator(app, f"sqlite:///{tmp_path / 'users.db'}", webhooks=settings) as running:
            webhook = await running.webhooks.add(there.url("/ok"), name="crm")
            old = webhook.keys[0].secret.reveal()
            new = (await running.webhooks.rotate("crm")).keys[0].secret.reveal()
            await running.emit(Registered("anna"))
            await running.until_idle()
    [(_, headers, body)] = there.came
    for secret in (old, new):
        verified = Oracle(secret).verify(body, headers)
        assert verified["type"] == "user.registered" and verified["data"] == {"user": "anna"}
    with pytest.raises(WebhookVerificationError):
        Oracle(old).verify(body.replace(b"anna", b"evil"), headers)
    assert_arrived(there)


def assert_arrived(there: Receiver) -> None:
    [(_, headers, _)] = there.came
    assert headers["content-type"] == "application/cloudevents+json"
