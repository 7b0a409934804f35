"""Calls of one method over streams to an engine, which costs client and engine less than a call each.

A stream is opened with the first call, and again after it broke. Calls gather while a message is being sent, and go
with the next one. After some time, or when many of its calls are without an answer, another stream takes its place, so
that clients spread over the engines there are. A call that is repeated goes by itself, since the stream may be to an
engine that is of no use.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import grpc
import grpc.aio

from perdure import errors
from perdure.connection import MESSAGE_BYTES

CALL_BYTES_MAX: Final = 1024 * 1024
"""A larger call goes by itself, because a stream breaks at a message that is too large."""
ASKED_MAX: Final = 1_000
"""A stream with so many calls without an answer gets no new ones."""
ABANDONED_MAX: Final = 1_000
"""Abandoned calls that one message names."""
LIFE_S: Final = 60.0
"""After this time a stream gets no new calls."""


class Message(Protocol):
    def ByteSize(self) -> int: ...


Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Method(Generic[Request, Answer]):
    """A method whose calls streams make: `unary` makes one call, and `stream` opens a stream. `message` is the class of
    the messages with calls, and `call` that of a call. The fields of both have the same names for all methods."""

    unary: Callable[..., Awaitable[Answer]]
    stream: Callable[[None], Any]
    message: Callable[..., Any]
    call: Callable[..., Any]


class CallStream(Generic[Request, Answer]):
    """Makes the calls of a method as its stub does."""

    def __init__(self, method: Method[Request, Answer]) -> None:
        self._method = method
        self._stream: _Stream | None = None
        self._retired: set[_Stream] = set()
        self._unary_until_s = 0.0

    async def __call__(self, request: Request, *, metadata: Sequence[tuple[str, str]] | None = None) -> Answer:
        """Raises grpc.RpcError, or an error of `perdure.errors` if the service refuses this call."""
        size = request.ByteSize()
        if size > CALL_BYTES_MAX or metadata:
            return await self._method.unary(request, metadata=metadata)
        stream = self._open_stream()
        if stream is None:
            return await self._method.unary(request)
        answer: Answer = await stream.ask(request, size)
        return answer

    def _open_stream(self) -> _Stream | None:
        """The stream that takes the next call; None if the engine has no streams, as those of an older version."""
        now_s = asyncio.get_running_loop().time()
        stream = self._stream
        if stream is not None and stream.is_unimplemented:
            self._stream, self._unary_until_s = None, now_s + LIFE_S
        if now_s < self._unary_until_s:
            return None
        if stream is not None and (now_s - stream.opened_s > LIFE_S or stream.asked >= ASKED_MAX):
            stream.retire()
            self._retired = {stream, *(other for other in self._retired if not other.has_ended)}
        if stream is None or stream.is_retired or stream.has_ended:
            stream = self._stream = _Stream(self._method, now_s)
        return stream

    async def close(self) -> None:
        """Close the streams. Calls without an answer are cancelled."""
        for stream in (*self._retired, *([] if self._stream is None else [self._stream])):
            await stream.close()


class _Stream:
    """One stream, until it breaks."""

    def __init__(self, method: Method[Any, Any], opened_s: float) -> None:
        self.opened_s = opened_s
        self.is_retired = False
        self.is_unimplemented = False
        """The engine has no such method."""
        self._method = method
        self._rpc = method.stream(None)
        self._tokens = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._queue: deque[tuple[Any, int]] = deque()
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

    @property
    def asked(self) -> int:
        """Calls without an answer."""
        return len(self._asked)

    async def ask(self, request: Any, size: int) -> Any:
        """Make a call."""
        token = next(self._tokens)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[token] = future
        self._queue.append((self._method.call(token=token, call=request), size))
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

    def _next(self) -> Any:
        abandoned, self._abandoned = self._abandoned[:ABANDONED_MAX], self._abandoned[ABANDONED_MAX:]
        message = self._method.message(abandoned=abandoned)
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

    def _answer(self, answer: Any) -> None:
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
        if isinstance(error, grpc.RpcError):
            self.is_unimplemented = error.code() is grpc.StatusCode.UNIMPLEMENTED
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
