"""Error texts from users' code, made fit to be stored and shown."""

from __future__ import annotations

MAX_TEXT = 8_000


def plain(text: str) -> str:
    """The text without what no store takes (lone surrogates, NUL), its middle left out if it is very long."""
    clean = text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    if len(clean) <= MAX_TEXT:
        return clean
    half = MAX_TEXT // 2
    return f"{clean[:half]}\n...\n{clean[-half:]}"


def of_error(error: BaseException) -> str:
    """An exception in one line: its class and what it says."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 users' code too, and it must not stop the engine
        said = "its text cannot be made"
    return plain(f"{type(error).__name__}: {said}" if said else type(error).__name__)
