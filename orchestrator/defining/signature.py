"""One function of a saga's body: its parameters and what its annotations mean."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import DefinitionError
from ..hints import members, resolve

NONE = type(None)


class Signature:
    """A plain function of self (or cls) and so many parameters. `where` names it in errors: class, step, itself."""

    def __init__(
        self, where: str, function: Callable[..., Any], local_names: Mapping[str, Any], least: int, most: int
    ) -> None:
        """Annotations are looked up in `local_names`, then in the function's module. Errors: DefinitionError."""
        self.where = where
        self._plain: Any = inspect.unwrap(function)
        self._local_names = local_names
        if self._plain.__code__.co_flags & _NOT_PLAIN:
            raise self.wrong("must be a plain def that returns: what waits or does I/O is a participant")
        self.names = list(inspect.signature(function).parameters)[1:]
        if not least <= len(self.names) <= most:
            count = str(least) if least == most else f"{least} or {most}"
            raise self.wrong(f"has {len(self.names)} parameters after self: give it {count}")

    def wrong(self, problem: str) -> DefinitionError:
        """The error that says what is wrong with this function, and what to do."""
        return DefinitionError(f"{self.where} {problem}")

    def parameter(self, position: int) -> tuple[Any, ...]:
        """The members of the union that a parameter takes."""
        name = self.names[position]
        hint = self._hint(name)
        if hint is None:
            raise self.wrong(f"does not say what it takes: annotate {name} with the message's class")
        return members(hint)

    def returned(self) -> tuple[Any, ...] | None:
        """The members, but None, of the union that it returns; None if it does not say."""
        hint = self._hint("return")
        return None if hint is None else tuple(part for part in members(hint) if part is not NONE)

    def _hint(self, name: str) -> Any:
        try:
            annotations = self._plain.__annotations__
            if name not in annotations:
                return None
            return resolve(annotations[name], self._plain.__globals__, self._local_names)
        except NameError as error:
            raise self.wrong(
                f"is annotated with {error.name}, which is not there yet: define or import it above, not under "
                f"TYPE_CHECKING (sagas that start each other as children would go in a circle)"
            ) from None


_NOT_PLAIN = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
