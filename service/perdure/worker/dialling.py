"""How leases and agents reach their engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from perdure.connection import worker_channel
from perdure.v1 import worker_service_pb2_grpc

Dial: TypeAlias = Callable[[str], AbstractAsyncContextManager[Any]]
"""From an address to the stub of WorkerService. The simulation passes one of its own."""


@asynccontextmanager
async def dial(address: str) -> AsyncIterator[Any]:
    """A connection that belongs to the caller alone and is closed at the end of the context."""
    async with worker_channel(address) as channel:
        yield worker_service_pb2_grpc.WorkerServiceStub(channel)
