"""A message of the history is read as it was written, however little of it is stored."""

from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from orchestrator.machine.instance import Instance
from orchestrator.machine.transition import Entry, Outcome, Transition
from orchestrator.wire import Address, Envelope, Kind
from orchestrator_adapters.sqlite.rows import HistoryCode

RUN = Instance(saga="Order", key="a/b c", run="k3f9", version=3, correlation_id="m1", traceparent="00-1-2-03")
COMMAND = "Order/a%2Fb%20c~k3f9/charge[2]#1"
REPLY = Envelope(
    id=f"{COMMAND}:yes:2",
    kind=Kind.YES,
    type="CardCharged",
    data=Raw(b'{"n":1}'),
    time=1700000000.25,
    saga="Order",
    key="a/b c",
    reply_to=COMMAND,
    attempt=2,
    correlation_id="m1",
    causation_id=COMMAND,
    traceparent="00-1-2-03",
)


def row_of(message: Envelope) -> tuple[Any, ...]:
    transition = Transition(at=1700000001.5, instance=RUN, message=message, notes=("charge#1: done",))
    return HistoryCode.of(RUN).row(transition, message, RUN.version)


def test_a_reply_is_stored_by_its_id_alone() -> None:
    refusal = replace(REPLY, id=f"{COMMAND}:refusal:2", kind=Kind.REFUSAL, clean=True)
    failure = replace(REPLY, id=f"{COMMAND}:failure:2", kind=Kind.FAILURE)
    for message in (REPLY, refusal, failure):
        row = row_of(message)
        assert b"charge" not in row[-1]
        assert HistoryCode.of(RUN).entry(row) == Entry(3, 1700000001.5, message, Outcome.APPLIED, ("charge#1: done",))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "from a bus"},
        {"id": ""},
        {"id": f"{COMMAND}:yes:02"},
        {"id": f"{COMMAND}:yes:\u0662"},
        {"id": "Order/a%2Fb%20c~other/charge#1:yes:2"},
        {"kind": Kind.REFUSAL},
        {"kind": Kind.EVENT, "via": "reference"},
        {"kind": Kind.TIMER, "id": f"{COMMAND}!attempt:2@1700000000.000000"},
        {"saga": "Another"},
        {"key": "another"},
        {"reply_to": ""},
        {"reply_to": "=odd"},
        {"attempt": 3},
        {"attempt": -2, "id": f"{COMMAND}:yes:-2"},
        {"clean": True},
        {"version": 2},
        {"user": "ann"},
        {"correlation_id": ""},
        {"correlation_id": "m2"},
        {"causation_id": ""},
        {"causation_id": "~odd"},
        {"traceparent": ""},
        {"answer_to": Address("Parent", "p")},
        {"time": 0.0},
        {"data": Raw(b"{}")},
    ],
    ids=str,
)
def test_any_other_message_is_read_as_it_was(changes: dict[str, Any]) -> None:
    message = replace(REPLY, **changes)
    assert HistoryCode.of(RUN).entry(row_of(message)).message == message
