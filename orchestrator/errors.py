"""What can go wrong, by what the catcher should do about it."""

from __future__ import annotations


class OrchestratorError(Exception):
    """Everything this library raises on purpose."""


class DefinitionError(OrchestratorError, TypeError):
    """A saga, message or participant class that cannot be right; raised at import, with the remedy in its text."""


class AppError(OrchestratorError):
    """An app that cannot be loaded or cannot serve what is stored; mend the code or the configuration."""


class ConfigError(OrchestratorError):
    """A setting that is wrong or missing; its text names the setting and where it came from."""


class BadMessage(OrchestratorError, ValueError):
    """Bytes or a value that are not the message they claim to be (R16); sending them again will not help."""


class StoreError(OrchestratorError):
    """The base of what a store raises."""


class VersionConflict(StoreError):
    """Somebody else moved the instance or appended to the stream first: load it again and decide again.

    Of a stream: its name, the version it was `expected` to have and the one it has.
    """

    def __init__(self, text: str, *, stream: str = "", expected: int = 0, actual: int = 0) -> None:
        """Say who is in the way."""
        super().__init__(text)
        self.stream = stream
        self.expected = expected
        self.actual = actual

    @classmethod
    def of_stream(cls, stream: str, expected: int, actual: int) -> VersionConflict:
        """Of an append to a stream that has another version than was expected."""
        text = f"stream {stream} is at version {actual}, not at {expected}"
        return cls(text, stream=stream, expected=expected, actual=actual)


class DuplicateMessage(StoreError):
    """This instance has applied a message of this id already: acknowledge it, nothing is to be done."""


class StoreUnavailable(StoreError):
    """Nothing is known of the last write: load again before deciding anything."""


class StoreFull(StoreError):
    """Nothing was written, there is no room: stop accepting, try again later."""


class StoreCorrupt(StoreError):
    """Not a store, or damaged, or of another schema version, or on a disk that lost a write: stop; a person decides."""


class StoreLocked(StoreError):
    """Another process writes this store; its text names the process id."""


class NoStore(StoreError):
    """There is no store at this place yet: nothing was created."""


class BusUnavailable(OrchestratorError):
    """The message may be out or not: send it again under the same id."""


class NotSent(OrchestratorError):
    """The receiver of a webhook was not reached, or its address may not be: try again later."""


class NotAccepting(OrchestratorError):
    """No message is taken now, because the daemon stops or its store has no room; this one may still be taken: send it
    again later under the same id.
    """


class Refused(OrchestratorError):
    """The instance is not in a state for what was asked; nothing was changed."""


class NotFound(OrchestratorError):
    """There is no such instance, dead letter or saga."""


class RetryAfter(OrchestratorError):
    """Raised by a participant or listener: this attempt failed, try again after so many seconds."""

    LONGEST_S = 10 * 365 * 86_400.0

    def __init__(self, seconds: float, reason: str = "") -> None:
        """Ask for the next attempt after `seconds`, at most ten years; `reason` is shown to people.

        Errors: ValueError, for what is no time to wait; raised in a participant it is a failure of the attempt.
        """
        if not 0 <= seconds <= self.LONGEST_S:
            raise ValueError(f"RetryAfter({seconds!r}): the next attempt is after 0 to {self.LONGEST_S:,.0f} seconds")
        super().__init__(reason or f"asked to be tried again after {seconds:g} s")
        self.seconds = seconds


class Fatal(OrchestratorError):
    """Raised by a participant or listener: this failed and trying again will not help."""
