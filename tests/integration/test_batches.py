"""Many at once over the wire: each item has its own result, and what one call does is done once."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

import perdure
from integration.wire_calls import (
    Stubs,
    call_node,
    event_node,
    graph,
    json_of,
    json_value,
    output_of,
    refused,
    run_request,
    sum_of,
)
from patience import PATIENCE_S
from perdure import errors
from perdure.service.app import RunningServer
from perdure.service.common import limits
from perdure.service.kernel import Kernel
from perdure.storage.writes import AddRun
from perdure.v1 import errors_pb2, spec_pb2
from perdure.v1 import workflow_service_pb2 as pb

Code = grpc.StatusCode

WAITING = graph(event_node("wait", "k"))
DOUBLED = graph(call_node("sum", "operator:add"))
for _ in range(2):
    DOUBLED.nodes[0].task.args.add(input=spec_pb2.InputRef(name="x"))


def batch(*items: pb.RunItem, specs: tuple[spec_pb2.WorkflowSpec, ...] = (WAITING,)) -> pb.BatchRunRequest:
    return pb.BatchRunRequest(sources=[spec_pb2.WorkflowSource(spec=spec) for spec in specs], items=items)


def reason(result: Any) -> str:
    return errors_pb2.ErrorReason.Name(result.error.reason) if result.HasField("error") else ""


def commits_of(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs each commit from now on adds."""
    real, seen = kernel.store.commit, list[int]()

    async def commit(entries: Any) -> Any:
        seen.append(sum(isinstance(write, AddRun) for entry in entries for write in entry))
        return await real(entries)

    monkeypatch.setattr(kernel.store, "commit", commit)
    return seen


