"""The queue of one instance: its messages one at a time, in order of arrival; operators' verbs overtake (R2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from ..machine.instance import Instance
from ..machine.transition import Transition
from ..wire import Address, Envelope, Kind

Settled = Callable[[Transition | Exception], None]


class Mail(Struct, eq=False, gc=False):
    """One message for one instance, and what its commit settles besides.

    message          None: whichever timer of the instance is due when its turn comes
    settled          told once, after the commit: the transition, or the exception because of which there is none
    remove           outbox rows that the commit takes out: the message came from them
    waiting_remove   waiting-room rows that the commit takes out
    dead_remove      dead letters that the commit takes out
    preview          only decide, commit nothing
    must_exist       a NotFound for `settled` if there is no such instance
    tries            how often its handler has raised (R15)
    unstorable       why no store takes what its handler made of it, or empty
    """

    message: Envelope | None
    settled: Settled | None = None
    remove: tuple[str, ...] = ()
    waiting_remove: tuple[int, ...] = ()
    dead_remove: tuple[int, ...] = ()
    preview: bool = False
    must_exist: bool = False
    tries: int = 0
    unstorable: str = ""

    @property
    def is_verb(self) -> bool:
        """Whether it overtakes."""
        message = self.message
        return message is not None and message.kind is Kind.VERB

    @property
    def settles(self) -> bool:
        """Whether its commit takes something out of the store."""
        return bool(self.remove or self.waiting_remove or self.dead_remove)


class Mailbox(Struct, eq=False, gc=False):
    """Lives while there is mail for the instance. `under_way` is the mail that is decided and not settled yet, in
    order; `unanswered` says how many of its commits are not back.

    `is_known`: `instance` is what the store holds once what is under way is stored (None: there is no such instance).
    """

    address: Address
    instance: Instance | None = None
    is_known: bool = False
    is_ready: bool = False
    under_way: list[Mail] = []
    unanswered: int = 0
    mails: list[Mail] = []  # verbs first; a deque is made five times slower, and most hold one mail

    def __len__(self) -> int:
        return len(self.mails) + len(self.under_way)

    def put(self, mail: Mail) -> None:
        """Add the newest."""
        if mail.is_verb:
            self.mails.insert(self._behind_verbs, mail)
        else:
            self.mails.append(mail)

    def put_first(self, mails: Iterable[Mail]) -> None:
        """Add what comes before all that waits, in its own order."""
        place = self._behind_verbs
        self.mails[place:place] = mails

    def take(self) -> Mail:
        """The next one, from now on under way."""
        mail = self.mails.pop(0)
        self.under_way.append(mail)
        return mail

    def put_back(self) -> None:
        """Decide what is under way again, before all others of its kind."""
        self.mails = sorted([*self.under_way, *self.mails], key=_is_behind_verbs)
        self.under_way = []

    def forget(self) -> None:
        """Nothing is known any more of what the store holds."""
        self.instance, self.is_known = None, False

    @property
    def _behind_verbs(self) -> int:
        return next((place for place, mail in enumerate(self.mails) if not mail.is_verb), len(self.mails))


def _is_behind_verbs(mail: Mail) -> bool:
    return not mail.is_verb
