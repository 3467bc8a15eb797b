"""One table of dialogues a rule of the machine; the rule's number is in each docstring."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from orchestrator import Child, DefinitionError, Done, days
from orchestrator.machine import (
    Entry,
    HandlerBug,
    Instance,
    MachineLimits,
    Outcome,
    fold,
    migrate,
    next_timer,
    react,
    set_aside,
)
from orchestrator.messages import Failure, encode
from orchestrator.saga import definition_of
from orchestrator.testing import Dialogue, Unwind, drive
from orchestrator.wire import Address, Envelope, Kind, Request, Route, Verb
from tests.checking.odd import Opened, Packed

from .cast import (
    Again,
    Announced,
    Approval,
    Approved,
    Branches,
    Buggy,
    Cancelled,
    Cash,
    Charge,
    Charged,
    Choosy,
    Declined,
    Disk,
    DiskWanted,
    FanOut,
    Hurry,
    LateBug,
    Linear,
    Look,
    Machine,
    Monthly,
    NoWayBack,
    Placed,
    Referenced,
    Refund,
    Release,
    Reserve,
    Reserved,
    Rush,
    Ship,
    Shipped,
    SoldOut,
    Withdrawn,
)


def begun(saga: type = Linear) -> Dialogue:
    return drive(saga, Placed("1"))


def charging() -> Dialogue:
    return begun().expect(Reserve("1")).answer(Reserved("r9")).expect(Charge("1"))


def folded(t: Dialogue) -> bytes:
    """What the history leads to, by the machine alone."""
    entries = [
        Entry(version=n, at=done.at, message=done.message, outcome=done.outcome)
        for n, done in enumerate(t.history, 1)
        if done.message is not None
    ]
    return msgspec.json.encode(fold(t.definition, entries))


def test_all_goes_well() -> None:
    t = charging().answer(Charged()).expect(Ship("1")).answer(Shipped("t7")).expect(Announced("1")).ends("completed")
    assert t.state.tracking == "t7"
    assert t.published == [Announced("1")]


def test_history_folds_to_the_stored_instance_byte_for_byte() -> None:
    """I2, I3"""
    t = (
        charging()
        .fail(once=True)
        .wait(2)
        .fail()
        .expect(Refund("1"))
        .done()
        .expect(Release("1", reservation="r9"))
        .done()
    )
    assert t.status == "compensated"
    assert [done.instance.version for done in t.history if done.instance] == list(range(1, len(t.history) + 1))
    assert folded(t) == msgspec.json.encode(t.instance)


def test_versions_share_what_is_answered_and_no_later_one_changes_it() -> None:
    t = begun(FanOut).answer(Reserve("1", "a"), Reserved()).answer(Reserve("1", "b"), Reserved())
    versions = [done.instance for done in t.history if done.instance is not None]
    known = [msgspec.json.encode(version) for version in versions]
    answered = [version.visits[0].calls[0] for version in versions]
    assert answered[1] is answered[2]
    t.expect(Charge("1")).answer(Declined()).answer(Release("1", "a"), Done()).answer(Release("1", "b"), Done())
    assert t.status == "compensated"
    assert [msgspec.json.encode(version) for version in versions] == known


def test_r1_a_transition_holds_all_that_leaves_and_all_that_became_pointless() -> None:
    """R1"""
    t = begun()
    reserve = t.last.put[0]
    t.answer(Reserved())
    assert reserve.name in t.last.remove
    assert [row.envelope.type for row in t.last.put] == ["Charge"]


def test_r3_ids_are_derived_and_the_same_for_all_attempts() -> None:
    """R3"""
    t = drive(Linear, Placed("a/b~c"))
    name = t.last.put[0].name
    run = t.instance.run if t.instance else ""
    assert name == f"Linear/a%2Fb~c~{run}/reserve#1"
    t.fail("no", once=True).wait(1)
    assert [(row.name, row.envelope.attempt) for row in t.last.put] == [(name, 2)]


def test_r3_elements_of_a_list_carry_their_index() -> None:
    """R3"""
    t = begun(FanOut)
    assert [row.name.rpartition("/")[2] for row in t.last.put] == ["reserve[0]#1", "reserve[1]#1"]


@pytest.mark.parametrize(
    "place",
    [
        *(
            "reserve[01]#1",
            "reserve[ 1]#1",
            "reserve[1#1",
            "reserve[1]]#1",
            "reserve1]#1",
            "reserve[-1]#1",
            "reserve#1",
        ),
        *("reserve[1]#2", "reserve[1]#01", "reserve[2]#1#1", "reserve[\u0661]#1", f"reserve[{'1' * 5_000}]#1", "", "["),
    ],
)
def test_r4_a_reply_that_names_no_call_exactly_is_stale(place: str) -> None:
    """R4"""
    t = begun(FanOut)
    row = t.last.put[1]
    name = row.name.replace("reserve[1]#1", place)
    yes = Envelope("x", Kind.YES, "Reserved", Raw(encode(Reserved())), reply_to=name, attempt=1, key="1")
    assert react(t.definition, t.instance, yes, t.now).outcome is Outcome.STALE
    assert react(t.definition, t.instance, replace(yes, reply_to=row.name), t.now).outcome is Outcome.APPLIED


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        ("reply to an answered command", Outcome.STALE),
        ("failure of an old attempt", Outcome.STALE),
        ("reply to no command", Outcome.STALE),
    ],
)
def test_r4_a_reply_that_is_not_awaited_moves_nothing(what: str, outcome: Outcome) -> None:
    """R4"""
    t = begun()
    row = t.last.put[0]
    name, attempt = row.name, 1
    if what == "reply to an answered command":
        t.answer(Reserved())
    elif what == "failure of an old attempt":
        t.fail(once=True).wait(1)
    else:
        name = name.replace("reserve", "nothing")
    before = t.instance
    failure = Raw(encode(Failure(reason="error", error="late")))
    done = react(
        t.definition,
        t.instance,
        Envelope("x", Kind.FAILURE, "Failure", failure, saga="Linear", key="1", reply_to=name, attempt=attempt),
        t.now,
    )
    assert (done.outcome, done.put, done.remove) == (outcome, (), ())
    assert before is not None and done.instance is not None
    assert done.instance.visits == before.visits


def test_r4_a_yes_counts_from_any_attempt() -> None:
    """R4"""
    t = begun().fail(once=True).wait(1)
    row = t.last.put[0]
    yes = Envelope(
        f"{row.name}:yes:1", Kind.YES, "Reserved", Raw(encode(Reserved("first"))), reply_to=row.name, attempt=1, key="1"
    )
    done = react(t.definition, t.instance, yes, t.now)
    assert [sent.envelope.type for sent in done.put] == ["Charge"]


def test_r4_a_late_yes_completes_a_parked_step() -> None:
    """R4, R9"""
    t = charging().answer(Charged()).expect(Ship("1"))
    row = t.last.put[0]
    t.fail()
    assert "ship" in t.parked
    yes = Envelope(f"{row.name}:yes:1", Kind.YES, "Shipped", Raw(encode(Shipped("late"))), reply_to=row.name, attempt=1)
    done = react(t.definition, t.instance, yes, t.now)
    assert done.instance is not None
    assert (str(done.instance.status), done.instance.parked) == ("completed", "")


def test_r5_the_undo_is_stored_before_the_do_leaves_and_again_after_its_reply() -> None:
    """R5"""
    t = begun()
    assert t.instance is not None
    undo = t.instance.visits[0].calls[0].undo
    assert undo is not None and undo.type == "Release" and b'"reservation":""' in bytes(undo.data)
    t.answer(Reserved("r9"))
    undo = t.instance.visits[0].calls[0].undo
    assert undo is not None and b'"reservation":"r9"' in bytes(undo.data)


def test_r6_a_clean_refusal_is_not_undone_an_unclean_one_is() -> None:
    """R6"""
    charging().answer(Declined()).expect(Release("1", reservation="r9")).done().ends("compensated")
    t = charging().answer(Declined(), clean=False).expect(Refund("1")).expect_nothing().done()
    t.expect(Release("1", reservation="r9")).done().ends("compensated")


def test_r6_a_step_in_doubt_is_undone() -> None:
    """R6"""
    t = charging().fail().expect(Refund("1")).done().expect(Release("1", reservation="r9")).done().ends("compensated")
    assert "charge#1 failed" in (t.instance.why if t.instance else "")


def test_r6_queries_are_never_in_doubt() -> None:
    """R6"""
    t = begun(Choosy).expect(Look("1")).cancel("no").ends("compensated")
    assert not t.parked


def test_r6_a_cancel_waits_for_a_pivot_that_nothing_undoes() -> None:
    """R6"""
    t = begun(NoWayBack).expect(Reserve("1")).answer(Reserved()).expect(Charge("1"))
    t.tell(Cancelled("1")).expect_nothing()
    assert t.status == "running"
    t.answer(Declined()).expect(Release("1")).done().ends("compensated")


def test_r6_a_cancel_that_waited_is_too_late_once_the_pivot_says_yes() -> None:
    """R6, R9"""
    t = begun(NoWayBack).answer(Reserved()).expect(Charge("1")).tell(Cancelled("1"))
    t.answer(Charged()).expect(Rush("1")).answer(Shipped()).ends("completed")


def test_r7_undo_goes_back_along_the_graph_branches_in_parallel() -> None:
    """R7"""
    t = begun(Branches).expect(Reserve("1", "hotel")).answer(Reserved())
    t.expect(Reserve("1", "flight")).expect_nothing().answer(Reserved()).expect(Reserve("1", "tour"))
    tour = t.answer(Reserve("1", "tour"), Reserved()).expect(Charge("1")).fail()
    tour.expect(Release("1", "tour")).expect_nothing().done()
    tour.expect(Release("1", "flight")).expect(Release("1", "hotel")).expect_nothing()
    tour.answer(Release("1", "hotel"), Done()).answer(Release("1", "flight"), Done()).ends("compensated")


def test_r8_an_undo_whose_attempts_are_used_up_parks_and_only_it_waits() -> None:
    """R8"""
    t = begun(Branches).cancel()
    t.answer(Release("1", "hotel"), Done())
    t.fail("down")
    assert t.status == "compensating"
    assert "down" in t.parked
    t.verb("retry").expect(Release("1", "flight")).done()
    assert t.status == "compensated"


@pytest.mark.parametrize(("verb", "how"), [("skip", "standing"), ("done", "done")])
def test_r8_an_operator_skips_or_marks_a_stuck_undo(verb: str, how: str) -> None:
    """R8"""
    t = begun().cancel()
    t.fail("down").verb(verb, step="reserve", why="seen to")
    assert t.status == "compensated"
    assert t.instance is not None and str(t.instance.visits[0].calls[0].unwinding) == how


def test_r9_past_the_pivot_failures_park_and_cancel_changes_nothing() -> None:
    """R9"""
    t = charging().answer(Charged()).expect(Ship("1")).cancel("changed my mind")
    assert t.last.outcome is Outcome.REFUSED
    t.fail("no truck")
    assert t.status == "running" and "no truck" in t.parked
    t.verb("retry").expect(Ship("1")).answer(Shipped()).expect(Announced("1")).ends("completed")


def test_r9_a_refusal_past_the_pivot_parks() -> None:
    """R9"""
    t = begun(NoWayBack).answer(Reserved()).answer(Charged()).expect(Rush("1")).answer(Declined())
    assert "Declined" in t.parked
    assert t.verb("skip", step="rush", why="delivered by hand").status == "completed"


def test_r9_a_round_closes_and_a_goto_opens_the_next() -> None:
    """R9"""
    t = begun(Monthly).expect(Reserve("1", "0")).answer(Reserved()).expect(Charge("1")).answer(Charged())
    t.wait(days(30) + 2)
    t.expect(Reserve("1", "1")).answer(Reserved()).expect(Charge("1")).answer(Declined())
    t.expect(Release("1", "1")).done().ends("compensated")


def test_r9_a_goto_over_the_pivot_passes_it() -> None:
    """R9, R21"""
    t = begun(Cash).expect(Reserve("1")).answer(Reserved()).expect(Charge("1")).answer(Declined())
    t.expect(Ship("1")).answer(Shipped()).expect(Rush("1")).answer(Declined())
    assert t.status == "running" and "the pivot is passed" in t.parked


def test_r10_no_answer_in_time_is_a_failure_and_retried() -> None:
    """R10, R19"""
    t = charging().wait(10)
    assert t.instance is not None
    assert t.instance.visits[1].calls[0].error == "no answer in time"
    t.wait(1.01).expect(Charge("1")).answer(Charged()).expect(Ship("1"))


def test_r10_timers_of_what_is_over_are_gone() -> None:
    """R10"""
    t = charging().answer(Charged()).answer(Shipped())
    assert t.status == "completed"
    assert t.instance is not None and t.instance.wake_at is None


def test_r10_a_timer_that_is_over_is_stale() -> None:
    """R4, R10"""
    t = charging()
    assert t.instance is not None
    timer = next_timer(t.instance, t.now + 10)
    assert timer is not None
    t.answer(Charged())
    assert react(t.definition, t.instance, timer, t.now + 10).outcome is Outcome.STALE


def test_r11_an_event_for_no_instance_goes_to_the_waiting_room() -> None:
    """R11"""
    early = Envelope("e", Kind.EVENT, "Approved", Raw(encode(Approved("1"))), saga="Approval", key="1", via="order")
    done = react(definition_of(Approval), None, early, 100.0, MachineLimits(waiting_room_s=60))
    assert (done.outcome, done.instance, done.wait_until) == (Outcome.WAITING, None, 160.0)


def test_r12_an_event_for_a_step_to_come_is_kept_and_taken_when_it_is_entered() -> None:
    """R12"""
    t = begun(Buggy).tell(Approved("1"))
    assert t.last.outcome is Outcome.KEPT
    assert t.answer(Reserved()).status == "completed"


def test_r12_an_event_for_a_step_already_left_is_late() -> None:
    """R12"""
    t = begun(Approval).expect(Announced("1")).tell(Approved("1")).tell(Approved("1"))
    assert t.last.outcome is Outcome.LATE


def test_r12_kept_events_have_a_limit() -> None:
    """R12, R20"""
    t = begun(Buggy)
    limits = MachineLimits(kept_events=1)
    instance: Instance | None = t.instance
    for name, outcome in (("a", Outcome.KEPT), ("b", Outcome.DEAD)):
        event = Envelope(name, Kind.EVENT, "Approved", Raw(encode(Approved("1"))), saga="Buggy", key="1", via="order")
        done = react(t.definition, instance, event, t.now, limits)
        instance = done.instance
        assert done.outcome is outcome
    assert [letter.envelope.id for letter in done.dead if letter.envelope] == ["b"]


def test_r13_a_second_start_is_a_duplicate() -> None:
    """R13"""
    assert begun().tell(Placed("1")).last.outcome is Outcome.DUPLICATE


def test_r13_a_finished_key_starts_again_only_if_the_saga_says_so() -> None:
    """R13"""
    t = begun(Again).expect(Charge("1")).answer(Charged()).ends("completed")
    first = t.instance
    t.tell(Placed("1")).expect(Charge("1"))
    assert t.status == "running"
    assert first is not None and t.instance is not None and t.instance.run != first.run
    assert begun(Buggy).answer(Reserved()).tell(Approved("1")).tell(Placed("1")).last.outcome is Outcome.DUPLICATE


def test_r13_a_restartable_saga_remembers_the_events_of_earlier_runs() -> None:
    """R1, R13: the store's inbox of a run goes with the run, so such events are kept in the lasting one"""
    t = begun(Again)
    assert t.last.seen == (("Again/1", "told-1"),)
    assert begun(Buggy).last.seen == ()


