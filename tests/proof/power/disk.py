"""A disk that forgets: what is written is there at once, and after a power cut only if it was synced."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from random import Random
from typing import TypeAlias

from msgspec import Struct

SECTOR = 512
SURVIVAL = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)  # how likely what was not synced is there all the same

Image: TypeAlias = dict[str, bytes]


class Act(Enum):
    """What can be asked of a disk that a power cut can undo."""

    WRITE = auto()
    TRUNCATE = auto()
    SYNC = auto()
    LOST_SYNC = auto()  # it failed: what it was to keep is taken for kept, and is not
    CREATE = auto()
    DELETE = auto()


class Op(Struct, frozen=True):
    """One act on one file. `acked`: how many transactions had been acknowledged before it."""

    act: Act
    file: int
    acked: int
    at: int = 0  # offset of a write, size of a truncation
    data: bytes = b""
    name: str = ""
    and_directory: bool = False  # a sync, or a deletion, that makes the directory durable too


class Disk:
    """What programs see of it, and the log of all that was done to it."""

    def __init__(self, image: Image | None = None) -> None:
        self.log: list[Op] = []
        self.acked = 0
        self.names: dict[str, int] = {}
        self.bytes: list[bytearray] = []
        self._image = dict(image or {})
        for name, content in self._image.items():
            self.names[name] = len(self.bytes)
            self.bytes.append(bytearray(content))

    @property
    def image(self) -> Image:
        """What it began with, all of it durable."""
        return self._image

    def contents(self) -> Image:
        """What programs see now."""
        return {name: bytes(self.bytes[file]) for name, file in self.names.items()}

    def play(self, ops: Iterable[Op]) -> None:
        """Do again what another disk has logged."""
        for op in ops:
            self.acked = op.acked
            match op.act:
                case Act.WRITE:
                    self.write(op.file, op.at, op.data)
                case Act.TRUNCATE:
                    self.truncate(op.file, op.at)
                case Act.CREATE:
                    self.create(op.name)
                case Act.DELETE:
                    self.delete(op.name, and_directory=op.and_directory)
                case Act.SYNC:
                    self.sync(op.file, and_directory=op.and_directory)
                case Act.LOST_SYNC:
                    self.lose_sync(op.file)

    def create(self, name: str) -> int:
        self.names[name] = file = len(self.bytes)
        self.bytes.append(bytearray())
        self._note(Act.CREATE, file, name=name)
        return file

    def delete(self, name: str, *, and_directory: bool) -> None:
        self._note(Act.DELETE, self.names.pop(name), name=name, and_directory=and_directory)

    def write(self, file: int, at: int, data: bytes) -> None:
        self._note(Act.WRITE, file, at, data)
        _write(self.bytes[file], at, data)

    def truncate(self, file: int, size: int) -> None:
        self._note(Act.TRUNCATE, file, size)
        del self.bytes[file][size:]

    def sync(self, file: int, *, and_directory: bool) -> None:
        self._note(Act.SYNC, file, and_directory=and_directory)

    def lose_sync(self, file: int) -> None:
        self._note(Act.LOST_SYNC, file)

    def _note(
        self, act: Act, file: int, at: int = 0, data: bytes = b"", *, name: str = "", and_directory: bool = False
    ) -> None:
        self.log.append(Op(act, file, self.acked, at, data, name, and_directory))


class Platter:
    """What of a log is on the disk for certain, and what may be; `image` draws one of the many outcomes of a cut."""

    def __init__(self, image: Image) -> None:
        self._durable: list[bytearray] = []
        self._pending: list[list[Op]] = []
        self._names: dict[str, int] = {}
        self._entries: list[Op] = []  # creations and deletions that the directory may not have
        for name, content in image.items():
            self._names[name] = len(self._durable)
            self._durable.append(bytearray(content))
            self._pending.append([])

    def apply(self, ops: Iterable[Op]) -> None:
        """These were carried out."""
        for op in ops:
            self._apply(op)

    def _apply(self, op: Op) -> None:
        match op.act:
            case Act.WRITE | Act.TRUNCATE:
                self._pending[op.file].append(op)
            case Act.SYNC:
                for pending in self._pending[op.file]:
                    _carry_out(self._durable[op.file], pending)
                self._pending[op.file] = []
            case Act.LOST_SYNC:
                self._pending[op.file] = []
            case Act.CREATE:
                self._durable.append(bytearray())
                self._pending.append([])
                self._entries.append(op)
            case Act.DELETE:
                self._entries.append(op)
        if op.and_directory:
            for entry in self._entries:
                _enter(self._names, entry)
            self._entries = []

    def image(self, chance: Random, last: Op | None = None) -> Image:
        """The files after a cut during `last`, which may be there, in part or not."""
        likely, is_torn = chance.choice(SURVIVAL), chance.random() < 0.5
        entries, names = list(self._entries), dict(self._names)
        if last is not None and last.act in (Act.CREATE, Act.DELETE):
            entries.append(last)
        for entry in entries:
            if chance.random() < likely:
                _enter(names, entry)
        found: Image = {}
        for name, file in names.items():
            is_new = file >= len(self._durable)  # `last` made it
            content = bytearray() if is_new else bytearray(self._durable[file])
            pending = [] if is_new else list(self._pending[file])
            if last is not None and last.file == file and last.act in (Act.WRITE, Act.TRUNCATE):
                pending.append(last)
            if pending:
                _survive(content, pending, chance, likely, is_torn)
            found[name] = bytes(content)
        return found


def _survive(content: bytearray, pending: list[Op], chance: Random, likely: float, is_torn: bool) -> None:
    grows = chance.random() < 0.1  # the size is there, the bytes are not
    for op in pending:
        if grows and op.act is Act.WRITE:
            _write(content, op.at, content[op.at : op.at + len(op.data)].ljust(len(op.data), b"\0"))
        if op.act is Act.WRITE and is_torn:
            for start, end in _sectors(op.at, len(op.data)):
                if chance.random() < likely:
                    _write(content, op.at + start, op.data[start:end])
        elif chance.random() < likely:
            _carry_out(content, op)


def _sectors(at: int, size: int) -> Iterable[tuple[int, int]]:
    """The pieces of a write that lie in one sector each, as offsets into it."""
    start = 0
    while start < size:
        end = min(size, start + SECTOR - (at + start) % SECTOR)
        yield start, end
        start = end


def _carry_out(content: bytearray, op: Op) -> None:
    if op.act is Act.WRITE:
        _write(content, op.at, op.data)
    else:
        del content[op.at :]


def _write(content: bytearray, at: int, data: bytes | bytearray) -> None:
    if at > len(content):
        content.extend(bytes(at - len(content)))
    content[at : at + len(data)] = data


def _enter(names: dict[str, int], entry: Op) -> None:
    if entry.act is Act.CREATE:
        names[entry.name] = entry.file
    elif names.get(entry.name) == entry.file:
        del names[entry.name]
