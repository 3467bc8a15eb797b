"""Members for the tests of webhooks: `app` is what --app finds."""

from __future__ import annotations

from orchestrator import App, Event, listener


class Joined(Event):
    member: str


class MemberJoined(Event, type="member.joined", boundary=True):
    member: str


class MemberLeft(Event, type="member.left", boundary=True):
    member: str


@listener
async def translate(event: Joined) -> MemberJoined:
    return MemberJoined(event.member)


app = App("members", listeners=[translate])
