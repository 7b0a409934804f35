"""Calls of actors over one stream to an engine, which costs client and engine less than a call each.

The stream is opened with the first call, and again after it broke. Calls gather while a message is being sent, and go
with the next one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import grpc
import grpc.aio

from perdure import errors
from perdure.connection import AGE_KEY, REPEAT_KEY
from perdure.v1 import actor_service_pb2 as pb
from perdure.v1 import actor_service_pb2_grpc

CALL_BYTES_MAX: Final = 1024 * 1024
"""A larger call goes by itself, because a stream breaks at a message that is too large."""
MESSAGE_BYTES: Final = 2 * 1024 * 1024
"""A message is closed at this size. Its last call may exceed it."""


class CallStream:
    """Makes calls as the stub of `CallActor` does."""

    def __init__(self, stub: actor_service_pb2_grpc.ActorServiceAsyncStub) -> None:
        self._stub = stub
        self._stream: _Stream | None = None

    async def __call__(
        self, request: pb.CallActorRequest, *, metadata: Sequence[tuple[str, str]] | None = None
    ) -> pb.CallActorResponse:
        """Raises grpc.RpcError, or an error of `perdure.errors` if the service refuses this call."""
        size = request.ByteSize()
        if size > CALL_BYTES_MAX:
            return await self._stub.CallActor(request, metadata=metadata)
        if self._stream is None or self._stream.has_ended:
            call_actors: Any = self._stub.CallActors  # its type demands an iterator of requests
            self._stream = _Stream(call_actors())
        return await self._stream.ask(request, size, dict(metadata or ()))

    async def close(self) -> None:
        """Close the stream. Calls without an answer are cancelled."""
        if self._stream is not None:
            await self._stream.close()


class _Stream:
    """One stream, until it breaks."""

    def __init__(self, rpc: Any) -> None:
        self._rpc = rpc
        self._tokens = itertools.count(1)
        self._asked: dict[int, asyncio.Future[pb.CallActorResponse]] = {}
        self._queue: deque[tuple[pb.StreamedCall, int]] = deque()
        self._abandoned: list[int] = []
        self._wake = asyncio.Event()
        self._is_closed = False
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())

    @property
    def has_ended(self) -> bool:
        return self._reader.done() or self._writer.done()

    async def ask(self, request: pb.CallActorRequest, size: int, metadata: dict[str, str]) -> pb.CallActorResponse:
        """Make a call."""
        token = next(self._tokens)
        call = pb.StreamedCall(token=token, call=request)
        if metadata:
            call.previous_attempts, call.asked_ms_ago = int(metadata[REPEAT_KEY]), int(metadata[AGE_KEY])
        future: asyncio.Future[pb.CallActorResponse] = asyncio.get_running_loop().create_future()
        self._asked[token] = future
        self._queue.append((call, size))
        self._wake.set()
        try:
            return await future
        except asyncio.CancelledError:
            if self._asked.pop(token, None) is not None:
                self._abandoned.append(token)
                self._wake.set()
            raise

    async def _write(self) -> None:
        with suppress(grpc.RpcError, asyncio.InvalidStateError):  # the reader is told why
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue or self._abandoned:
                    await self._rpc.write(self._next())

    def _next(self) -> pb.CallActorsRequest:
        message = pb.CallActorsRequest(abandoned=self._abandoned)
        self._abandoned.clear()
        size = 0
        while self._queue and size < MESSAGE_BYTES:
            call, bytes_ = self._queue.popleft()
            message.calls.append(call)
            size += bytes_
        return message

    async def _read(self) -> None:
        error: Exception = errors.ServiceUnavailableError("the stream of calls has ended")
        try:
            async for message in self._rpc:
                for answer in message.answers:
                    self._answer(answer)
        except grpc.RpcError as rpc_error:
            error = rpc_error
            if _is_of_grpc(rpc_error):
                error = errors.ServiceUnavailableError("the stream of calls has broken")
        finally:
            self._writer.cancel()
            asked, self._asked = self._asked, {}
            for future in asked.values():
                if self._is_closed:
                    future.cancel()
                elif not future.done():
                    future.set_exception(error)

    def _answer(self, answer: pb.StreamedAnswer) -> None:
        future = self._asked.pop(answer.token, None)
        if future is None or future.done():
            return
        if answer.HasField("error"):
            future.set_exception(errors.from_item(answer.error))
        else:
            future.set_result(answer.answer)

    async def close(self) -> None:
        self._is_closed = True
        self._rpc.cancel()
        await asyncio.wait([self._reader, self._writer])


def _is_of_grpc(error: Any) -> bool:
    """Whether a stream ended with INTERNAL for a reason of gRPC's own, as it does when its connection fails.
    The service would have said more."""
    details = (key for key, _ in error.trailing_metadata() or ())
    return error.code() is grpc.StatusCode.INTERNAL and errors.DETAILS_KEY not in details
