"""Who may write the file: `flock` on a file beside it, and where SQLite must not be trusted at all."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from orchestrator.errors import ConfigError, StoreLocked, StoreUnavailable

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "ncpfs", "fuse.sshfs", "fuse.davfs", "davfs"}
)
LOOKS, LOOK_S = 20, 0.01


class FileLock:
    """The right to write a store, held until released or until the process is gone, however it went.

    It is a file of its own, because closing the database file anywhere in the process would drop SQLite's own locks.
    """

    def __init__(self, store: Path) -> None:
        self.path = store.with_name(store.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock and write the process id into it. Errors: StoreLocked, StoreUnavailable, OSError."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"cannot write {self.path}, the lock file of the store: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            by = f"process {holder}" if holder else "another process"
            raise StoreLocked(f"{by} is writing this store already ({self.path})") from None
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it up; the file stays, empty."""
        if self._descriptor is None:
            return
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = None


def _holder(descriptor: int) -> str:
    """The process id in a lock file, or nothing; whoever has just taken the lock is about to write it."""
    for _ in range(LOOKS):
        if written := os.pread(descriptor, 20, 0).decode("ascii", "replace").strip():
            return written
        time.sleep(LOOK_S)
    return ""


def refuse_network(path: Path) -> None:
    """Raise ConfigError if `path` lies on a file system whose locks SQLite cannot rely on."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # no such table on this system
    kind, mount = file_system(path, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigError(
            f"{path} is on a network file system ({kind} at {mount}), where SQLite loses data: use a local disk"
        )


def file_system(path: Path, mounts: str) -> tuple[str, str]:
    """Type and mount point of the file system that holds an absolute path, by a table like /proc/mounts."""
    found = ("", "")
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mount = _unescaped(fields[1])
        if path.is_relative_to(mount) and len(mount) >= len(found[1]):  # of equals the later one covers the earlier
            found = (fields[2], mount)
    return found


def _unescaped(field: str) -> str:
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(escape, character)
    return field
