"""What the URL of an SQS bus says. Credentials are not in it: they come from the usual AWS environment."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec
from msgspec import Struct

from orchestrator.errors import ConfigError

EXAMPLE = "sqs://eu-central-1/?timeout=10"
NUMBERS = {"timeout": (0.1, 3_600), "wait": (1, 20), "visibility": (2, 43_200), "max_bytes": (1_024, 1_048_576)}


class Settings(Struct, frozen=True):
    """The options of the URL.

    endpoint    where the services are, if not at AWS itself: `http://127.0.0.1:4566`
    timeout     seconds within which a call is answered or the bus is unavailable
    wait        seconds that a poll stays at the broker while there is nothing, 1 to 20: the more, the cheaper
    visibility  seconds after which the broker sends again what a subscriber, that died, had not settled
    max_bytes   the largest message with its headers; SNS takes 256 KiB
    """

    region: str
    endpoint: str = ""
    timeout: float = 10.0
    wait: int = 20
    visibility: int = 30
    max_bytes: int = 262_144

    @property
    def place(self) -> str:
        """What people know the broker by."""
        return f"SQS at {urlsplit(self.endpoint).netloc if self.endpoint else self.region}"


def settings_of(url: str) -> Settings:
    """The settings that a URL holds. Errors: ConfigError, which never shows what may be a password."""
    parts = urlsplit(url)
    _refuse_secrets(parts)
    if parts.scheme != "sqs" or not parts.netloc or parts.path not in ("", "/") or parts.fragment:
        raise ConfigError(f"bus {url!r}: an SQS bus is named by its region, as in {EXAMPLE}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - {"endpoint"} - NUMBERS.keys()):
        raise ConfigError(f"bus {url!r}: there is no option {unknown[0]!r}; known are endpoint, {', '.join(NUMBERS)}")
    endpoint = urlsplit(options.get("endpoint", ""))
    _refuse_secrets(endpoint)
    if "endpoint" in options and not (endpoint.scheme in ("http", "https") and endpoint.netloc):
        raise ConfigError(f"bus {url!r}: endpoint is an address as in http://127.0.0.1:4566")
    _check_numbers(url, options)
    _check_driver(url)
    return msgspec.convert({"region": parts.netloc, **options}, Settings, strict=False)


def _refuse_secrets(parts: SplitResult) -> None:
    if "@" in parts.netloc:
        raise ConfigError(
            "bus sqs://…@…: no credentials in the URL; what counts is AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE, or the role of the machine"
        )


def _check_numbers(url: str, options: Mapping[str, str]) -> None:
    for name in options.keys() & NUMBERS.keys():
        least, most = NUMBERS[name]
        is_whole = name != "timeout"
        try:
            number = int(options[name]) if is_whole else float(options[name])
        except ValueError:
            number = -1
        if not least <= number <= most:
            what = "a whole number" if is_whole else "a number"
            raise ConfigError(f"bus {url!r}: {name} is {what} from {least} to {most}, not {options[name]!r}")


def _check_driver(url: str) -> None:
    if find_spec("aiobotocore") is None:
        remedy = f"{sys.executable} -m pip install 'saga-orchestrator[sqs]'"
        raise ConfigError(f"bus {url!r} needs aiobotocore, which is not installed: {remedy}")
