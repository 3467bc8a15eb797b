"""The queue of one instance: its messages one at a time, in order of arrival; operators' verbs overtake (R2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..machine.instance import Instance
from ..machine.transition import Transition
from ..wire import Address, Envelope, Kind

Settled = Callable[[Transition | Exception], None]


class Mail:
    """One message for one instance, and what its commit settles besides.

    message          None: whichever timer of the instance is due when its turn comes
    settled          told once, after the commit: the transition, or the exception because of which there is none
    remove           outbox rows that the commit takes out: the message came from them
    waiting_remove   waiting-room rows that the commit takes out
    dead_remove      dead letters that the commit takes out
    preview          only decide, commit nothing
    must_exist       a NotFound for `settled` if there is no such instance
    tries            how often its handler has raised (R15)
    """

    __slots__ = ("dead_remove", "message", "must_exist", "preview", "remove", "settled", "tries", "waiting_remove")

    def __init__(
        self,
        message: Envelope | None,
        settled: Settled | None = None,
        *,
        remove: tuple[str, ...] = (),
        waiting_remove: tuple[int, ...] = (),
        dead_remove: tuple[int, ...] = (),
        preview: bool = False,
        must_exist: bool = False,
    ) -> None:
        self.message = message
        self.settled = settled
        self.remove = remove
        self.waiting_remove = waiting_remove
        self.dead_remove = dead_remove
        self.preview = preview
        self.must_exist = must_exist
        self.tries = 0

    @property
    def is_verb(self) -> bool:
        """Whether it overtakes."""
        return self.message is not None and self.message.kind is Kind.VERB

    @property
    def settles(self) -> bool:
        """Whether its commit takes something out of the store."""
        return bool(self.remove or self.waiting_remove or self.dead_remove)


class Mailbox:
    """Lives while there is mail for the instance. `under_way` is the mail whose commit is not back yet.

    `is_known`: `instance` is what the store holds (None: there is no such instance).
    """

    __slots__ = ("_mails", "address", "instance", "is_known", "is_ready", "under_way")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.instance: Instance | None = None
        self.is_known = False
        self.is_ready = False
        self.under_way: Mail | None = None
        self._mails: list[Mail] = []  # verbs first; a deque is made five times slower, and most hold one mail

    def __len__(self) -> int:
        return len(self._mails) + (self.under_way is not None)

    def put(self, mail: Mail) -> None:
        """Add the newest."""
        if mail.is_verb:
            self._mails.insert(self._behind_verbs, mail)
        else:
            self._mails.append(mail)

    def put_first(self, mails: Iterable[Mail]) -> None:
        """Add what comes before all that waits, in its own order."""
        place = self._behind_verbs
        self._mails[place:place] = mails

    def take(self) -> Mail:
        """The next one, from now on under way."""
        self.under_way = self._mails.pop(0)
        return self.under_way

    def put_back(self) -> None:
        """Decide the mail under way again, before all others."""
        assert self.under_way is not None
        self._mails.insert(0 if self.under_way.is_verb else self._behind_verbs, self.under_way)
        self.under_way = None

    @property
    def _behind_verbs(self) -> int:
        return next((place for place, mail in enumerate(self._mails) if not mail.is_verb), len(self._mails))
