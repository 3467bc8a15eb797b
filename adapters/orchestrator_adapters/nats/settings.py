"""What a `nats://` URL says."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from msgspec import Struct

from orchestrator.errors import ConfigError

_WRONG_FORM = (  # without what was given: a part of the password may have come to stand anywhere
    "bus nats: the form is nats://[USER:PASSWORD@ or TOKEN@]HOST[:PORT][,HOST[:PORT]...][?OPTION=VALUE&...], "
    "with %2F for / and so on in a password"
)
PORT = 4222
OPTIONS = {
    "stream": "what the names of streams that are made begin with (orchestrator)",
    "replicas": "how many servers keep each of these streams, 1 to 5 (1)",
    "keep_days": "how long these streams keep a message, taken or not (30)",
    "timeout": "seconds until a server that does not answer counts as unavailable (10)",
    "ack_wait": "seconds after which a message of a dead subscriber is sent again (30)",
    "tls": "true: refuse a server without TLS",
    "ca": "a file of certificates to trust in place of the system's",
    "cert": "a file with our certificate",
    "key": "a file with its key",
    "creds": "a file with a NATS user's JWT and seed",
}
_CREDS_MARKS = ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED")


class Settings(Struct, frozen=True, kw_only=True):
    """`place` names the servers for people, without a password. Times in seconds."""

    servers: tuple[str, ...]
    place: str
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: str | None = None
    tls: ssl.SSLContext | None = None
    stream: str = "orchestrator"
    replicas: int = 1
    keep_s: float = 30 * 86_400.0
    timeout_s: float = 10.0
    ack_wait_s: float = 30.0


def settings_of(url: str) -> Settings:
    """The settings. Errors: ConfigError, which never shows the password."""
    parts = _parts(url)
    who, _, hosts = parts.netloc.rpartition("@")
    servers = tuple(_server(host) for host in hosts.split(","))
    wrong = f"bus nats://{hosts}: "
    options = _options(parts, wrong)
    user, colon, password = who.partition(":")
    return Settings(
        servers=tuple(f"nats://{server}" for server in servers),
        place=",".join(servers),
        user=unquote(user) if colon else None,
        password=unquote(password) if colon else None,
        token=unquote(user) if user and not colon else None,
        creds=_creds(options.get("creds"), wrong),
        tls=_tls(options, wrong),
        stream=options.get("stream") or "orchestrator",
        replicas=int(_number(options, "replicas", 1, 1, 5, wrong)),
        keep_s=_number(options, "keep_days", 30, 0.01, 36_500, wrong) * 86_400,
        timeout_s=_number(options, "timeout", 10, 0.1, 3_600, wrong),
        ack_wait_s=_number(options, "ack_wait", 30, 0.5, 86_400, wrong),
    )


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError(_WRONG_FORM) from None
    if parts.scheme != "nats" or parts.path not in ("", "/") or parts.fragment or "@" in parts.query:
        raise ConfigError(_WRONG_FORM)
    return parts


def _server(host: str) -> str:
    try:
        parts = urlsplit(f"nats://{host}")
        port = PORT if parts.port is None else parts.port
    except ValueError:
        raise ConfigError(_WRONG_FORM) from None
    if not parts.hostname:
        raise ConfigError(_WRONG_FORM)
    return f"[{parts.hostname}]:{port}" if ":" in parts.hostname else f"{parts.hostname}:{port}"


def _options(parts: SplitResult, wrong: str) -> Mapping[str, str]:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - OPTIONS.keys()):
        known = "; ".join(f"{name}: {meaning}" for name, meaning in OPTIONS.items())
        raise ConfigError(f"{wrong}there is no option {', '.join(unknown)}. Known are {known}")
    return options


def _number(options: Mapping[str, str], name: str, default: float, low: float, high: float, wrong: str) -> float:
    text = options.get(name, str(default))
    kind: Callable[[str], float] = int if isinstance(low, int) else float
    try:
        if low <= (value := kind(text)) <= high:
            return value
    except ValueError:
        pass
    raise ConfigError(f"{wrong}{name}={text}: a number from {low:g} to {high:g}")


def _tls(options: Mapping[str, str], wrong: str) -> ssl.SSLContext | None:
    wanted = options.get("tls", "false").lower()
    if wanted not in ("true", "false", "1", "0"):
        raise ConfigError(f"{wrong}tls={wanted}: true or false")
    if wanted in ("false", "0"):
        if idle := sorted({"ca", "cert", "key"} & options.keys()):
            raise ConfigError(f"{wrong}{', '.join(idle)} without TLS: add tls=true")
        return None
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        if "cert" in options:
            context.load_cert_chain(options["cert"], options.get("key"))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(f"{wrong}the files of ca, cert and key are not what they should be: {error}") from error
    return context


def _creds(path: str | None, wrong: str) -> str | None:
    if path is None:
        return None
    if find_spec("nkeys") is None:
        raise ConfigError(f"{wrong}creds need nkeys, which is not installed: pip install 'nats-py[nkeys]'")
    try:
        text = Path(path).read_text()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{wrong}creds={path}: {error}") from error
    if not all(mark in text for mark in _CREDS_MARKS):  # the driver would look for them for ever
        raise ConfigError(f"{wrong}creds={path} is not a credentials file of NATS (nsc generate creds)")
    return path


def connect_options(settings: Settings, check: Callable[[], None]) -> dict[str, Any]:
    """What the driver is told of who we are. It asks for a password just before it sends it: `check` may refuse."""

    def after_check(secret: str) -> Callable[[], str]:
        def given() -> str:
            check()
            return secret

        return given

    options: dict[str, Any] = {"servers": list(settings.servers), "user_credentials": settings.creds}
    if settings.tls is not None:
        options["tls"] = settings.tls
    if settings.token is not None:
        options["token"] = after_check(settings.token)
    if settings.user is not None and settings.password is not None:
        options |= {"user": settings.user, "password": after_check(settings.password)}
    return options


def tls_check(tls: ssl.SSLContext | None) -> Callable[[], None]:
    """Raises ConnectionError as long as there was no TLS handshake from now on: the driver goes without, if the server
    says so.
    """
    before = tls.session_stats()["connect_good"] if tls is not None else 0

    def check() -> None:
        if tls is not None and tls.session_stats()["connect_good"] == before:
            raise ConnectionError("the server offers no TLS, which the URL asks for")

    return check
