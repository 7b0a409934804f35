"""grpc.health.v1.Health: whether this engine takes calls.

The library's servicer keeps its streams open for ever, and a server that stops waits for open streams. Streams of this
one end when the engine drains, with NOT_SERVING as the last status.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from perdure.connection import probe_channel
from perdure.service.rpc.context import Context

ANSWER_S: Final = 1.0
"""The time that an engine has to say whether it serves."""


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """All services have the same health. The one named "" is the server as a whole."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._is_serving = False
        self._is_over = False
        self._changed = asyncio.Event()

    def open(self) -> None:
        """Calls are taken from now on."""
        self._is_serving = not self._is_over
        self._tell()

    def drain(self) -> None:
        """No calls are taken any more, for ever."""
        self._is_serving, self._is_over = False, True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Context) -> Any:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r} here")
        return pb.HealthCheckResponse(status=self._status_of(request.service))

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        last = None
        while True:
            changed, is_over = self._changed, self._is_over
            status = self._status_of(request.service)
            if status != last:
                last = status
                yield pb.HealthCheckResponse(status=status)
            if is_over:  # read before the answer: the engine may have begun to drain since
                return
            if changed is self._changed:  # no change while the answer was sent
                await changed.wait()

    def _status_of(self, service: str) -> Any:
        if service not in self._services:
            return pb.HealthCheckResponse.SERVICE_UNKNOWN
        serves = pb.HealthCheckResponse.SERVING
        return serves if self._is_serving else pb.HealthCheckResponse.NOT_SERVING


async def serves(address: str) -> bool:
    """Whether an engine takes calls at this address. One that drains, or does not answer soon, does not."""
    async with probe_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(pb.HealthCheckRequest(), timeout=ANSWER_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == pb.HealthCheckResponse.SERVING)
