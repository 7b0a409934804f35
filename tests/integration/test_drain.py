"""How an engine ends and the next one begins: callers are answered, what was reported is durable, and
unfinished runs go on by themselves, or when somebody says so.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import perdure
from integration.wire_calls import (
    SYSTEM_INFO,
    Stubs,
    call_node,
    event_node,
    graph,
    json_value,
    refused,
    run_request,
    sum_of,
)
from patience import PATIENCE_S
from perdure import RunStatus, errors
from perdure.service.app import RunningServer, running_server
from perdure.service.common.clocks import wall_clock_ms
from perdure.service.common.settings import Settings
from perdure.v1 import workflow_service_pb2 as pb
from services import Service, running

HOUR_MS = 3_600_000
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Gate:
    """Lets tasks of this process wait for the test, and the test for them."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.released = threading.Event()

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=PATIENCE_S)


GATE = Gate()


@pytest.fixture
def gate() -> Gate:
    global GATE
    GATE = Gate()
    return GATE


@perdure.task
def add(left: int, right: int) -> int:
    return left + right


@perdure.task
def hold(value: int) -> int:
    GATE.begun.release()
    while not GATE.released.wait(0.01):  # in steps, for a thread that waits cannot be interrupted
        pass
    return value


@perdure.task(retry_exceptions=False)
def fail() -> int:
    raise ValueError("as it should")


def settings(folder: Path, **fields: Any) -> Settings:
    return Settings(
        listen="127.0.0.1:0",
        allow_modules="operator",
        storage=str(folder / "storage"),
        executor="local",
        drain_s=5.0,
        **fields,
    )


async def are_waiting(server: RunningServer, stubs: Stubs, count: int) -> None:
    """Return once this many calls wait for a change."""
    while server.kernel.changes.count_waits() < count:
        await stubs.system.GetSystemInfo(SYSTEM_INFO)


async def test_drain_answers_waiting_calls(server: RunningServer, stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(graph(event_node("wait", "k"))))
    watch = stubs.workflows.Watch(pb.WatchRequest(workflow_ids=["w"], until_final=True))
    first = await watch.read()
    polls: list[Awaitable[Any]] = [
        asyncio.ensure_future(stubs.workflows.GetOutput(pb.GetOutputRequest(workflow_id="w", wait={"seconds": 30}))),
        asyncio.ensure_future(stubs.workflows.GetStatus(pb.GetStatusRequest(workflow_id="w", wait={"seconds": 30}))),
    ]
    await are_waiting(server, stubs, 2)
    await server.drain()
    output, status = await asyncio.gather(*polls)
    assert not output.done
    assert status.workflow.status == output.status
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    error = errors.from_rpc_error(caught.value)
    assert isinstance(error, errors.DrainingError)
    assert first.resume_token  # with it the next engine goes on


