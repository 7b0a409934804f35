"""The stream of calls of one client, over a connection that the test holds up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from perdure.callstream import CallStream, Method
from perdure.connection import REPEAT_KEY, Metadata
from perdure.v1 import actor_service_pb2 as pb


class HeldRpc:
    """Messages are sent once `go` is set."""

    def __init__(self) -> None:
        self.sent: list[pb.CallActorsRequest] = []
        self.go = asyncio.Event()
        self.answers: asyncio.Queue[pb.CallActorsResponse | None] = asyncio.Queue()
        self.writing = asyncio.Event()

    async def write(self, message: pb.CallActorsRequest) -> None:
        self.writing.set()
        await self.go.wait()
        self.sent.append(message)

    async def done_writing(self) -> None:
        pass

    def cancel(self) -> None:
        self.answers.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[pb.CallActorsResponse]:
        while (message := await self.answers.get()) is not None:
            yield message

    def answer(self, *tokens: int) -> None:
        answers = [pb.StreamedAnswer(token=token, answer=pb.CallActorResponse(revision=token)) for token in tokens]
        self.answers.put_nowait(pb.CallActorsResponse(answers=answers))


ALONE = -1
Calls = CallStream[pb.CallActorRequest, pb.CallActorResponse]


async def alone(request: pb.CallActorRequest, metadata: Metadata) -> pb.CallActorResponse:
    """The method without a stream."""
    assert dict(metadata)[REPEAT_KEY] == "1"
    return pb.CallActorResponse(revision=ALONE)


@pytest.fixture
def rpc() -> HeldRpc:
    return HeldRpc()


@pytest.fixture
async def calls(rpc: HeldRpc) -> AsyncIterator[Calls]:
    calls = Calls(Method(alone, lambda _none: rpc, pb.CallActorsRequest, pb.StreamedCall))
    yield calls
    await calls.close()


def request(actor_id: str) -> pb.CallActorRequest:
    return pb.CallActorRequest(actor_id=actor_id)


async def test_calls_that_wait_for_a_message_go_together(rpc: HeldRpc, calls: Calls) -> None:
    asked = [asyncio.ensure_future(calls(request(name))) for name in "abc"]
    await rpc.writing.wait()
    later = [asyncio.ensure_future(calls(request(name))) for name in "de"]
    await asyncio.sleep(0)
    rpc.go.set()
    rpc.answer(5, 1, 2, 3, 4)

    assert [answer.revision for answer in await asyncio.gather(*asked, *later)] == [1, 2, 3, 4, 5]
    assert [[call.call.actor_id for call in message.calls] for message in rpc.sent] == [["a", "b", "c"], ["d", "e"]]


async def test_a_call_that_is_cancelled_before_it_is_sent_is_never_made(rpc: HeldRpc, calls: Calls) -> None:
    first = asyncio.ensure_future(calls(request("a")))
    await rpc.writing.wait()
    second, third = (asyncio.ensure_future(calls(request(name))) for name in "bc")
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    rpc.go.set()
    rpc.answer(1, 3)

    assert [(await answer).revision for answer in (first, third)] == [1, 3]
    assert [call.call.actor_id for message in rpc.sent for call in message.calls] == ["a", "c"]
    assert second.cancelled()


async def test_calls_are_made_alone_when_the_tasks_of_a_stream_are_cancelled_at_once(
    rpc: HeldRpc, calls: Calls
) -> None:
    call = asyncio.ensure_future(calls(request("a")))
    await asyncio.sleep(0)
    stream: Any = calls._stream
    for task in (stream._reader, stream._writer):
        task.cancel()
    assert (await call).revision == ALONE


async def test_calls_of_a_message_that_cannot_be_made_are_made_alone(rpc: HeldRpc, calls: Calls) -> None:
    call = asyncio.ensure_future(calls(request("a")))
    await asyncio.sleep(0)
    stream: Any = calls._stream

    def fail() -> None:
        raise MemoryError

    stream._next = fail
    assert (await call).revision == ALONE
    assert stream.has_ended
    with suppress(MemoryError):
        await stream._writer
