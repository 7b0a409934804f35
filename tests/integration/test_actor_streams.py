"""Calls of actors over one stream: each is answered by itself, and what one does costs no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import perdure
from integration.engine_settings import settings_on
from integration.opened_streams import Opened, are_waiting
from integration.wire_calls import refused
from patience import PATIENCE_S
from perdure import callstream, errors
from perdure.service.api import streaming
from perdure.service.app import RunningServer, running_server
from perdure.v1 import actor_service_pb2 as pb
from perdure.v1 import actor_service_pb2_grpc, errors_pb2

LONG = {"seconds": 30}


@perdure.actor
class Counter(perdure.Actor):
    def __init__(self) -> None:
        self.value = 0

    @perdure.method
    def incr(self) -> int:
        self.value += 1
        return self.value

    @perdure.method
    def length(self, data: bytes) -> int:
        return len(data)

    @perdure.method
    def block(self) -> bytes:
        return bytes(60_000)

    @perdure.method
    async def until_exists(self, path: str) -> str:
        while not Path(path).exists():
            await asyncio.sleep(0.01)
        return path


def call(token: int, actor_id: str, method: str = "incr", **fields: Any) -> pb.StreamedCall:
    request = pb.CallActorRequest(actor_id=actor_id, method=method, request_id=f"r{token}", wait=LONG)
    return pb.StreamedCall(token=token, call=request, **fields)


def open_on(channel: grpc.aio.Channel) -> Opened:
    """A stream of the test's own."""
    return Opened(actor_service_pb2_grpc.ActorServiceStub(channel).CallActors(None), pb.CallActorsRequest)


@pytest.fixture
async def opened(channel: grpc.aio.Channel) -> AsyncIterator[Opened]:
    opened = open_on(channel)
    yield opened
    opened.rpc.cancel()


async def made(client: perdure.Client, *actor_ids: str) -> None:
    for actor_id in actor_ids:
        await client.actors.get_or_create(Counter.definition, actor_id, (), waits=True)


async def test_each_call_is_answered_by_itself(
    server: RunningServer, client: perdure.Client, opened: Opened, tmp_path: Path
) -> None:
    await made(client, "a", "slow")
    file = tmp_path / "file"
    slow = asyncio.create_task(client.actor(Counter, "slow").until_exists(str(file)))
    await are_waiting(server, 1)
    await opened.send(call(1, "a"), call(2, "slow"), call(3, "nobody"), call(4, "a"))

    answers = await opened.answers(3)

    assert answers.keys() == {1, 3, 4}
    assert answers[1].answer.revision < answers[4].answer.revision
    assert answers[3].error.reason == errors_pb2.ERROR_REASON_ACTOR_NOT_FOUND
    file.touch()
    assert (await opened.answers(1)).keys() == {2}
    assert await slow == str(file)
    assert await client.actor(Counter, "a").incr() == 3


async def test_a_call_that_is_made_again_is_the_same_call(client: perdure.Client, opened: Opened) -> None:
    await made(client, "a")
    await opened.send(call(1, "a"))
    first = (await opened.answers(1))[1]
    await opened.send(call(1, "a"))

    assert (await opened.answers(1))[1].answer.outcome == first.answer.outcome
    assert await client.actor(Counter, "a").incr() == 2


async def test_messages_of_large_answers_are_bounded(client: perdure.Client, opened: Opened) -> None:
    await made(client, "a")
    calls = [call(token, "a", "block") for token in range(100)]
    await opened.send(*calls)
    await opened.answers(100)

    await opened.send(*calls)  # all of them can be answered at once

    answers = await opened.answers(100)  # the channel reads messages of up to 4 MiB

    assert sum(answer.ByteSize() for answer in answers.values()) > 5 * 1024 * 1024


async def test_an_ended_stream_answers_all_its_calls_first(client: perdure.Client, opened: Opened) -> None:
    await made(client, "a")
    await opened.send(*(call(token, "a") for token in range(20)))
    await opened.rpc.done_writing()

    assert len(await opened.answers(20)) == 20
    assert await opened.rpc.read() is grpc.aio.EOF


