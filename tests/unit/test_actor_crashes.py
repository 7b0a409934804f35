"""Random programs against the machine of an actor, with crashes before, between and after its commits.

The state is the list of the methods that changed it, so it says what ran, how often and in which order.
"""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest

from perdure import actorwire
from perdure.engine.messages import (
    AttemptLost,
    AttemptStarted,
    CancelAttempt,
    CancelRequested,
    Event,
    EventArrived,
    SetTimer,
    StartAttempt,
    TaskContinued,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
)
from perdure.model import (
    ACTOR_CALL,
    NULL,
    ActorSpec,
    MethodCall,
    MethodOutcome,
    ReminderSetting,
    RetryRule,
    RunStatus,
    Sleep,
    Spec,
    SpecNode,
    TaskOptions,
    TaskStatus,
    WaitEvent,
)
from unit.actor_driver import ActorDriver, MethodContinued, method, text
from unit.driver import CATCH, ERROR, FUNCTION, ONCE, call

SPEC = ActorSpec(
    FUNCTION,
    TaskOptions(
        retry=RetryRule(max_attempts=5, initial_interval_ms=10, jitter=0, application_errors=True),
        attempt_timeout_ms=1_000,
    ),
)
FINAL = replace(ERROR, non_retryable=True)
PROGRAMS = 25
"""Programs per test case."""


