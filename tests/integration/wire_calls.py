"""Raw requests, without the checks that the SDK makes before it sends one, and what comes back of them.

Errors are read from the trailers by the book (google.rpc.Status), not by the SDK's own reader.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from perdure.service.app import SERVICES
from perdure.v1 import (
    blob_service_pb2_grpc,
    errors_pb2,
    payload_pb2,
    spec_pb2,
    system_service_pb2,
    system_service_pb2_grpc,
    workflow_pb2,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)

DETAILS = "grpc-status-details-bin"
TRAILERS_BYTES_MAX = 8 * 1024
"""The largest message that clients accept by default."""
END: Any = cast(Any, grpc.aio).EOF
"""The result of a stream's `read` after its end."""
SYSTEM_INFO = system_service_pb2.GetSystemInfoRequest()


@dataclass(frozen=True)
class Stubs:
    """The public services on one channel."""

    raw: Any
    """The channel, for bytes that are no messages."""
    workflows: Any
    blobs: Any
    system: Any

    @classmethod
    def on(cls, channel: grpc.aio.Channel) -> Stubs:
        return cls(
            channel,
            workflow_service_pb2_grpc.WorkflowServiceStub(channel),
            blob_service_pb2_grpc.BlobServiceStub(channel),
            system_service_pb2_grpc.SystemServiceStub(channel),
        )


def public_methods() -> list[MethodDescriptor]:
    """The methods of every service that clients call."""
    pool = descriptor_pool.Default()
    return [method for name in SERVICES for method in pool.FindServiceByName(name).methods]


@dataclass(frozen=True)
class Refusal:
    """An error as it travelled."""

    code: grpc.StatusCode
    reason: str
    metadata: Mapping[str, str]
    message: str
    fields: tuple[str, ...]


async def refused(call: Awaitable[Any], code: grpc.StatusCode, reason: str) -> Refusal:
    """The call fails with this code and this reason, and its error is well formed."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason) == (code, reason), caught.value
    return refusal


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    trailers: Any = error.trailing_metadata() or ()
    found = [value for key, value in trailers if key == DETAILS]
    assert len(found) == 1, error
    assert isinstance(found[0], bytes)
    assert len(found[0]) + len(error.details() or "") < TRAILERS_BYTES_MAX
    status = Status.FromString(found[0])
    assert status.code == error.code().value[0]
    info, request = ErrorInfo(), BadRequest()
    infos = [detail for detail in status.details if detail.Unpack(info)]
    assert len(infos) == 1
    assert info.domain == "perdure.v1"
    assert f"ERROR_REASON_{info.reason}" in errors_pb2.ErrorReason.keys()  # noqa: SIM118
    for detail in status.details:
        detail.Unpack(request)
    fields = tuple(violation.field for violation in request.field_violations)
    return Refusal(error.code(), info.reason, dict(info.metadata), status.message, fields)


def json_value(value: object) -> payload_pb2.Payload:
    return payload_pb2.Payload(encoding="json/plain", data=json.dumps(value).encode())


def json_of(value: object) -> bytes:
    """As a Python worker gives what a function returned that was called by its name."""
    return json.dumps(value).encode()


def call_node(node_id: str, function: str, *args: Any, after: tuple[str, ...] = ()) -> spec_pb2.Node:
    """A call of a function by its name ("module:name"), tried once. An argument `{"node": id}` is that node's value,
    and `{"input": name}` that input."""
    node = spec_pb2.Node(id=node_id, after=after)
    node.task.function.registered.name = function
    node.options.retry.max_attempts = 1
    for arg in args:
        if isinstance(arg, dict) and arg.keys() == {"node"}:
            node.task.args.add().node.node_id = arg["node"]
        elif isinstance(arg, dict) and arg.keys() == {"input"}:
            node.task.args.add().input.name = arg["input"]
        elif isinstance(arg, payload_pb2.Payload):
            node.task.args.add().payload.CopyFrom(arg)
        else:
            node.task.args.add().payload.CopyFrom(json_value(arg))
    return node


def event_node(node_id: str, key: str) -> spec_pb2.Node:
    return spec_pb2.Node(id=node_id, event=spec_pb2.EventNode(event_key=key))


def graph(*nodes: spec_pb2.Node, output: str = "") -> spec_pb2.WorkflowSpec:
    """The last node is the output unless one is named."""
    named = spec_pb2.NodeRef(node_id=output or nodes[-1].id)
    return spec_pb2.WorkflowSpec(nodes=nodes, output=spec_pb2.Arg(node=named))


def run_request(
    spec: spec_pb2.WorkflowSpec, workflow_id: str = "w", request_id: str = "", **fields: Any
) -> workflow_service_pb2.RunRequest:
    source = spec_pb2.WorkflowSource(spec=spec)
    return workflow_service_pb2.RunRequest(workflow_id=workflow_id, request_id=request_id, source=source, **fields)


def sum_of(left: int, right: int) -> spec_pb2.WorkflowSpec:
    """A graph of one task, in no language in particular."""
    return graph(call_node("sum", "operator:add", left, right))


def an_event(
    workflow_id: str = "w", key: str = "k", event_id: str = "e", **fields: Any
) -> workflow_service_pb2.SendEventRequest:
    return workflow_service_pb2.SendEventRequest(workflow_id=workflow_id, event_key=key, event_id=event_id, **fields)


async def stored(stubs: Stubs) -> list[str]:
    """The workflow ids that there are."""
    answer = await stubs.workflows.ListWorkflows(workflow_service_pb2.ListWorkflowsRequest())
    return [workflow.workflow_id for workflow in answer.workflows]


async def output_of(stubs: Stubs, workflow_id: str, task_id: str = "") -> workflow_pb2.Outcome:
    """The outcome of the run or task, by long polls as a client makes them."""
    request = workflow_service_pb2.GetOutputRequest(workflow_id=workflow_id, task_id=task_id)
    request.wait.seconds = 20
    while True:
        answer = await stubs.workflows.GetOutput(request)
        if answer.done:
            return answer.outcome


async def events_of(call: Any) -> list[workflow_service_pb2.WatchEvent]:
    """All events of a watch that ends."""
    return [event async for answer in call for event in answer.events]