def test_r14_what_comes_after_the_end_is_late() -> None:
    """R14"""
    t = begun(Buggy).answer(Reserved()).tell(Approved("1")).tell(Approved("1"))
    assert t.last.outcome is Outcome.LATE


def test_r15_a_bug_parks_the_instance_and_the_rest_queues_behind() -> None:
    """R15"""
    t = begun(Buggy).answer(Reserved("poison"))
    assert "cannot take poison" in t.parked
    t.tell(Approved("1"))
    assert t.last.outcome is Outcome.QUEUED
    t.verb("drop", why="bad")
    assert [letter.envelope.type for letter in t.last.dead if letter.envelope] == ["Reserved"]
    t.wait(0)
    assert t.last.outcome is Outcome.KEPT
    assert folded(t) == msgspec.json.encode(t.instance)


def test_r15_a_retry_replays_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """R15"""
    t = begun(Buggy).answer(Reserved("poison")).tell(Approved("1"))
    handler = t.definition.steps["reserve"].on[0]
    object.__setattr__(handler, "function", lambda self, reply: None)
    try:
        t.verb("retry").wait(0)
    finally:
        object.__setattr__(handler, "function", Buggy.reserved)
    assert t.status == "completed"


def test_r15_a_dropped_timer_parks_what_waited_for_it() -> None:
    """R15, I9"""
    t = begun(LateBug).wait(60)
    assert t.parked == "ValueError: too late"
    t.verb("drop", why="known")
    assert "its timer was dropped" in t.parked
    assert t.tell(Approved("1")).status == "completed"


