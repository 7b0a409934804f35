"""gRPC's context of a call, and what `api` is told of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias, TypeVar

import grpc.aio

from perdure.connection import AGE_KEY, REPEAT_KEY
from perdure.service.common.repeat import Repeat

T = TypeVar("T")
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

REPEAT_KEYS: Final = frozenset({"grpc-previous-rpc-attempts", REPEAT_KEY})
"""Metadata by which gRPC's own retries, and clients that make a call again themselves, say so."""
REPEATED_MS: Final = 10_000
"""gRPC's own repeats do not say when the call was made first; all of them come within some seconds."""
REPEATED_MS_MAX: Final = 24 * 3600 * 1000
DIGITS_MAX: Final = 15


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
        age_ms: int | None = None
        is_again = False
        for key, value in metadata:
            is_again |= key in REPEAT_KEYS and value != "0"
            if key == AGE_KEY and (digits := str(value)).isdecimal():
                is_long = len(digits) > DIGITS_MAX  # Python refuses to read thousands of them
                age_ms = REPEATED_MS_MAX if is_long else min(int(digits), REPEATED_MS_MAX)
        if not is_again:
            return None
        return Repeat(REPEATED_MS) if age_ms is None else Repeat(age_ms, age_ms)
