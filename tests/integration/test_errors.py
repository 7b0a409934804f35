"""Bad input of every kind gets a precise answer, changes nothing, and the engine goes on serving."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.struct_pb2 import Struct

import perdure
from integration import wire_calls
from integration.wire_calls import (
    Stubs,
    an_event,
    call_node,
    event_node,
    graph,
    json_value,
    refused,
    run_request,
    stored,
    sum_of,
)
from perdure import errors
from perdure.service.app import RunningServer
from perdure.service.common import limits
from perdure.v1 import failure_pb2, payload_pb2, spec_pb2, workflow_pb2
from perdure.v1 import workflow_service_pb2 as pb

Code = grpc.StatusCode
pytestmark = [pytest.mark.usefixtures("goes_on_serving"), pytest.mark.storages("sqlite")]
"""Requests that are refused before the storage is asked."""

NO_BLOB = "0" * 64


def nested(depth: int) -> spec_pb2.Arg:
    arg = spec_pb2.Arg(payload=json_value(1))
    for _ in range(depth):
        arg = spec_pb2.Arg(list=spec_pb2.ArgList(items=[arg]))
    return arg


def with_arg(arg: spec_pb2.Arg) -> spec_pb2.WorkflowSpec:
    node = call_node("n", "operator:not_")
    node.task.args.append(arg)
    return graph(node)


def pickled(version: str) -> spec_pb2.Node:
    node = spec_pb2.Node(id="n")
    code = payload_pb2.Payload(encoding="python/pickle", data=pickle.dumps(len))
    node.task.function.pickled.CopyFrom(
        spec_pb2.PickledFunction(code=code, qualified_name="builtins.len", python_version=version)
    )
    return node


def timer(seconds: int) -> spec_pb2.Node:
    node = spec_pb2.Node(id="n")
    node.timer.time.seconds = seconds
    return node


def optioned(**options: Any) -> spec_pb2.WorkflowSpec:
    node = call_node("n", "operator:not_", [])
    node.options.CopyFrom(spec_pb2.TaskOptions(**options))
    return graph(node)


A, B = "a", "b"
INVALID_GRAPHS: dict[str, tuple[spec_pb2.WorkflowSpec, str]] = {
    "empty": (spec_pb2.WorkflowSpec(), ""),
    "no output": (spec_pb2.WorkflowSpec(nodes=[call_node(A, "operator:not_", [])]), ""),
    "unknown output": (graph(call_node(A, "operator:not_", []), output="z"), ""),
    "cycle of one": (graph(call_node(A, "operator:not_", {"node": A})), A),
    "cycle of two": (
        graph(call_node(A, "operator:not_", {"node": B}), call_node(B, "operator:not_", {"node": A})),
        A,
    ),
    "unknown node": (graph(call_node(A, "operator:not_", {"node": "z"})), A),
    "unknown after": (graph(call_node(A, "operator:not_", [], after=("z",))), A),
    "duplicate": (graph(event_node(A, "k"), event_node(A, "l")), A),
    "no id": (graph(event_node("", "k"), event_node(B, "l")), ""),
    "long id": (graph(event_node("x" * 300, "k")), "x" * 80),
    "no kind": (graph(spec_pb2.Node(id=A)), A),
    "no function": (graph(spec_pb2.Node(id=A, task=spec_pb2.TaskNode())), A),
    "unknown shared function": (
        graph(spec_pb2.Node(id=A, task=spec_pb2.TaskNode(function=spec_pb2.FunctionRef(shared=7)))),
        A,
    ),
    "no event key": (graph(event_node(A, "")), A),
    "timer without time": (graph(spec_pb2.Node(id=A, timer=spec_pb2.TimerNode())), A),
    "timer out of all time": (graph(timer(9_000_000_000_000_000_000)), "n"),
    "empty argument": (with_arg(spec_pb2.Arg()), "n"),
    "argument of no encoding": (with_arg(spec_pb2.Arg(payload=payload_pb2.Payload(data=b"1"))), "n"),
    "arguments too deep": (with_arg(nested(33)), "n"),
    "missing input": (with_arg(spec_pb2.Arg(input=spec_pb2.InputRef(name="order"))), ""),
    "attempts": (optioned(retry=spec_pb2.RetryPolicy(max_attempts=-2)), "n"),
    "backoff": (optioned(retry=spec_pb2.RetryPolicy(backoff_coefficient=0.5)), "n"),
    "jitter": (optioned(retry=spec_pb2.RetryPolicy(jitter=2)), "n"),
    "cpus": (optioned(resources=spec_pb2.Resources(num_cpus=-1)), "n"),
    "task id": (optioned(task_id="part\0"), "n"),
    "event key": (graph(event_node("n", "a\nb")), "n"),
    "node id": (graph(event_node("a\nb", "k")), "a\\nb"),
    "metadata": (optioned(metadata={"a": "\0"}), "n"),
    "runtime environment": (optioned(runtime_env={"env_vars": {"A": "\0"}}), "n"),
    "scheduling": (optioned(scheduling=spec_pb2.SchedulingStrategy(name="SOMEWHERE")), "n"),
    "two kinds of arguments": (
        graph(
            spec_pb2.Node(
                id="n",
                task=spec_pb2.TaskNode(
                    function=spec_pb2.FunctionRef(registered=spec_pb2.RegisteredFunction(name="operator:not_")),
                    args=[spec_pb2.Arg(payload=json_value([]))],
                    arguments=json_value([]),
                ),
            )
        ),
        "n",
    ),
}


@pytest.mark.parametrize("name", INVALID_GRAPHS)
async def test_invalid_graphs(stubs: Stubs, name: str) -> None:
    spec, node_id = INVALID_GRAPHS[name]
    refusal = await refused(stubs.workflows.Run(run_request(spec)), Code.INVALID_ARGUMENT, "INVALID_SPEC")
    assert refusal.metadata.get("node_id", "") == node_id
    assert await stored(stubs) == []
    await refused(stubs.workflows.GetStatus(pb.GetStatusRequest(workflow_id="w")), Code.NOT_FOUND, "WORKFLOW_NOT_FOUND")


async def test_a_graph_that_came_as_a_blob(stubs: Stubs, client: perdure.Client) -> None:
    missing = spec_pb2.WorkflowSource(spec_blob=payload_pb2.BlobRef(sha256=NO_BLOB, size_bytes=1))
    refusal = await refused(
        stubs.workflows.Run(pb.RunRequest(workflow_id="w", source=missing)), Code.NOT_FOUND, "BLOB_NOT_FOUND"
    )
    assert refusal.metadata == {"sha256": NO_BLOB}
    for data, reason in ((b"\xff" * 100, "INVALID_SPEC"), (graph(spec_pb2.Node(id="n")), "INVALID_SPEC")):
        body = data if isinstance(data, bytes) else data.SerializeToString()
        blob = await client._values.blobs.upload((body,))
        named = spec_pb2.WorkflowSource(spec_blob=payload_pb2.BlobRef(sha256=blob.sha256, size_bytes=blob.size))
        await refused(stubs.workflows.Run(pb.RunRequest(workflow_id="w", source=named)), Code.INVALID_ARGUMENT, reason)
    await refused(stubs.workflows.Run(pb.RunRequest(workflow_id="w")), Code.INVALID_ARGUMENT, "INVALID_FIELD")
    assert await stored(stubs) == []


async def test_missing_blobs_are_refused(stubs: Stubs, client: perdure.Client) -> None:
    missing = payload_pb2.Payload(encoding="python/pickle", blob=payload_pb2.BlobRef(sha256=NO_BLOB, size_bytes=1))
    by_code = pickled("")
    by_code.task.function.pickled.code.CopyFrom(missing)
    by_arguments = call_node("n", "operator:not_")
    by_arguments.task.arguments.CopyFrom(missing)
    for request in (
        run_request(sum_of(1, 2), inputs={"x": missing}),
        run_request(graph(by_code)),
        run_request(graph(by_arguments)),
    ):
        refusal = await refused(stubs.workflows.Run(request), Code.NOT_FOUND, "BLOB_NOT_FOUND")
        assert refusal.metadata == {"sha256": NO_BLOB}
    assert await stored(stubs) == []
    await stubs.workflows.Run(run_request(graph(event_node("wait", "k"))))
    await refused(stubs.workflows.SendEvent(an_event(payload=missing)), Code.NOT_FOUND, "BLOB_NOT_FOUND")
    blob = await client._values.blobs.upload((b"12",))
    longer = payload_pb2.Payload(encoding="e", blob=payload_pb2.BlobRef(sha256=blob.sha256, size_bytes=3))
    refusal = await refused(
        stubs.workflows.SendEvent(an_event(payload=longer)),
        Code.INVALID_ARGUMENT,
        "BLOB_HASH_MISMATCH",
    )
    assert refusal.metadata == {"expected": "3", "actual": "2"}


def many_labels(count: int) -> dict[str, str]:
    return {f"k{index}": "v" for index in range(count)}


def large_struct() -> Struct:
    struct = Struct()
    struct["text"] = "x" * limits.METADATA_BYTES_MAX
    return struct


SUM = sum_of(1, 2)
ODD: Any = 99


INVALID_FIELDS: dict[str, tuple[str, Any, str]] = {
    "no id at all": ("Run", run_request(SUM, ""), "request_id"),
    "id too long": ("Run", run_request(SUM, "x" * 257), "workflow_id"),
    "id not printable": ("Run", run_request(SUM, "a\nb"), "workflow_id"),
    "request id too long": ("Run", run_request(SUM, "w", "r" * 129), "request_id"),
    "request id not ASCII": ("Run", run_request(SUM, "w", "ü"), "request_id"),
    "namespace": ("Run", run_request(SUM, namespace="n" * 64), "namespace"),
    "queue": ("Run", run_request(SUM, queue="\0"), "queue"),
    "display name": ("Run", run_request(SUM, display_name="\n"), "display_name"),
    "labels": ("Run", run_request(SUM, labels=many_labels(33)), "labels"),
    "label without key": ("Run", run_request(SUM, labels={"": "v"}), "labels"),
    "label with a line feed": ("Run", run_request(SUM, labels={"k": "a\nb"}), "labels['k']"),
    "name of an input": ("Run", run_request(SUM, inputs={"a\0": json_value(1)}), "inputs"),
    "encoding": ("Run", run_request(SUM, inputs={"a": payload_pb2.Payload(encoding="\n")}), "inputs['a'].encoding"),
    "metadata with NUL": ("Run", run_request(SUM, metadata={"a": ["\0"]}), "metadata"),
    "long label": ("Run", run_request(SUM, labels={"k": "v" * 257}), "labels['k']"),
    "reuse policy": ("Run", run_request(SUM, id_reuse_policy=99), "id_reuse_policy"),
    "conflict policy": ("Run", run_request(SUM, id_conflict_policy=99), "id_conflict_policy"),
    "input without encoding": ("Run", run_request(SUM, inputs={"x": payload_pb2.Payload(data=b"1")}), "inputs['x']"),
    "input without a use": ("Run", run_request(SUM, inputs={"x": json_value(1)}), "inputs"),
    "status without id": ("GetStatus", pb.GetStatusRequest(), "workflow_id"),
    "unknown state": ("GetStatus", pb.GetStatusRequest(workflow_id="w", wait_for=[ODD]), "wait_for"),
    "unknown task state": ("ListTasks", pb.ListTasksRequest(workflow_id="w", statuses=[ODD]), "statuses"),
    "negative wait": ("GetOutput", pb.GetOutputRequest(workflow_id="w", wait={"seconds": -1}), "wait"),
    "page size": ("ListWorkflows", pb.ListWorkflowsRequest(page_size=-1), "page_size"),
    "event without key": ("SendEvent", an_event(key=""), "event_key"),
    "event without id": ("SendEvent", an_event(event_id=""), "event_id"),
    "event without encoding": ("SendEvent", an_event(payload={"data": b"1"}), "payload"),
    "event with a bad blob": (
        "SendEvent",
        an_event(payload={"encoding": "e", "blob": {"sha256": "X"}}),
        "payload",
    ),
    "reason": ("Cancel", pb.CancelRequest(workflow_id="w", reason="x" * 1025), "reason"),
    "reason with NUL": ("Cancel", pb.CancelRequest(workflow_id="w", reason="\0"), "reason"),
    "run id": ("GetOutput", pb.GetOutputRequest(workflow_id="w", run_id="\0"), "run_id"),
    "id of a task's metadata": ("GetMetadata", pb.GetMetadataRequest(workflow_id="w", task_id="\0"), "task_id"),
    "task id": ("GetOutput", pb.GetOutputRequest(workflow_id="w", task_id="\n"), "task_id"),
    "watch of nothing to its end": ("Watch", pb.WatchRequest(until_final=True), "until_final"),
    "watch of all tasks": ("Watch", pb.WatchRequest(include_tasks=True), "include_tasks"),
    "watch interval": ("Watch", pb.WatchRequest(progress_interval={"seconds": -1}), "progress_interval"),
    "watch of too many": ("Watch", pb.WatchRequest(workflow_ids=["w"] * 1001), "workflow_ids"),
}


@pytest.mark.parametrize("name", INVALID_FIELDS)
async def test_invalid_fields(stubs: Stubs, name: str) -> None:
    method, request, field = INVALID_FIELDS[name]
    call = getattr(stubs.workflows, method)(request)
    refusal = await refused(
        wire_calls.events_of(call) if method == "Watch" else call, Code.INVALID_ARGUMENT, "INVALID_FIELD"
    )
    assert refusal.metadata == {"field": field}
    assert refusal.fields == (field,)
    assert await stored(stubs) == []


async def test_too_large(stubs: Stubs) -> None:
    large = payload_pb2.Payload(encoding="binary/plain", data=bytes(limits.INLINE_PAYLOAD_BYTES_MAX + 1))
    for request, field in (
        (run_request(sum_of(1, 1), inputs={"x": large}), "inputs['x']"),
        (run_request(graph(call_node("n", "operator:not_", large))), "nodes['n'].arguments"),
        (run_request(sum_of(1, 1), metadata=large_struct()), "metadata"),
    ):
        refusal = await refused(stubs.workflows.Run(request), Code.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE")
        assert refusal.metadata["field"] == field
        assert int(refusal.metadata["size"]) > int(refusal.metadata["limit"])
    assert await stored(stubs) == []


async def test_a_message_above_the_limit(server: RunningServer, stubs: Stubs) -> None:
    """gRPC itself refuses it before it is read; the SDK gives that the same name."""
    large = payload_pb2.Payload(encoding="binary/plain", data=bytes(limits.MESSAGE_BYTES_MAX))
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Stubs.on(channel).workflows.SendEvent(an_event(payload=large))
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        assert isinstance(errors.from_rpc_error(caught.value), errors.PayloadTooLargeError)
    assert await stored(stubs) == []


UNKNOWN: dict[str, Any] = {
    "Resume": pb.ResumeRequest(workflow_id="no"),
    "Cancel": pb.CancelRequest(workflow_id="no"),
    "GetOutput": pb.GetOutputRequest(workflow_id="no"),
    "GetStatus": pb.GetStatusRequest(workflow_id="no"),
    "GetMetadata": pb.GetMetadataRequest(workflow_id="no"),
    "ListTasks": pb.ListTasksRequest(workflow_id="no"),
    "SendEvent": an_event("no"),
    "DeleteWorkflow": pb.DeleteWorkflowRequest(workflow_id="no"),
    "Watch": pb.WatchRequest(workflow_ids=["no"]),
}


@pytest.mark.parametrize("method", UNKNOWN)
async def test_unknown_workflows(stubs: Stubs, method: str) -> None:
    call = getattr(stubs.workflows, method)(UNKNOWN[method])
    refusal = await refused(
        wire_calls.events_of(call) if method == "Watch" else call, Code.NOT_FOUND, "WORKFLOW_NOT_FOUND"
    )
    assert refusal.metadata == {"namespace": "default", "workflow_id": "no"}


async def test_unknown_runs_and_tasks(stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(sum_of(1, 2)))
    await wire_calls.output_of(stubs, "w")
    ask = stubs.workflows
    await refused(
        ask.GetOutput(pb.GetOutputRequest(workflow_id="w", run_id="no")), Code.NOT_FOUND, "WORKFLOW_NOT_FOUND"
    )
    await refused(
        ask.GetStatus(pb.GetStatusRequest(namespace="other", workflow_id="w")), Code.NOT_FOUND, "WORKFLOW_NOT_FOUND"
    )
    for call in (
        ask.GetOutput(pb.GetOutputRequest(workflow_id="w", task_id="no")),
        ask.GetMetadata(pb.GetMetadataRequest(workflow_id="w", task_id="no")),
    ):
        refusal = await refused(call, Code.NOT_FOUND, "TASK_NOT_FOUND")
        assert refusal.metadata == {"workflow_id": "w", "task_id": "no"}


async def test_a_state_that_forbids_it(stubs: Stubs) -> None:
    ask = stubs.workflows
    await ask.Run(run_request(graph(event_node("wait", "k"))))
    refusal = await refused(
        ask.DeleteWorkflow(pb.DeleteWorkflowRequest(workflow_id="w")), Code.FAILED_PRECONDITION, "WORKFLOW_STILL_ACTIVE"
    )
    assert refusal.metadata == {"status": "RUNNING"}
    for call in (
        ask.Cancel(pb.CancelRequest(workflow_id="w", expected_etag="other")),
        ask.Resume(pb.ResumeRequest(workflow_id="w", expected_etag="other")),
        ask.DeleteWorkflow(pb.DeleteWorkflowRequest(workflow_id="w", expected_etag="other")),
    ):
        refusal = await refused(call, Code.ABORTED, "ETAG_MISMATCH")
        current = (await ask.GetStatus(pb.GetStatusRequest(workflow_id="w"))).workflow
        assert refusal.metadata == {"etag": current.etag}
    await ask.SendEvent(an_event(payload=json_value(1)))
    await wire_calls.output_of(stubs, "w")
    for call in (
        ask.SendEvent(an_event(event_id="late")),
        ask.Resume(pb.ResumeRequest(workflow_id="w")),
    ):
        refusal = await refused(call, Code.FAILED_PRECONDITION, "WORKFLOW_ALREADY_FINAL")
        assert refusal.metadata == {"status": "SUCCESSFUL"}


async def test_pickles_of_another_python(stubs: Stubs) -> None:
    refusal = await refused(
        stubs.workflows.Run(run_request(graph(pickled("2.7")))), Code.INVALID_ARGUMENT, "PYTHON_VERSION_UNSUPPORTED"
    )
    assert refusal.metadata["python_version"] == "2.7"
    info = await stubs.system.GetSystemInfo(wire_calls.SYSTEM_INFO)
    assert refusal.metadata["available"] == ",".join(info.python_versions)
    assert await stored(stubs) == []


async def test_a_capability_that_is_not_there(stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(graph(event_node("wait", "k"))))
    refusal = await refused(
        stubs.workflows.SendEvent(an_event(ack=pb.EVENT_ACK_CONSUMED)),
        Code.UNIMPLEMENTED,
        "CAPABILITY_MISSING",
    )
    assert refusal.metadata == {"capability": "ack-consumed"}


# ------------------------------------------------------------------------------ what only workers can tell


async def failure_of(stubs: Stubs, spec: spec_pb2.WorkflowSpec) -> failure_pb2.Failure:
    await stubs.workflows.Run(run_request(spec))
    outcome = await wire_calls.output_of(stubs, "w")
    status = (await stubs.workflows.GetStatus(pb.GetStatusRequest(workflow_id="w"))).workflow.status
    assert status == workflow_pb2.WORKFLOW_STATUS_FAILED
    assert outcome.failure.task_id == "n"
    assert outcome.failure.attempts == 1
    return outcome.failure


async def test_arguments_that_the_function_does_not_take(stubs: Stubs) -> None:
    """Python callers hear of it at once; for others the engine, which never loads a function, cannot tell."""
    bind: Any = one.bind
    for args, kwargs in (((), {}), ((1, 2), {}), ((), {"other": 1})):
        with pytest.raises(TypeError, match="argument"):
            bind(*args, **kwargs)
    failure = await failure_of(stubs, graph(call_node("n", "operator:add", 1)))
    assert failure.kind == failure_pb2.FAILURE_KIND_APPLICATION
    assert failure.type == "builtins.TypeError"


@perdure.task
def one(value: int) -> int:
    return value


async def test_a_payload_that_does_not_decode(stubs: Stubs) -> None:
    bad = payload_pb2.Payload(encoding="json/plain", data=b"{not json")
    failure = await failure_of(stubs, graph(call_node("n", "operator:not_", bad)))
    assert failure.kind == failure_pb2.FAILURE_KIND_SERIALIZATION
    assert "'n'" in failure.message


async def test_an_unknown_encoding_is_refused(stubs: Stubs) -> None:
    odd = payload_pb2.Payload(encoding="cobol/plain", data=b"1")
    failure = await failure_of(stubs, graph(call_node("n", "operator:not_", odd)))
    assert failure.kind == failure_pb2.FAILURE_KIND_SERIALIZATION
    assert "cobol/plain" in failure.message


async def test_an_event_that_does_not_decode(stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(graph(event_node("e", "k"), call_node("n", "operator:not_", {"node": "e"}))))
    bad = payload_pb2.Payload(encoding="python/pickle", data=b"no pickle")
    await stubs.workflows.SendEvent(an_event(payload=bad))
    failure = (await wire_calls.output_of(stubs, "w")).failure
    assert (failure.kind, failure.task_id) == (failure_pb2.FAILURE_KIND_SERIALIZATION, "n")


@pytest.mark.parametrize("name", ["no_such_module:f", "operator:no_such_function", "sys:path"])
async def test_a_function_that_is_not_there(stubs: Stubs, name: str) -> None:
    failure = await failure_of(stubs, graph(call_node("n", name, 1)))
    assert failure.kind == failure_pb2.FAILURE_KIND_FUNCTION_UNAVAILABLE


async def test_a_pickle_that_is_none(stubs: Stubs) -> None:
    node = pickled("")
    node.task.function.pickled.code.data = b"garbage"
    node.options.retry.max_attempts = 1
    failure = await failure_of(stubs, graph(node))
    assert failure.kind == failure_pb2.FAILURE_KIND_FUNCTION_UNAVAILABLE
