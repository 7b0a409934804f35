"""Clients of each release against this service: their messages are made from its committed image, not from ours."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from integration.engine_settings import settings_on
from perdure.service.app import running_server
from perdure.v1 import worker_service_pb2

RELEASES = sorted((Path(__file__).parent.parent.parent / "protos" / "released").glob("*.binpb"))


def files_of(release: Path) -> list[descriptor_pb2.FileDescriptorProto]:
    return list(descriptor_pb2.FileDescriptorSet.FromString(release.read_bytes()).file)


class ReleasedClient:
    """Calls methods of the release by their names, with requests in the JSON form of Protobuf."""

    def __init__(self, channel: grpc.aio.Channel, release: Path) -> None:
        self._channel = channel
        self._pool = descriptor_pool.DescriptorPool()
        files = files_of(release)
        for file in files:
            self._pool.AddSerializedFile(file.SerializeToString())
        self.methods = {
            f"/{file.package}.{service.name}/{method.name}": method
            for file in files
            for service in file.service
            for method in service.method
        }

    def _message(self, name: str) -> type[Message]:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name.lstrip(".")))

    def call(self, method: str, request: dict[str, Any]) -> Any:
        """The awaitable answer of a call, or its stream of answers."""
        path = f"/perdure.v1.{method}"
        described = self.methods[path]
        kinds = [
            "stream" if streams else "unary" for streams in (described.client_streaming, described.server_streaming)
        ]
        answer_type = self._message(described.output_type)
        call = getattr(self._channel, "_".join(kinds))(
            path, request_serializer=lambda sent: sent.SerializeToString(), response_deserializer=answer_type.FromString
        )
        message = json_format.ParseDict(request, self._message(described.input_type)())
        return call(iter([message]) if described.client_streaming else message, timeout=60)

    async def ask(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        return json_format.MessageToDict(await self.call(method, request))


@pytest.fixture(params=RELEASES, ids=lambda release: release.stem)
async def released(storage: str, request: pytest.FixtureRequest) -> AsyncIterator[ReleasedClient]:
    async with running_server(settings_on(storage)) as server, grpc.aio.insecure_channel(server.address) as channel:
        yield ReleasedClient(channel, request.param)


def spec(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"nodes": list(nodes), "output": {"node": {"nodeId": nodes[-1]["id"]}}}}


def number(value: int) -> dict[str, Any]:
    return {"encoding": "json/plain", "data": base64.b64encode(str(value).encode()).decode()}


async def test_the_five_calls_and_a_watch(released: ReleasedClient) -> None:
    args = [{"payload": number(2)}, {"node": {"nodeId": "event"}}]
    add = {"function": {"registered": {"name": "operator:add"}}, "args": args}
    source = spec({"id": "event", "event": {"eventKey": "go"}}, {"id": "sum", "task": add})
    run = await released.ask("WorkflowService/Run", {"workflowId": "sum", "requestId": "1", "source": source})
    assert run["started"]
    event = {"workflowId": "sum", "eventKey": "go", "eventId": "1", "payload": number(3)}
    await released.ask("WorkflowService/SendEvent", event)
    output = await released.ask("WorkflowService/GetOutput", {"workflowId": "sum", "wait": "30s"})
    assert output["outcome"]["output"] == number(5)
    watched = {"workflowIds": ["sum"], "resumeToken": run["watchToken"], "untilFinal": True}
    answers = [json_format.MessageToDict(answer) async for answer in released.call("WorkflowService/Watch", watched)]
    statuses = [event["workflow"]["status"] for answer in answers for event in answer.get("events", ())]
    assert statuses[-1] == "WORKFLOW_STATUS_SUCCESSFUL"
    waiting = {"workflowId": "w", "requestId": "2", "source": spec({"id": "event", "event": {"eventKey": "never"}})}
    await released.ask("WorkflowService/Run", waiting)
    await released.ask("WorkflowService/Cancel", {"workflowId": "w"})
    ended = await released.ask("WorkflowService/GetStatus", {"workflowId": "w", "wait": "30s"})
    assert ended["workflow"]["status"] == "WORKFLOW_STATUS_CANCELED"
    divide = {"function": {"registered": {"name": "operator:truediv"}}, "args": [{"payload": number(0)}] * 2}
    failing = {"workflowId": "f", "requestId": "3", "source": spec({"id": "quotient", "task": divide}), "wait": "30s"}
    failed = await released.ask("WorkflowService/Run", failing)
    assert failed["outcome"]["failure"]["type"] == "builtins.ZeroDivisionError"
    await released.ask("WorkflowService/Resume", {"workflowId": "f"})


async def test_every_method_is_still_served(released: ReleasedClient) -> None:
    for path, method in released.methods.items():
        code = grpc.StatusCode.OK
        call = released.call(path.removeprefix("/perdure.v1."), {})
        try:
            if method.server_streaming:
                async for _ in call:
                    break
                call.cancel()
            else:
                await call
        except grpc.aio.AioRpcError as error:
            code = error.code()
        assert code not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL), path


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.stem)
def test_what_is_internal_is_not_released(release: Path) -> None:
    assert worker_service_pb2.DESCRIPTOR.name not in {file.name for file in files_of(release)}