async def test_many_runs_are_one_commit(server: RunningServer, stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> None:
    added = commits_of(server.kernel, monkeypatch)
    names = [f"w{number}" for number in range(limits.BATCH_ITEMS_MAX)]
    answer = await stubs.workflows.BatchRun(batch(*(pb.RunItem(workflow_id=name) for name in names)))
    assert [result.workflow_id for result in answer.results] == names
    assert all(result.started and not result.HasField("error") for result in answer.results)
    assert len({result.run_id for result in answer.results}) == len(names)
    assert [count for count in added if count] == [len(names)]


async def test_items_are_independent_of_one_another(stubs: Stubs) -> None:
    taken = await stubs.workflows.Run(run_request(WAITING, "taken", "r"))
    broken = graph(call_node("n", "operator:concat", {"node": "nobody"}))
    items = [
        pb.RunItem(workflow_id="good"),
        pb.RunItem(workflow_id="taken"),
        pb.RunItem(workflow_id="broken", source_index=1),
        pb.RunItem(workflow_id="beyond", source_index=9),
        pb.RunItem(),
        pb.RunItem(workflow_id="input-missing", source_index=2),
        pb.RunItem(workflow_id="labels", labels={"": "v"}),
        pb.RunItem(workflow_id="taken", id_conflict_policy=pb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING),
        pb.RunItem(request_id="other", workflow_id="taken"),
        pb.RunItem(request_id="doubled", source_index=2, inputs={"x": json_value(21)}),
        pb.RunItem(workflow_id="input-unused", inputs={"x": json_value(21)}),
    ]
    answer = await stubs.workflows.BatchRun(batch(*items, specs=(WAITING, broken, DOUBLED)))
    assert [reason(result).removeprefix("ERROR_REASON_") for result in answer.results] == [
        "",
        "WORKFLOW_ALREADY_EXISTS",
        "INVALID_SPEC",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "INVALID_SPEC",
        "INVALID_FIELD",
        "",
        "WORKFLOW_ALREADY_EXISTS",
        "",
        "INVALID_FIELD",
    ]
    error = answer.results[1].error
    assert error.code == Code.ALREADY_EXISTS.value[0]
    expected = {"workflow_id": "taken", "run_id": taken.workflow.run_id, "status": "RUNNING", "request_id": "r"}
    assert dict(error.metadata) == expected
    assert "taken" in error.message
    there = answer.results[7]
    assert (there.started, there.run_id) == (False, taken.workflow.run_id)
    assert (await output_of(stubs, "doubled")).output.data == json_of(42)
    listed = await stubs.workflows.ListWorkflows(pb.ListWorkflowsRequest())
    assert {workflow.workflow_id for workflow in listed.workflows} == {"good", "taken", "doubled"}


async def test_asking_again_gives_the_same_runs(stubs: Stubs) -> None:
    metadata = Struct()
    metadata["by"] = "ann"
    items = [
        pb.RunItem(request_id=f"r{number}", labels={"team": "pay"}, metadata=metadata, display_name="n")
        for number in range(20)
    ]
    request = batch(*items)
    answers = await asyncio.gather(*(stubs.workflows.BatchRun(request) for _ in range(3)))
    for results in zip(*(answer.results for answer in answers), strict=True):
        assert sum(result.started for result in results) == 1
        assert len({result.run_id for result in results}) == 1
    single = run_request(WAITING, "", "r7", labels={"team": "pay"}, metadata=metadata, display_name="n")
    alone = await stubs.workflows.Run(single)
    assert (alone.started, alone.workflow.run_id) == (False, answers[0].results[7].run_id)
    assert dict(alone.workflow.labels) == {"team": "pay"}
    assert alone.workflow.name == "n"
    items[3].labels["team"] = "other"
    again = await stubs.workflows.BatchRun(batch(*items))
    assert [reason(result) for result in again.results if reason(result)] == ["ERROR_REASON_REQUEST_ID_REUSED"]


async def test_a_request_id_twice_in_one_batch(stubs: Stubs) -> None:
    items = [pb.RunItem(request_id="r"), pb.RunItem(request_id="r"), pb.RunItem(request_id="r", display_name="other")]
    answer = await stubs.workflows.BatchRun(batch(*items))
    assert [result.started for result in answer.results] == [True, False, False]
    assert answer.results[0].run_id == answer.results[1].run_id
    assert reason(answer.results[2]) == "ERROR_REASON_REQUEST_ID_REUSED"


@pytest.mark.parametrize("count", [0, limits.BATCH_ITEMS_MAX + 1])
async def test_too_few_and_too_many(stubs: Stubs, goes_on_serving: None, count: int) -> None:
    runs = batch(*(pb.RunItem(request_id=f"r{number}") for number in range(count)))
    refusal = await refused(stubs.workflows.BatchRun(runs), Code.INVALID_ARGUMENT, "INVALID_FIELD")
    assert refusal.fields == ("items",)
    outputs = pb.BatchGetOutputRequest(items=[pb.OutputItem(workflow_id="w")] * count)
    await refused(stubs.workflows.BatchGetOutput(outputs), Code.INVALID_ARGUMENT, "INVALID_FIELD")
    events = pb.BatchSendEventsRequest(items=[pb.EventItem()] * count)
    await refused(stubs.workflows.BatchSendEvents(events), Code.INVALID_ARGUMENT, "INVALID_FIELD")
    assert not (await stubs.workflows.ListWorkflows(pb.ListWorkflowsRequest())).workflows


async def test_outputs_of_many(stubs: Stubs) -> None:
    failing = graph(call_node("n", "operator:concat", 1))
    specs = (sum_of(1, 2), failing, WAITING)
    items = [pb.RunItem(workflow_id=f"w{index}", source_index=index) for index in range(3)]
    await stubs.workflows.BatchRun(batch(*items, specs=specs))
    wait = Duration(seconds=30)
    ended = [pb.OutputItem(workflow_id="w0"), pb.OutputItem(workflow_id="w1"), pb.OutputItem(workflow_id="nobody")]
    answer = await stubs.workflows.BatchGetOutput(pb.BatchGetOutputRequest(items=ended, wait=wait))
    assert [result.done for result in answer.results] == [True, True, False]
    assert answer.results[0].outcome.output.data == json_of(3)
    assert answer.results[1].outcome.failure.type == "builtins.TypeError"
    assert reason(answer.results[2]) == "ERROR_REASON_WORKFLOW_NOT_FOUND"
    waiting = pb.OutputItem(workflow_id="w2")
    at_once = await stubs.workflows.BatchGetOutput(pb.BatchGetOutputRequest(items=[waiting, *ended]))
    assert [result.done for result in at_once.results] == [False, True, True, False]
    assert not reason(at_once.results[0])
    asked = stubs.workflows.BatchGetOutput(pb.BatchGetOutputRequest(items=[waiting, waiting, ended[0]], wait=wait))
    await stubs.workflows.SendEvent(
        pb.SendEventRequest(workflow_id="w2", event_key="k", event_id="1", payload=json_value("came"))
    )
    results = (await asked).results
    assert [result.outcome.output.data for result in results] == [b'"came"', b'"came"', json_of(3)]


async def test_a_wait_for_many_ends_with_a_cancellation_and_at_once_for_what_is_not_there(stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(WAITING, "gone"))
    items = [pb.OutputItem(workflow_id="gone")]
    request = pb.BatchGetOutputRequest(items=items, wait=Duration(seconds=30))
    asked = stubs.workflows.BatchGetOutput(request)
    await stubs.workflows.Cancel(pb.CancelRequest(workflow_id="gone"))
    answer = await asked
    assert answer.results[0].outcome.failure.type
    await stubs.workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(workflow_id="gone"))
    assert reason((await stubs.workflows.BatchGetOutput(request)).results[0]) == "ERROR_REASON_WORKFLOW_NOT_FOUND"


