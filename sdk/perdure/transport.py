"""Calls to an engine: the stubs of one channel, patience while the service is away, and typed errors."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc

from perdure import errors
from perdure.connection import REPEAT_KEY, client_channel
from perdure.v1 import blob_service_pb2_grpc, system_service_pb2_grpc, workflow_service_pb2_grpc

T = TypeVar("T")

POLL_S: Final = 25.0
"""One long poll waits so long; the next one follows."""
AWAY_FIRST_S: Final = 0.05
AWAY_MAX_S: Final = 1.0
"""Pauses between two tries while the service is away: the first one, and the longest one."""


class Transport:
    """The channel to an engine, for one event loop. `patience` is for how many seconds a call is repeated while the
    service is away."""

    def __init__(self, address: str, namespace: str, patience: float) -> None:
        self.address = address
        self.namespace = namespace
        self.patience = patience
        self.under_way = 0
        """Calls that wait for an answer, those that wait for the service to come back included."""
        self._channel = client_channel(address)
        self.workflows = workflow_service_pb2_grpc.WorkflowServiceStub(self._channel)
        self.blobs = blob_service_pb2_grpc.BlobServiceStub(self._channel)
        self.system = system_service_pb2_grpc.SystemServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close(None)

    async def ask(self, method: Callable[..., Awaitable[T]], request: object) -> T:
        """Make a call that changes something. A repeated call says so in its metadata, and the service answers it
        with what the first one did, not with an error."""
        attempts = itertools.count()

        def ask() -> Awaitable[T]:
            attempt = next(attempts)
            return method(request, metadata=((REPEAT_KEY, str(attempt)),) if attempt else None)

        return await self.call(ask)

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until the service answers or patience ends. Raises the errors of `perdure.errors`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        pause_s = AWAY_FIRST_S
        self.under_way += 1
        try:
            while True:
                try:
                    return await ask()
                except grpc.RpcError as rpc_error:
                    error = errors.from_rpc_error(rpc_error)
                if not isinstance(error, errors.ServiceUnavailableError) or loop.time() + pause_s > deadline:
                    raise error
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, AWAY_MAX_S)
        finally:
            self.under_way -= 1
