"""Run with `wait`: one call that starts a run and tells what it came to."""

from __future__ import annotations

import asyncio

from integration.wire_calls import (
    Stubs,
    call_node,
    event_node,
    graph,
    json_of,
    output_of,
    run_request,
    stored,
    sum_of,
)
from perdure.service.app import RunningServer
from perdure.v1 import failure_pb2, workflow_pb2
from perdure.v1 import workflow_service_pb2 as pb

HERE = __name__


def broken() -> None:
    raise ValueError("on purpose")


def waiting(request: pb.RunRequest, seconds: int = 20) -> pb.RunRequest:
    request.wait.FromSeconds(seconds)
    return request


async def test_the_answer_has_the_output_and_the_state_at_the_end(stubs: Stubs) -> None:
    answer = await stubs.workflows.Run(waiting(run_request(sum_of(20, 22))))
    assert answer.started
    assert answer.outcome.output.data == json_of(42)
    assert answer.workflow.status == workflow_pb2.WORKFLOW_STATUS_SUCCESSFUL
    assert answer.workflow.HasField("end_time")


async def test_a_failure_is_an_answer_and_its_error_object_goes_to_those_who_ask(stubs: Stubs) -> None:
    request = waiting(run_request(graph(call_node("broken", f"{HERE}:broken")), request_id="once"))
    answer = await stubs.workflows.Run(request)
    assert answer.outcome.failure.message == "on purpose"
    assert answer.outcome.failure.kind == failure_pb2.FAILURE_KIND_APPLICATION
    assert answer.workflow.status == workflow_pb2.WORKFLOW_STATUS_FAILED
    assert not answer.outcome.failure.HasField("error")
    request.include_error_object = True
    again = await stubs.workflows.Run(request)
    assert not again.started
    assert again.outcome.failure.HasField("error")


async def test_the_same_call_waits_again_for_the_same_run(stubs: Stubs) -> None:
    request = waiting(run_request(graph(event_node("wait", "k")), "waits", "once"))
    first = asyncio.ensure_future(stubs.workflows.Run(request))
    while not await stored(stubs):
        await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.ensure_future(stubs.workflows.Run(request))
    await stubs.workflows.SendEvent(pb.SendEventRequest(workflow_id="waits", event_key="k", event_id="1"))
    answer = await second
    assert not answer.started
    assert answer.outcome.HasField("output")
    assert answer.outcome.output == (await output_of(stubs, "waits")).output


async def test_without_an_end_in_time_there_is_no_outcome_and_the_run_goes_on(stubs: Stubs) -> None:
    request = run_request(graph(event_node("wait", "k")), "waits")
    request.wait.FromMilliseconds(50)
    answer = await stubs.workflows.Run(request)
    assert answer.started
    assert not answer.HasField("outcome")
    assert answer.workflow.status == workflow_pb2.WORKFLOW_STATUS_RUNNING
    await stubs.workflows.SendEvent(pb.SendEventRequest(workflow_id="waits", event_key="k", event_id="1"))
    assert (await output_of(stubs, "waits")).HasField("output")


async def test_draining_answers_waiting_runs(server: RunningServer, stubs: Stubs) -> None:
    request = waiting(run_request(graph(event_node("wait", "k")), "waits"))
    call = asyncio.ensure_future(stubs.workflows.Run(request))
    while not await stored(stubs):
        await asyncio.sleep(0.01)
    await server.drain()
    assert not (await call).HasField("outcome")