class Program:
    """Callers, a worker and crashes around one actor."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.driver = ActorDriver(SPEC)
        self.now_ms = 10
        self.plans: dict[str, str] = {}  # of calls and of methods in graphs, by task
        self.dropped: set[str] = set()
        self.begun: set[tuple[str, int]] = set()  # all attempts ever
        self.timers: list[SetTimer] = []
        self.given_up: list[tuple[str, int]] = []  # attempts that may report late
        self.history: list[str] = []
        self.results: dict[str, tuple[TaskStatus, str]] = {}
        self.started = 0
        self.note()

    # -------------------------------------------------------------------------- steps and crashes

    def run(self) -> None:
        for _ in range(self.random.randint(5, 60)):
            self.do_something()
        for _ in range(2_000):
            if self.driver.actor.is_dormant and not self.driver.actor.pending:
                break
            self.go_on()
        else:
            raise AssertionError("the actor does not come to an end")
        self.check_end()

    def do_something(self) -> None:
        random = self.random
        match random.choices(("call", "again", "drop", "event", "worker", "crash"), (30, 3, 6, 8, 50, 8))[0]:
            case "call":
                self.new_call()
            case "again" if self.driver.events:
                self.step(random.choice(list(self.driver.events.values())))
            case "drop" if self.plans:
                call_id = random.choice([*self.calls()[-4:], "unknown"])
                self.dropped.add(call_id)
                self.post(actorwire.encode_drop(call_id))
            case "event":
                self.post(text("event"), "key")
            case "crash":
                self.crash()
            case _:
                self.go_on()

    def calls(self) -> list[str]:
        return [task_id for task_id in self.plans if "/" not in task_id]

    def new_call(self) -> None:
        plan = self.random.choice(("add", "add", "add", "look", "raise", "flaky", "graph", "graph", "expect", "remind"))
        call_id = f"{plan}{len(self.plans)}"
        self.plans[call_id] = plan
        revision = self.random.randint(1, 4) if plan == "expect" else None
        self.post(actorwire.encode_call(MethodCall("m", NULL, call_id=call_id, expected_revision=revision)))

    def post(self, payload: object, key: str = ".call") -> None:
        """Record an event, and apply it unless the process dies first."""
        event = self.driver.send(payload, key, self.now_ms)  # type: ignore[arg-type]
        if self.random.random() < 0.1:
            self.crash()
        else:
            self.step(event)

    def step(self, event: Event) -> None:
        """Apply an event. Its commit may never take place."""
        if not isinstance(event, EventArrived) and self.random.random() < 0.05:
            self.driver.actor.apply(event)
            self.crash()
            return
        if isinstance(event, TaskSucceeded | TaskContinued | TaskFailed | AttemptLost):
            self.driver.at_work.pop((event.task_id, event.attempt), None)
        self.driver.take(self.driver.actor.apply(event))
        self.note()
        if self.random.random() < 0.05:
            self.crash()

    def crash(self) -> None:
        self.given_up += self.driver.at_work
        while True:
            self.driver = self.driver.restarted(self.now_ms)
            self.timers, self.started = [], 0
            self.note()
            if self.random.random() < 0.8:
                return

    # -------------------------------------------------------------------------- the worker

    def go_on(self) -> None:
        """Something moves on by itself: an attempt, or time."""
        if self.given_up and self.random.random() < 0.1:
            self.run_method(*self.random.choice(self.given_up))
            return
        self.now_ms += self.random.randint(0, 30)
        due = [timer for timer in self.timers if timer.due_ms <= self.now_ms]
        if due and (self.random.random() < 0.5 or not self.driver.at_work):
            timer = self.random.choice(due)
            self.timers.remove(timer)
            self.given_up += self.driver.methods_at_work
            self.step(TimerFired(timer.task_id, timer.attempt, self.now_ms))
        elif self.driver.at_work:
            task_id, attempt = self.random.choice(list(self.driver.at_work))
            self.work(task_id, attempt, self.driver.at_work[task_id, attempt])
        elif self.driver.actor.pending:
            self.now_ms += 500
            self.post(text("event"), "key")

    def work(self, task_id: str, attempt: int, start: StartAttempt) -> None:
        random = self.random
        if random.random() < 0.4:
            self.step(AttemptStarted(task_id, attempt, self.now_ms, self.now_ms))
        elif random.random() < 0.1:
            self.given_up.append((task_id, attempt))
            self.step(AttemptLost(task_id, attempt, "gone", self.now_ms, is_free=random.random() < 0.5))
        elif start.call.arguments.encoding == ACTOR_CALL:
            self.run_method(task_id, attempt)
        elif random.random() < 0.1:
            self.step(TaskFailed(task_id, attempt, ERROR, self.now_ms))
        else:
            self.step(TaskSucceeded(task_id, attempt, text(task_id), self.now_ms))

    def run_method(self, task_id: str, attempt: int) -> None:
        plan = self.plans.get(task_id, "add")
        after = [*self.state(), task_id]
        state = text(json.dumps(after))
        if plan == "raise":
            self.step(TaskFailed(task_id, attempt, FINAL, self.now_ms))
        elif plan == "flaky" and self.random.random() < 0.6:
            self.step(TaskFailed(task_id, attempt, ERROR, self.now_ms))
        elif plan == "graph":
            key = f"{task_id}'s graph"
            spec = self.driver.specs.setdefault(key, self.graph())
            outcome = MethodOutcome(state=state)
            self.step(TaskContinued(task_id, attempt, MethodContinued(spec, outcome), key, self.now_ms))
        else:
            outcome = MethodOutcome(text(str(len(after))), None if plan == "look" else state)
            if plan == "remind":
                outcome = replace(outcome, reminders=(self.reminder(),))
            self.step(TaskSucceeded(task_id, attempt, actorwire.outcome_payload(outcome), self.now_ms))

    def reminder(self) -> ReminderSetting:
        key, after_ms = self.random.choice("jk"), self.random.randint(0, 60)
        every_ms = self.random.choice((0, 0, 200))
        return ReminderSetting(key, "ring", text("its call"), after_ms=after_ms, every_ms=every_ms)

    def graph(self) -> Spec:
        random = self.random
        volatile = replace(ONCE, checkpoint=False)
        nodes: list[SpecNode] = []
        for number in range(random.randint(1, 5)):
            name = f"n{number}"
            earlier = [node.id for node in nodes if random.random() < 0.5]
            nodes.append(
                random.choice(
                    (
                        method(name, "m", *earlier, options=random.choice((ONCE, CATCH, volatile))),
                        method(name, "m"),
                        call(name, *earlier, options=random.choice((ONCE, CATCH, volatile))),
                        SpecNode(name, Sleep(delay_ms=random.randint(0, 50)), after=tuple(earlier)),
                        SpecNode(name, WaitEvent("key", random.choice((None, 20))), after=tuple(earlier)),
                    )
                )
            )
        nodes.append(call("end", *(node.id for node in nodes)))
        return Spec(tuple(nodes), "end")

    # -------------------------------------------------------------------------- what is true at every commit

    def state(self) -> list[str]:
        state: list[str] = json.loads(self.driver.state[0]) if self.driver.state else []
        return state

    def note(self) -> None:
        driver = self.driver
        self.timers += driver.timers
        driver.timers.clear()
        for start in driver.started[self.started :]:
            assert (start.task_id, start.attempt) not in self.begun, "an attempt is not begun twice"
            self.begun.add((start.task_id, start.attempt))
            assert start.task_id not in self.results, "a finished call does not run again"
        self.started = len(driver.started)
        state = self.state()
        assert state[: len(self.history)] == self.history, "the state never goes back"
        assert len(set(state)) == len(state), "nothing is done twice"
        self.history = state
        for task in driver.actor.calls():
            if task.has_ended:
                result = (task.status, driver.result(task.id))
                assert self.results.setdefault(task.id, result) == result, "a result is for ever"
        assert self.results.keys() == {task.id for task in driver.actor.calls() if task.has_ended}

    def check_end(self) -> None:
        order = self.calls()
        rung = {call_id: value for call_id, (_, value) in self.results.items() if call_id.startswith(".remind-")}
        assert set(self.results) == {*order, *rung}, "each call has a result"
        assert all(call_id in self.history or value == "perdure.WorkerLost" for call_id, value in rung.items())
        assert [task_id for task_id in self.history if task_id in self.plans] == [
            call_id for call_id in order if call_id in self.history
        ], "the calls took place in the order of their events"
        for call_id in order:
            status, value = self.results[call_id]
            plan, is_done = self.plans[call_id], status is TaskStatus.SUCCESSFUL
            if value == "perdure.CallDropped":
                assert call_id in self.dropped
                assert plan == "graph" or call_id not in self.history
            elif plan in ("add", "flaky", "expect", "remind"):
                assert is_done is (call_id in self.history)
                assert not is_done or value == str(self.history.index(call_id) + 1)
            elif plan == "raise":
                assert value == ERROR.type
            assert is_done or plan != "look" or value in ("perdure.CallDropped", "perdure.WorkerLost")
        driver = self.driver
        left = {sequence for sequence in driver.events if sequence not in driver.consumed}
        assert all(driver.events[sequence].key == "key" for sequence in left)
        assert not driver.kept
        before = driver.actor.cancellation(CancelRequested("", self.now_ms))
        assert driver.apply(CancelRequested("", self.now_ms)) == before
        assert driver.status is RunStatus.CANCELED


@pytest.mark.parametrize("block", range(12))
def test_whatever_happens_each_call_takes_place_once_and_in_its_order(block: int) -> None:
    for seed in range(block * PROGRAMS, (block + 1) * PROGRAMS):
        try:
            Program(seed).run()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("block", range(4))
def test_a_cancellation_records_what_was_announced_whatever_happened_before(block: int) -> None:
    for seed in range(block * PROGRAMS, (block + 1) * PROGRAMS):
        program = Program(seed)
        for _ in range(program.random.randint(1, 40)):
            program.do_something()
        event = CancelRequested("", program.now_ms)
        announced = program.driver.actor.cancellation(event)
        program.driver.check()
        assert program.driver.apply(event) == announced, f"seed {seed}"
        cancelled = [command for command in announced if isinstance(command, CancelAttempt)]
        assert not program.driver.at_work, f"seed {seed}"
        assert len(cancelled) == len(set(map(str, cancelled)))
        program.driver = program.driver.resumed(program.now_ms)
        assert program.driver.actor.status is RunStatus.RUNNING
