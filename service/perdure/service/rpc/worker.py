"""WorkerService: the streams of agents and leases, whose messages go to the pool's sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from perdure.service.api import requests
from perdure.service.api.fetching import FetchCalls
from perdure.service.executors.pool.sessions import Sessions
from perdure.service.rpc.context import Context, messages_of
from perdure.v1 import worker_service_pb2 as pb
from perdure.v1 import worker_service_pb2_grpc


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """Sessions live as long as their streams."""

    def __init__(self, sessions: Sessions, fetching: FetchCalls) -> None:
        self._sessions = sessions
        self._fetching = fetching

    async def ServeAgent(
        self, request_iterator: AsyncIterator[pb.ServeAgentRequest], context: Context
    ) -> AsyncIterator[pb.ServeAgentResponse]:
        stream = request_iterator
        first = await anext(stream, None)
        if first is not None and first.HasField("leaving"):
            self._sessions.agent_failed(first.leaving.reason)
            return
        if first is None or not first.HasField("hello"):
            raise requests.invalid("hello", "is the first message of a session")
        agent = self._sessions.agent_connected(first.hello)
        reader = asyncio.create_task(_read(stream, lambda message: self._sessions.agent_said(agent, message)))
        reader.add_done_callback(lambda _: agent.outbox.close())
        try:
            while not agent.outbox.is_closed:
                await agent.outbox.wait()
                while agent.messages:
                    yield agent.messages.popleft()
        finally:
            reader.cancel()
            self._sessions.agent_lost(agent)

    async def ServeLease(
        self, request_iterator: AsyncIterator[pb.ServeLeaseRequest], context: Context
    ) -> AsyncIterator[pb.ServeLeaseResponse]:
        stream = request_iterator
        first = await anext(stream, None)
        if first is None or not first.HasField("hello"):
            raise requests.invalid("hello", "is the first message of a session")
        lease = self._sessions.lease_connected(first.hello)
        if lease is None:
            raise requests.invalid("lease_id", "names no lease that this engine waits for")
        reader = asyncio.create_task(_read(stream, lambda message: self._sessions.lease_said(lease, message)))
        reader.add_done_callback(lambda _: lease.outbox.close())
        try:
            while not lease.outbox.is_closed:
                await lease.outbox.wait()
                while (message := lease.next_message()) is not None:
                    yield message
        finally:
            reader.cancel()
            self._sessions.lease_lost(lease)

    async def FetchValues(self, request: pb.FetchValuesRequest, context: Context) -> pb.FetchValuesResponse:
        return await self._fetching.fetch(request)


async def _read(stream: AsyncIterator[Any], take: Callable[[Any], None]) -> None:
    async for message in messages_of(stream):
        take(message)
