"""Calls of actors over one stream to an engine, which costs client and engine less than a call each.

The stream is opened with the first call, and again after it broke. Calls gather while a message is being sent, and go
with the next one. After some time another stream takes its place, so that clients spread over the engines there are. A
call that is repeated goes by itself, since the stream may be to an engine that is of no use.
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
from perdure.connection import MESSAGE_BYTES
from perdure.v1 import actor_service_pb2 as pb
from perdure.v1 import actor_service_pb2_grpc

CALL_BYTES_MAX: Final = 1024 * 1024
"""A larger call goes by itself, because a stream breaks at a message that is too large."""
ABANDONED_MAX: Final = 1_000
"""Abandoned calls that one message names."""
LIFE_S: Final = 60.0
"""After this time a stream gets no new calls."""


class CallStream:
    """Makes calls as the stub of `CallActor` does."""

    def __init__(self, stub: actor_service_pb2_grpc.ActorServiceAsyncStub) -> None:
        self._stub = stub
        self._stream: _Stream | None = None
        self._retired: set[_Stream] = set()

    async def __call__(
        self, request: pb.CallActorRequest, *, metadata: Sequence[tuple[str, str]] | None = None
    ) -> pb.CallActorResponse:
        """Raises grpc.RpcError, or an error of `perdure.errors` if the service refuses this call."""
        size = request.ByteSize()
        if size > CALL_BYTES_MAX or metadata:
            return await self._stub.CallActor(request, metadata=metadata)
        now_s = asyncio.get_running_loop().time()
        stream = self._stream
        if stream is not None and now_s - stream.opened_s > LIFE_S:
            stream.retire()
            self._retired = {stream, *(other for other in self._retired if not other.has_ended)}
        if stream is None or stream.is_retired or stream.has_ended:
            call_actors: Any = self._stub.CallActors  # its type demands an iterator of requests
            stream = self._stream = _Stream(call_actors(), now_s)
        return await stream.ask(request, size)

    async def close(self) -> None:
        """Close the stream. Calls without an answer are cancelled."""
        for stream in (*self._retired, *([] if self._stream is None else [self._stream])):
            await stream.close()


class _Stream:
    """One stream, until it breaks."""

    def __init__(self, rpc: Any, opened_s: float) -> None:
        self.opened_s = opened_s
        self.is_retired = False
        self._rpc = rpc
        self._tokens = itertools.count(1)
        self._asked: dict[int, asyncio.Future[pb.CallActorResponse]] = {}
        self._queue: deque[tuple[pb.StreamedCall, int]] = deque()
        self._abandoned: list[int] = []
        self._wake = asyncio.Event()
        self._is_closed = False
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())
        # Callbacks, because a task that is cancelled before its first step runs nothing of its own.
        self._writer.add_done_callback(self._writer_ended)
        self._reader.add_done_callback(self._reader_ended)

    @property
    def has_ended(self) -> bool:
        return self._reader.done() or self._writer.done()

    async def ask(self, request: pb.CallActorRequest, size: int) -> pb.CallActorResponse:
        """Make a call."""
        token = next(self._tokens)
        future: asyncio.Future[pb.CallActorResponse] = asyncio.get_running_loop().create_future()
        self._asked[token] = future
        self._queue.append((pb.StreamedCall(token=token, call=request), size))
        self._wake.set()
        try:
            return await future
        except asyncio.CancelledError:
            if self._asked.pop(token, None) is not None:
                self._abandoned.append(token)
                self._wake.set()
            raise

    def retire(self) -> None:
        """End once all calls are answered. There will be no new ones."""
        self.is_retired = True
        self._wake.set()

    async def _write(self) -> None:
        with suppress(grpc.RpcError, asyncio.InvalidStateError):  # the reader is told why
            while not self.is_retired or self._asked:
                await self._wake.wait()
                self._wake.clear()
                while self._queue or self._abandoned:
                    await self._rpc.write(self._next())
            await self._rpc.done_writing()

    def _next(self) -> pb.CallActorsRequest:
        abandoned, self._abandoned = self._abandoned[:ABANDONED_MAX], self._abandoned[ABANDONED_MAX:]
        message = pb.CallActorsRequest(abandoned=abandoned)
        size = 0
        while self._queue and size < MESSAGE_BYTES:
            call, bytes_ = self._queue.popleft()
            if call.token in self._asked:
                message.calls.append(call)
                size += bytes_
        return message

    async def _read(self) -> None:
        async for message in self._rpc:
            for answer in message.answers:
                self._answer(answer)

    def _answer(self, answer: pb.StreamedAnswer) -> None:
        future = self._asked.pop(answer.token, None)
        if self.is_retired:
            self._wake.set()
        if future is None or future.done():
            return
        if answer.HasField("error"):
            future.set_exception(errors.from_item(answer.error))
        else:
            future.set_result(answer.answer)

    def _writer_ended(self, writer: asyncio.Task[None]) -> None:
        if writer.cancelled() or writer.exception() is not None:
            self._rpc.cancel()  # so that the reader ends, too

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        """The stream is over. Calls without an answer fail, and are made again by the transport."""
        self._writer.cancel()
        self._rpc.cancel()
        error: BaseException | None = None if reader.cancelled() else reader.exception()
        if not isinstance(error, grpc.RpcError) or not _is_of_service(error):
            error = errors.ServiceUnavailableError("the stream of calls has broken")
        asked, self._asked = self._asked, {}
        for future in asked.values():
            if self._is_closed:
                future.cancel()
            elif not future.done():
                future.set_exception(error)

    async def close(self) -> None:
        self._is_closed = True
        self._rpc.cancel()
        await asyncio.wait([self._reader, self._writer])


def _is_of_service(error: Any) -> bool:
    """Whether a stream ended with a status of the service, and not of gRPC or a proxy."""
    return any(key == errors.DETAILS_KEY for key, _ in error.trailing_metadata() or ())