def test_i2_a_wait_in_whole_seconds_folds_to_the_same_bytes() -> None:
    """I2"""
    t = begun(LateBug)
    stored = msgspec.json.decode(msgspec.json.encode(t.instance), type=Instance)
    assert msgspec.json.encode(stored) == msgspec.json.encode(t.instance)


def test_r15_a_retry_that_raises_again_stays_parked_and_is_refused() -> None:
    """R15, I2"""
    t = begun(Buggy).answer(Reserved("poison"))
    request = Envelope("again", Kind.VERB, "retry", Raw(b"{}"), t.now, saga="Buggy", key="1")
    with pytest.raises(HandlerBug, match="poison"):
        react(t.definition, t.instance, request, t.now)
    done = set_aside(t.definition, t.instance, request, "ValueError: still poison", t.now)
    assert (done.outcome, done.instance.parked if done.instance else "") == (
        Outcome.REFUSED,
        "ValueError: still poison",
    )
    assert done.instance is not None and done.instance.bug is not None
    assert done.instance.bug.message.type == "Reserved"


def test_r15_a_verb_whose_handler_raises_is_refused_and_parks_nothing() -> None:
    """R15, R17"""
    t = begun(Buggy)
    request = Request(step="reserve", reply=Raw(b'{"reservation":"poison"}'))
    done_verb = Envelope("d", Kind.VERB, "done", Raw(msgspec.json.encode(request)), t.now, saga="Buggy", key="1")
    with pytest.raises(HandlerBug, match="poison"):
        react(t.definition, t.instance, done_verb, t.now)
    done = set_aside(t.definition, t.instance, done_verb, "ValueError: poison", t.now)
    assert done.outcome is Outcome.REFUSED
    assert done.instance is not None and done.instance.parked == ""


