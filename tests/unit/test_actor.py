"""The machine of an actor: calls, their order, their results and the state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure import actorwire
from perdure.engine.actor.mailbox import FORGOTTEN_AT_ONCE, KEPT_MAX
from perdure.engine.messages import (
    CancelAttempt,
    CancelRequested,
    ConsumeEvent,
    ForgetTasks,
    RecordRun,
    RecordTask,
    SetTimer,
    Source,
    StartAttempt,
    TimerFired,
)
from perdure.model import (
    ACTOR_CALL,
    ACTOR_DROP,
    ACTOR_OUTCOME,
    NULL,
    ActorSpec,
    MethodCall,
    MethodOutcome,
    Payload,
    RunStatus,
    Shape,
    TaskOptions,
    TaskStatus,
)
from unit.actor_driver import CLASS, CREATED, RETRIED, ActorDriver, text
from unit.driver import FUNCTION

LIMITED = ActorSpec(FUNCTION, replace(RETRIED.options, attempt_timeout_ms=50))


def new(spec: ActorSpec = CLASS) -> ActorDriver:
    return ActorDriver(spec).created()


# ------------------------------------------------------------------------------ the constructor


def test_the_constructor_runs_first_and_makes_the_state() -> None:
    driver = ActorDriver()
    (start,) = driver.started
    assert (start.task_id, start.attempt, start.inputs) == (".create", 1, (Source(input="call"),))
    assert start.call.arguments == Payload(ACTOR_CALL)
    driver.call("a")
    assert driver.running == [".create"]
    driver.created()
    assert driver.inputs == set(), "nothing needs it any more"
    assert driver.state == [CREATED]
    assert driver.actor.state.revision == 1
    assert driver.running == ["a"]
    assert driver.actor.status is RunStatus.RUNNING


def test_a_constructor_that_fails_ends_the_actor() -> None:
    driver = ActorDriver()
    driver.call("a")
    driver.fail(".create")
    assert (driver.status, driver.actor.status) == (RunStatus.FAILED, RunStatus.FAILED)
    assert not driver.running
    assert driver.actor.is_dormant
    assert driver.result(".create") == "builtins.ValueError"
    assert driver.ends[0].failure is not None
    assert driver.ends[0].failure.task_id == ".create"
    assert driver.call("b") == []


def test_a_resumed_actor_makes_itself_again_and_takes_its_calls() -> None:
    driver = ActorDriver()
    driver.call("a")
    driver.fail(".create")
    assert driver.inputs == {"call"}
    driver = driver.resumed()
    assert [(start.task_id, start.attempt) for start in driver.started] == [(".create", 2)]
    driver.succeed(".create", attempt=2, state=CREATED)
    driver.succeed("a", state="1")
    assert driver.result("a") == "done"


def test_a_constructor_without_a_state_fails() -> None:
    driver = ActorDriver()
    driver.succeed(".create")
    assert driver.status is RunStatus.FAILED
    assert driver.result(".create") == "perdure.InvalidCall"


def test_the_constructor_cannot_be_dropped() -> None:
    driver = ActorDriver()
    driver.drop(".create")
    assert driver.running == [".create"]
    assert driver.created().state == [CREATED]


# ------------------------------------------------------------------------------ calls


def test_calls_run_one_after_the_other_in_the_order_of_their_events() -> None:
    driver = new()
    for call_id in "abc":
        driver.call(call_id)
    assert driver.running == ["a"]
    assert driver.actor.pending == 3
    assert [call.id for call in driver.actor.calls()] == ["a", "b", "c"]
    driver.succeed("a", state="1", output="first")
    assert driver.running == ["b"]
    driver.succeed("b", state="2")
    driver.succeed("c", state="3")
    assert (driver.state, driver.result("a"), driver.actor.pending) == (["3"], "first", 0)
    assert driver.actor.is_dormant


def test_a_call_sees_the_state_that_the_one_before_left() -> None:
    driver = new()
    driver.call("a")
    driver.call("b")
    driver.succeed("a", state="1")
    first, second = driver.started[1:]
    assert (first.inputs, second.inputs) == ((Source(".state@1"),), (Source(".state@2"),))
    assert second.call.arguments == driver.events[2].payload


def test_result_state_and_event_are_recorded_together() -> None:
    driver = new()
    driver.call("a")
    commands = driver.succeed("a", state="1")
    kinds = [type(command) for command in commands]
    assert kinds == [RecordTask, ForgetTasks, RecordTask, ConsumeEvent]
    assert ConsumeEvent(1, "a") in commands
    assert ForgetTasks((".state@1",)) in commands
    assert driver.restarted().started == []


def test_a_call_without_a_change_leaves_the_revision() -> None:
    driver = new()
    driver.call("a")
    driver.succeed("a")
    assert (driver.actor.state.revision, driver.state, driver.result("a")) == (1, [CREATED], "done")


def test_a_failure_leaves_the_state_and_the_next_call_runs() -> None:
    driver = new()
    driver.call("a")
    driver.call("b")
    driver.fail("a")
    assert (driver.result("a"), driver.state) == ("builtins.ValueError", [CREATED])
    assert driver.running == ["b"]
    assert driver.actor.status is RunStatus.RUNNING


def test_a_second_call_with_the_same_id_changes_nothing() -> None:
    driver = new()
    driver.call("a")
    driver.call("a")
    driver.succeed("a", state="1")
    driver.call("a")
    assert driver.started[-1].task_id == "a"
    assert len(driver.started) == 2
    assert driver.consumed == {1: "a", 2: "a", 3: "a"}
    assert driver.restarted().started == []


def test_a_second_call_that_was_not_read_before_a_crash_changes_nothing() -> None:
    driver = new()
    driver.call("a")
    driver.sent_call("a")
    driver = driver.restarted()
    driver.succeed("a", attempt=2, state="1")
    assert driver.consumed == {1: "a", 2: "a"}
    assert driver.actor.pending == 0
    assert driver.state == ["1"]


@pytest.mark.parametrize(
    "payload",
    [
        Payload(ACTOR_CALL, b"\xff"),
        Payload(ACTOR_CALL),
        Payload(ACTOR_DROP, b"\xff"),
        Payload("other"),
        *(actorwire.encode_call(MethodCall("add", NULL, call_id=name)) for name in ("", ".create", "a/b")),
    ],
)
def test_malformed_mail_is_consumed_and_changes_nothing(payload: Payload) -> None:
    driver = new()
    driver.apply(driver.send(payload))
    assert driver.consumed == {1: ".call"}
    driver.send(payload)
    driver = driver.restarted()
    assert driver.consumed == {1: ".call", 2: ".call"}
    assert (driver.started, driver.actor.pending, driver.state) == ([], 0, [CREATED])


def test_an_old_event_is_ignored() -> None:
    driver = new()
    event = driver.sent_call("a")
    driver.apply(event)
    assert driver.apply(event) == []


@pytest.mark.parametrize(
    "output",
    [
        Payload("text/plain", b"1"),
        Payload(ACTOR_OUTCOME, b"\xff"),
        actorwire.outcome_payload(MethodOutcome(text("1"), parts=(("weights", text("2")),))),
        actorwire.outcome_payload(MethodOutcome(text("1"), dropped=("weights",))),
        actorwire.outcome_payload(MethodOutcome(text("1"), text("2"), ((" é", text("3")),))),
        actorwire.outcome_payload(MethodOutcome(text("1"), text("2"), (("x" * 201, text("3")),))),
        actorwire.outcome_payload(MethodOutcome(text("1"), text("2"), tuple((str(i), NULL) for i in range(1_001)))),
    ],
)
def test_an_outcome_that_cannot_be_read_fails_its_call_alone(output: Payload) -> None:
    driver = new(RETRIED)
    driver.call("a")
    driver.call("b")
    driver.give("a", output)
    assert (driver.result("a"), driver.state) == ("perdure.InvalidCall", [CREATED])
    assert driver.running == ["b"]


def test_a_call_at_another_revision_than_expected_fails() -> None:
    driver = new()
    driver.call("a", expected_revision=1)
    driver.call("b", expected_revision=1)
    driver.call("c", expected_revision=2)
    driver.succeed("a", state="1")
    assert driver.result("b") == "perdure.ActorRevisionMismatch"
    assert driver.running == ["c"]
    driver.succeed("c", state="2")
    driver.call("d", expected_revision=2)
    assert driver.result("d") == "perdure.ActorRevisionMismatch"
    assert driver.actor.is_dormant


def test_an_outdated_call_is_refused_by_the_process_that_comes_next_too() -> None:
    driver = new()
    driver.sent_call("a", expected_revision=7)
    driver.sent_call("b")
    driver = driver.restarted()
    assert driver.result("a") == "perdure.ActorRevisionMismatch"
    assert driver.running == ["b"]


# ------------------------------------------------------------------------------ state


def test_a_part_is_stored_again_only_when_it_changes() -> None:
    driver = new()
    driver.call("a")
    driver.succeed("a", state="1", parts={"weights": "w1", "bias/@": "b1"})
    assert driver.actor.state.sources() == (Source(".state@2"), Source(".state/bias/@@2"), Source(".state/weights@2"))
    driver.call("b")
    driver.succeed("b", state="2", parts={"bias/@": "b2"})
    assert driver.state == ["2", "b2", "w1"]
    assert set(driver.records) >= {".state@3", ".state/bias/@@3", ".state/weights@2"}
    assert not set(driver.records) & {".state@2", ".state/bias/@@2"}
    driver.call("c")
    driver.succeed("c", state="3", dropped=("weights", "unknown"))
    assert driver.state == ["3", "b2"]
    assert ".state/weights@2" not in driver.records


def test_parts_that_take_the_place_of_others_are_not_too_many() -> None:
    driver = new()
    names = [f"part {number}" for number in range(1_000)]
    driver.call("a")
    driver.succeed("a", state="1", parts=dict.fromkeys(names, "x"))
    driver.call("b")
    driver.succeed("b", state="2", parts={"other": "y"}, dropped=("part 0",))
    driver.call("c")
    driver.succeed("c", state="3", parts={"one more": "z"})
    assert (driver.result("b"), driver.result("c")) == ("done", "perdure.InvalidCall")


# ------------------------------------------------------------------------------ attempts


def test_a_method_is_retried_on_the_same_state_before_the_next_call() -> None:
    driver = new(RETRIED)
    driver.call("a")
    driver.call("b")
    driver.begin("a")
    driver.fail("a")
    assert not driver.running
    assert driver.actor.is_dormant
    assert driver.actor.next_wake_ms == 110
    driver.pass_time()
    assert driver.started[-1].attempt == 2
    assert driver.started[-1].inputs == (Source(".state@1"),)
    driver.succeed("a", attempt=2, state="1")
    assert driver.running == ["b"]


def test_what_a_failed_attempt_counted_survives_a_restart() -> None:
    driver = new(RETRIED)
    driver.call("a")
    driver.call("b")
    driver.begin("a")
    driver.fail("a")
    driver.pass_time()
    driver.begin("a", 2)
    driver.fail("a", attempt=2)
    driver = driver.restarted(at_ms=10_000)
    driver.fail("a", attempt=4)
    assert driver.result("a") == "builtins.ValueError"
    assert driver.running == ["b"]


def test_a_call_past_its_first_attempt_is_not_checked_for_its_revision_again() -> None:
    driver = new(RETRIED)
    driver.call("a", expected_revision=1)
    driver.begin("a")
    driver.fail("a")
    driver = driver.restarted(at_ms=10_000)
    assert driver.running == ["a"]


def test_a_lost_worker_costs_one_try_and_its_number_is_not_given_again() -> None:
    driver = new(RETRIED)
    driver.call("a")
    driver.lose("a", is_free=True)
    assert driver.started[-1].attempt == 2
    driver.begin("a", 2)
    driver.lose("a", 2)
    driver.pass_time()
    assert driver.started[-1].attempt == 3
    assert driver.restarted().started[-1].attempt == 4


def test_an_attempt_that_takes_too_long_is_cancelled_and_its_late_result_ignored() -> None:
    driver = new(LIMITED)
    driver.call("a")
    assert driver.started[-1].is_limited
    driver.begin("a")
    driver.pass_time()
    assert driver.cancelled == [("a", 1)]
    assert driver.succeed("a", state="late") == []
    driver.pass_time()
    assert driver.started[-1].attempt == 2
    driver.succeed("a", attempt=2, state="1")
    assert driver.state == ["1"]


def test_methods_share_a_turn() -> None:
    driver = new()
    driver.call("a")
    assert {start.turn for start in driver.started} == {".state"}


@pytest.mark.parametrize(("keep_warm_ms", "beside"), [(0, ""), (60_000, ".state")])
def test_methods_of_warm_actors_run_where_the_last_one_did(keep_warm_ms: int, beside: str) -> None:
    driver = new(ActorSpec(FUNCTION, replace(CLASS.options, shape=Shape(keep_warm_ms=keep_warm_ms))))
    driver.call("a")
    driver.succeed("a", state="1")
    driver.call("b")
    assert [(start.turn, start.beside) for start in driver.started] == [(".state", beside)] * 3


def test_late_reports_change_nothing() -> None:
    driver = new(RETRIED)
    driver.call("a")
    driver.lose("a", is_free=True)
    assert driver.succeed("a", attempt=1, state="late") == []
    driver.succeed("a", attempt=2, state="1")
    assert driver.succeed("a", attempt=2, state="late") == []
    assert driver.lose("a", attempt=2) == []
    assert driver.begin("a", 2) == []
    assert driver.apply(TimerFired("a", 2, 10_000)) == []
    assert driver.succeed("unknown", state="late") == []
    assert driver.state == ["1"]


# ------------------------------------------------------------------------------ drops


def test_a_waiting_call_that_is_dropped_never_runs() -> None:
    driver = new()
    for call_id in "abc":
        driver.call(call_id)
    driver.drop("b")
    assert driver.result("b") == "perdure.CallDropped"
    driver.succeed("a", state="1")
    assert driver.running == ["c"]
    assert [call.id for call in driver.actor.calls()] == ["b", "a", "c"]


def test_a_running_call_that_is_dropped_makes_room_for_the_next() -> None:
    driver = new()
    driver.call("a")
    driver.call("b")
    driver.begin("a")
    driver.drop("a")
    assert driver.cancelled == [("a", 1)]
    assert driver.result("a") == "perdure.CallDropped"
    assert driver.running == ["b"]
    assert driver.succeed("a", state="late") == []
    assert driver.state == [CREATED]


def test_a_call_that_waits_for_its_next_attempt_can_be_dropped() -> None:
    driver = new(RETRIED)
    driver.call("a")
    driver.begin("a")
    driver.fail("a")
    driver.drop("a")
    assert driver.cancelled == []
    assert driver.result("a") == "perdure.CallDropped"
    assert driver.actor.next_wake_ms is None


def test_an_ended_or_unknown_call_is_not_dropped() -> None:
    driver = new()
    driver.call("a")
    driver.succeed("a", state="1")
    driver.drop("a")
    driver.drop("b")
    assert driver.result("a") == "done"
    assert driver.consumed == {1: "a", 2: "a", 3: ".call"}
    driver.call("b")
    assert driver.running == ["b"]


@pytest.mark.parametrize(("dropped", "runs"), [("a", ["b"]), ("b", ["a"])])
def test_a_drop_that_was_recorded_before_a_crash_takes_place(dropped: str, runs: list[str]) -> None:
    driver = new()
    driver.call("a")
    driver.call("b")
    driver.begin("a")
    driver.send(actorwire.encode_drop(dropped))
    driver = driver.restarted()
    assert driver.result(dropped) == "perdure.CallDropped"
    assert driver.running == runs
    assert driver.cancelled == []


# ------------------------------------------------------------------------------ what is kept


def test_the_oldest_results_are_forgotten_with_their_events() -> None:
    driver = new()
    driver.check = lambda: None  # type: ignore[method-assign]  # quadratic
    most = KEPT_MAX + FORGOTTEN_AT_ONCE
    driver.apply(driver.send(Payload("malformed")))
    driver.drop("unknown")
    for number in range(most - 1):
        driver.call(f"call {number}")
        driver.succeed(f"call {number}", state=str(number))
    assert "call 0" in driver.records
    driver.call("last")
    driver.succeed("last", state="last")
    kept = [task_id for task_id in driver.records if not task_id.startswith(".")]
    assert len(kept) == len(driver.events) == len(driver.consumed) == KEPT_MAX
    assert driver.actor.find_task("call 99") is None
    assert driver.actor.find_task("call 100") is not None
    ActorDriver.check(driver)
    again = driver.restarted()
    assert [call.id for call in again.actor.calls()] == [call.id for call in driver.actor.calls()]
    driver.call("call 0")
    assert driver.running == ["call 0"]


# ------------------------------------------------------------------------------ the end of the actor


def test_cancelling_ends_the_actor_with_the_records_that_were_announced() -> None:
    driver = new(RETRIED)
    driver.call("a")
    driver.call("b")
    driver.begin("a")
    event = CancelRequested("the actor was deleted", 50)
    before = driver.saved()
    announced = driver.actor.cancellation(event)
    assert driver.actor.cancellation(event) == announced
    assert driver.actor.find_task("a") is not None
    assert driver.actor.status is RunStatus.RUNNING
    driver.check()
    assert driver.saved().mail == before.mail
    assert driver.apply(event) == announced
    assert [type(command) for command in announced] == [CancelAttempt, RecordTask, RecordRun]
    assert driver.status is RunStatus.CANCELED
    assert driver.actor.cancellation(event) == []
    assert driver.apply(event) == []
    assert driver.call("c") == []
    assert driver.actor.is_dormant


def test_a_canceled_actor_that_is_resumed_goes_on_with_its_calls() -> None:
    driver = new(RETRIED)
    driver.call("a")
    driver.call("b")
    driver.begin("a")
    driver.apply(CancelRequested("", 50))
    driver = driver.resumed()
    assert driver.running == ["a"]
    assert driver.started[-1].attempt == 2
    driver.succeed("a", attempt=2, state="1")
    driver.succeed("b", state="2")
    assert driver.state == ["2"]


def test_an_actor_can_be_cancelled_in_any_state() -> None:
    for driver in (ActorDriver(), new()):
        announced = driver.actor.cancellation(CancelRequested("", 50))
        assert driver.apply(CancelRequested("", 50)) == announced
        assert driver.status is RunStatus.CANCELED


# ------------------------------------------------------------------------------ as others see it


def test_changes_are_told_once() -> None:
    driver = new()
    driver.actor.pop_changed()
    driver.call("a")
    driver.call("b")
    assert [task.id for task in driver.actor.pop_changed()] == ["a", "b"]
    driver.succeed("a", state="1")
    changed = {task.id: task.status for task in driver.actor.pop_changed()}
    assert changed == {"a": TaskStatus.SUCCESSFUL, "b": TaskStatus.READY}
    assert driver.actor.pop_changed() == []


def test_numbers_go_on_above_those_that_may_have_begun() -> None:
    driver = new()
    driver.call("a")
    begun = driver.actor.begun()
    assert begun == {"a": 1}
    assert driver.actor.in_flight() == [("a", 1)]
    again = ActorDriver(driver.spec, driver.restored())
    again.records = driver.records
    again.actor.number_from({**begun, "unknown": 7})
    starts = [command for command in again.actor.recover(20) if isinstance(command, StartAttempt)]
    assert [(start.task_id, start.attempt) for start in starts] == [("a", 2)]


def test_reach_is_that_of_the_current_call() -> None:
    driver = new(RETRIED)
    assert driver.actor.reach(CancelRequested("", 1)) == 0
    driver.call("a")
    assert driver.actor.reach(CancelRequested("", 1)) == 1


@pytest.mark.parametrize(
    "options",
    [
        TaskOptions(task_id="x"),
        TaskOptions(catch_exceptions=True),
        TaskOptions(checkpoint=False),
        TaskOptions(allow_inplace=True),
    ],
)
def test_options_of_single_tasks_are_refused(options: TaskOptions) -> None:
    with pytest.raises(ValueError, match="no options of an actor"):
        ActorSpec(FUNCTION, options)


def test_the_timer_of_an_attempt_is_not_recorded() -> None:
    driver = new(LIMITED)
    driver.call("a")
    (timer,) = driver.begin("a")
    assert timer == SetTimer("a", 1, 58, is_recorded=False)
