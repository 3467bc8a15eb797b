"""A command that is published to the outside."""

from __future__ import annotations

from orchestrator import Command, Event


class UserJoined(Event, type="user.registered", version=1, boundary=True):
    user_id: str


class Register(Command, type="register", boundary=True):  # error
    user_id: str