@pytest.mark.parametrize("verb", ["cancel", "pause", "skip"])
def test_r15_other_verbs_wait_until_the_bug_is_settled(verb: str) -> None:
    """R15, R17"""
    t = begun(Buggy).answer(Reserved("poison")).verb(verb, step="reserve")
    assert t.last.outcome is Outcome.REFUSED


def test_r16_a_reply_that_cannot_be_decoded_is_a_dead_letter() -> None:
    """R16"""
    t = begun()
    row = t.last.put[0]
    bad = Envelope("b", Kind.YES, "Reserved", Raw(b'{"reservation": 7}'), reply_to=row.name, attempt=1)
    done = react(t.definition, t.instance, bad, t.now)
    assert done.outcome is Outcome.DEAD
    assert len(done.dead) == 1


def test_r17_a_second_cancel_changes_nothing() -> None:
    """R17"""
    t = begun().cancel("a").cancel("b")
    assert t.last.outcome is Outcome.REFUSED
    assert t.instance is not None and "a" in t.instance.why


def test_r17_a_kill_stops_at_once_and_needs_a_reason() -> None:
    """R17, I8"""
    t = begun().verb("kill")
    assert t.last.outcome is Outcome.REFUSED
    row = t.history[0].put[0].name
    t.verb("kill", why="wrong order")
    assert t.status == "killed"
    assert t.instance is not None and t.instance.wake_at is None
    assert row in t.last.remove