async def test_drain_refuses_new_calls(server: RunningServer, stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(graph(event_node("wait", "k"))))
    await server.drain()
    ask = stubs.workflows
    event = pb.SendEventRequest(workflow_id="w", event_key="k", event_id="1")
    for call in (
        ask.Run(run_request(graph(event_node("wait", "k")), "other")),
        ask.GetStatus(pb.GetStatusRequest(workflow_id="w")),
        ask.SendEvent(event),
        ask.Watch(pb.WatchRequest(workflow_ids=["w"])).read(),
    ):
        await refused(call, grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert (await stubs.system.GetSystemInfo(SYSTEM_INFO)).server_version


async def test_the_next_engine_goes_on_by_itself(tmp_path: Path, gate: Gate) -> None:
    async with running_server(settings(tmp_path)) as server, perdure.Client(server.address) as client:
        await (await client.start(add.bind(1, 1), workflow_id="done")).output()
        failed = await client.start(fail.bind(), workflow_id="failed")
        with pytest.raises(perdure.WorkflowExecutionError):
            await failed.output()
        inner = add.options(task_id="inner").bind(1, 1)
        event = await client.start(add.bind(inner, perdure.event("k")), workflow_id="event")
        assert await event.output("inner") == 2
        await client.start(add.bind(add.options(task_id="before").bind(1, 1), hold.bind(40)), workflow_id="busy")
        await gate.has_begun()
        assert await client.handle("busy").output("before") == 2
    async with running_server(settings(tmp_path)) as server, perdure.Client(server.address) as client:
        await gate.has_begun()  # nobody asked for it
        assert await client.handle("done").output() == 2
        assert (await client.handle("failed").status()).status is RunStatus.FAILED
        before = await client.handle("busy").metadata("before")
        assert before.stats.attempts == 1
        gate.released.set()
        assert await client.handle("busy").output() == 42
        assert await client.send_event("event", "k", 40)
        assert await client.handle("event").output() == 42
        assert not gate.begun.acquire(blocking=False)  # it ran once in each life


async def test_what_was_reported_before_the_end_is_durable(tmp_path: Path) -> None:
    """Reports that arrive together with the order to stop are flushed."""
    async with running_server(settings(tmp_path)) as server, perdure.Client(server.address) as client:
        one = add.options(task_id="one")
        handles = [await client.start(one.bind(index, 1), workflow_id=f"w{index}") for index in range(50)]
        await handles[-1].output()
        told = {info.workflow_id async for info in client.list("status = SUCCESSFUL")}
    async with running_server(settings(tmp_path)) as server, perdure.Client(server.address) as client:
        for index in range(50):
            assert await client.handle(f"w{index}").output() == index + 1
        attempts = [(await client.handle(name).metadata("one")).stats.attempts for name in told]
        assert set(attempts) == {1}


# ------------------------------------------------------------------------------ recovery by hand


async def prepare(folder: Path, gate: Gate) -> None:
    """Runs in every state, and the end of their engine."""
    async with running_server(settings(folder)) as server, perdure.Client(server.address) as client:
        await (await client.start(add.bind(1, 1), workflow_id="done")).output()
        await client.start(add.bind(perdure.event("k"), 40), workflow_id="event")
        await client.start(perdure.sleep(3600), workflow_id="asleep")
        await client.start(add.bind(hold.bind(40), 2), workflow_id="busy")
        await gate.has_begun()


def in_an_hour() -> int:
    return wall_clock_ms() + HOUR_MS


async def test_recovery_by_hand(tmp_path: Path, gate: Gate) -> None:
    await prepare(tmp_path, gate)
    by_hand = settings(tmp_path, recovery="manual")
    async with (
        running_server(by_hand, clock=in_an_hour) as server,
        perdure.Client(server.address) as client,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stubs = Stubs.on(channel)
        aside = {info.workflow_id: info.status async for info in client.list("status = RESUMABLE")}
        assert aside == dict.fromkeys(("event", "asleep", "busy"), RunStatus.RESUMABLE)
        for name in aside:
            assert (await client.handle(name).status()).status is RunStatus.RESUMABLE
            assert (await client.handle(name).metadata()).status == "RESUMABLE"
            assert not (await stubs.workflows.GetOutput(pb.GetOutputRequest(workflow_id=name))).done
        assert await client.handle("done").output() == 2
        assert await client.send_event("event", "k", 2)  # kept for later
        assert (await client.handle("event").status()).status is RunStatus.RESUMABLE

        for name, value in (("event", 42), ("asleep", None)):
            assert await client.resume(name)
            assert await client.handle(name).output() == value
            assert (await client.handle(name).status()).resumes == 1
        assert await client.resume("busy")
        await gate.has_begun()
        assert not await client.resume("busy")
        gate.released.set()
        assert await client.handle("busy").output() == 42


async def test_what_was_set_aside_can_be_given_up(tmp_path: Path, gate: Gate) -> None:
    await prepare(tmp_path, gate)
    async with (
        running_server(settings(tmp_path, recovery="manual")) as server,
        perdure.Client(server.address) as client,
    ):
        assert await client.cancel("event", "enough") is RunStatus.CANCELED
        with pytest.raises(perdure.WorkflowCancellationError, match="enough"):
            await client.handle("event").output()
        await client.delete("busy")
        with pytest.raises(errors.WorkflowNotFoundError):
            await client.handle("busy").status()
    async with running_server(settings(tmp_path)) as server, perdure.Client(server.address) as client:
        states = {info.workflow_id: info.status async for info in client.list()}
        assert states == {
            "done": RunStatus.SUCCESSFUL,
            "event": RunStatus.CANCELED,
            "asleep": RunStatus.RESUMABLE,  # set aside stays set aside
        }


# ------------------------------------------------------------------------------ a process


async def in_thread(work: Callable[[], Any]) -> Any:
    """While the loop goes on serving the client."""
    return await asyncio.to_thread(work)


async def test_sigterm(tmp_path: Path) -> None:
    service = Service(tmp_path, "--executor", "local", "--allow-modules", "operator")
    with running(service):
        await in_thread(service.up)
        async with (
            perdure.Client(service.address) as client,
            grpc.aio.insecure_channel(service.address) as channel,
        ):
            stubs = Stubs.on(channel)
            node = call_node("sum", "operator:add", {"node": "wait"}, 40)
            await stubs.workflows.Run(run_request(graph(event_node("wait", "k"), node)))
            poll = asyncio.ensure_future(
                stubs.workflows.GetOutput(pb.GetOutputRequest(workflow_id="w", wait={"seconds": 30}))
            )
            output = asyncio.ensure_future(client.handle("w").output())
            watched = asyncio.ensure_future(last_of(client.handle("w").watch()))
            await stubs.workflows.GetStatus(pb.GetStatusRequest(workflow_id="w"))  # behind the poll on its connection
            assert await in_thread(service.stop) == 0
            assert not (await poll).done
            await in_thread(service.up)
            event = pb.SendEventRequest(workflow_id="w", event_key="k", event_id="1", payload=json_value(2))
            await stubs.workflows.SendEvent(event, wait_for_ready=True)
            assert await output == 42  # the client has not noticed
            assert (await watched).run.status is RunStatus.SUCCESSFUL


async def last_of(updates: Any) -> Any:
    return [update async for update in updates if update.run is not None][-1]


CHANNELS = 4
BURST = 25


@pytest.mark.parametrize("trial", range(4))
async def test_calls_around_sigterm_are_never_cancelled(tmp_path: Path, trial: int) -> None:
    """Calls that the engine has not read when it is told to end, and those that come while it does."""
    service = Service(tmp_path, "--executor", "local", "--allow-modules", "operator")
    with running(service):
        await in_thread(service.up)
        async with AsyncExitStack() as stack:
            own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            channels = [grpc.aio.insecure_channel(service.address, options=own) for _ in range(CHANNELS)]
            every = [Stubs.on(await stack.enter_async_context(channel)) for channel in channels]
            await every[0].workflows.Run(run_request(graph(event_node("wait", "k"))))
            firsts = [stubs.workflows.Watch(pb.WatchRequest(workflow_ids=["w"])) for stubs in every]
            for watch in firsts:
                await watch.read()
            calls = [asyncio.ensure_future(watch.read()) for watch in firsts]
            service.pause()

            def call(number: int) -> Awaitable[Any]:
                ask = every[number % CHANNELS].workflows
                match number % 3:
                    case 0:
                        return ask.Run(run_request(sum_of(1, 2), f"w{number}"))
                    case 1:
                        return ask.GetOutput(pb.GetOutputRequest(workflow_id="w", wait={"seconds": 30}))
                    case _:
                        return ask.Watch(pb.WatchRequest()).read()

            calls += [asyncio.ensure_future(call(number)) for number in range(CHANNELS * BURST)]
            stopped = asyncio.create_task(in_thread(service.stop))  # and lets it go on
            while not stopped.done():
                calls += [asyncio.ensure_future(call(len(calls) + number)) for number in range(CHANNELS)]
                await asyncio.wait({stopped}, timeout=0.02)
            assert await stopped == 0
            results = await asyncio.gather(*calls, return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    assert {result.code() for result in failed if isinstance(result, grpc.aio.AioRpcError)} == {UNAVAILABLE}
    assert all(isinstance(result, grpc.aio.AioRpcError) for result in failed)
    for watch in firsts:
        assert await watch.code() is UNAVAILABLE