async def test_outputs_that_do_not_fit_into_one_answer(stubs: Stubs, client: perdure.Client) -> None:
    large = graph(call_node("n", "operator:mul", "x", 60_000))
    items = [pb.RunItem(workflow_id=f"w{number}") for number in range(100)]
    started = await stubs.workflows.BatchRun(batch(*items, specs=(large,)))
    wanted = [pb.OutputItem(workflow_id=result.workflow_id, run_id=result.run_id) for result in started.results]
    answer = await stubs.workflows.BatchGetOutput(pb.BatchGetOutputRequest(items=wanted, wait=Duration(seconds=30)))
    done = [result.done for result in answer.results]
    assert 0 < sum(done) < 100
    assert answer.ByteSize() < limits.MESSAGE_BYTES_MAX
    values = await client.outputs([client.handle(item.workflow_id) for item in items])
    assert values == ["x" * 60_000] * 100


async def test_events_to_many(stubs: Stubs) -> None:
    both = graph(
        event_node("a", "k"), event_node("b", "k"), call_node("s", "operator:sub", {"node": "a"}, {"node": "b"})
    )
    both.nodes[1].after.append("a")
    await stubs.workflows.BatchRun(batch(*(pb.RunItem(workflow_id=f"w{n}") for n in range(3)), specs=(both,)))

    def event(name: str, event_id: str, value: object, key: str = "k") -> pb.EventItem:
        return pb.EventItem(workflow_id=name, event_key=key, event_id=event_id, payload=json_value(value))

    items = [
        event("w0", "1", 10),
        event("nobody", "1", 1),
        event("w1", "1", 20),
        event("w0", "1", 99),
        event("w0", "2", 4),
        event("w1", "2", 5),
        event("w1", "", 5),
        event("w1", "3", 5, key=""),
    ]
    answer = await stubs.workflows.BatchSendEvents(pb.BatchSendEventsRequest(items=items))
    assert [reason(result).removeprefix("ERROR_REASON_") for result in answer.results] == [
        "",
        "WORKFLOW_NOT_FOUND",
        "",
        "",
        "",
        "",
        "INVALID_FIELD",
        "INVALID_FIELD",
    ]
    sent = answer.results
    assert [result.duplicate for result in sent[:6]] == [False, False, False, True, False, False]
    assert sent[3].sequence == sent[0].sequence
    assert 0 < sent[0].sequence < sent[4].sequence
    assert (await output_of(stubs, "w0")).output.data == json_of(6)
    assert (await output_of(stubs, "w1")).output.data == json_of(15)
    late = [event("w0", "2", 4), event("w0", "3", 4)]
    answer = await stubs.workflows.BatchSendEvents(pb.BatchSendEventsRequest(items=late))
    assert [result.duplicate for result in answer.results] == [True, False]
    assert reason(answer.results[1]) == "ERROR_REASON_WORKFLOW_ALREADY_FINAL"


