"""The code keeps the promises of the API's descriptors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import MethodOptions

from integration.wire_calls import SYSTEM_INFO, Stubs, public_methods, refusal_of, refused, run_request, sum_of
from perdure import connection, errors
from perdure.model import INLINE_BYTES_MAX
from perdure.service.app import SERVICES
from perdure.service.common import limits
from perdure.service.rpc.actor import ActorServicer
from perdure.service.rpc.blob import BlobServicer
from perdure.service.rpc.function import FunctionServicer
from perdure.service.rpc.system import SystemServicer
from perdure.service.rpc.worker import WorkerServicer
from perdure.service.rpc.workflow import WorkflowServicer
from perdure.v1 import (
    actor_service_pb2,
    blob_service_pb2,
    errors_pb2,
    function_service_pb2,
    system_service_pb2,
    worker_service_pb2,
    workflow_service_pb2,
)

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos" / "perdure" / "v1"
MODULES: tuple[Any, ...] = (
    workflow_service_pb2,
    actor_service_pb2,
    blob_service_pb2,
    function_service_pb2,
    system_service_pb2,
    worker_service_pb2,
)
DESCRIPTORS: dict[str, Any] = {
    service.full_name: service for module in MODULES for service in module.DESCRIPTOR.services_by_name.values()
}
SERVICERS: dict[str, type] = {
    "perdure.v1.WorkflowService": WorkflowServicer,
    "perdure.v1.ActorService": ActorServicer,
    "perdure.v1.BlobService": BlobServicer,
    "perdure.v1.FunctionService": FunctionServicer,
    "perdure.v1.SystemService": SystemServicer,
    "perdure.v1.WorkerService": WorkerServicer,
}
METHODS = [method for service in DESCRIPTORS.values() for method in service.methods]
PUBLIC = public_methods()
REASONS = [name for name, number in errors_pb2.ErrorReason.items() if number]


@pytest.fixture
def storage() -> str:
    return "memory:"


def test_every_service_is_known() -> None:
    files = {path.stem for path in PROTOS.glob("*_service.proto")}
    assert files == {Path(module.DESCRIPTOR.name).stem for module in MODULES}
    assert DESCRIPTORS.keys() == SERVICERS.keys()
    assert set(SERVICES) == DESCRIPTORS.keys() - {"perdure.v1.WorkerService"}


@pytest.mark.parametrize("method", PUBLIC, ids=lambda method: method.name)
def test_every_method_says_whether_it_may_be_repeated(method: Any) -> None:
    level = method.GetOptions().idempotency_level
    assert level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)
    reading = re.compile(r"(Get(?!OrCreate)|BatchGet|List|Query|Watch|Download)")
    assert (level == MethodOptions.NO_SIDE_EFFECTS) == bool(reading.match(method.name))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_is_implemented(method: Any) -> None:
    assert method.name in vars(SERVICERS[method.containing_service.full_name])


def test_every_reason_is_an_error_and_every_error_a_reason() -> None:
    assert {f"ERROR_REASON_{reason}" for reason in errors.BY_REASON} == set(REASONS)
    kinds = [kind for kind in errors.BY_REASON.values() if kind.__doc__]
    assert len(kinds) == len(REASONS)


def test_every_reason_has_the_status_that_the_api_says() -> None:
    text = (PROTOS / "errors.proto").read_text()
    found = re.findall(r"// ([A-Z_]+)\.[^\n]*\n(?:\s*//[^\n]*\n)*?\s*ERROR_REASON_(\w+) =", text)
    statuses = {reason: code for code, reason in found}
    assert statuses == {reason: kind.status.name for reason, kind in errors.BY_REASON.items()}
    retried = set(re.findall(r"With RetryInfo\.\n\s*ERROR_REASON_(\w+) =", text))
    has_delay = {reason for reason, kind in errors.BY_REASON.items() if kind.retry_after_s is not None}
    assert retried <= has_delay


@pytest.mark.parametrize("reason", errors.BY_REASON)
def test_errors_survive_the_wire(reason: str) -> None:
    kind = errors.BY_REASON[reason]
    sent = kind("what happened", a="1", b="2")

    class Failed(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return sent.status

        def details(self) -> str:
            return sent.message

        def trailing_metadata(self) -> Any:
            return ((errors.DETAILS_KEY, errors.to_status(sent).SerializeToString()),)

    got = errors.from_rpc_error(Failed())
    assert (type(got), got.message, got.fields) == (kind, "what happened", {"a": "1", "b": "2"})


@pytest.mark.parametrize("method", PUBLIC, ids=lambda method: method.name)
async def test_every_method_answers(stubs: Stubs, method: Any) -> None:
    """To a request without any fields: a value, or a reason."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.client_streaming:
            await stubs.raw.stream_unary(path)(iter([b""]))
        elif method.server_streaming:
            await stubs.raw.unary_stream(path)(b"").read()
        else:
            await stubs.raw.unary_unary(path)(b"")
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.reason == "INVALID_FIELD"
        assert len(refusal.fields) == 1