def test_r17_a_pause_holds_what_would_be_sent_and_resume_sends_it() -> None:
    """R17"""
    t = begun().expect(Reserve("1")).verb("pause").answer(Reserved("r9")).expect_nothing()
    t.wait(days(1)).expect_nothing()
    t.verb("resume").expect(Charge("1"))
    t.wait(5).answer(Charged()).expect(Ship("1"))


def test_r17_a_cancel_while_paused_acts_and_holds_its_undos() -> None:
    """R17"""
    t = begun().expect(Reserve("1")).verb("pause").answer(Reserved("r9")).cancel("no").expect_nothing()
    assert t.status == "compensating"
    t.verb("resume").expect(Release("1", reservation="r9")).expect_nothing().done().ends("compensated")


def test_r17_a_retry_that_a_pause_holds_leaves_the_earlier_attempt_in_doubt() -> None:
    """R6, R17"""
    t = charging().fail(once=True).verb("pause").verb("retry").cancel("no").verb("resume")
    t.expect(Refund("1")).done().expect(Release("1", reservation="r9")).done().ends("compensated")


def test_r17_what_a_pause_held_has_its_whole_time_after_it() -> None:
    """R10, R17"""
    t = begun().verb("pause").answer(Reserved()).wait(100).verb("resume")
    row = t.last.put[0]
    assert (row.envelope.type, row.deadline) == ("Charge", t.now + 10)


