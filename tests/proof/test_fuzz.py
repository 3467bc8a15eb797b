"""The fuzz itself: a small share of it, that it can fail, and every case it has ever found."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import Event
from orchestrator.app import App, load_app
from orchestrator.cloudevents import cloud_event, to_cloud_event
from orchestrator.config import Settings
from orchestrator.definition import definition_of
from orchestrator.edge import event_line
from orchestrator.errors import AppError, BadMessage, ConfigError, StoreCorrupt
from orchestrator.machine.transition import Transition
from orchestrator.messages import decode, encode, type_name
from orchestrator.operate import graph, protocol
from orchestrator.operate.cli import main
from orchestrator.operate.cli.emit import _Reading, _Report
from orchestrator.operate.logs import _JsonLines
from orchestrator.operate.output import Output
from orchestrator.operate.protocol import Act, Redrive
from orchestrator.operate.settings import load_settings
from orchestrator.runtime.intake import addressed
from orchestrator.strictjson import strict_json
from orchestrator.wire import DeadLetter, Envelope, Kind, Request, Verb
from orchestrator_adapters.sqlite import SQLiteStore, rows
from tests.operate import shop
from tests.proof.fuzz import PARSERS
from tests.proof.fuzz.cases import Parser, Wrong, attempt, tried
from tests.proof.fuzz.choices import Choices
from tests.proof.fuzz.messages import Ordered, Plain
from tests.proof.fuzz.messages import app as fuzzed
from tests.proof.fuzz.shown import check_printable


@pytest.mark.parametrize("name", list(PARSERS))
def test_a_small_share_of_it_finds_nothing(name: str) -> None:
    result = tried(PARSERS[name], seed=1, share=0.02)
    assert result.wrong == ()
    assert result.cases > 0


# It can fail.


def fails(c: Choices) -> tuple[int, int]:
    number = c.below(200)
    if number > 100:
        raise Wrong(f"{number} is more than 100")
    return 1, 1


def raises(c: Choices) -> tuple[int, int]:
    return 1, 1 // (0 if c.below(100) == 99 else 1)


def takes_nothing(c: Choices) -> tuple[int, int]:
    return 1, int(c.below(100) == 99)


def spins(c: Choices) -> tuple[int, int]:
    if c.one_in(200):
        sum(range(3_000_000))
    return 1, 1


def test_the_first_wrong_case_is_made_short_and_can_be_repeated() -> None:
    parser = Parser("p", fails)
    (said,) = tried(parser, seed=0, share=0.01).wrong
    assert "p: 101 is more than 100" in said
    case = bytes.fromhex(said.split()[-1].rstrip(")"))
    with pytest.raises(Wrong, match="101 is more than 100"):
        attempt(parser, case)


@pytest.mark.parametrize(
    ("work", "says"),
    [(raises, "it raises ZeroDivisionError"), (takes_nothing, "which shows too little"), (spins, "it takes ")],
)
def test_what_is_undeclared_or_slow_or_shows_nothing_is_wrong(work: Any, says: str) -> None:
    (said,) = tried(Parser("p", work, slow_s=0.02), seed=0, share=0.02).wrong
    assert says in said


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=8))
def test_all_decisions_are_the_plainest_behind_the_end(data: bytes) -> None:
    c = Choices(data)
    for _ in data:
        c.below(2)
    assert not c.one_in(2)
    assert c.below(100_000) == 0


@pytest.mark.parametrize("text", ["\x1b[31m", "a\x9b", "\u202e", "\u2066", "\ud800", "\x00", "\r", "\u2028"])
def test_what_a_terminal_obeys_is_seen(text: str) -> None:
    with pytest.raises(Wrong):
        check_printable(f"a\tb\n{text}", "here")


# What it has found.


def event(**attributes: Any) -> bytes:
    return msgspec.json.encode({"specversion": "1.0", "id": "1", "source": "/x", "type": "T", **attributes})


@pytest.mark.parametrize("version", ["9" * 5_000, str(10**9), 10**18, 0, "-1"])
def test_a_version_beyond_reason_is_refused(version: object) -> None:
    with pytest.raises(BadMessage, match="versions are whole numbers") as caught:
        cloud_event(event(dataversion=version))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("attempt", [-1, 10**9])
def test_an_attempt_beyond_reason_is_refused(attempt: int) -> None:
    with pytest.raises(BadMessage, match="attempts count from 1"):
        cloud_event(event(attempt=attempt))


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999Z"]
)
def test_a_time_that_no_calendar_holds_in_utc_is_refused(time: str) -> None:
    with pytest.raises(BadMessage, match="beyond the years"):
        cloud_event(event(time=time))


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_the_first_and_the_last_second_are_times(time: str) -> None:
    envelope = cloud_event(event(time=time))
    assert datetime.fromtimestamp(envelope.time, UTC).isoformat() == time.replace("Z", "+00:00")
    assert cloud_event(to_cloud_event(envelope, "/x")).time == envelope.time


@pytest.mark.parametrize("attribute", ["specversion", "datacontenttype", "messagekind"])
def test_an_error_does_not_repeat_a_megabyte(attribute: str) -> None:
    with pytest.raises(BadMessage) as caught:
        cloud_event(event(**{attribute: "x" * 900_000}))
    assert len(str(caught.value)) < 200


def test_nor_does_that_of_a_payload() -> None:
    with pytest.raises(BadMessage) as caught:
        decode(Ordered, b'{"order":"1","colour":"%s"}' % (b"x" * 900_000), 3)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("number", ["NaN", "sNaN", "-Infinity", "inf", "N\\u0061N"])
@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ('{"order":"1","total":"%s"}', "Ordered.total"),
        ('{"order":"1","lines":[{"name":"tea","price":"%s"}]}', "Ordered.lines[...].price"),
        ('{"order":"1","hidden":{"$secret":"%s"}}', "Ordered.hidden"),
    ],
)
def test_a_decimal_is_a_number(payload: str, path: str, number: str) -> None:
    raw = (payload % number).encode()
    with pytest.raises(BadMessage) as caught:
        decode(Ordered, raw, 3)
    assert str(caught.value) == f"{path}: NaN and infinity are no numbers here"
    with pytest.raises(BadMessage):
        event_line(raw, fuzzed, "Ordered")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (rb'"\ud800"', "it holds half a surrogate pair, which is no character"),
        (rb'{"a":"\ud83d"}', "it holds half a surrogate pair, which is no character"),
        (rb'"\ud83d\ud8', "it holds half a surrogate pair, which is no character"),
        (rb'"\ud83d', "it is not JSON: it ends too early"),
        (rb'"\ud83d\ude', "it is not JSON: it ends too early"),
        (rb'"\\ud83d', "it is not JSON: it ends too early"),
        (rb'{"a":', "it is not JSON: it ends too early"),
    ],
)
def test_an_early_end_and_half_a_pair_are_told_apart(raw: bytes, says: str) -> None:
    with pytest.raises(BadMessage) as caught:
        strict_json(raw)
    assert str(caught.value) == says


def test_a_depth_that_python_does_not_read_is_refused_whatever_the_limit() -> None:
    for depth in range(100, 3_000, 100):
        try:
            assert strict_json(b"[" * depth + b"]" * depth, depth=10**6) is not None
        except BadMessage as error:
            assert str(error) == "it is nested too deeply"


def test_a_key_with_a_tilde_gets_its_replies() -> None:
    reply = Envelope(id="r", kind=Kind.YES, type="Done", reply_to="Order/a~b%2F~c~k3f9/charge#1")
    assert (addressed(reply).saga, addressed(reply).key) == ("Order", "a~b/~c")


def test_no_instance_is_called_nul() -> None:
    reply = Envelope(id="r", kind=Kind.YES, type="Done", reply_to="Order/a%00b~k3f9/charge#1")
    assert addressed(reply) is reply


@pytest.mark.parametrize(
    "content", [b"store=" + b"[" * 5_000, b"[limits]\nmailbox=" + b"9" * 5_000, b"log=0x" + b"f" * 5_000]
)
def test_a_file_that_python_does_not_read_is_a_bad_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "orchestrator.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"orchestrator\.toml"):
        load_settings({}, {}, tmp_path)


@pytest.mark.parametrize("line", [f"mailbox = {2**40}", "depth = 1000000001", "retention_s = inf", "drain_s = 1e11"])
def test_a_limit_has_a_limit(tmp_path: Path, line: str) -> None:
    (tmp_path / "orchestrator.toml").write_text(f"[limits]\n{line}")
    with pytest.raises(ConfigError, match=line.split()[0]):
        load_settings({}, {}, tmp_path)


@pytest.mark.parametrize("name", ["LOG", "LEVEL", "LIMITS__MAILBOX", "LIMITS__DRAIN_S"])
def test_an_environment_that_is_not_utf_8_is_a_bad_configuration(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load_settings({}, {f"ORCHESTRATOR_{name}": "\udcff"}, tmp_path)


@pytest.mark.parametrize("spec", ["~nobody-is-called-so/x.py", "a\0b/x.py", "/" + "x" * 300 + ".py"])
def test_what_cannot_be_a_file_is_no_app(tmp_path: Path, spec: str) -> None:
    with pytest.raises(AppError, match="names no file"):
        load_app(spec, tmp_path)


@pytest.mark.parametrize("kind", ["redrive", "drop_dead", "drop_waiting"])
@pytest.mark.parametrize("number", [-1, 2**63, 2**70])
def test_an_id_that_no_row_can_have_is_refused(kind: str, number: int) -> None:
    field = f'"id":{number}' if kind == "redrive" else f'"ids":[{number}]'
    with pytest.raises(BadMessage):
        protocol.decode_ask(f'{{"ask":"{kind}",{field}}}'.encode())
    assert protocol.decode_ask(protocol.encode(Redrive(2**63 - 1))) == Redrive(2**63 - 1)


def test_an_answer_nested_too_deeply_is_not_understood() -> None:
    with pytest.raises(ConnectionError, match="not understood"):
        protocol.decode_answer(b'{"answer":"pong","x":' + b"[" * 100_000)


def test_an_ask_that_is_not_utf_8_is_not_sent() -> None:
    with pytest.raises(BadMessage, match="surrogate"):
        protocol.encode(Act("Order", "\udcff", Verb.CANCEL, Request(), "id"))


def test_an_error_that_is_not_utf_8_is_answered_all_the_same() -> None:
    assert protocol.problem(BadMessage("no \udcff")).text == "no \\udcff"


@pytest.mark.parametrize("body", [b"{", b"{}", b"[]", b'"\xff"', b"", b"[" * 5_000])
def test_a_row_that_cannot_be_read_is_damage_whatever_its_checksum(body: bytes) -> None:
    with pytest.raises(StoreCorrupt, match="not what was written"):
        rows.due_of(1, rows.seal(body), body)
    with pytest.raises(StoreCorrupt, match="not what was written"):
        rows.waiting_of(1, 0.0, 1.0, rows.seal(body, 0.0, 1.0), body)
    with pytest.raises(StoreCorrupt, match="not what was written"):
        rows.dead_of(1, rows.seal(body), body)


@pytest.mark.parametrize("stands_in", ["", "x charge", "9" * 5_000])
def test_a_standing_that_cannot_be_read_is_damage(stands_in: str) -> None:
    with pytest.raises(StoreCorrupt):
        rows.standing_of("Order", stands_in, 1, "1")


def lines_of(content: bytes, limit: int) -> tuple[list[tuple[int, bytes]], list[int]]:
    report = _Report()
    reading = _Reading(io.BytesIO(content), "", report, limit)
    return [(reading.asked[-1][0], ask.line) for ask in reading.asks()], [bad.line for bad in report.bad]


def test_a_line_padded_beyond_the_limit_is_one_bad_line_not_two_good_ones() -> None:
    assert lines_of(b'{"a":1}' + b" " * 32 + b'{"b":2}\n{"c":3}', 32) == ([(2, b'{"c":3}')], [1])


def test_a_line_of_just_the_limit_is_taken_whatever_its_end() -> None:
    for end in (b"", b"\n", b"\r\n"):
        assert lines_of(b"x" * 32 + end, 32) == ([(1, b"x" * 32)], [])
        assert lines_of(b"x" * 33 + end, 32) == ([], [1])


@pytest.mark.parametrize("body_bytes", [1 << 20, 20 << 20])
def test_an_ask_has_room_for_the_largest_event(body_bytes: int) -> None:
    line = protocol.encode(protocol.Emit(b"x" * body_bytes, "T" * 1_000))
    assert len(line) <= protocol.max_ask(body_bytes)


class Odd(Event, type='a"b\n\x1b<i>&\u202e'):
    """Its wire type is what a picture must not obey."""


@pytest.mark.parametrize("form", list(graph.Form))
def test_a_picture_holds_no_control_character(form: graph.Form) -> None:
    definition = replace(definition_of(shop.Order), starters={type_name(Odd): print})
    check_printable(graph.draw(definition, form), form)


def test_a_log_line_with_a_huge_number_is_not_lost() -> None:
    record = logging.makeLogRecord({"msg": "m", "name": "n", "count": 2**70, "odd\ud800": "\ud800"})
    line = msgspec.json.decode(_JsonLines().format(record))
    assert line["count"] == str(2**70)
    assert line["odd\\ud800"] == "\\ud800"


def test_json_of_an_environment_that_is_not_utf_8(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).json({"item": {"bus": "\udcff", "\udcfe": ["\udcff", 1]}})
    assert msgspec.json.decode(capsys.readouterr().out)["item"] == {"bus": "\\udcff", "\\udcfe": ["\\udcff", 1]}


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "Order/\udcff"],
        ["list", "--key", "\udcff"],
        ["cancel", "Order/parked", "--reason", "\udcff"],
        ["cancel", "Order/\udcff"],
        ["skip", "Order/parked", "ship\udcff"],
        ["skip", "Order/parked", f"ship[{'9' * 5_000}]"],
        ["done", "Order/parked", "ship", "--reply", "[" * 5_000],
        ["emit", "Placed\udcff", "{}"],
        ["dead", "show", str(2**63)],
        ["dead", "list", "--cursor", str(2**63)],
        ["dead", "drop", "--yes", str(2**63)],
        ["waiting", "list", "--cursor", str(2**63)],
    ],
)
def test_words_that_nothing_can_be_called_are_a_usage_error(tmp_path: Path, arguments: list[str]) -> None:
    store = shop.store(tmp_path / "shop.db", [shop.parked()])
    command = [*arguments, "--store", store, "--app", f"{shop.__file__}:app"]
    result = CliRunner().invoke(main, command, prog_name="orchestrator")
    assert result.exit_code == 2, result.stderr
    assert "internal error" not in result.stderr
    assert "the engine stops" not in result.stderr


async def test_text_columns_that_are_not_utf_8_are_damage(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "shop.db") as store:
        await store.commit([Transition(at=1.0, dead=(DeadLetter(1.0, "r"),), seen=(("c", "m"),))])
        await store._write(lambda connection: connection.execute("UPDATE dead SET body = x'7b'").rowcount)
        with pytest.raises(StoreCorrupt):
            await store.dead_letters()


def test_a_plain_event_comes_back() -> None:
    assert decode(Plain, encode(Plain("1"))) == Plain("1")
    assert Settings().limits.body_bytes == 1 << 20
    assert isinstance(fuzzed, App)
