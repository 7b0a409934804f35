"""The standard gRPC services, health and reflection, for tools that know nothing of Perdure."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import perdure
from perdure.service.app import RunningServer, running_server
from perdure.service.common.settings import Settings

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
PUBLIC = ("perdure.v1.WorkflowService", "perdure.v1.BlobService", "perdure.v1.SystemService")


@pytest.fixture
def storage() -> str:
    return "memory:"


@pytest.mark.parametrize("service", ["", *PUBLIC])
async def test_health(server: RunningServer, channel: grpc.aio.Channel, service: str) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert (await health.Check(request)).status == SERVING
    watch = health.Watch(request)
    assert (await watch.read()).status == SERVING
    await server.drain()
    assert (await watch.read()).status == NOT_SERVING
    assert (await health.Check(request)).status == NOT_SERVING
    assert await watch.read() is grpc.aio.EOF


async def test_a_health_watch_does_not_delay_the_stop() -> None:
    """The time that calls have to end is longer than the test may take."""
    settings = Settings(listen="127.0.0.1:0", storage="memory:", executor="local", drain_s=100_000)
    async with running_server(settings) as server:
        channel = grpc.aio.insecure_channel(server.address)
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "no.such.Service")]
        for watch in watches:
            await watch.read()
    assert (await watches[0].read()).status == NOT_SERVING
    for watch in watches:
        assert await watch.code() is grpc.StatusCode.OK
    await channel.close()


async def test_health_of_a_service_that_is_not_there(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def reflect(
    channel: grpc.aio.Channel, version: str, *requests: reflection_pb2.ServerReflectionRequest
) -> list[reflection_pb2.ServerReflectionResponse]:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        for request in requests:
            yield request

    return [answer async for answer in call(ask())]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection(channel: grpc.aio.Channel, version: str) -> None:
    (listed,) = await reflect(channel, version, reflection_pb2.ServerReflectionRequest(list_services="*"))
    names = {service.name for service in listed.list_services_response.service}
    assert {*PUBLIC, "grpc.health.v1.Health"} <= names
    assert not any("WorkerService" in name for name in names)  # internal
    answers = await reflect(
        channel,
        version,
        *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in PUBLIC),
        reflection_pb2.ServerReflectionRequest(file_by_filename="perdure/v1/spec.proto"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Service"),
    )
    for name, answer in zip(PUBLIC, answers, strict=False):
        files = [FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto]
        services = {f"{file.package}.{service.name}" for file in files for service in file.service}
        assert name in services
    assert answers[3].file_descriptor_response.file_descriptor_proto
    assert answers[4].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_the_engines_are_listed(client: perdure.Client) -> None:
    """An embedded database has the one that answers."""
    info = await client.info()
    (engine,) = await client.engines()
    assert engine.engine_id == info.replica_id
    assert engine.version == info.server_version
    assert engine.started is not None
    assert not engine.is_dead