def test_r17_a_skipped_step_stays_in_the_plan_of_undo() -> None:
    """R17"""
    t = begun().expect(Reserve("1")).verb("skip", step="reserve", why="known").expect(Charge("1")).answer(Declined())
    t.expect(Release("1")).done().ends("compensated")


def test_r17_skip_without_undo_takes_it_out_of_the_plan() -> None:
    """R17"""
    t = begun().expect(Reserve("1")).verb("skip", step="reserve", undo=False).expect(Charge("1"))
    t.answer(Declined()).ends("compensated")


def test_r17_done_counts_as_a_yes_and_runs_the_handler() -> None:
    """R17"""
    t = begun().expect(Reserve("1")).verb("done", step="reserve", reply=Reserved("by phone")).expect(Charge("1"))
    assert t.state.reservation == "by phone"


def test_r17_done_without_the_reply_its_handler_needs_is_refused() -> None:
    """R17"""
    t = begun(Linear)
    request = Request(step="reserve", reply=Raw(b'{"reservation": 1}'))
    verb = Envelope("v", Kind.VERB, str(Verb.DONE), Raw(msgspec.json.encode(request)), key="1", saga="Linear")
    assert react(t.definition, t.instance, verb, t.now).outcome is Outcome.REFUSED


def test_r19_the_pauses_grow_and_are_the_same_each_time() -> None:
    """R19"""
    delays = []
    for _ in range(2):
        t = charging()
        for _ in range(2):
            t.fail("x", once=True)
            retry_at = t.instance.visits[1].calls[0].retry_at if t.instance else None
            assert retry_at is not None
            delays.append(retry_at - t.now)
            t.wait(retry_at - t.now)
    assert delays[:2] == delays[2:]
    assert 0.75 <= delays[0] <= 1 and 1.5 <= delays[1] <= 2


def test_r20_a_list_step_has_a_limit() -> None:
    """R20, R15"""
    wide = Envelope("s", Kind.EVENT, "Placed", Raw(encode(Placed("1", ("a", "b", "c")))), key="1", via="order")
    with pytest.raises(HandlerBug, match="more than 2"):
        react(definition_of(FanOut), None, wide, 0.0, MachineLimits(fan_out=2))


def test_r21_goto_back_unwinds_first_and_enters_the_next_visit() -> None:
    """R21"""
    t = begun(Choosy).expect(Look("1")).answer(Reserved()).expect(Reserve("1", "1")).answer(Reserved())
    t.expect(Charge("1")).answer(Declined(), clean=False).expect(Refund("1")).expect_nothing().done()
    t.expect(Release("1", "1")).expect_nothing().done().expect(Reserve("1", "2"))
    assert t.instance is not None and t.instance.numbers["reserve"] == 2


