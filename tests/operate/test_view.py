"""The projection: what is stored, as people and programs read it; secrets never."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from xml.etree import ElementTree

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from orchestrator.operate import view
from orchestrator.operate.graph import Form, draw
from orchestrator.operate.view import DetailView, StepState
from orchestrator.operate.why import remedies, waits_for, why
from orchestrator.saga import definition_of
from orchestrator.testing import Dialogue, drive
from orchestrator.wire import DeadLetter, Envelope, Kind

from ..machine.cast import Charged, Declined, NoWayBack, Placed, Reserved
from . import shop

ORDER = definition_of(shop.Order)

FIELDS = {
    "saga",
    "key",
    "run",
    "status",
    "parked",
    "paused",
    "steps",
    "version",
    "started_at",
    "updated_at",
    "last_error",
    "why",
}


def detail(dialogue: Dialogue, *, with_classes: bool = True) -> DetailView:
    assert dialogue.instance is not None
    return view.detail(dialogue.instance, ORDER if with_classes else None)


def words(dialogue: Dialogue, *, after: float = 3.0, with_classes: bool = True) -> str:
    return why(detail(dialogue, with_classes=with_classes), view.moment(dialogue.now) + timedelta(seconds=after))


def test_an_instance_in_json_has_the_documented_fields() -> None:
    dialogue = shop.backing_off()
    assert dialogue.instance is not None
    built = msgspec.to_builtins(view.summary(dialogue.instance))
    assert set(built) == FIELDS
    assert built["started_at"] == "2023-11-14T22:13:20Z"
    assert built["parked"] is None
    assert built["last_error"] == "gateway timeout"
    (step,) = built["steps"]
    assert (step["step"], step["state"], step["attempt"]) == ("charge", "backing off", 1)
    assert step["next_at"] > "2023-11-14T22:13:2"
    assert {"state", "undo", "waits_for"} <= set(msgspec.to_builtins(detail(dialogue)))


@pytest.mark.parametrize(
    ("begin", "states"),
    [
        (shop.reserving, {"reserve[0]": StepState.ASKED, "reserve[1]": StepState.QUEUED}),
        (shop.waiting, {"reserve[0]": StepState.DONE, "reserve[1]": StepState.DONE, "approval": StepState.WAITING}),
        (shop.paused, {"reserve[0]": StepState.DONE, "reserve[1]": StepState.HELD}),
        (shop.undoing, {"reserve[0]": StepState.ASKED, "reserve[1]": StepState.TO_UNDO, "charge": StepState.REFUSED}),
        (shop.undone, {"reserve[0]": StepState.UNDONE, "reserve[1]": StepState.UNDONE, "charge": StepState.REFUSED}),
        (shop.parked, {"ship": StepState.PARKED, "pack": StepState.DONE, "charge": StepState.DONE}),
    ],
)
def test_each_stay_in_a_step_shows_its_state(begin: Callable[[], Dialogue], states: dict[str, StepState]) -> None:
    shown = {step.name: step.state for step in detail(begin()).path}
    assert {name: shown[name] for name in states} == states


def test_an_ended_instance_has_no_steps_under_way() -> None:
    for begin in (shop.completed, shop.undone, shop.killed):
        assert detail(begin()).steps == ()


def test_the_undo_plan_is_there_before_it_is_needed() -> None:
    plan = detail(shop.charging()).undo
    assert [(undo.step, undo.element, undo.sends, undo.state) for undo in plan] == [
        ("reserve", 0, "Release", "planned"),
        ("reserve", 1, "Release", "planned"),
    ]
    assert plan[0].command_id.endswith("/reserve[0]#1/undo")


@pytest.mark.parametrize(
    ("begin", "states"),
    [
        (shop.undoing, ["asked", "to come"]),
        (shop.undone, ["done", "done"]),
        (shop.with_child, []),  # the pivot is passed
        (shop.killed, ["never asked"]),
    ],
)
def test_the_undo_plan_follows_what_happens(begin: Callable[[], Dialogue], states: list[str]) -> None:
    assert [undo.state for undo in detail(begin()).undo] == states


def test_an_undo_left_standing_is_shown() -> None:
    dialogue = shop.undoing().verb("skip", step="reserve", why="gone anyway")
    assert {undo.state for undo in detail(dialogue).undo} == {"left standing"}
    assert "Left standing by an operator: reserve[0], reserve[1]." in words(dialogue)


@pytest.mark.parametrize(
    "data",
    [b'{"card":{"$secret":"4111"}}', b'[{"$secret":{"deep":[1]}}]', b'{"a":[{"b":{"$secret":1,"also":2}}]}'],
)
def test_a_secret_is_masked_wherever_it_is(data: bytes) -> None:
    shown = msgspec.json.encode(view.masked(data)).decode()
    assert "***" in shown
    assert "4111" not in shown
    assert "deep" not in shown
    assert "also" not in shown


def test_no_face_shows_the_secret() -> None:
    for begin in (shop.charging, shop.backing_off, shop.undoing, shop.parked, shop.bug):
        dialogue = begin()
        shown = msgspec.json.encode(detail(dialogue))
        shown += b"".join(msgspec.json.encode(view.message(t.message)) for t in dialogue.history if t.message)
        assert b"4111" not in shown
        assert b"***" in shown


def test_what_is_not_json_is_shown_as_text() -> None:
    assert view.masked(b"\xff{") == "\\xff{"
    assert "4111" not in view.masked(b'{"a":1,"card":{"$secret":"4111"}} and more')
    assert view.masked(Raw(b"[" * 5000)) == "[" * 5000


def test_a_dead_letter_shows_its_bytes_and_masks_what_it_can() -> None:
    letter = DeadLetter(1.0, "cannot be decoded", None, b'{"card":{"$secret":"4111"}}', id=7)
    assert view.dead_letter(letter).raw == '{"card":"***"}'
    envelope = Envelope(id="e", kind=Kind.EVENT, type="Placed", data=Raw(b'{"card":{"$secret":"4111"}}'))
    shown = view.dead_letter(DeadLetter(1.0, "nobody wants it", envelope)).message
    assert shown is not None
    assert shown.data == {"card": "***"}


def test_a_moment_that_no_calendar_holds_is_the_calendars_end() -> None:
    assert view.moment(1e18).year == 9999
    assert view.moment(float("inf")).year == 9999


SENTENCES = [
    (shop.reserving, "Step reserve[0] waits for the reply to Reserve, attempt 1 of 5, first asked 2023-11-14 22:13:20"),
    (shop.reserving, "it times out 2023-11-14 22:14:20 UTC (in 57 s)."),
    (shop.reserving, "1 more command of reserve wait for their turn."),
    (shop.waiting, "Step approval waits for Approved or Denied, since"),
    (shop.waiting, "its time is over 2023-11-17 22:13:20 UTC (in 3 days)."),
    (shop.backing_off, "Step charge backs off: attempt 1 of 3 at Charge failed (gateway timeout); the next is due"),
    (shop.undoing, "is being undone (charge#1 was refused: Declined)"),
    (shop.undoing, "The undo of reserve[0] waits for the reply to Release, attempt 1 of 10"),
    (shop.undoing, "Still to be undone after that: reserve[1]."),
    (shop.undone, "was undone (charge#1 was refused: Declined); that ended"),
    (shop.undone, "Nothing will move it any more."),
    (shop.with_child, "Step pack waits for its child Pack/Order/with-child~"),
    (shop.parked, "Step ship is parked: ship#1 failed: no driver"),
    (shop.parked, "What is parked only a person moves"),
    (shop.completed, "Order/completed completed 2023-11-14"),
    (shop.bug, "The saga's own code failed on Denied (told-"),
    (shop.bug, "KeyError: 'nobody thought of that'"),
    (shop.bug, "retry hands the message over again; drop gives it up"),
    (shop.paused, "An operator paused it; 1 message that it would send wait for resume."),
    (shop.killed, "was killed (a test order)"),
    (shop.killed, "May still be in effect: reserve[0]."),
]


@pytest.mark.parametrize(("begin", "sentence"), SENTENCES)
def test_why_says_it_in_words(begin: Callable[[], Dialogue], sentence: str) -> None:
    assert sentence in words(begin())


def test_why_without_the_classes_names_the_step() -> None:
    assert "Step approval waits for an event or its time" in words(shop.waiting(), with_classes=False)
    assert "attempt 1, first asked" in words(shop.charging(), with_classes=False)


def test_a_pause_holds_the_time_of_a_wait_too_and_nothing_is_overdue() -> None:
    dialogue = shop.waiting().verb("pause")
    said = words(dialogue, after=9 * 86400)
    assert "An operator paused it. Step approval" in said
    assert "its time begins afresh at resume. Resume lets it go on." in said
    assert "overdue" not in said


def test_messages_behind_a_bug_are_counted() -> None:
    dialogue = shop.bug().tell(shop.Approved("waiting")).tell(shop.Approved("waiting"))
    assert "2 messages stand behind it" in words(dialogue)


def test_why_tells_of_the_deadline_and_of_a_parent() -> None:
    dialogue = shop.charging()
    assert dialogue.instance is not None
    instance = replace(
        dialogue.instance,
        deadline_at=dialogue.now + 100,
        answer_to=shop.placed("p").instance.address,  # type: ignore[union-attr]
    )
    text = why(view.detail(instance, ORDER), view.moment(dialogue.now))
    assert "Order/charging, a child of Order/p, is running" in text
    assert "Its deadline is 2023-11-14 22:15:00 UTC (in 2 min): then it is undone." in text


def test_an_overdue_timer_asks_for_the_daemon() -> None:
    assert "overdue by 53 s: is the daemon running?" in words(shop.charging(), after=63)


def test_of_many_alike_only_a_few_are_told() -> None:
    dialogue = shop.placed("many", lines=tuple(str(n) for n in range(30)))
    assert "29 more commands of reserve wait for their turn" in words(dialogue)


@pytest.mark.parametrize(
    ("begin", "verbs"),
    [
        (shop.parked, ["retry", "done", "skip", "pause", "kill"]),
        (shop.bug, ["retry", "drop", "kill"]),
        (shop.paused, ["resume", "cancel", "kill"]),
        (shop.backing_off, ["retry", "cancel", "pause", "kill"]),
        (shop.undoing, ["pause", "kill"]),
        (shop.completed, []),
    ],
)
def test_what_can_be_done_now(begin: Callable[[], Dialogue], verbs: list[str]) -> None:
    assert [remedy.command.split(" ")[1] for remedy in remedies(detail(begin()))] == verbs


@pytest.mark.parametrize("begin", [shop.parked, shop.paused, shop.backing_off, shop.undoing, shop.waiting, shop.bug])
def test_the_machine_accepts_every_verb_that_is_offered(begin: Callable[[], Dialogue]) -> None:
    for remedy in remedies(detail(begin())):
        verb, _, *arguments = remedy.command.removeprefix("orchestrator ").split(" ")
        step = arguments[0] if arguments and not arguments[0].startswith("--") else ""
        if (begin, verb) == (shop.bug, "retry"):
            continue  # the code is not mended here: it would fail again
        acted = begin().verb(verb, step=step, why="a test")
        assert acted.last.outcome == "applied", (remedy.command, acted.last.notes)


def test_a_command_to_paste_names_the_store_and_quotes_the_key() -> None:
    dialogue = shop.charging("it's; rm -rf /")
    commands = [remedy.command for remedy in remedies(detail(dialogue), "sqlite:///my shop.db")]
    assert commands[0] == """orchestrator cancel 'Order/it'"'"'s; rm -rf /' --store 'sqlite:///my shop.db'"""


def test_waits_for_is_the_same_in_show() -> None:
    dialogue = shop.parked()
    assert waits_for(detail(dialogue), view.moment(dialogue.now))[0].startswith("step ship is parked")


# Pictures.


def test_mermaid_shows_steps_pivot_and_undo() -> None:
    picture = draw(ORDER, Form.MERMAID)
    assert picture.startswith("flowchart TD\n")
    for line in (
        'begun(["Placed"])',
        'step_reserve["reserve<br/>each Reserve"]',
        'step_approval["approval<br/>waits for Approved or Denied"]',
        'step_charge[["charge (pivot)<br/>Charge"]]',
        'step_pack["pack<br/>child Pack"]',
        'step_tell["tell<br/>publishes Packed"]',
        'undo_reserve("undo: release<br/>Release")',
        "begun --> step_reserve",
        "step_approval --> step_charge",
        "step_reserve -.-> undo_reserve",
        "step_tell --> ended",
        "style step_charge stroke-width:3px",
    ):
        assert line in picture


def test_dot_is_well_formed() -> None:
    picture = draw(ORDER, Form.DOT)
    assert picture.startswith('digraph "Order" {')
    assert picture.count("{") == picture.count("}")
    assert 'step_charge [label="charge (pivot)\\nCharge", shape=box, penwidth=3];' in picture
    assert "step_reserve -> undo_reserve [style=dashed, constraint=false];" in picture


def test_svg_is_xml_with_every_step_inside_it() -> None:
    root = ElementTree.fromstring(draw(ORDER, Form.SVG))
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{space}text")]
    assert {"reserve", "charge (pivot)", "undo: release", "completed"} <= set(texts)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for box in root.findall(f"{space}rect")[1:]:
        assert 0 <= float(box.attrib["x"]) <= width - float(box.attrib["width"])
        assert 0 <= float(box.attrib["y"]) <= height - float(box.attrib["height"])


def test_a_refusal_past_the_pivot_is_shown_parked_with_the_ways_out() -> None:
    dialogue = drive(NoWayBack, Placed("1")).answer(Reserved()).answer(Charged()).answer(Declined())
    assert dialogue.instance is not None
    seen = view.detail(dialogue.instance, None)
    assert [step.state for step in seen.steps if step.step == "rush"] == [StepState.PARKED]
    text = why(seen, view.moment(dialogue.now))
    assert "rush" in text and "Declined" in text and "retry, done or skip" in text
