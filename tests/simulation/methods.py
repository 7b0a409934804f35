"""What methods of actors do in the simulation. The state is the list of the tasks that changed it, in their order.

The name of a method says what it does:

    add          adds itself to the state          look         returns the state, and may be a query
    broken       always fails                      flaky:N      fails N times, then is as add
    lost:N       its worker dies N times           hang:N       never ends, N times
    grow:NAME    is as add, and returns a graph of the world
    own          is as add, and returns a graph that calls methods of the same actor
    remind:MS    is as add, and sets a reminder whose call is "add"
    repeat:MS    the same, with a period, until it has rung RINGS times
    rung:KEY     is as add, and removes its reminder after RINGS times
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from perdure import actorwire, graphwire
from perdure.engine.messages import AttemptLost, TaskFailed, TaskSucceeded
from perdure.model import (
    ACTOR_CALL,
    CONSTRUCTOR,
    NULL,
    ActorSpec,
    Call,
    Failure,
    FailureKind,
    Function,
    MethodCall,
    MethodOutcome,
    NodeRef,
    Payload,
    ReminderSetting,
    RetryRule,
    Spec,
    SpecNode,
    TaskOptions,
)
from perdure.service.executors.port import Attempt, ContinuationReturned, Report

CLASS = ActorSpec(
    Function("actor", "actor:"),
    TaskOptions(
        retry=RetryRule(max_attempts=-1, initial_interval_ms=200, max_interval_ms=2_000, application_errors=True),
        attempt_timeout_ms=4_000,
    ),
)
PROGRAMS = ("add", "add", "add", "look", "broken", "flaky:1", "lost:1", "hang:1", "grow:pair", "grow:bad", "own")
PROGRAMS += ("remind:50", "remind:3000", "repeat:2000")
RINGS = 3


def is_method(attempt: Attempt) -> bool:
    return attempt.call.arguments.encoding == ACTOR_CALL


def hangs(attempt: Attempt, values: Sequence[Payload]) -> bool:
    program, _, argument = _call_of(attempt, values).method.partition(":")
    return program == "hang" and attempt.number <= int(argument)


def payload_of(value: object) -> Payload:
    return Payload("json/plain", json.dumps(value).encode())


def read(payload: Payload) -> list[str]:
    found: list[str] = json.loads(payload.data)
    return found


def _call_of(attempt: Attempt, values: Sequence[Payload]) -> MethodCall:
    if not attempt.call.arguments.data:  # of the constructor, or of a reminder
        return actorwire.decode_call(values[0].data)
    return actorwire.decode_call(attempt.call.arguments.data)


def run_method(
    attempt: Attempt, values: Sequence[Payload], graphs: Mapping[str, Spec], now_ms: int, nonce: int
) -> Report:
    """The report of an attempt that has ended. Every execution gives another value."""
    call = _call_of(attempt, values)
    program, _, argument = call.method.partition(":")
    task_id, number = attempt.task_id, attempt.number
    if program == CONSTRUCTOR:
        assert len(values) == 1, "the constructor makes the first state"
        return _succeeded(attempt, MethodOutcome(payload_of(None), payload_of([])), now_ms)
    state = read(values[-1])
    if call.is_query:
        return TaskSucceeded(task_id, number, payload_of(state), now_ms)
    after = [*state, task_id]
    value = payload_of({"place": len(state), "nonce": nonce})
    match program:
        case "look":
            return _succeeded(attempt, MethodOutcome(payload_of(state)), now_ms)
        case "broken":
            failure = Failure(FailureKind.APPLICATION, "world.Broken", "broken", non_retryable=True)
            return TaskFailed(task_id, number, failure, now_ms)
        case "flaky" if number <= int(argument):
            return TaskFailed(task_id, number, Failure(FailureKind.APPLICATION, "world.Flaky", "flaky"), now_ms)
        case "lost" if number <= int(argument):
            return AttemptLost(task_id, number, "worker died", now_ms)
        case "grow" | "own":
            graph = graphs[argument] if program == "grow" else _own(attempt)
            outcome = actorwire.encode_outcome(MethodOutcome(state=payload_of(after)))
            return ContinuationReturned(task_id, number, graphwire.encode_spec(graph), now_ms, method_outcome=outcome)
        case "remind" | "repeat" | "rung":
            outcome = MethodOutcome(value, payload_of(after), reminders=_reminders(task_id, program, argument, after))
            return _succeeded(attempt, outcome, now_ms)
    return _succeeded(attempt, MethodOutcome(value, payload_of(after)), now_ms)


def _reminders(task_id: str, program: str, argument: str, state: list[str]) -> tuple[ReminderSetting, ...]:
    match program:
        case "remind":
            call = actorwire.encode_call(MethodCall("add", NULL))
            return (ReminderSetting(task_id, "add", call, after_ms=int(argument)),)
        case "repeat":
            call = actorwire.encode_call(MethodCall(f"rung:{task_id}", NULL))
            return (ReminderSetting(task_id, "rung", call, after_ms=int(argument), every_ms=int(argument)),)
        case _:
            return (ReminderSetting(argument),) if len(rings_of(argument, state)) == RINGS else ()


def rings_of(key: str, state: list[str]) -> list[str]:
    """The calls of a reminder that took place."""
    return [task_id for task_id in state if task_id.rpartition("-")[0] == f".remind-{key}"]


def _succeeded(attempt: Attempt, outcome: MethodOutcome, now_ms: int) -> TaskSucceeded:
    return TaskSucceeded(attempt.task_id, attempt.number, actorwire.outcome_payload(outcome), now_ms)


def _own(attempt: Attempt) -> Spec:
    def node(node_id: str, *needs: str) -> SpecNode:
        arguments = actorwire.encode_call(MethodCall("add", NULL, refs=len(needs)))
        call = Call(attempt.call.function, arguments, tuple(NodeRef(need) for need in needs))
        return SpecNode(node_id, call, options=CLASS.options)

    value = SpecNode("f", Call(Function("value", "value:"), NULL), options=CLASS.options)
    return Spec((node("m"), node("n"), value, node("o", "m", "f")), "o")