def test_r21_going_on_from_failed_undoes_what_is_in_doubt_first() -> None:
    """R21"""
    t = begun(Choosy).expect(Look("1")).answer(Reserved())
    t.expect(Reserve("1", "1")).fail().expect(Release("1", "1")).done()
    t.expect(Reserve("1", "2")).fail().expect(Release("1", "2")).expect_nothing().done().expect(Charge("1"))


def test_r21_finish_completes() -> None:
    """R21"""
    assert begun(Choosy).expect(Look("1")).answer(SoldOut()).ends("completed").status == "completed"


def test_a_step_with_nothing_to_do_goes_on() -> None:
    t = begun(Choosy).answer(Reserved()).answer(Reserved()).answer(Charged())
    assert t.status == "completed"


def test_r22_a_childs_key_is_the_command_and_its_end_the_answer() -> None:
    """R22"""
    t = begun(Machine).expect(Child(Disk, DiskWanted(10)))
    row = t.last.put[0]
    assert (row.route, row.envelope.kind, row.envelope.key) == (Route.INSTANCE, Kind.START, row.name)
    t.answer(Disk(size=10, name="sda")).expect(Charge("1"))
    assert t.state.disk_name == "sda"
    assert len(t.state.id) == 32
    t.fail().expect(Unwind("Disk")).done().ends("compensated")


def child_begun() -> tuple[Envelope, Instance]:
    start = Envelope(
        "Machine/1~x/disk#1",
        Kind.START,
        "DiskWanted",
        Raw(encode(DiskWanted(10))),
        saga="Disk",
        key="Machine/1~x/disk#1",
        reply_to="Machine/1~x/disk#1",
        attempt=1,
        answer_to=Address("Machine", "1"),
    )
    done = react(definition_of(Disk), None, start, 0.0)
    assert done.instance is not None
    return start, done.instance


def test_r22_a_child_under_way_is_unwound_though_its_compensation_has_nothing_to_undo_yet() -> None:
    t = drive(Packed, Opened("1")).expect(Child(Disk, DiskWanted(10)))
    t.cancel("enough").expect(Unwind("Disk")).done().ends("compensated")


def unwinding(instance: Instance | None, now: float = 1.0) -> tuple[Instance, list[tuple[str, str, str]]]:
    key = "Machine/1~x/disk#1"
    unwind = Envelope(
        f"{key}/undo", Kind.UNWIND, "Unwind", saga="Disk", key=key, attempt=1, answer_to=Address("Machine", "1")
    )
    done = react(definition_of(Disk), instance, unwind, now)
    assert done.instance is not None
    return done.instance, [(str(row.route), str(row.envelope.kind), row.envelope.type) for row in done.put]


def test_r22_unwinding_a_completed_child_reopens_it() -> None:
    """R22"""
    _, child = child_begun()
    reserve = child.visits[0]
    name = child.command_id(reserve, reserve.calls[0])
    yes = Envelope("y", Kind.YES, "Reserved", Raw(encode(Reserved("sda"))), reply_to=name, attempt=1)
    done = react(definition_of(Disk), child, yes, 0.5)
    assert [(row.envelope.kind, row.envelope.type, row.envelope.saga) for row in done.put] == [
        (Kind.YES, "Disk", "Machine")
    ]
    reopened, sent = unwinding(done.instance)
    assert (str(reopened.status), sent) == ("compensating", [("command", "command", "Release")])
    undone = Envelope("u", Kind.YES, "Done", reply_to=f"{name}/undo", attempt=1)
    end = react(definition_of(Disk), reopened, undone, 2.0)
    assert end.instance is not None and str(end.instance.status) == "compensated"
    assert [(row.envelope.kind, row.envelope.reply_to) for row in end.put] == [(Kind.YES, "Machine/1~x/disk#1/undo")]


