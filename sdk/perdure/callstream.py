"""Calls of one method over streams to an engine, which costs client and engine less than a call each.

A stream is opened with the first call, and again after it broke. Calls gather while a message is being sent, and go
with the next one. After some calls or some time another stream takes its place, so that calls spread over the engines
there are. A call whose stream breaks is repeated as a unary call, and so are all its further tries, because the engine
of the stream may be down, or another call may have broken the stream.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import grpc
import grpc.aio

from perdure import errors
from perdure.connection import MESSAGE_BYTES, Metadata, repeated

CALL_BYTES_MAX: Final = 1024 * 1024
"""A larger call goes by itself, because a stream breaks at a message that is too large."""
CALLS_MAX: Final = 100
"""After so many calls a stream gets no new ones."""
LIFE_S: Final = 5.0
"""After this time a stream gets no new calls, and ends with the last answer."""
UNARY_S: Final = 60.0
"""For this time calls go by themselves to an engine without streams."""
ABANDONED_MAX: Final = 1_000
"""Abandoned calls that one message names."""


class _Broken(Exception):
    """The stream has ended without an answer to a call."""


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
        self._open: set[_Stream] = set()
        self._unary_until_s = 0.0

    async def __call__(self, request: Request, *, metadata: Metadata | None = None) -> Answer:
        """Raises grpc.RpcError, or an error of `perdure.errors` if the service refuses this call."""
        size = request.ByteSize()
        now_s = asyncio.get_running_loop().time()
        if size > CALL_BYTES_MAX or metadata or now_s < self._unary_until_s:
            return await self._method.unary(request, metadata=metadata)
        with suppress(_Broken):
            answer: Answer = await self._newest().ask(request, size)
            return answer
        age_s = asyncio.get_running_loop().time() - now_s
        return await self._method.unary(request, metadata=repeated(1, age_s))

    def _newest(self) -> _Stream:
        """The stream that takes the next call."""
        if (stream := self._stream) is None or stream.is_retired or stream.has_ended:
            stream = self._stream = _Stream(self._method)
            self._open.add(stream)
            stream.when_ended(self._ended)
        return stream

    def _ended(self, stream: _Stream) -> None:
        self._open.discard(stream)
        if stream.is_unimplemented:  # by an engine of an older version
            self._unary_until_s = asyncio.get_running_loop().time() + UNARY_S

    async def close(self) -> None:
        """Close the streams. Calls without an answer are cancelled."""
        for stream in tuple(self._open):
            await stream.close()


class _Stream:
    """One stream, until it breaks."""

    def __init__(self, method: Method[Any, Any]) -> None:
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
        self._timer = asyncio.get_running_loop().call_later(LIFE_S, self.retire)
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())
        # Callbacks, because a task that is cancelled before its first step runs nothing of its own.
        self._writer.add_done_callback(self._writer_ended)
        self._reader.add_done_callback(self._reader_ended)

    @property
    def has_ended(self) -> bool:
        return self._reader.done() or self._writer.done()

    def when_ended(self, tell: Callable[[_Stream], None]) -> None:
        self._reader.add_done_callback(lambda _reader: tell(self))

    async def ask(self, request: Any, size: int) -> Any:
        """Make a call. Raises _Broken if the stream ends before the answer."""
        token = next(self._tokens)
        if token == CALLS_MAX:
            self.retire()
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
        """The stream is over. Calls without an answer are made again."""
        self._timer.cancel()
        self._writer.cancel()
        self._rpc.cancel()
        error = None if reader.cancelled() else reader.exception()
        self.is_unimplemented = isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNIMPLEMENTED
        asked, self._asked = self._asked, {}
        for future in asked.values():
            if self._is_closed:
                future.cancel()
            elif not future.done():
                future.set_exception(_Broken)

    async def close(self) -> None:
        self._is_closed = True
        self._rpc.cancel()
        await asyncio.wait([self._reader, self._writer])
