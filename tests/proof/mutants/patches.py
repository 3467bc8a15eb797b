"""The deliberate bugs, as they are kept: a sentence, where to look first, and the diff.

# publishes before the commit (R1)
# caught by: simulation linear, refused / crash before | paused
# caught by: test tests/runtime/test_faults.py::test_many_transitions_share_a_commit
--- a/orchestrator/runtime/committer.py
...
"""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

PATCHES = Path(__file__).parent / "patches"

_SAYS = re.compile(r"# (?P<what>.+) \((?P<rule>[RI]\d+(?:, [RI]\d+)*)\)")
_HINT = "# caught by: "
_FILE = re.compile(r"^\+\+\+ b/(?P<path>\S+)", re.MULTILINE)


class Mutant(Struct, frozen=True):
    """One bug: what is broken, the rule that says so, what should notice first, and the diff."""

    name: str
    what: str
    rule: str
    hints: tuple[str, ...]
    diff: str

    @property
    def files(self) -> tuple[str, ...]:
        """The files it touches, from the root of the tree."""
        return tuple(dict.fromkeys(_FILE.findall(self.diff)))


def mutants() -> list[Mutant]:
    """All of them, in the order of their numbers."""
    return [mutant(path.stem, path.read_text()) for path in sorted(PATCHES.glob("*.patch"))]


def mutant(name: str, text: str) -> Mutant:
    """One of them. Errors: ValueError, when it does not say what is broken."""
    lines = text.splitlines(keepends=True)
    head = [line.rstrip() for line in lines if line.startswith("# ")]
    says = _SAYS.fullmatch(head[0]) if head else None
    if says is None:
        raise ValueError(f"patch {name}: the first line says what is broken, and in brackets the rule")
    hints = tuple(line.removeprefix(_HINT) for line in head if line.startswith(_HINT))
    diff = "".join(line for line in lines if not line.startswith("# "))
    return Mutant(name, says["what"], says["rule"], hints, diff)