# ------------------------------------------------------------------------------ the client


@perdure.task
def double(number: int) -> int:
    return 2 * number


@perdure.task
def fail(number: int) -> int:
    raise KeyError(number)


async def test_the_client_starts_many_and_waits_for_them(client: perdure.Client) -> None:
    shared = double.bind(perdure.input("n"))
    count = limits.BATCH_ITEMS_MAX + 50
    handles = await client.start_many(perdure.RunItem(shared, inputs={"n": n}) for n in range(count))
    assert len({handle.run_id for handle in handles}) == count
    assert await client.outputs(handles, timeout=PATIENCE_S) == [2 * n for n in range(count)]


async def test_the_client_tells_who_failed(client: perdure.Client) -> None:
    await client.start(perdure.event("k"), workflow_id="taken")
    items = [
        perdure.RunItem(double.bind(4), workflow_id="good", labels={"team": "pay"}, metadata={"by": "ann"}),
        perdure.RunItem(double.bind(4), workflow_id="taken"),
        perdure.RunItem(fail.bind(4), workflow_id="bad", name="shown"),
    ]
    with pytest.raises(perdure.BatchError, match="1 of 3 failed") as caught:
        await client.start_many(items)
    good, taken, bad = caught.value.results
    assert isinstance(taken, errors.WorkflowAlreadyExistsError)
    assert taken.fields["workflow_id"] == "taken"
    assert caught.value.__cause__ is taken
    assert (await good.status()).labels == {"team": "pay"}
    assert (await bad.status()).name == "shown"
    with pytest.raises(perdure.BatchError, match="2 of 3 failed") as caught:
        await client.outputs([good, bad, client.handle("nobody")], timeout=PATIENCE_S)
    value, failed, unknown = caught.value.results
    assert value == 8
    assert isinstance(failed, perdure.WorkflowExecutionError)
    assert isinstance(failed.__cause__, KeyError)
    assert isinstance(unknown, errors.WorkflowNotFoundError)
    with pytest.raises(TimeoutError, match="1 of 2 workflows"):
        await client.outputs([good, client.handle("taken")], timeout=0.01)


async def test_the_client_sends_many_events(client: perdure.Client) -> None:
    handles = await client.start_many(perdure.RunItem(perdure.event("go"), workflow_id=f"w{n}") for n in range(5))
    events = [perdure.EventItem(handle.workflow_id, "go", {"n": n}, "1") for n, handle in enumerate(handles)]
    assert await client.send_events(events) == [True] * 5
    assert await client.send_events(events) == [False] * 5
    assert await client.outputs(handles, timeout=PATIENCE_S) == [{"n": n} for n in range(5)]
    with pytest.raises(perdure.BatchError) as caught:
        await client.send_events([perdure.EventItem("nobody", "go"), *events])
    assert isinstance(caught.value.results[0], errors.WorkflowNotFoundError)
    assert caught.value.results[1:] == [False] * 5
    assert await client.start_many([]) == []
    assert await client.outputs([]) == []
    assert await client.send_events([]) == []
