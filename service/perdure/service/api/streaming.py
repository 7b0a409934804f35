"""Many calls of one method over a stream. Each is a call by itself: admitted, made, answered or refused as if it came
alone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from perdure import errors
from perdure.service.api import pages, requests
from perdure.service.api.caller import Anybody, Caller
from perdure.service.api.errors import item_error
from perdure.service.api.gate import Gate
from perdure.service.common.pauses import Pauses

CALLS_MAX: Final = 10_000
"""Calls of one stream without an answer. No more are read until some are answered."""


@dataclass(frozen=True)
class Method:
    """A method whose calls streams make: `call` makes one. `message` is the class of the messages with answers, and
    `answer` that of an answer. The fields of both have the same names for all methods."""

    name: str
    call: Callable[[Any, Caller], Awaitable[Any]]
    message: Callable[[], Any]
    answer: Callable[..., Any]


class Streams:
    """Serves streams of calls."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._open: set[_Stream] = set()

    def drain(self) -> None:
        """Let streams end once their calls are answered."""
        for stream in self._open:
            stream.end()

    async def serve(self, method: Method, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Answer the calls of a stream. It ends once its calls are answered, and the client has ended its side or the
        engine drains."""
        stream = _Stream(method, self._gate)
        self._open.add(stream)
        reader = asyncio.create_task(stream.read(messages))
        reader.add_done_callback(lambda reader: reader.cancelled() or reader.exception())  # the client may be gone
        try:
            async with aclosing(stream.answers()) as answers:
                async for answer in answers:
                    yield answer
            if reader.done():
                reader.result()  # raises the error of a malformed message
        finally:
            self._open.discard(stream)
            reader.cancel()
            stream.close()


class _Stream:
    """One stream. A call is counted by the gate until its answer is sent."""

    def __init__(self, method: Method, gate: Gate) -> None:
        self._method = method
        self._gate = gate
        self._calls: dict[int, asyncio.Task[None]] = {}  # by token
        self._answers: deque[Any] = deque()
        self._stirred = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_ending = False

    def end(self) -> None:
        """End once all calls are answered."""
        self._is_ending = True
        self._stirred.set()

    async def read(self, messages: AsyncIterator[Any]) -> None:
        """Start the calls of all messages."""
        try:
            async for message in messages:
                pauses = Pauses()
                if len(message.abandoned) > CALLS_MAX:
                    raise requests.invalid("abandoned", f"has at most {CALLS_MAX} tokens")
                for token in message.abandoned:
                    if (task := self._calls.get(token)) is not None:
                        task.cancel()
                for call in message.calls:
                    await self._start(call)
                    await pauses.pause()
        except errors.PerdureError:  # the client has to know at once, and make the calls without an answer again
            self.close()
            raise
        finally:
            self.end()

    async def _start(self, call: Any) -> None:
        while len(self._calls) + len(self._answers) >= CALLS_MAX:
            self._has_room.clear()
            await self._has_room.wait()
        token = call.token
        if token in self._calls:
            raise requests.invalid("token", "is that of a call without an answer")
        self._gate.came()
        task = self._calls[token] = asyncio.create_task(self._make(call))
        task.add_done_callback(lambda task: self._end(token, is_abandoned=task.cancelled()))

    async def _make(self, call: Any) -> None:
        answer = self._method.answer(token=call.token)
        task = asyncio.current_task()
        assert task is not None
        try:
            self._gate.check()
            answer.answer.MergeFrom(await self._method.call(call.call, Anybody()))
        except asyncio.CancelledError:
            if not task.cancelling():  # what it waited for was cancelled, and not the call
                given_up = errors.DrainingError("the call was given up; ask again")
                answer.error.MergeFrom(item_error(given_up, self._method.name))
        except Exception as error:
            answer.error.MergeFrom(item_error(error, self._method.name, limit=errors.STATUS_TEXT_BYTES_MAX))
        if task.cancelling():
            raise asyncio.CancelledError
        self._answers.append(answer)

    def _end(self, token: int, *, is_abandoned: bool) -> None:
        del self._calls[token]
        if is_abandoned:
            self._left(1)
        self._stirred.set()

    async def answers(self) -> AsyncGenerator[Any, None]:
        """The answers, as many in a message as there are."""
        while True:
            while self._answers:
                page, message = pages.Page(), self._method.message()
                while self._answers and page.fits(self._answers[0]):
                    message.answers.append(self._answers.popleft())
                try:
                    yield message
                finally:
                    self._left(page.count)
            if self._is_ending and not self._calls:
                return
            await self._stirred.wait()
            self._stirred.clear()

    def _left(self, count: int) -> None:
        for _ in range(count):
            self._gate.left()
        self._has_room.set()

    def close(self) -> None:
        """The stream is over: nobody waits for its calls any more."""
        for task in self._calls.values():
            task.cancel()
        self._left(len(self._answers))
        self._answers.clear()