async def test_an_abandoned_call_goes_on_without_its_caller(
    server: RunningServer, client: perdure.Client, opened: Opened, tmp_path: Path
) -> None:
    await made(client, "a", "b")
    file = tmp_path / "file"
    slow = asyncio.create_task(client.actor(Counter, "a").until_exists(str(file)))
    await are_waiting(server, 1)
    await opened.send(call(1, "a"))
    await are_waiting(server, 2)

    await opened.send(call(2, "b"), abandoned=(1, 77))

    assert (await opened.answers(1)).keys() == {2}
    await are_waiting(server, 1)
    file.touch()
    assert await slow == str(file)
    assert await client.actors.output("a", "r1") == 1


async def test_who_is_cancelled_abandons_the_call(
    server: RunningServer, client: perdure.Client, tmp_path: Path
) -> None:
    await made(client, "a")
    call = asyncio.create_task(client.actor(Counter, "a").until_exists(str(tmp_path / "file")))
    await are_waiting(server, 1)

    call.cancel()

    await are_waiting(server, 0)
    assert (await asyncio.gather(call, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    (tmp_path / "file").touch()
    assert await client.actor(Counter, "a").incr() == 1


async def test_a_token_names_one_call(
    client: perdure.Client, channel: grpc.aio.Channel, opened: Opened, tmp_path: Path
) -> None:
    await made(client, "a")
    slow = asyncio.create_task(client.actor(Counter, "a").until_exists(str(tmp_path / "file")))
    await opened.send(call(1, "a"), call(1, "a"))

    await refused(opened.rpc.read(), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")  # while both calls wait
    (tmp_path / "file").touch()
    await slow
    again = open_on(channel)
    await again.send(call(1, "a"))
    await again.answers(1)
    assert await client.actor(Counter, "a").incr() == 2


async def test_no_more_calls_are_read_than_may_wait(
    server: RunningServer,
    client: perdure.Client,
    opened: Opened,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "CALLS_MAX", 2)
    await made(client, "a")
    file = tmp_path / "file"
    slow = asyncio.create_task(client.actor(Counter, "a").until_exists(str(file)))
    await are_waiting(server, 1)
    await opened.send(*(call(token, "a") for token in range(6)))
    await are_waiting(server, 3)
    file.touch()

    assert len(await opened.answers(6)) == 6
    await slow


async def test_a_malformed_message_ends_the_stream(server: RunningServer, client: perdure.Client) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        raw = channel.stream_stream("/perdure.v1.ActorService/CallActors")()
        await raw.write(b"\xff\xff\xff")
        await refused(raw.read(), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    await made(client, "a")
    assert await client.actor(Counter, "a").incr() == 1


async def test_a_drain_answers_the_calls_of_streams_and_ends_them(
    server: RunningServer, client: perdure.Client, channel: grpc.aio.Channel, opened: Opened, tmp_path: Path
) -> None:
    await made(client, "a")
    idle = open_on(channel)
    await idle.send(call(1, "nobody"))
    await idle.answers(1)
    file = tmp_path / "file"
    slow = asyncio.create_task(client.actor(Counter, "a").until_exists(str(file)))
    await are_waiting(server, 1)
    await opened.send(call(1, "a"))
    await are_waiting(server, 2)

    await server.drain()

    answers = await opened.answers(1)
    assert answers[1].HasField("answer")
    assert not answers[1].answer.done
    for stream in (opened, idle):
        assert await stream.rpc.read() is grpc.aio.EOF
    late = open_on(channel)
    await refused(late.rpc.read(), grpc.StatusCode.UNAVAILABLE, "DRAINING")
    slow.cancel()
    file.touch()


async def test_a_drain_tells_no_call_that_it_is_unknown(server: RunningServer, client: perdure.Client) -> None:
    await made(client, "a")
    row = await server.kernel.actors.row("default", "a")
    await server.drain()
    assert (await server.kernel.actors.result(row, "never", 30)).value is None


@pytest.mark.storages("sqlite")
async def test_a_client_opens_its_stream_again_at_the_next_engine(storage: str) -> None:
    async with running_server(settings_on(storage)) as server:
        address = server.address
        client = perdure.Client(address, patience=PATIENCE_S)
        await made(client, "a")
        assert await client.actor(Counter, "a").incr() == 1
    call = asyncio.create_task(client.actor(Counter, "a").incr())
    async with running_server(settings_on(storage, listen=address)):
        assert await call == 2
        await client.close()


async def test_many_abandoned_calls_are_refused(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "CALLS_MAX", 2)
    await opened.send(abandoned=(1, 2, 3))
    await refused(opened.rpc.read(), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


@pytest.mark.storages("sqlite")
@pytest.mark.parametrize("end", ["reader", "writer"])
async def test_a_call_outlives_its_stream(
    server: RunningServer, client: perdure.Client, tmp_path: Path, end: str
) -> None:
    """Whoever ends the tasks of a stream, such as the end of the code that opened it."""
    await made(client, "a")
    file = tmp_path / "file"
    call = asyncio.create_task(client.actor(Counter, "a").until_exists(str(file)))
    await are_waiting(server, 1)
    stream: Any = client.actors._transport.call_actor._stream

    getattr(stream, f"_{end}").cancel()

    file.touch()
    assert await call == str(file)


@pytest.mark.storages("sqlite")
async def test_a_stream_gets_no_new_calls_after_its_time(
    server: RunningServer, client: perdure.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callstream, "LIFE_S", 0.0)
    await made(client, "a", "b")
    file = tmp_path / "file"
    slow = asyncio.create_task(client.actor(Counter, "a").until_exists(str(file)))
    await are_waiting(server, 1)
    calls: Any = client.actors._transport.call_actor
    first = calls._stream
    async with asyncio.timeout(PATIENCE_S):
        while not first.is_retired:
            await asyncio.sleep(0)

    assert await client.actor(Counter, "b").incr() == 1

    assert calls._stream is not first
    assert not first.has_ended
    file.touch()
    assert await slow == str(file)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait([first._reader, first._writer])
    assert first._reader.exception() is None
    monkeypatch.undo()
    assert await asyncio.gather(*(client.actor(Counter, "b").incr() for _ in range(3))) == [2, 3, 4]


async def test_repeated_calls_go_by_themselves(client: perdure.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all repeats would go to the engine that could not answer the first try."""
    await made(client, "a")
    assert await client.actor(Counter, "a").incr() == 1
    failed = asyncio.Event()

    async def fail(_stream: object, _request: object, _size: int) -> None:
        failed.set()
        raise errors.DatabaseUnavailableError("the store does not answer")

    monkeypatch.setattr(callstream._Stream, "ask", fail)
    assert await client.actor(Counter, "a").incr() == 2
    assert failed.is_set()


async def test_large_calls_go_by_themselves(client: perdure.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await made(client, "a")
    monkeypatch.setattr(callstream, "CALL_BYTES_MAX", 1_000)
    monkeypatch.setattr(callstream._Stream, "ask", None)
    assert await client.actor(Counter, "a").length(bytes(2_000)) == 2_000


async def test_calls_end_with_their_client(server: RunningServer, client: perdure.Client, tmp_path: Path) -> None:
    await made(client, "a")
    other = perdure.Client(server.address)
    call = asyncio.create_task(other.actor(Counter, "a").until_exists(str(tmp_path / "file")))
    await are_waiting(server, 1)

    await other.close()

    assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], asyncio.CancelledError)
    await are_waiting(server, 0)
    (tmp_path / "file").touch()


async def test_a_refused_call_raises_its_own_error(client: perdure.Client) -> None:
    with pytest.raises(errors.ActorNotFoundError) as missing:
        await client.actors.call("nobody", "incr")
    assert missing.value.fields["actor_id"] == "nobody"
