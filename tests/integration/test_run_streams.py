"""Runs over one stream: each call is answered by itself, and what one does costs no other."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import perdure
from integration.engine_settings import settings_on
from integration.opened_streams import Opened, are_waiting
from integration.wire_calls import run_request, sum_of
from patience import PATIENCE_S
from perdure import callstream, errors
from perdure.service.app import RunningServer, running_server
from perdure.v1 import errors_pb2, workflow_service_pb2_grpc
from perdure.v1 import workflow_service_pb2 as pb

LONG = {"seconds": 30}


@perdure.task
def double(number: int) -> int:
    return 2 * number


@perdure.task
def length(data: bytes) -> int:
    return len(data)


@perdure.task
async def until_exists(path: str) -> str:
    while not Path(path).exists():
        await asyncio.sleep(0.01)
    return path


def call(token: int, workflow_id: str, **fields: Any) -> pb.StreamedRun:
    return pb.StreamedRun(token=token, call=run_request(sum_of(1, 2), workflow_id, wait=LONG, **fields))


def open_on(channel: grpc.aio.Channel) -> Opened:
    """A stream of the test's own."""
    return Opened(workflow_service_pb2_grpc.WorkflowServiceStub(channel).StreamRuns(None), pb.StreamRunsRequest)


@pytest.fixture
async def opened(channel: grpc.aio.Channel) -> AsyncIterator[Opened]:
    opened = open_on(channel)
    yield opened
    opened.rpc.cancel()


async def runs_of(server: RunningServer) -> list[perdure.RunInfo]:
    async with perdure.Client(server.address) as client:
        return [found async for found in client.list()]


def streams_of(client: perdure.Client) -> Any:
    return client._transport.run


async def test_each_call_is_answered_by_itself(opened: Opened) -> None:
    await opened.send(call(1, "a"), call(2, "a", request_id="other"), call(3, ""), call(4, "b"))

    answers = await opened.answers(4)

    assert {token for token, answer in answers.items() if answer.answer.outcome.output.data == b"3"} == {1, 4}
    assert answers[2].error.reason == errors_pb2.ERROR_REASON_WORKFLOW_ALREADY_EXISTS
    assert answers[3].error.reason == errors_pb2.ERROR_REASON_INVALID_FIELD


async def test_a_call_that_is_made_again_is_the_same_call(opened: Opened) -> None:
    await opened.send(call(1, "a", request_id="r"))
    first = (await opened.answers(1))[1].answer
    await opened.send(call(1, "a", request_id="r"))
    again = (await opened.answers(1))[1].answer

    assert (first.started, again.started) == (True, False)
    assert first.workflow.run_id == again.workflow.run_id
    assert first.outcome == again.outcome


