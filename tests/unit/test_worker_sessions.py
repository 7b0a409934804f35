"""Streams of agents and leases against an engine that says what the test wants, without Ray."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import ray
from ray import exceptions

import perdure
from patience import PATIENCE_S
from perdure import wire
from perdure.context import Waiting
from perdure.conversion import to_spec
from perdure.engine.messages import Source
from perdure.model import Call, Payload, Resources, Shape
from perdure.service.executors.pool.attempts import parts_of
from perdure.service.executors.port import Attempt
from perdure.storage.ports import CorruptData, StorageUnavailable
from perdure.v1 import worker_service_pb2 as pb
from perdure.v1 import worker_service_pb2_grpc
from perdure.worker import agent as agent_module
from perdure.worker.agent import Agent, AgentSettings, RayDied
from perdure.worker.cluster import Cluster, ClusterState
from perdure.worker.lease import run_lease

WAIT_S = PATIENCE_S
Serve = Callable[[AsyncIterator[Any]], AsyncIterator[Any]]


class WithoutRay(Cluster):
    """What a test says that it is."""

    state_is = ClusterState({"CPU": 1.0}, ({"CPU": 1.0},))
    death_is = ""
    answers: threading.Event | None = None

    def disconnect(self) -> None:
        """There is none."""

    def id(self) -> str:
        return "cluster"

    def state(self) -> ClusterState:
        if self.answers is not None:
            self.answers.wait()
        return self.state_is

    def death(self) -> str:
        return self.death_is


@asynccontextmanager
async def engine(
    *, agents: Serve | None = None, leases: Serve | None = None, values: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[str]:
    """Serves streams by these functions; gives its address. `values` is awaited when values are asked for."""

    class Servicer(worker_service_pb2_grpc.WorkerServiceServicer):
        async def ServeAgent(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            assert agents is not None
            async for message in agents(request_iterator):
                yield message

        async def ServeLease(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            assert leases is not None
            async for message in leases(request_iterator):
                yield message

        async def FetchValues(self, request: Any, context: Any) -> Any:
            assert values is not None
            await values()
            value = wire.payload_to_proto(Payload("json/plain", b"1"))
            return pb.FetchValuesResponse(values=[value] * len(request.keys))

    server = grpc.aio.server()
    worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_an_agent_introduces_itself_in_each_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the session before takes its words away, whether it had something to say or not."""
    monkeypatch.setattr(agent_module, "RETRY_FIRST_S", 0.01)
    hellos: list[str] = []
    enough = asyncio.Event()

    async def serve(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        first = await anext(stream)
        assert first.WhichOneof("kind") == "hello"
        hellos.append(first.hello.agent_id)
        yield pb.ServeAgentResponse(welcome=pb.AgentWelcome(engine_id="e", blob_url=(tmp_path / "blobs").as_uri()))
        if len(hellos) == 5:
            enough.set()
        # and the engine ends

    async with engine(agents=serve) as address:
        stop = asyncio.Event()
        running = asyncio.create_task(Agent(AgentSettings(address), WithoutRay("local")).run(stop))
        async with asyncio.timeout(WAIT_S):
            await enough.wait()
        stop.set()
        await running
    assert len(set(hellos)) == 1


async def test_an_agent_says_why_it_leaves_when_its_ray_is_dead(tmp_path: Path) -> None:
    heard: list[str] = []
    cluster = WithoutRay("local")

    async def serve(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield pb.ServeAgentResponse(welcome=pb.AgentWelcome(engine_id="e", blob_url=(tmp_path / "blobs").as_uri()))
        async for message in stream:
            heard.append(message.WhichOneof("kind"))
            if heard == ["hello"]:
                cluster.death_is = "its raylet (process 7) ended with code -9"
            if message.leaving.reason:
                assert "process 7" in message.leaving.reason
                return

    async with engine(agents=serve) as address, asyncio.timeout(WAIT_S):
        with pytest.raises(RayDied, match="process 7"):
            await Agent(AgentSettings(address), cluster).run(asyncio.Event())
    assert heard == ["hello", "leaving"]


async def test_an_agent_that_cannot_join_its_ray_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []

    async def serve(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        heard.extend([message async for message in stream])
        if not heard:
            yield None

    def refuse(_cluster: object) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(Cluster, "connect", refuse)
    monkeypatch.setattr(agent_module, "_start_anew", lambda: None)
    monkeypatch.setattr(agent_module, "_leave_process", lambda _code: None)
    async with engine(agents=serve) as address, asyncio.timeout(WAIT_S):
        await asyncio.to_thread(agent_module.run_agent, AgentSettings(address, "there:1"))
    (message,) = heard
    text = "the Ray at there:1 cannot be joined: ConnectionError: nobody there"
    assert message.leaving.reason == text


async def test_an_agent_says_at_once_that_nothing_answers_at_the_address_of_its_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray, which would try for a minute, is not asked."""
    heard: list[Any] = []

    async def serve(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        heard.extend([message async for message in stream])
        if not heard:
            yield None

    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(agent_module, "_start_anew", lambda: None)
    monkeypatch.setattr(agent_module, "_leave_process", lambda _code: None)
    async with engine(agents=serve) as address, asyncio.timeout(WAIT_S):
        await asyncio.to_thread(agent_module.run_agent, AgentSettings(address, nobody))
    (message,) = heard
    assert message.leaving.reason.startswith(f"the Ray at {nobody} cannot be joined: ConnectionError: nothing answers")


@pytest.mark.parametrize("address", ["auto", "local", "ray://127.0.0.1:1"])
def test_only_a_host_and_port_are_tried_before_ray(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError):
        Cluster(address).connect()


async def test_an_agent_whose_gcs_is_silent_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(agent_module, "CAPACITY_S", 0.01)
    monkeypatch.setattr(agent_module, "GCS_AWAY_S", 0.1)
    cluster = WithoutRay("local")
    answered = threading.Event()

    async def serve(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        await anext(stream)
        cluster.answers = answered
        yield pb.ServeAgentResponse(welcome=pb.AgentWelcome(engine_id="e", blob_url=(tmp_path / "blobs").as_uri()))
        async for _ in stream:
            return

    try:
        async with engine(agents=serve) as address, asyncio.timeout(WAIT_S):
            with pytest.raises(RayDied, match="does not answer"):
                await Agent(AgentSettings(address), cluster).run(asyncio.Event())
    finally:
        answered.set()


async def test_an_agent_ends_when_its_node_is_declared_dead() -> None:
    cluster = WithoutRay("local")
    cluster.state_is = ClusterState({}, (), has_us=False)
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(RayDied, match="declared dead"):
            await Agent(AgentSettings("127.0.0.1:1"), cluster).run(asyncio.Event())


@pytest.mark.parametrize(
    ("error", "refused", "dead"),
    [
        (exceptions.RuntimeEnvSetupError("no such package"), True, False),
        (exceptions.TaskUnschedulableError("its node is gone"), True, False),
        (exceptions.TaskPlacementGroupRemoved(), True, False),
        (ValueError("an option"), True, False),
        (exceptions.LocalRayletDiedError(), False, True),
        (exceptions.WorkerCrashedError(), False, False),
        (exceptions.RaySystemError("rpc"), False, False),
        (exceptions.OutOfMemoryError("node"), False, False),
        (StorageUnavailable("later"), False, False),
        (CorruptData("changed", "blob"), True, False),
        (ConnectionError("gone"), False, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_only_what_the_shape_asks_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, refused: bool, dead: bool
) -> None:
    told: list[pb.LeaseEnded] = []
    stop = asyncio.Event()

    def fail(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(Agent, "_submit", fail)

    async def serve(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield pb.ServeAgentResponse(welcome=pb.AgentWelcome(engine_id="e", blob_url=(tmp_path / "blobs").as_uri()))
        yield pb.ServeAgentResponse(start=pb.StartLease(lease_id="one"))
        async for message in stream:
            if message.WhichOneof("kind") == "ended":
                told.append(message.ended)
                stop.set()

    async with engine(agents=serve) as address, asyncio.timeout(WAIT_S):
        outcome = await asyncio.gather(
            Agent(AgentSettings(address), WithoutRay("local")).run(stop), return_exceptions=True
        )
    assert [(ended.lease_id, ended.refused) for ended in told] == [("one", refused)]
    assert isinstance(outcome[0], RayDied) is dead


async def test_a_lease_that_ends_before_it_is_killed_is_not_cancelled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ray would abort the agent if it cancelled a task whose worker has just died."""
    tasks: dict[str, Future[int]] = {"one": Future(), "two": Future()}
    stop = asyncio.Event()

    class Ref:
        def __init__(self, name: str) -> None:
            self.name = name

        def future(self) -> Future[int]:
            return tasks[self.name]

    def submit(agent: Agent, start: pb.StartLease, *args: Any) -> Ref:
        if start.lease_id == "two":  # so the request to kill the other one was read
            tasks["one"].set_exception(exceptions.WorkerCrashedError())
        return Ref(start.lease_id)

    def cancel(ref: Ref, *, force: bool) -> None:
        cancelled.append(ref.name)
        tasks[ref.name].set_exception(exceptions.WorkerCrashedError())

    cancelled: list[str] = []
    monkeypatch.setattr(Agent, "_submit", submit)
    monkeypatch.setattr(ray, "cancel", cancel)

    async def ended(stream: AsyncIterator[Any]) -> str:
        async for message in stream:
            if message.WhichOneof("kind") == "ended":
                return str(message.ended.lease_id)
        raise AssertionError("the agent has left")

    def start(lease_id: str) -> Any:
        return pb.ServeAgentResponse(start=pb.StartLease(lease_id=lease_id))

    def kill(lease_id: str) -> Any:
        return pb.ServeAgentResponse(kill=pb.KillLease(lease_id=lease_id))

    async def serve(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield pb.ServeAgentResponse(welcome=pb.AgentWelcome(engine_id="e", blob_url=(tmp_path / "blobs").as_uri()))
        monkeypatch.setattr(agent_module, "KILL_PAUSE_S", 3600)
        yield start("one")
        yield kill("one")
        yield start("two")
        assert await ended(stream) == "one"
        monkeypatch.setattr(agent_module, "KILL_PAUSE_S", 0)
        yield kill("one")
        yield kill("two")
        assert await ended(stream) == "two"
        stop.set()
        await anext(stream, None)

    async with engine(agents=serve) as address, asyncio.timeout(WAIT_S):
        await Agent(AgentSettings(address), WithoutRay("local")).run(stop)
    assert cancelled == ["two"]


async def test_a_lease_that_is_submitted_while_the_session_ends_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    is_submitting, may_submit, is_cancelled = threading.Event(), threading.Event(), threading.Event()
    stop = asyncio.Event()
    lease = object()

    def submit(*args: Any) -> object:
        is_submitting.set()
        may_submit.wait()
        return lease

    def cancel(ref: object, *, force: bool) -> None:
        assert ref is lease
        is_cancelled.set()

    monkeypatch.setattr(Agent, "_submit", submit)
    monkeypatch.setattr(ray, "cancel", cancel)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)

    async def serve(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield pb.ServeAgentResponse(welcome=pb.AgentWelcome(engine_id="e", blob_url=(tmp_path / "blobs").as_uri()))
        yield pb.ServeAgentResponse(start=pb.StartLease(lease_id="one"))
        await asyncio.to_thread(is_submitting.wait)
        stop.set()
        await anext(stream, None)

    async with engine(agents=serve) as address, asyncio.timeout(WAIT_S):
        await Agent(AgentSettings(address), WithoutRay("local")).run(stop)
        may_submit.set()
        await asyncio.to_thread(is_cancelled.wait)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_lease_begins_nothing_before_it_knows_that_its_engine_lives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_async: bool
) -> None:
    """It may have been stopped, and others have gone on."""
    monkeypatch.setenv("PERDURE_ADDRESS", "")
    said: list[str] = []

    def five() -> int:
        return 5

    async def five_later() -> int:
        return 5

    (node,) = to_spec(perdure.task(five_later if is_async else five).bind()).nodes
    assert isinstance(node.action, Call)
    function = node.action.function
    attempt = Attempt("default", "wf", "run", "task", 1, node.action, Shape(Resources()), ())

    async def serve(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        await anext(stream)
        response = pb.ServeLeaseResponse(attempts=parts_of(attempt, 7, lambda key: None))
        response.functions.append(pb.LeaseFunction(key=function.key, function=wire.function_to_proto(function)))
        yield response
        answers = iter([0.0, 0.0, 0.0, 20.0])
        async for message in stream:
            said.extend("started" for _ in message.started)
            if message.receipts:
                said.append(message.receipts[0].WhichOneof("result"))
                yield pb.ServeLeaseResponse(finish=True)
            if message.asks:
                answer = pb.ServeLeaseResponse()
                answer.holds_for.FromNanoseconds(int(next(answers) * 1e9))
                said.append(f"holds for {answer.holds_for.ToSeconds()}")
                yield answer

    async with engine(leases=serve) as address, asyncio.timeout(WAIT_S):
        blobs = (tmp_path / "blobs").as_uri()
        assert await asyncio.to_thread(run_lease, address, "e", "lease", blobs, (), "", "", True) == 1
    assert said[:4] == ["holds for 0"] * 3 + ["holds for 20"]
    assert sorted(said[4:]) == ["output", "started"]


def one(value: int) -> int:
    return value


def orders(*tokens: int) -> pb.ServeLeaseResponse:
    """Orders attempts, each with a value that must be fetched."""
    (node,) = to_spec(perdure.task(one).bind(1)).nodes
    assert isinstance(node.action, Call)
    function = node.action.function
    response = pb.ServeLeaseResponse()
    response.functions.append(pb.LeaseFunction(key=function.key, function=wire.function_to_proto(function)))
    for token in tokens:
        inputs = (Source(task_id="other"),)
        attempt = Attempt("default", "wf", "run", f"t{token}", 1, node.action, Shape(Resources()), inputs)
        response.attempts.extend(parts_of(attempt, token, lambda key: None))
    return response


@pytest.mark.parametrize("word", ["cancel", "recall"])
async def test_attempts_are_returned_although_values_are_fetched(tmp_path: Path, word: str) -> None:
    """The attempt whose values are fetched, one that waits behind it, and none that follows."""
    is_asked = asyncio.Event()
    ended: list[tuple[str, int]] = []
    calls = 0

    async def values() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            is_asked.set()
            await asyncio.Event().wait()

    async def serve(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        await anext(stream)
        yield orders(7, 8, 9)
        await is_asked.wait()
        yield pb.ServeLeaseResponse(**{word: [8]})
        async for message in stream:
            ended.extend(("returned", token) for token in message.returned)
            ended.extend((receipt.WhichOneof("result"), receipt.token) for receipt in message.receipts)
            if ended == [("returned", 8)]:
                yield pb.ServeLeaseResponse(**{word: [7]}, finish=True)

    async with engine(leases=serve, values=values) as address, asyncio.timeout(WAIT_S):
        blobs = (tmp_path / "blobs").as_uri()
        assert await asyncio.to_thread(run_lease, address, "e", "lease", blobs, (), "", "", False) == 1
    assert ended == [("returned", 8), ("returned", 7), ("output", 9)]
    assert calls == 2


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_lease_says_that_its_attempt_waits_and_goes_on(tmp_path: Path, is_async: bool) -> None:
    """Several waits at a time are told as one."""
    answered = str(tmp_path / "answered")
    said: list[str] = []

    def wait() -> None:
        with Waiting(), Waiting():
            until_s = time.monotonic() + WAIT_S
            while not Path(answered).exists() and time.monotonic() < until_s:
                time.sleep(0.01)

    async def wait_on_a_loop() -> None:
        await asyncio.gather(*(asyncio.to_thread(wait) for _ in range(3)))

    (node,) = to_spec(perdure.task(wait_on_a_loop if is_async else wait).bind()).nodes
    assert isinstance(node.action, Call)
    function = node.action.function
    attempt = Attempt("default", "wf", "run", "task", 1, node.action, Shape(Resources()), ())

    async def serve(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        await anext(stream)
        response = pb.ServeLeaseResponse(attempts=parts_of(attempt, 7, lambda key: None))
        response.functions.append(pb.LeaseFunction(key=function.key, function=wire.function_to_proto(function)))
        yield response
        async for message in stream:
            for told in message.waits:
                assert told.token == 7
                said.append("goes on" if told.is_over else "waits")
                Path(answered).touch()
            if message.receipts:
                said.append(message.receipts[0].WhichOneof("result"))
                yield pb.ServeLeaseResponse(finish=True)

    async with engine(leases=serve) as address, asyncio.timeout(WAIT_S):
        blobs = (tmp_path / "blobs").as_uri()
        assert await asyncio.to_thread(run_lease, address, "e", "lease", blobs, (), "", "", False) == 1
    assert said == ["waits", "goes on", "output"]
