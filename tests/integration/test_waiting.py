"""Wait reasons of tasks whose resources are missing. The test plays the cluster's stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

import perdure
from integration.engine_settings import settings_on
from perdure.functions import PYTHON_VERSION
from perdure.service.app import RunningServer, running_server
from perdure.v1 import worker_service_pb2 as pb
from perdure.v1 import worker_service_pb2_grpc, workflow_pb2, workflow_service_pb2, workflow_service_pb2_grpc
from perdure.worker import agent as agent_module

pytestmark = pytest.mark.storages("sqlite")

WAIT_S = 30


@perdure.task(num_cpus=64)
def wide(before: int = 0) -> int:
    return before


@pytest.fixture
async def server(storage: str) -> AsyncIterator[RunningServer]:
    async with running_server(settings_on(storage, executor="agents")) as server:
        yield server


async def told(client: perdure.Client, text: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while text not in (await client.handle("wide").status()).waiting:
            await asyncio.sleep(0.01)


async def test_ready_tasks_say_what_they_wait_for(
    client: perdure.Client, channel: grpc.aio.Channel, server: RunningServer
) -> None:
    await client.start(wide.bind(wide.options(task_id="first").bind()), workflow_id="wide")
    await told(client, "task 'first' waits: no cluster is attached")
    stub = workflow_service_pb2_grpc.WorkflowServiceStub(channel)
    answer = await stub.GetStatus(workflow_service_pb2.GetStatusRequest(workflow_id="wide", namespace="default"))
    assert answer.workflow.waiting.reason == workflow_pb2.WAIT_REASON_NO_AGENT

    hello = pb.AgentHello(agent_id="a", cluster_id="here", python_version=PYTHON_VERSION)
    hello.capacity.total.update({"CPU": 4.0})
    hello.capacity.nodes.extend([pb.ResourceAmounts(amounts={"CPU": amount}) for amount in (1.0, 3.0)])
    stub_of_agents: Any = worker_service_pb2_grpc.WorkerServiceStub(channel)
    agent = stub_of_agents.ServeAgent()
    await agent.write(pb.ServeAgentRequest(hello=hello))
    wants = "wants CPU 64; the cluster 'here' has CPU 4 in all, nodes of at most CPU 3"
    await told(client, f"task 'first' {wants}")
    waiting = {task.task_id: task.waiting async for task in client.handle("wide").tasks()}
    assert sorted(waiting.values()) == ["", wants]
    assert waiting["first"] == wants
    assert [task.attempts async for task in client.handle("wide").tasks()] == [0, 0], "none has begun"

    await agent.write(pb.ServeAgentRequest(leaving=pb.AgentLeaving(reason="its Ray is dead")))
    await told(client, "no cluster is attached; the agent of 'here' has left: its Ray is dead")

    await agent_module.tell_of_failure(
        server.address, "the Ray at x:1 cannot be joined: ConnectionError: " + "y" * 9000
    )
    await told(
        client, "no cluster is attached; an agent has no cluster to offer: the Ray at x:1 cannot be joined: Conn"
    )
    assert len((await client.handle("wide").status()).waiting) < 1000
    await client.cancel("wide")
    assert (await client.handle("wide").status()).waiting == ""


@perdure.actor
class Light:
    def __init__(self) -> None:
        self.is_on = False

    @perdure.method
    def switch(self) -> bool:
        self.is_on = not self.is_on
        return self.is_on


async def test_actors_and_their_calls_say_what_they_wait_for(storage: str) -> None:
    async with running_server(settings_on(storage, executor="local")) as first, perdure.Client(first.address) as client:
        assert await client.actor(Light, "old").switch()
    async with (
        running_server(settings_on(storage, executor="agents")) as server,
        perdure.Client(server.address) as client,
    ):
        calls = [await client.actor(Light, "old").switch.start() for _ in range(2)]
        await client.actors.get_or_create(Light.definition, "new")
        async with asyncio.timeout(WAIT_S):
            while not (await client.actors.info("old")).waiting or not (await client.actors.info("new")).waiting:
                await asyncio.sleep(0.01)
        infos = [await client.actors.info(actor_id) for actor_id in ("old", "new")]
        assert [info.status for info in infos] == ["READY", "CREATING"]
        assert all("no cluster is attached" in info.waiting for info in infos)
        found = [call async for call in client.actors.calls("old", only_pending=True)]
        assert [(call.call_id, call.status) for call in found] == [
            (calls[0].call_id, "RUNNING"),
            (calls[1].call_id, "WAITING"),
        ]
        assert "no cluster is attached" in found[0].waiting
        assert found[1].waiting == ""
