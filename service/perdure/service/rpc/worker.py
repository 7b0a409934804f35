"""WorkerService: the streams of agents and leases. What their messages mean is the matter of the pool's sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from perdure import errors, wire
from perdure.service.api import requests
from perdure.service.executors.pool.sessions import Sessions
from perdure.service.executors.port import ValueReader
from perdure.storage.rows import ValueKey
from perdure.v1 import worker_service_pb2 as pb
from perdure.v1 import worker_service_pb2_grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """Sessions live as long as their streams."""

    def __init__(self, sessions: Sessions, values: ValueReader) -> None:
        self._sessions = sessions
        self._values = values

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
        answer = pb.FetchValuesResponse()
        size = 0
        for key in request.keys:
            (payload,) = await self._values.read([ValueKey(key.run_id, key.task_id, key.input)])
            size += len(payload.data)
            if answer.values and size > ANSWER_BYTES_MAX:
                break
            answer.values.append(wire.payload_to_proto(payload))
        if not answer.values:
            raise errors.InvalidFieldError("keys: at least one is asked for", field="keys")
        return answer


async def _read(stream: AsyncIterator[Any], take: Callable[[Any], None]) -> None:
    """To the end of the stream, however it ends."""
    try:
        async for message in stream:
            take(message)
    except grpc.aio.BaseError:
        pass
