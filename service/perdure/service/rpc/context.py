"""gRPC's context of a call, and what `api` is told of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias, TypeVar

import grpc.aio

from perdure.service.api.caller import told_repeat
from perdure.service.common.repeat import Repeat

T = TypeVar("T")
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


async def messages_of(stream: AsyncIterator[T]) -> AsyncIterator[T]:
    """The messages of a stream until it ends, with or without an error."""
    try:
        async for message in stream:
            yield message
    except grpc.aio.BaseError:
        pass


class RpcCaller:
    """A `Caller` by gRPC."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def left_s(self) -> float | None:
        return self._context.time_remaining()

    @property
    def repeat(self) -> Repeat | None:
        metadata: Any = self._context.invocation_metadata() or ()
        return told_repeat(metadata)
