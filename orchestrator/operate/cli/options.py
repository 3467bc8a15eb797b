"""The options that every verb takes, and what they said; cheap to import, so that --help is fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass
class Given:
    """What the common options said, before or after the verb (the later wins); None: not given."""

    store: str | None = None
    app: str | None = None
    bus: str | None = None
    json: bool = False


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    given = context.ensure_object(Given)
    if isinstance(value, str) and not value.strip():  # as of "$URL" in a script: not to be guessed what was meant
        told = "it is empty; leave it out for what the environment or the file says"
        raise click.BadParameter(told, context, parameter)
    if value not in (None, False):
        setattr(given, str(parameter.name), value)


def _common(flag: str, **attributes: Any) -> Callable[[Function], Function]:
    return click.option(flag, expose_value=False, callback=_remember, **attributes)


store_option = _common("--store", metavar="URL", help="The store, as in sqlite:///shop.db.")
app_option = _common("--app", metavar="APP", help="The app, as module:attribute or file.py:attribute.")
bus_option = _common("--bus", metavar="URL", help="The bus, as in memory://.")
json_option = _common("--json", is_flag=True, help="Answer with one versioned JSON object.")


def common_options(function: Function) -> Function:
    """--store, --app and --json, for a verb."""
    return store_option(app_option(json_option(function)))
