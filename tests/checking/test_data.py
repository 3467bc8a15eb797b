"""Which fields a saga's decisions depend on."""

from __future__ import annotations

import pytest
from msgspec import Struct

from orchestrator import Command, Compensate, Event, Goto, Query, Saga, Wait, on, step
from orchestrator.checking.data import Fields, fields_of
from orchestrator.definition import definition_of
from tests.machine import cast

from . import odd


class Opened(Event):
    id: str


class Line(Struct, frozen=True):
    text: str


class Sent(Event):
    id: str
    lines: tuple[Line, ...] = ()


class Ask(Query):
    id: str
    number: int = 0


class Send(Command):
    id: str
    text: str = ""


class Flows(Saga, key="id", starts=Opened):
    id: str
    written: str = ""
    in_text: int = 0
    in_a_line: str = ""
    through: int = 0
    in_a_test: int = 0
    through_a_test: int = 0
    in_a_method: int = 0
    in_a_local: int = 0
    in_a_wait: float = 1.0
    divides: int = 1
    perhaps: int | None = None
    counted: int = 0
    set_from_outside: int = 0
    in_a_list: tuple[str, ...] = ()
    in_a_comparison: int = 0

    @step
    def pause(self) -> Wait:
        self.written = "now"
        self.through = self.in_text
        self.in_a_test = self.through_a_test
        return Wait(self.in_a_wait)

    @step
    def send(self) -> Sent | None:
        if self.in_a_test > self.in_text * 0:
            return None
        return Sent(f"{self.id} {self.through}", (Line(self.in_a_line),))

    @step
    def many(self) -> list[Ask]:
        local = self.in_a_local
        return [Ask(text, self.divides // 1 + local) for text in self.in_a_list]

    @step
    def one(self) -> Ask:
        self.counted += 1
        self._look()
        return Ask(self.id, (self.perhaps or 0) + 1)

    @on
    def opened_again(self, event: Sent) -> None:
        self.set_from_outside = len(event.lines)

    @step
    def last(self) -> Wait:
        return Wait(1)

    @last.late
    def over(self) -> Goto | Compensate | None:
        if self.set_from_outside == 3:
            return Compensate()
        if not self.counted:
            return None
        return Goto(self.one) if self.counted < 5 else None

    def _look(self) -> bool:
        return self.in_a_method == self.in_a_comparison


def test_only_what_no_decision_looks_at_is_left_out() -> None:
    found = fields_of(definition_of(Flows))
    assert found.data == {"written", "through", "in_a_line"}
    assert found.counters == {"counted": 5}


def test_a_counter_above_all_it_is_compared_with_is_one_value() -> None:
    fields = Fields(frozenset({"log"}), {"count": 3})
    assert fields.reduced({"count": 2, "log": "a", "other": 1}) == {"count": 2, "other": 1}
    assert fields.reduced({"count": 9}) == fields.reduced({"count": 4}) != fields.reduced({"count": 3})


@pytest.mark.parametrize(
    ("saga", "data", "counters"),
    [
        (odd.Renewal, {"month", "receipts"}, {}),
        (odd.Poll, set[str](), {"asked": 20}),
        (odd.Restarted, {"log"}, {}),
        (odd.Counted, set[str](), {}),
        (odd.Computed, {"at", "weight"}, {}),
        (odd.FiveSteps, {"receipt"}, {}),
        (cast.Choosy, set[str](), {"tries": 2}),
    ],
)
def test_the_fields_of_sagas(saga: type[Saga], data: set[str], counters: dict[str, int]) -> None:
    found = fields_of(definition_of(saga))
    assert (found.data, found.counters) == (data, counters)


def test_a_handler_that_decides_nothing_by_the_command_it_takes_is_blind() -> None:
    assert "full" in fields_of(definition_of(odd.EightNamed)).blind


class HandsOn(Saga, key="id", starts=Opened):
    id: str
    text: str = ""

    @step(undo=None)
    def send(self) -> Send:
        return Send(self.id, _text_of(self))


def _text_of(saga: HandsOn) -> str:
    return saga.text


def test_a_saga_that_is_handed_on_whole_is_not_read() -> None:
    assert fields_of(definition_of(HandsOn)) == Fields()


def test_a_saga_without_source_is_not_read() -> None:
    names: dict[str, object] = {"Opened": Opened, "Send": Send}
    exec(
        "from orchestrator import Saga, step\n"
        "class Made(Saga, key='id', starts=Opened):\n"
        "    id: str\n"
        "    @step(undo=None)\n"
        "    def send(self) -> Send:\n"
        "        return Send(self.id)\n",
        names,
    )
    made = names["Made"]
    assert isinstance(made, type)
    assert fields_of(definition_of(made)) == Fields()
