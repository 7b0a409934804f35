"""Asking twice is as good as asking once: every call that may be retried, retried."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from google.protobuf.struct_pb2 import Struct

from integration import wire_calls
from integration.wire_calls import Stubs, call_node, event_node, graph, json_value, refused, run_request, sum_of
from perdure.v1 import workflow_pb2
from perdure.v1 import workflow_service_pb2 as pb

Code = grpc.StatusCode

WAITING = graph(event_node("wait", "k"))
WAITING_FOR_X = graph(event_node("wait", "k"), call_node("n", "operator:concat", {"input": "x"}, after=("wait",)))
FAILING = graph(call_node("n", "operator:concat", 1))


async def count(stubs: Stubs) -> int:
    return len((await stubs.workflows.ListWorkflows(pb.ListWorkflowsRequest())).workflows)


@pytest.mark.parametrize("workflow_id", ["", "w"], ids=["unnamed", "named"])
async def test_the_same_request_gives_the_same_run(stubs: Stubs, workflow_id: str) -> None:
    request = run_request(WAITING, workflow_id, "r")
    answers = await asyncio.gather(*(stubs.workflows.Run(request) for _ in range(10)))
    assert sum(answer.started for answer in answers) == 1
    assert len({answer.workflow.run_id for answer in answers}) == 1
    name = answers[0].workflow.workflow_id
    event = pb.SendEventRequest(workflow_id=name, event_key="k", event_id="1", payload=json_value(1))
    await stubs.workflows.SendEvent(event)
    await wire_calls.output_of(stubs, name)
    late = await stubs.workflows.Run(request)  # the run is over, and still it is the same
    assert (late.started, late.workflow.run_id) == (False, answers[0].workflow.run_id)
    assert late.workflow.status == workflow_pb2.WORKFLOW_STATUS_SUCCESSFUL
    assert await count(stubs) == 1


async def test_a_request_id_with_other_content(stubs: Stubs) -> None:
    x = {"x": json_value(0)}
    await stubs.workflows.Run(run_request(WAITING_FOR_X, "w", "r", labels={"a": "1"}, inputs=x))
    metadata = Struct()
    metadata["a"] = 1
    for other in (
        run_request(sum_of(1, 2), "w", "r", labels={"a": "1"}),
        run_request(WAITING_FOR_X, "other", "r", labels={"a": "1"}, inputs=x),
        run_request(WAITING_FOR_X, "w", "r", inputs=x),
        run_request(WAITING_FOR_X, "w", "r", labels={"a": "1"}, inputs={"x": json_value(1)}),
        run_request(WAITING_FOR_X, "w", "r", labels={"a": "1"}, inputs=x, metadata=metadata),
        run_request(WAITING_FOR_X, "w", "r", labels={"a": "1"}, inputs=x, display_name="other"),
    ):
        refusal = await refused(stubs.workflows.Run(other), Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
        assert refusal.metadata == {"request_id": "r"}
    assert await count(stubs) == 1
    elsewhere = run_request(WAITING_FOR_X, "w", "r", namespace="n", labels={"a": "1"}, inputs=x)
    assert (await stubs.workflows.Run(elsewhere)).started


async def test_an_id_that_is_taken(stubs: Stubs) -> None:
    made = await stubs.workflows.Run(run_request(WAITING, "w", "r"))
    for request in (run_request(sum_of(1, 2)), run_request(WAITING, "w", "r2")):
        refusal = await refused(stubs.workflows.Run(request), Code.ALREADY_EXISTS, "WORKFLOW_ALREADY_EXISTS")
        expected = {"workflow_id": "w", "run_id": made.workflow.run_id, "status": "RUNNING", "request_id": "r"}
        assert refusal.metadata == expected
        assert "id_conflict 'use_existing'" in refusal.message
    await stubs.workflows.Cancel(pb.CancelRequest(workflow_id="w"))
    refusal = await refused(
        stubs.workflows.Run(run_request(sum_of(1, 2))), Code.ALREADY_EXISTS, "WORKFLOW_ALREADY_EXISTS"
    )
    assert refusal.metadata["status"] == "CANCELED"
    assert "id_reuse 'allow_if_unsuccessful' or 'allow'" in refusal.message
    policy = pb.WORKFLOW_ID_REUSE_POLICY_ALLOW_IF_UNSUCCESSFUL
    assert (await stubs.workflows.Run(run_request(sum_of(1, 2), id_reuse_policy=policy))).started
    await wire_calls.output_of(stubs, "w")
    await refused(
        stubs.workflows.Run(run_request(sum_of(1, 2), id_reuse_policy=policy)),
        Code.ALREADY_EXISTS,
        "WORKFLOW_ALREADY_EXISTS",
    )


async def test_many_race_for_one_id(stubs: Stubs) -> None:
    async def start(number: int) -> str:
        try:
            return (await stubs.workflows.Run(run_request(WAITING, "w", f"r{number}"))).workflow.run_id
        except grpc.aio.AioRpcError as error:
            refusal = wire_calls.refusal_of(error)
            assert refusal.reason == "WORKFLOW_ALREADY_EXISTS"
            return refusal.metadata["run_id"]

    assert len(set(await asyncio.gather(*(start(number) for number in range(20))))) == 1
    assert await count(stubs) == 1


async def test_an_event_sent_twice_counts_once(stubs: Stubs) -> None:
    nodes = (event_node("one", "k"), event_node("two", "k"))
    spec = graph(*nodes, call_node("sum", "operator:add", {"node": "one"}, {"node": "two"}))
    await stubs.workflows.Run(run_request(spec))

    def event(event_id: str, value: int, key: str = "k") -> pb.SendEventRequest:
        return pb.SendEventRequest(workflow_id="w", event_key=key, event_id=event_id, payload=json_value(value))

    first = await stubs.workflows.SendEvent(event("a", 1))
    again = await asyncio.gather(*(stubs.workflows.SendEvent(event("a", 100)) for _ in range(5)))
    assert not first.duplicate
    assert all(answer.duplicate and answer.sequence == first.sequence for answer in again)
    assert not (await stubs.workflows.SendEvent(event("a", 100, "other key"))).duplicate
    status = (await stubs.workflows.GetStatus(pb.GetStatusRequest(workflow_id="w"))).workflow.status
    assert status == workflow_pb2.WORKFLOW_STATUS_RUNNING  # the second wait was not served by it
    last = await stubs.workflows.SendEvent(event("b", 41))
    assert not last.duplicate
    assert last.sequence > first.sequence
    assert (await wire_calls.output_of(stubs, "w")).output.data == wire_calls.json_of(42)
    late = await stubs.workflows.SendEvent(event("b", 41))  # it ended the run, and its sender may not have heard
    assert (late.duplicate, late.sequence) == (True, last.sequence)
    await refused(stubs.workflows.SendEvent(event("c", 1)), Code.FAILED_PRECONDITION, "WORKFLOW_ALREADY_FINAL")


async def test_cancelling_twice(stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(WAITING))
    first = await stubs.workflows.Cancel(pb.CancelRequest(workflow_id="w", reason="enough"))
    again = await stubs.workflows.Cancel(pb.CancelRequest(workflow_id="w", reason="again"))
    assert first.workflow.status == again.workflow.status == workflow_pb2.WORKFLOW_STATUS_CANCELED
    assert first.workflow.etag == again.workflow.etag
    assert (await wire_calls.output_of(stubs, "w")).failure.message == "enough"
    await refused(
        stubs.workflows.Resume(pb.ResumeRequest(workflow_id="w")), Code.FAILED_PRECONDITION, "WORKFLOW_ALREADY_FINAL"
    )
    await stubs.workflows.Run(run_request(sum_of(1, 2), "done"))
    await wire_calls.output_of(stubs, "done")
    done = await stubs.workflows.Cancel(pb.CancelRequest(workflow_id="done"))
    assert done.workflow.status == workflow_pb2.WORKFLOW_STATUS_SUCCESSFUL


async def test_deleting_twice(stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(sum_of(1, 2), "w", "r"))
    await wire_calls.output_of(stubs, "w")
    await stubs.workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(workflow_id="w"))
    await refused(
        stubs.workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(workflow_id="w")), Code.NOT_FOUND, "WORKFLOW_NOT_FOUND"
    )
    await stubs.workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(workflow_id="w", allow_missing=True))
    assert await count(stubs) == 0
    assert (await stubs.workflows.Run(run_request(WAITING, "w", "r"))).started  # both ids are fresh


async def test_resuming_twice(stubs: Stubs) -> None:
    await stubs.workflows.Run(
        run_request(graph(event_node("wait", "k"), call_node("n", "operator:concat", {"node": "wait"})))
    )
    event = pb.SendEventRequest(workflow_id="w", event_key="k", event_id="1", payload=json_value(1))
    resume = pb.ResumeRequest(workflow_id="w")
    assert not (await stubs.workflows.Resume(resume)).resumed  # at work already
    await stubs.workflows.SendEvent(event)
    assert (await wire_calls.output_of(stubs, "w")).failure.task_id == "n"
    answers = await asyncio.gather(*(stubs.workflows.Resume(resume) for _ in range(5)))
    assert any(answer.resumed for answer in answers)
    await wire_calls.output_of(stubs, "w")
    status = await stubs.workflows.GetStatus(pb.GetStatusRequest(workflow_id="w", wait={"seconds": 20}))
    assert status.workflow.status == workflow_pb2.WORKFLOW_STATUS_FAILED
    assert status.workflow.resume_count == sum(answer.resumed for answer in answers)
