"""An environment of its own for every peer, with exactly the versions that `peers/peers.toml` names; and ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.util import find_spec
from pathlib import Path

import msgspec
from msgspec import Struct

PEERS = Path(__file__).parent / "peers" / "peers.toml"
INSTALL_S = 600
SPEED = "uvloop==0.23.0"  # what our extra `speed` adds


class Peer(Struct, frozen=True, kw_only=True):
    """As in `peers.toml`. `binary`: the program among the npm packages that it needs."""

    title: str
    durable: str
    python: tuple[str, ...]
    npm: tuple[str, ...] = ()
    binary: str = ""


class Environment(Struct, frozen=True):
    """What a participant is run with: its interpreter, where else it imports from, and environment variables."""

    python: Path
    path: tuple[Path, ...] = ()
    variables: dict[str, str] = {}


def peers() -> dict[str, Peer]:
    """All there are, by the module of their participant."""
    return msgspec.convert(tomllib.loads(PEERS.read_text()), dict[str, Peer])


def environment(name: str, peer: Peer, directory: Path) -> Environment:
    """Make it below this directory, unless it is there in the same versions. Errors: RuntimeError, saying why not."""
    home = directory / name
    done = home / "installed"
    wanted = "\n".join([sys.version, *peer.python, *peer.npm])
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        _install(peer, home)
        done.write_text(wanted)
    variables: dict[str, str] = {}
    if peer.binary:
        found = [path for path in home.glob(f"npm/node_modules/**/bin/{peer.binary}") if path.is_file()]
        if not found:
            raise RuntimeError(f"there is no {peer.binary} for this system")
        variables[peer.binary.upper().replace("-", "_")] = str(found[0])
    return Environment(home / "python" / "bin" / "python", variables=variables)


def own_environment(directory: Path) -> tuple[Environment, str]:
    """This interpreter with our extra `speed`, which is put below this directory unless it is installed; and which
    event loop that makes. Without a package index it is asyncio's own.
    """
    python = Path(sys.executable)
    if find_spec("uvloop") is not None:
        return Environment(python), "uvloop"
    home = directory / f"speed-{sys.version_info.major}.{sys.version_info.minor}"
    if not (home / "uvloop").is_dir():
        try:
            _run([*_PIP, "--no-deps", "--target", str(home), SPEED])
        except RuntimeError as error:
            return Environment(python), f"asyncio's own event loop ({error})"
    return Environment(python, (home,)), "uvloop"


_PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def _install(peer: Peer, home: Path) -> None:
    if peer.npm and not shutil.which("npm"):
        raise RuntimeError("npm is not there")
    venv.create(home / "python", with_pip=True)
    pip = [str(home / "python" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", *peer.python]
    _run([*pip, "--disable-pip-version-check"])
    if peer.npm:
        prefix = home / "npm"
        prefix.mkdir()
        _run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(prefix), *peer.npm])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise RuntimeError(f"{command[0]} failed: {' '.join(last)}")
