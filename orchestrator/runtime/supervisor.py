"""Hosts the instances: one mailbox each while there is mail, decoded state while it is hot, no task (R2)."""

from __future__ import annotations

import logging
import traceback
from asyncio import sleep
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from functools import partial

from msgspec.structs import replace

from ..config import Limits
from ..definition import Definition
from ..errors import DuplicateMessage, NotFound, StoreUnavailable, VersionConflict
from ..machine import HandlerBug, away, migrate, next_timer, react, set_aside
from ..machine.instance import Instance
from ..machine.transition import Outcome, Transition
from ..ports import Clock, Committed, Result, Store, Waiting
from ..wire import Address, DeadLetter, Envelope, Kind
from .committer import Committer
from .mailbox import Mail, Mailbox
from .texts import plain
from .trouble import Trouble
from .waking import Bell, Wakeup

AT_ONCE = 64  # mailboxes of one turn, loaded together; and messages decided before others get the event loop
IN_A_ROW = 32  # messages of one instance that are decided at once, and stored in one commit
ON_DELIVERY = 8  # decisions outside the turns, between two of them: many are decided more cheaply in one go

_log = logging.getLogger(__name__)


class Supervisor:
    """Takes mail, loads what is not there, lets the machine decide, hands the transitions to the committer.

    Mail for an instance that is at hand and has no other is decided where it is delivered; a loop decides the rest.
    `pending` is the mail that is not settled yet. What waits for an instance is decided in a row, each on what the one
    before made of it, and stored in one commit, in that order; the next row when that commit is back.
    `prepare` may leave out of a transition what nobody wants, before it is stored; `on_failed` is called each time that
    nothing could be loaded.
    """

    def __init__(
        self,
        sagas: Mapping[str, Definition],
        store: Store,
        committer: Committer,
        clock: Clock,
        limits: Limits,
        changed: Bell,
    ) -> None:
        """Host the instances of these sagas in this store."""
        self.pending = 0
        self.trouble = Trouble("instances cannot be loaded", clock)
        self.on_failed: Callable[[], None] = _nothing
        self.prepare: Callable[[Transition], Transition] = _as_it_is
        self.is_away: Callable[[str, str], bool] = _never
        self._sagas = sagas
        self._store = store
        self._committer = committer
        self._clock = clock
        self._limits = limits
        self._changed = changed
        self._mailboxes: dict[Address, Mailbox] = {}
        self._ready: deque[Mailbox] = deque()
        self._hot: OrderedDict[Address, Instance] = OrderedDict()
        self._wakeup = Wakeup()
        self._on_delivery = ON_DELIVERY  # what is left of them

    def deliver(self, address: Address, mail: Mail) -> None:
        """Mail for an instance. It never waits: who brings messages from outside asks `has_room` first."""
        self.pending += 1
        mailbox = self._mailboxes.get(address)
        if mailbox is None:
            instance = self._hot.pop(address, None)
            mailbox = self._mailboxes[address] = Mailbox(address, instance, instance is not None, mails=[mail])
            if instance is not None and self._on_delivery:
                self._on_delivery -= 1
                self._turn(mailbox)
                return
        else:
            mailbox.put(mail)
        self._schedule(mailbox)

    def has_room(self, address: Address) -> bool:
        """Whether the mailbox of this instance takes more from outside (R20)."""
        mailbox = self._mailboxes.get(address)
        return mailbox is None or len(mailbox) < self._limits.mailbox

    def is_open(self, address: Address) -> bool:
        """Whether memory says that there is such an instance, and that it has not ended; False says nothing."""
        mailbox = self._mailboxes.get(address)
        instance = mailbox.instance if mailbox is not None and mailbox.is_known else self._hot.get(address)
        return instance is not None and not instance.status.is_end

    @property
    def mailboxes(self) -> int:
        """How many instances have mail."""
        return len(self._mailboxes)

    async def run(self) -> None:
        """Decide what is ready, again and again."""
        while True:
            await self._wakeup.wait()
            while self._ready:
                self._on_delivery = ON_DELIVERY
                turn = [self._ready.popleft() for _ in range(min(len(self._ready), AT_ONCE))]
                missing = [mailbox for mailbox in turn if not mailbox.is_known]
                if missing:
                    await self._load(missing)
                decided = 0
                for mailbox in turn:
                    mailbox.is_ready = False
                    decided += self._turn(mailbox)
                    if decided >= AT_ONCE:
                        decided = 0
                        await sleep(0)
                if decided and self._ready:
                    await sleep(0)

    def _schedule(self, mailbox: Mailbox) -> None:
        if not mailbox.under_way and not mailbox.is_ready:
            mailbox.is_ready = True
            self._ready.append(mailbox)
            if len(self._ready) == 1:  # the others find the loop awake
                self._wakeup.set()

    async def _load(self, mailboxes: list[Mailbox]) -> None:
        while True:
            try:
                instances = await self._store.load([mailbox.address for mailbox in mailboxes])
                break
            except StoreUnavailable as error:
                self.trouble.begins(error)
                self.on_failed()
                await self.trouble.pause()
        self.trouble.ends()
        for mailbox, instance in zip(mailboxes, instances, strict=True):
            mailbox.instance, mailbox.is_known = instance, True

    # What waits for one instance is decided.

    def _turn(self, mailbox: Mailbox) -> int:
        """Decide its next messages, those that one commit may hold; how many."""
        mails, under_way = mailbox.mails, mailbox.under_way
        while mails and len(under_way) < IN_A_ROW:
            mail = mails[0]
            told = self._told(mailbox, mail)
            if isinstance(told, Transition) and not mail.preview and (told.instance is not None or not _is_void(told)):
                mailbox.take()
                self._commit(mailbox, mail, told)
                instance = told.instance
                if instance is not None:
                    mailbox.instance = instance
                    if instance.version == 1:
                        break  # what waited for it to start comes before what came after (R11)
            elif under_way:
                break  # nobody is told what is built on something that is not stored yet
            else:
                mailbox.take()
                self._settle(mailbox, mail, told)
                self._next(mailbox)
                self._changed.ring()
                return 1
        return len(under_way)

    def _told(self, mailbox: Mailbox, mail: Mail) -> Transition | NotFound:
        """What a message does, or why it cannot be handled."""
        now = self._clock.now()
        message = mail.message
        if message is None:
            message = self._timer(mailbox, now)
            if message is None:
                return Transition(at=now, outcome=Outcome.STALE)
        elif mail.must_exist and mailbox.instance is None:
            return NotFound(f"there is no {mailbox.address}")
        transition = self._decide(mailbox, mail, message, now)
        if mail.settles:
            transition = _with_settlement(transition, mail)
        return self.prepare(transition) if transition.put else transition

    def _timer(self, mailbox: Mailbox, now: float) -> Envelope | None:
        message = None if mailbox.instance is None else next_timer(mailbox.instance, now)
        return None if message is None or mailbox.instance is None else away(mailbox.instance, message, self.is_away)

    def _decide(self, mailbox: Mailbox, mail: Mail, message: Envelope, now: float) -> Transition:
        definition = self._sagas.get(mailbox.address.saga)
        if definition is None:
            return _dead(message, now, f"there is no saga {mailbox.address.saga} in this app")
        if mail.unstorable:
            return self._set_aside(definition, mailbox, message, mail.unstorable, now)
        instance = mailbox.instance
        while True:
            try:
                if instance is not None and instance.definition_version != definition.version:
                    instance = migrate(definition, instance)
                return react(definition, instance, message, now, self._limits)
            except HandlerBug as bug:
                error = str(bug)
            except Exception:  # noqa: BLE001 a mistake of the machine's own must not lose the message either
                error = traceback.format_exc()
            mail.tries += 1
            if mail.tries >= self._limits.handler_tries or mail.preview:
                return self._set_aside(definition, mailbox, message, error, now)

    def _set_aside(
        self, definition: Definition, mailbox: Mailbox, message: Envelope, error: str, now: float
    ) -> Transition:
        """The message of a handler that raises parks its instance (R15)."""
        where = {"saga": mailbox.address.saga, "key": mailbox.address.key, "id": message.id, "bug": plain(error)}
        _log.error("a handler raised: %s is set aside and its instance parked", message.type, extra=where)
        return set_aside(definition, mailbox.instance, message, plain(error), now)

    # Its commit.

    def _commit(self, mailbox: Mailbox, mail: Mail, transition: Transition) -> None:
        mailbox.unanswered += 1
        self._committer.add(transition, partial(self._answered, mailbox, mail))

    def _answered(self, mailbox: Mailbox, mail: Mail, transition: Transition, result: Result | Exception) -> None:
        """What is not stored is decided again, once all that is under way is answered."""
        mailbox.unanswered -= 1
        match result:
            case Committed():
                if result.waiting:
                    self._deliver_waiting(mailbox, result.waiting)
                self._settle(mailbox, mail, transition)
            case DuplicateMessage():
                mailbox.forget()  # whoever stored it may have moved the instance (R2)
                at = transition.at
                housekeeping = _with_settlement(Transition(at=at, outcome=Outcome.DUPLICATE), mail)
                if mail.settles and transition.message is not None:
                    self._commit(mailbox, mail, housekeeping)
                else:
                    self._settle(mailbox, mail, housekeeping)
            case VersionConflict() | StoreUnavailable():
                mailbox.forget()
            case _:
                self._cannot_be_stored(mail, transition, result)
                mailbox.forget()
        if not mailbox.unanswered:
            self._next(mailbox)

    def _deliver_waiting(self, mailbox: Mailbox, waiting: tuple[Waiting, ...]) -> None:
        """What came before its instance is handled before all that came after (R11)."""
        mailbox.put_first(Mail(row.envelope, waiting_remove=(row.id,)) for row in waiting)
        self.pending += len(waiting)

    def _cannot_be_stored(self, mail: Mail, transition: Transition, error: Exception) -> None:
        """A transition that no store takes (a character that is none, say) is treated as a bug, once."""
        message = transition.message
        if message is None or message.kind is Kind.BUG:
            raise error
        mail.unstorable = f"what its handler made cannot be stored: {type(error).__name__}: {error}"

    def _settle(self, mailbox: Mailbox, mail: Mail, told: Transition | Exception) -> None:
        mailbox.under_way.remove(mail)
        self.pending -= 1
        if mail.settled is not None:
            mail.settled(told)

    def _next(self, mailbox: Mailbox) -> None:
        """Nothing of it is under way in the store: it goes on with what waits, or retires."""
        if mailbox.under_way:
            mailbox.put_back()
        if mailbox.mails:
            self._schedule(mailbox)
            return
        del self._mailboxes[mailbox.address]
        instance = mailbox.instance
        if instance is not None and not instance.status.is_end:
            self._hot[mailbox.address] = instance
            if len(self._hot) > self._limits.hot_instances:
                self._hot.popitem(last=False)


def _with_settlement(transition: Transition, mail: Mail) -> Transition:
    return replace(
        transition,
        seen=() if mail.waiting_remove else transition.seen,  # it was seen when it went to the waiting room
        remove=(*transition.remove, *mail.remove),
        waiting_remove=(*transition.waiting_remove, *mail.waiting_remove),
        dead_remove=(*transition.dead_remove, *mail.dead_remove),
    )


def _is_void(transition: Transition) -> bool:
    """Whether a commit of it would change nothing: a reply to nobody, for one."""
    return transition.instance is None and not (
        transition.put
        or transition.remove
        or transition.dead
        or transition.dead_remove
        or transition.waiting_remove
        or transition.seen
        or transition.wait_until is not None
    )


def _dead(message: Envelope, now: float, reason: str) -> Transition:
    return Transition(at=now, outcome=Outcome.DEAD, dead=(DeadLetter(at=now, reason=reason, envelope=message),))


def _never(name: str, wire_type: str) -> bool:
    return False


def _nothing() -> None: ...


def _as_it_is(transition: Transition) -> Transition:
    return transition
