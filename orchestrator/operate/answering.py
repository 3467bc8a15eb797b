"""What the asks of `protocol` do to an engine: the same in the daemon and in a verb that acts without one."""

from __future__ import annotations

import time

from msgspec import structs

from ..config import Limits
from ..edge import event_line
from ..errors import OrchestratorError
from ..machine.transition import Transition
from ..projecting.files import Pause
from ..runtime.engine import Engine
from ..webhooks import Webhook
from ..wire import Address
from .protocol import (
    Act,
    AddWebhook,
    Answer,
    Ask,
    ChangeWebhook,
    Counted,
    DropDead,
    DropWaiting,
    Emit,
    Moved,
    Ping,
    Project,
    Projected,
    ProjectionVerb,
    Prune,
    Redrive,
    RotateWebhook,
    Sent,
    Taken,
    Target,
    TestWebhook,
    WebhookTested,
    WebhookTold,
    problem,
)


async def answer(engine: Engine, limits: Limits, ask: Ask, who: str) -> Answer:
    """Do what is asked in the name of the user `who`; it is on disk when this returns. What goes wrong is a Problem."""
    try:
        match ask:
            case Emit():
                return await _emit(engine, limits, ask, who)
            case Act():
                return await _act(engine, ask, who)
            case Redrive():
                await engine.redrive(ask.id)
                return Counted(1)
            case DropDead():
                return Counted(await engine.drop_dead(ask.ids))
            case DropWaiting():
                return Counted(await engine.drop_waiting(ask.ids))
            case AddWebhook():
                added = await engine.webhooks.add(
                    ask.url, name=ask.name, types=ask.types, secret=ask.secret, insecure=ask.insecure, who=who
                )
                return _told(added, ask.secret)
            case RotateWebhook():
                return _told(
                    await engine.webhooks.rotate(ask.name, ask.secret, at_once=ask.at_once, who=who), ask.secret
                )
            case TestWebhook():
                tested = await engine.webhooks.test(ask.name)
                return WebhookTested(tested.status, tested.problem)
            case ChangeWebhook():
                return await _change(engine, ask, who)
            case Prune():
                return Counted(await engine.store.prune(time.time(), ask.ended_before))
            case Project():
                return await _project(engine, ask, who)
            case Ping():
                raise OrchestratorError("only a daemon answers to a ping")
    except OrchestratorError as error:
        return problem(error)


async def _change(engine: Engine, ask: ChangeWebhook, who: str) -> Answer:
    match ask.what:
        case "redrive":
            return Counted(await engine.redrive_webhook(ask.name))
        case "pause":
            await engine.webhooks.pause(ask.name, ask.why, who)
        case "resume":
            await engine.webhooks.resume(ask.name, who)
        case "remove":
            await engine.webhooks.remove(ask.name, who)
    return WebhookTold(ask.name)


def _told(webhook: Webhook, given: str) -> WebhookTold:
    """Its secret is told to who has not given it, this once."""
    return WebhookTold(webhook.name, "" if given else webhook.keys[0].secret.reveal())


async def _emit(engine: Engine, limits: Limits, ask: Emit, who: str) -> Taken:
    limit, depth = limits.body_bytes, limits.depth
    envelope = event_line(ask.line, engine.app, ask.type, now=time.time(), limit=limit, depth=depth)
    if not envelope.user:
        envelope = structs.replace(envelope, user=who)
    accepted = await engine.accept(envelope)
    return Taken(envelope.id, tuple(Target(target, outcome) for target, outcome in accepted.outcomes))


async def _project(engine: Engine, ask: Project, who: str) -> Projected:
    projector = engine.projections[ask.name]
    match ask.verb:
        case ProjectionVerb.REBUILD:
            return Projected(ask.name, await projector.rebuild())
        case ProjectionVerb.PAUSE:
            await projector.pause(Pause(who, time.time(), ask.why))
        case ProjectionVerb.RESUME:
            await projector.resume()
    return Projected(ask.name, projector.number or 0)


async def _act(engine: Engine, ask: Act, who: str) -> Moved:
    address = Address(ask.saga, ask.key)
    transition = await engine.verb(address, ask.verb, ask.request, who, id=ask.id, preview=ask.preview)
    return moved(transition, address, ask.preview)


def moved(transition: Transition, address: Address, preview: bool) -> Moved:
    """A transition as a person sees it: without payloads."""
    instance = transition.instance
    return Moved(
        saga=address.saga,
        key=address.key,
        preview=preview,
        outcome=transition.outcome,
        notes=transition.notes,
        sends=tuple(Sent(str(row.route), row.envelope.type, row.name, row.due_at) for row in transition.put),
        withdraws=transition.remove,
        status=str(instance.status) if instance is not None else "",
        parked=instance.parked if instance is not None else "",
    )
