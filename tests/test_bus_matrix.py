"""What the README and docs/bus.md say of each broker is what its suite expects, its adapter has, and a test shows."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from orchestrator.cloudevents import received, to_cloud_event
from orchestrator.ports import BusMessage
from orchestrator.testing.bus_conformance import BusConformance
from orchestrator.topics import TopicSettings
from orchestrator.wire import Envelope, Kind

from .servers.process import missing

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BUS = (ROOT / "docs" / "bus.md").read_text()
SUITES = {
    "NATS": ("tests.conformance.test_nats", "TestNatsBus"),
    "Kafka": ("tests.conformance.test_kafka", "Suite"),
    "RabbitMQ": ("tests.conformance.test_rabbitmq", "TestRabbitBus"),
    "SNS/SQS": ("tests.conformance.test_sqs", "TestSqsBus"),
    "memory": ("tests.conformance.test_memory", "TestMemoryBus"),
}
OPTIONS = {  # a struct of options, and its field for each option that the README names
    "NATS": ("orchestrator_adapters.nats.settings", "Settings", {"ack_wait": "ack_wait_s"}),
    "Kafka": (
        "orchestrator_adapters.kafka.options",
        "Options",
        {"session_timeout": "session_s", "max_bytes": "max_bytes"},
    ),
    "RabbitMQ": ("orchestrator_adapters.rabbitmq.broker", "Options", {}),
    "SNS/SQS": (
        "orchestrator_adapters.sqs.settings",
        "Settings",
        {"visibility": "visibility", "max_bytes": "max_bytes"},
    ),
}

Suite = type[BusConformance]


class Row(Struct, frozen=True):
    """One row: what a cell says for a suite, and the test that would fail if it did not hold. `shown_by` is a test of
    the suite itself, `tests` are those of one broker, in which it is said otherwise or once more.
    """

    says: Callable[[str, Suite], str]
    shown_by: str = ""
    tests: dict[str, str] = {}


def _again(broker: str, _: Suite) -> str:
    match broker:
        case "NATS":
            return f"after {default(broker, 'ack_wait'):g} s, `ack_wait`"
        case "Kafka":
            return f"after {default(broker, 'session_timeout'):g} s, `session_timeout`"
        case "SNS/SQS":
            return f"after {default(broker, 'visibility'):g} s, `visibility`"
        case _:
            return "at once"


def _held(broker: str, suite: Suite) -> str:
    assert bool(suite.hold_s) == (broker in ("NATS", "Kafka", "SNS/SQS"))  # the others have no time limit to extend
    return "stays with it, before 3.12 for 30 min" if broker == "RabbitMQ" else "stays with it"


def _largest(broker: str, suite: Suite) -> str:
    if not suite.too_large:
        return "no limit"
    match broker:
        case "NATS":
            return "`max_payload` of the server"
        case "RabbitMQ":
            return "`max_message_size` of the server"
        case _:
            assert default(broker, "max_bytes") == suite.too_large - 1
            return f"{suite.too_large - 1:,}, `max_bytes`"


def _durable(broker: str, _: Suite) -> str:
    return {
        "NATS": "`sync_interval: always`",
        "Kafka": "`replication` 3, `min.insync.replicas` 2",
        "RabbitMQ": "quorum queues, as made",
        "SNS/SQS": "as it is",
        "memory": "keeps nothing",
    }[broker]


FAULTS = "tests/adapters/test_{}_faults.py::"
ROWS = {
    "messages of one key stay in order": Row(
        lambda _, suite: "yes" if suite.keeps_order else "no", "test_messages_of_one_key_stay_in_order"
    ),
    "what a dead reader held comes again": Row(
        _again,
        "test_what_is_not_settled_when_the_subscriber_leaves_is_sent_again",
        {
            "NATS": FAULTS.format("nats") + "test_what_a_dead_member_held_goes_to_another",
            "Kafka": "tests/conformance/test_kafka.py::test_a_new_member_takes_over_what_is_unsettled",
            "RabbitMQ": FAULTS.format("rabbitmq") + "test_what_was_unsettled_when_the_broker_was_killed_comes_again",
            "SNS/SQS": FAULTS.format("sqs") + "test_what_a_dead_subscriber_had_comes_again",
        },
    ),
    "held for long by one that lives": Row(
        _held,
        "test_what_takes_long_is_not_sent_again",
        {"RabbitMQ": FAULTS.format("rabbitmq") + "test_one_who_holds_a_message_for_too_long_is_told_and_gets_it_again"},
    ),
    "a message to come later": Row(
        lambda broker, suite: "ours" if not [name for name in BusMessage.__struct_fields__ if "delay" in name] else "",
        tests=dict.fromkeys(SUITES, "tests/runtime/test_bus.py::test_a_command_without_an_answer_is_sent_again"),
    ),
    "the broker drops what is sent twice": Row(
        lambda _, suite: "yes" if suite.drops_twice else "no", "test_what_is_sent_twice_comes_twice_or_once"
    ),
    "a command before anybody takes it": Row(
        lambda _, suite: "kept" if suite.keeps_log else "waits in our store",
        "test_what_was_sent_before_the_group_was_there",
        dict.fromkeys(
            SUITES,
            "tests/runtime/test_bus.py::"
            "test_a_command_that_nobody_takes_waits_until_somebody_does_and_holds_up_no_other",
        ),
    ),
    "largest message": Row(_largest, "test_what_is_too_large_holds_up_no_other"),
    "to be durable": Row(
        _durable,
        tests={
            "NATS": FAULTS.format("nats") + "test_what_was_sent_before_the_server_was_killed_is_there_after_it",
            "Kafka": "tests/conformance/test_kafka.py::test_a_survey_tells_of_one_replica",
            "RabbitMQ": FAULTS.format("rabbitmq") + "test_a_broker_killed_under_load_loses_nothing_that_it_took",
            "SNS/SQS": "tests/conformance/test_sqs.py::test_what_it_makes_itself_needs_no_note",
            "memory": "tests/conformance/test_memory.py::test_a_bus_that_is_not_open",
        },
    ),
}


def default(broker: str, option: str) -> Any:
    """What an option is where the URL does not say."""
    module, name, fields = OPTIONS[broker]
    found = {field.name: field.default for field in msgspec.structs.fields(loaded(module, name))}
    return found[fields[option]]


def loaded(module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        missing(str(error.name), "pip install 'saga-orchestrator[nats,kafka,amqp,sqs]'")


def cells() -> Iterator[tuple[str, str, str]]:
    """Row, broker and what the README says there."""
    section = README[README.index("## Behind a broker") : README.index("## How it is proved")]
    head, _, *rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    for row in rows:
        for broker, cell in zip(head[1:], row[1:], strict=True):
            yield row[0].strip(), broker.strip(), cell.strip()


def test_all_rows_and_brokers_are_there() -> None:
    assert [(row, broker) for row, broker, _ in cells()] == [(row, broker) for row in ROWS for broker in SUITES]


@pytest.mark.parametrize(("row", "broker", "cell"), list(cells()))
def test_a_cell_says_what_is_so(row: str, broker: str, cell: str) -> None:
    suite: Suite = loaded(*SUITES[broker])
    assert cell == ROWS[row].says(broker, suite)


@pytest.mark.parametrize(("row", "broker"), [(row, broker) for row in ROWS for broker in SUITES])
def test_a_cell_is_shown_by_a_test(row: str, broker: str) -> None:
    found = ROWS[row]
    named = found.tests.get(broker)
    assert found.shown_by or named
    if found.shown_by:
        suite: Suite = loaded(*SUITES[broker])
        assert getattr(suite, found.shown_by) is getattr(BusConformance, found.shown_by)
    if named:
        path, _, name = named.partition("::")
        assert name in _tests(ROOT / path)


def _tests(path: Path) -> set[str]:
    tree = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_server_of_the_nats_tests_is_set_up_as_the_readme_advises() -> None:
    assert "sync_interval: always" in (ROOT / "tests/servers/nats.py").read_text()


@pytest.mark.parametrize("broker", OPTIONS)
def test_the_manual_names_all_options(broker: str) -> None:
    title = "SNS and SQS" if broker == "SNS/SQS" else broker
    section = BUS[BUS.index(f"**{title}.** `") :]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", section[: section.index("Durable:")], re.MULTILINE)
    told = [(option, value) for options, value in rows for option in re.findall(r"`(\w+)`", options)]
    module, name, _ = OPTIONS[broker]
    if broker == "NATS":
        known = set(loaded(module, "OPTIONS"))
    else:
        known = {field.encode_name for field in msgspec.structs.fields(loaded(module, name))}
    assert {option for option, _ in told} == known - {"region"}
    defaults = {field.encode_name: field.default for field in msgspec.structs.fields(loaded(module, name))}
    for option, value in told:
        given = defaults.get(option, defaults.get(f"{option}_s"))
        if value.isdigit() and given not in (None, msgspec.NODEFAULT):
            assert float(value) == float(given), option


def test_the_manual_names_all_attributes() -> None:
    table = BUS[BUS.index("## The wire format") : BUS.index("## A participant in any language")]
    told = [name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)]
    everything = Envelope(
        id="1",
        kind=Kind.REFUSAL,
        type="T",
        time=1.0,
        saga="S",
        key="k",
        reply_to="c",
        attempt=1,
        clean=True,
        version=2,
        user="u",
        correlation_id="o",
        causation_id="a",
        traceparent="t",
    )
    sent = json.loads(to_cloud_event(everything, "/s", undoes="d", deadline=2.0, reply_to="replies.s"))
    assert sorted(told) == sorted([*sent, "data_base64"])


def test_the_reply_of_the_manual_is_read() -> None:
    section = BUS[BUS.index("## A participant in any language") :]
    (body,) = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    reply = received(body.encode(), {}, None).envelope
    assert (reply.kind, reply.type, reply.attempt) == (Kind.EVENT, "OrderShipped", 1)  # its type will say which reply
    assert reply.reply_to == "OrderFulfilment/10248~k3f9/ship#1"


def test_the_settings_of_the_manual_are_settings() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", BUS, re.DOTALL)
    settings = msgspec.convert(tomllib.loads(text)["topics"], TopicSettings)
    assert settings.routes == {"ShipOrder": "logistics.requests", "*": "shop.events"}
    plain = settings.plain["crm.customers"]
    (line,) = re.findall(r"`(\{\"event\".*?\})`", BUS)
    event = received(line.encode(), {}, plain).envelope
    assert (event.type, event.id, event.key) == ("CustomerMoved", "7", "C1")


def test_every_link_of_the_manual_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", BUS):
        assert (ROOT / "docs" / target).exists(), target
