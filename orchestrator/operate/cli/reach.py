"""How an acting verb gets at the store: through the daemon where one runs, else by itself."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from ...errors import AppError, NoStore, StoreLocked
from .. import client
from ..client import Desk
from ..places import store_file
from .session import Session

PATIENCE_S = 10.0  # for a daemon that has the lock and does not listen yet, or no more; and for another verb
LOOK_S = 0.05


@contextmanager
def reached(session: Session, *, may_create: bool = False) -> Generator[Desk]:
    """Where asks are answered, for the time of a verb. `may_create`: a store that is not there yet is made.

    Errors: AppError when no daemon runs and the app is not known, StoreLocked, NoStore, ConnectionError, and what
    opening the store raises.
    """
    path = store_file(session.settings.store)
    patience_ends = time.monotonic() + PATIENCE_S
    while True:
        daemon = client.connect(path) if path is not None else None
        if daemon is not None:
            with daemon:
                yield daemon
            return
        if path is not None and not path.exists() and not may_create:
            raise NoStore(f"there is no store at {path}: has `{session.command('run')}` been started once?")
        with ExitStack() as stack:
            try:
                own = stack.enter_context(_own(session))
            except StoreLocked:
                if time.monotonic() > patience_ends:
                    raise
                time.sleep(LOOK_S)
                continue
            yield own
        return


def _own(session: Session) -> AbstractContextManager[Desk]:
    from ..own import Own  # only now: a verb that a daemon answers needs no engine, and is quicker

    if not session.settings.app:
        raise AppError(
            "no daemon runs on this store, and acting without one needs the app's classes: start it with "
            f"`{session.command('run')} APP`, or give --app module:attribute, or set ORCHESTRATOR_APP "
            '(or app = "..." in orchestrator.toml)'
        )
    return Own(session.app, session.settings)