def request_fields(message: Any, seen: set[str]) -> Iterator[tuple[str, str]]:
    """The fields that a request may bring, with those of the messages in it."""
    if message.full_name in seen or message.file.package != "perdure.v1":
        return
    seen.add(message.full_name)
    for field in message.fields:
        yield message.name, field.name
        if field.message_type is not None:
            yield from request_fields(field.message_type, seen)


def test_every_field_of_a_request_is_read_somewhere() -> None:
    seen: set[str] = set()
    fields = [field for method in METHODS for field in request_fields(method.input_type, seen)]
    code = "".join(
        path.read_text()
        for root in ("sdk", "service")
        for path in (ROOT / root / "perdure").rglob("*.py")
        if path.parent.name != "v1"
    )
    assert len(fields) > 150
    ignored = [(message, name) for message, name in fields if not re.search(rf"""(\.{name}\b|["']{name}["'])""", code)]
    assert not ignored


UNKNOWN_CAPABILITIES: dict[str, dict[str, Any]] = {
    "queues": {"queue": "fast"},
    "priorities": {"priority": 1},
}


@pytest.mark.parametrize("capability", UNKNOWN_CAPABILITIES)
async def test_what_this_server_does_not_offer_is_refused(stubs: Stubs, capability: str) -> None:
    request = run_request(sum_of(1, 2), **UNKNOWN_CAPABILITIES[capability])
    refusal = await refused(stubs.workflows.Run(request), grpc.StatusCode.UNIMPLEMENTED, "CAPABILITY_MISSING")
    assert refusal.metadata == {"capability": capability}
    listed = await stubs.workflows.ListWorkflows(workflow_service_pb2.ListWorkflowsRequest())
    assert not listed.workflows


async def test_the_limits_that_are_told_are_those_in_force(stubs: Stubs) -> None:
    info = await stubs.system.GetSystemInfo(SYSTEM_INFO)
    assert info.limits.max_message_bytes == limits.MESSAGE_BYTES_MAX == connection.MESSAGE_BYTES_MAX
    assert info.limits.max_inline_payload_bytes == limits.INLINE_PAYLOAD_BYTES_MAX >= INLINE_BYTES_MAX
    assert info.limits.max_blob_bytes == limits.BLOB_BYTES_MAX
    assert info.limits.max_nodes == limits.NODES_MAX
    assert info.limits.max_wait.seconds == limits.WAIT_S_MAX
    assert info.python_versions
    assert info.server_version


async def test_a_burst_of_calls_is_answered(stubs: Stubs) -> None:
    """By default gRPC cancels calls at random once a thousand wait for the event loop."""
    listing = workflow_service_pb2.ListWorkflowsRequest()
    calls = [stubs.workflows.ListWorkflows(listing) for _ in range(2_000)]
    calls += [stubs.system.GetSystemInfo(SYSTEM_INFO) for _ in range(2_000)]
    for call in calls:
        await call