async def test_an_abandoned_run_goes_on_without_its_caller(
    server: RunningServer, client: perdure.Client, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    run = asyncio.create_task(client.run(until_exists.bind(str(file)), workflow_id="w"))
    await are_waiting(server, 1)

    run.cancel()

    await are_waiting(server, 0)
    file.touch()
    assert await client.handle("w").output() == str(file)


async def test_a_drain_answers_runs_that_go_on_and_ends_the_stream(
    server: RunningServer, client: perdure.Client, opened: Opened, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    slow = await client.start(until_exists.bind(str(file)), workflow_id="w")
    await opened.send(call(1, "w", id_conflict_policy=pb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING))
    await are_waiting(server, 1)

    await server.drain()

    answer = (await opened.answers(1))[1].answer
    assert answer.workflow.run_id == slow.run_id
    assert not answer.HasField("outcome")
    assert await opened.rpc.read() is grpc.aio.EOF
    file.touch()


@pytest.mark.storages("sqlite")
async def test_a_run_goes_on_when_its_engine_is_another_one(storage: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    async with running_server(settings_on(storage)) as server:
        address = server.address
        client = perdure.Client(address, patience=PATIENCE_S)
        run = asyncio.create_task(client.run(until_exists.bind(str(file)), workflow_id="w"))
        await are_waiting(server, 1)
    file.touch()
    async with running_server(settings_on(storage, listen=address)):
        assert await run == str(file)
        assert await client.run(double.bind(4)) == 8
        await client.close()


async def test_a_stream_takes_some_calls_and_ends_with_the_last_answer(
    server: RunningServer, client: perdure.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So calls spread over engines, and any number of runs may wait: no call waits for the answers to others."""
    monkeypatch.setattr(callstream, "CALLS_MAX", 2)
    file = tmp_path / "file"
    runs = [asyncio.create_task(client.run(until_exists.bind(str(file)))) for _ in range(5)]
    await are_waiting(server, 5)
    streams = streams_of(client)

    assert len(streams._open) == 3
    assert await client.run(double.bind(4)) == 8
    file.touch()
    assert await asyncio.gather(*runs) == [str(file)] * 5
    async with asyncio.timeout(PATIENCE_S):
        while streams._open:
            await asyncio.sleep(0.01)


@pytest.mark.storages("memory")
async def test_runs_of_one_client_spread_over_engines(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the service resolves to both, and each stream goes to another one."""
    monkeypatch.setattr(callstream, "CALLS_MAX", 10)
    async with running_server(settings_on(storage)) as one, running_server(settings_on(storage)) as other:
        client = perdure.Client(f"ipv4:{one.address},{other.address}", patience=PATIENCE_S)

        async def shares_of(count: int) -> list[int]:
            before = [len(await runs_of(engine)) for engine in (one, other)]
            await asyncio.gather(*(client.start(double.bind(number)) for number in range(count)))
            return [len(await runs_of(engine)) - had for engine, had in zip((one, other), before, strict=True)]

        async with asyncio.timeout(PATIENCE_S):
            while not min(await shares_of(50)):  # the connection to one of them may take longer
                pass
        shares = await shares_of(100)
        assert sum(shares) == 100
        assert min(shares) >= 30, shares
        await client.close()


@pytest.mark.storages("memory")
async def test_a_client_that_is_forgotten_leaves_nothing(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callstream, "LIFE_S", 0.0)
    before = asyncio.all_tasks()
    forgotten = perdure.Client(server.address)
    assert await forgotten.run(double.bind(4)) == 8
    del forgotten
    async with asyncio.timeout(PATIENCE_S):
        while gc.collect() or [task for task in asyncio.all_tasks() - before if "_Stream" in repr(task)]:
            await asyncio.sleep(0.01)


@pytest.mark.storages("memory")
async def test_a_call_that_breaks_the_stream_costs_no_other(
    server: RunningServer, client: perdure.Client, tmp_path: Path
) -> None:
    """Metadata may be nested as deep as a message of its own can be, and messages of a stream are two levels deeper."""
    file = tmp_path / "file"
    run = asyncio.create_task(client.run(until_exists.bind(str(file))))
    await are_waiting(server, 1)
    deep: Any = "leaf"
    for _ in range(32):
        deep = {"in": deep}

    handle = asyncio.create_task(client.start(double.bind(4), metadata=deep))
    others = [asyncio.create_task(client.run(double.bind(number))) for number in range(3)]

    assert await asyncio.gather(*others) == [0, 2, 4]
    assert await (await handle).output() == 8
    file.touch()
    assert await run == str(file)


@pytest.mark.storages("sqlite")
async def test_a_run_outlives_its_stream(server: RunningServer, client: perdure.Client, tmp_path: Path) -> None:
    file = tmp_path / "file"
    run = asyncio.create_task(client.run(until_exists.bind(str(file))))
    await are_waiting(server, 1)

    streams_of(client)._stream._rpc.cancel()

    file.touch()
    assert await run == str(file)
    assert len([found async for found in client.list()]) == 1


@pytest.mark.storages("memory")
async def test_an_engine_without_streams_gets_single_calls(server: RunningServer, storage: str) -> None:
    """As those of an older version. Nothing is tried again for that, so a client without patience notices nothing."""
    client = perdure.Client(server.address, patience=0)
    async with grpc.aio.insecure_channel(server.address) as channel:
        unknown = channel.stream_stream(
            "/perdure.v1.WorkflowService/StreamOthers", pb.StreamRunsRequest.SerializeToString
        )
        opened = []

        def open_unknown(_none: None) -> Any:
            opened.append(unknown())
            return opened[-1]

        streams = streams_of(client)
        object.__setattr__(streams._method, "stream", open_unknown)

        assert [await client.run(double.bind(number)) for number in range(3)] == [0, 2, 4]
        assert len(opened) == 1
        streams._unary_until_s = 0.0
        assert await client.run(double.bind(3)) == 6
        assert len(opened) == 2  # it is looked again later
    await client.close()


async def test_large_graphs_go_by_themselves(client: perdure.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callstream, "CALL_BYTES_MAX", 1_000)
    monkeypatch.setattr(callstream._Stream, "ask", None)
    assert await client.run(length.bind(bytes(2_000))) == 2_000


async def test_waits_end_with_their_client(server: RunningServer, client: perdure.Client, tmp_path: Path) -> None:
    other = perdure.Client(server.address)
    run = asyncio.create_task(other.run(until_exists.bind(str(tmp_path / "file")), workflow_id="w"))
    await are_waiting(server, 1)

    await other.close()

    assert isinstance((await asyncio.gather(run, return_exceptions=True))[0], asyncio.CancelledError)
    await are_waiting(server, 0)
    (tmp_path / "file").touch()
    assert await client.handle("w").output() == str(tmp_path / "file")


async def test_a_refused_run_raises_its_own_error(client: perdure.Client) -> None:
    await client.run(double.bind(4), workflow_id="w")
    with pytest.raises(errors.WorkflowAlreadyExistsError) as refused:
        await client.run(double.bind(5), workflow_id="w")
    assert refused.value.fields["workflow_id"] == "w"