def test_r22_told_to_unwind_before_it_started_it_leaves_a_tombstone() -> None:
    """R22"""
    tombstone, sent = unwinding(None)
    assert (str(tombstone.status), sent) == ("compensated", [("instance", "yes", "Done")])
    start, _ = child_begun()
    late = react(definition_of(Disk), tombstone, start, 3.0)
    assert [row.envelope.kind for row in late.put] == [Kind.REFUSAL]


def test_r22_a_killed_child_fails_without_retry() -> None:
    """R22"""
    _, child = child_begun()
    kill = Envelope("k", Kind.VERB, "kill", Raw(msgspec.json.encode(Request(why="gone"))))
    done = react(definition_of(Disk), child, kill, 1.0)
    answers = [row.envelope for row in done.put]
    assert [answer.kind for answer in answers] == [Kind.FAILURE]
    assert b"killed" in bytes(answers[0].data)


def test_fan_out_sends_at_most_so_many_at_once_and_goes_on_without_the_refused() -> None:
    t = drive(FanOut, Placed("1", ("a", "b", "c"))).expect(Reserve("1", "a")).expect(Reserve("1", "b")).expect_nothing()
    t.answer(Reserve("1", "a"), Reserved()).expect(Reserve("1", "c"))
    t.answer(Reserve("1", "c"), SoldOut(), clean=False).expect(Release("1", "c")).done()
    t.answer(Reserve("1", "b"), Reserved()).expect(Charge("1")).fail()
    t.expect(Release("1", "a")).expect(Release("1", "b")).expect_nothing()
    assert t.state.missing == ("c",)


def test_an_empty_list_is_nothing_to_do() -> None:
    drive(FanOut, Placed("1", ())).expect(Charge("1"))


def test_waiting_stay_late_goto_and_an_undo_that_publishes() -> None:
    t = begun(Approval).expect(Announced("1")).tell(Approved("1", "later")).expect_nothing()
    t.wait(days(3)).wait(days(3)).expect(Withdrawn("1")).ends("compensated")
    assert t.state.reminders == 2


def test_a_pause_goes_on_when_its_time_is_over() -> None:
    t = begun(Approval).tell(Approved("1", "yes")).expect(Announced("1")).wait(59).expect_nothing().wait(1)
    t.expect(Charge("1"))


def test_a_class_level_handler_is_called_at_any_time_while_running() -> None:
    t = begun(Approval).tell(Hurry("1"))
    assert t.state.hurried
    t.cancel()
    assert t.tell(Hurry("1")).last.outcome is Outcome.LATE


def test_the_deadline_unwinds() -> None:
    t = begun(Approval)
    t.tell(Approved("1", "yes")).wait(60).expect(Announced("1")).expect(Charge("1"))
    t.verb("pause").wait(days(30))
    assert t.status == "compensating" or t.status == "compensated"


def test_an_event_is_routed_by_another_field() -> None:
    assert begun(Referenced).tell(Approved("x", "1"), via="order").status == "running"
    assert begun(Referenced).tell(Approved("x", "1")).status == "completed"


def test_an_event_for_another_instance_is_not_told_to_this_one() -> None:
    with pytest.raises(AssertionError, match="expected  an event for '1', by its reference"):
        begun(Referenced).tell(Approved("1", "x"))


def test_react_leaves_its_arguments_alone() -> None:
    t = begun()
    before = msgspec.json.encode(t.instance)
    instance = t.instance
    row = t.last.put[0]
    yes = Envelope("y", Kind.YES, "Reserved", Raw(encode(Reserved())), reply_to=row.name, attempt=1)
    react(t.definition, instance, yes, t.now)
    assert msgspec.json.encode(instance) == before


def test_r18_an_instance_of_a_newer_version_is_not_touched() -> None:
    """R18"""
    t = begun()
    assert t.instance is not None
    with pytest.raises(DefinitionError, match="newer"):
        migrate(t.definition, replace(t.instance, definition_version=9))


def test_r22_a_child_can_be_driven_alone_and_tells_its_parent_how_it_ended() -> None:
    t = drive(Disk, DiskWanted(10), as_child=True)
    assert t.answer_to_parent is None
    t.answer(Reserved("sda")).ends("completed")
    assert t.answer_to_parent is not None and t.answer_to_parent.kind is Kind.YES
    t.unwind().done().ends("compensated")
