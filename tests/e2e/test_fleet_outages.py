"""Two engines whose database or blob store goes away for longer than their leases: calls fail with an error, tasks go
on, nothing is lost, no engine is buried, and work resumes by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import cloudpickle  # type: ignore[import-untyped]
import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

import perdure
from faults.s3_proxy import proxied
from fleet import Engine, engines, owners
from perdure import errors, graphwire
from perdure.model import Spec, SpecNode, WaitEvent
from perdure.v1 import payload_pb2, spec_pb2, workflow_service_pb2_grpc
from perdure.v1 import workflow_service_pb2 as pb
from postgres import PostgresServer
from s3 import S3Server
from traces import HARNESS_S, Traces, chain, leave

cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.timeout(600)

EXECUTOR = ("--executor", "local", "--local-threads", "8")
FLAGS = (*EXECUTOR, "--engine-lease-s", "2")
SHORT_S, LONG_S = 6.0, 30.0
CALL_S = 25.0
"""A database that does not answer at all is given up after a while; no call takes longer than that."""


@pytest.fixture
async def database(own_postgres: PostgresServer) -> AsyncIterator[str]:
    async with own_postgres.database() as url:
        yield url


@perdure.task(max_retries=3, retry_policy=perdure.RetryPolicy(initial_interval=0.1))
def tick(path: str, name: str, until: str) -> int:
    """Goes on until a file is there; gives how often it ticked."""
    leave(path, f"{name}.begin")
    count = 0
    while not Path(until).exists():
        leave(path, f"{name}.tick")
        count += 1
        time.sleep(0.1)
    return count


class Outage:
    """Work that is under way before, and what must be true after."""

    def __init__(self, folder: Path, database: str, fleet: tuple[Engine, ...], clients: tuple[perdure.Client, ...]):
        self.folder = folder
        self.database = database
        self.fleet = fleet
        self.clients = clients
        self.traces = Traces(folder / "traces")
        self.done = folder / "done"

    async def begin(self) -> None:
        self.pids = [engine.pid for engine in self.fleet]
        self.members = await owners(self.database)
        self.handles: dict[str, perdure.Handle] = {}
        for index, client in enumerate(self.clients):
            ticking = tick.bind(str(self.traces.path), f"t{index}", str(self.done))
            # The disk of a busy machine may stall while they start, which is not the outage that is tested.
            async with perdure.Client(self.fleet[index].address, patience=HARNESS_S) as patient:
                for name, graph in (
                    (f"t{index}", ticking),
                    (f"c{index}", chain(self.traces.path, f"c{index}", 40)),
                    (f"e{index}", perdure.event("go")),
                ):
                    await patient.start(graph, workflow_id=name)
                    self.handles[name] = client.handle(name)
        await self.traces.until(20)

    async def ticks(self, count: int, names: Sequence[str] = ("t0", "t1")) -> None:
        """Tasks that run, go on."""
        before = self.traces.read()
        await self.traces.until(len(before) + count)
        assert {trace.name for trace in self.traces.read()[len(before) :]} >= {f"{name}.tick" for name in names}

    async def send(self, client: perdure.Client, workflow_id: str) -> None:
        """The store is there again, which an engine sees when it tries the next time."""
        while True:
            try:
                await client.send_event(workflow_id, "go", "payload", event_id="one")
                return
            except (errors.ServiceUnavailableError, errors.StorageFullError):
                await asyncio.sleep(0.2)

    async def end(self) -> None:
        """The fault is over."""
        async with asyncio.timeout(HARNESS_S):
            for index, client in enumerate(self.clients):
                await self.send(client, f"e{1 - index}")
            self.done.touch()
            outputs = {name: await handle.output() for name, handle in self.handles.items()}
        traces = self.traces.read()
        made = Counter(trace.name for trace in traces)
        for index in range(2):
            assert outputs[f"e{index}"] == "payload"
            assert made[f"t{index}.begin"] == 1
            assert outputs[f"t{index}"] == made[f"t{index}.tick"]
            assert [name for name, _ in outputs[f"c{index}"]] == [f"c{index}.{number}" for number in range(40)]
        assert {made[f"c{index}.{number}"] for index in range(2) for number in range(40)} == {1}
        assert [engine.pid for engine in self.fleet] == self.pids
        members = await owners(self.database)
        assert members == self.members, "nobody was buried, and nobody began anew"
        assert not any("starting anew" in engine.log for engine in self.fleet)


@pytest.fixture
async def outage(database: str, tmp_path: Path) -> AsyncIterator[Outage]:
    with engines(tmp_path, database, (tmp_path / "blobs").as_uri(), ("a", "b"), *FLAGS) as fleet:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(perdure.Client(engine.address, patience=0)) for engine in fleet]
            outage = Outage(tmp_path, database, fleet, tuple(clients))
            await outage.begin()
            yield outage


async def refusal(address: str, call: str, request: Any) -> tuple[grpc.StatusCode, Status]:
    """The error that a client without retries gets."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = workflow_service_pb2_grpc.WorkflowServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, call)(request, timeout=CALL_S)
    trailers = caught.value.trailing_metadata() or ()
    (details,) = [value for name, value in trailers if name == "grpc-status-details-bin"]
    return caught.value.code(), Status.FromString(details)


def requests_about_what_is_stored() -> dict[str, Any]:
    """One for each call that has one answer: about what is not in memory."""
    source = spec_pb2.WorkflowSource(spec=graphwire.spec_to_proto(Spec((SpecNode("w", WaitEvent("go")),), "w")))
    requests: dict[str, Any] = {
        "Run": pb.RunRequest(workflow_id="refused", source=source),
        "BatchRun": pb.BatchRunRequest(sources=[source], items=[pb.RunItem(workflow_id="refused")]),
        "Resume": pb.ResumeRequest(workflow_id="unknown"),
        "Cancel": pb.CancelRequest(workflow_id="unknown"),
        "GetOutput": pb.GetOutputRequest(workflow_id="unknown"),
        "BatchGetOutput": pb.BatchGetOutputRequest(items=[pb.OutputItem(workflow_id="unknown")]),
        "SendEvent": pb.SendEventRequest(workflow_id="e0", event_key="go", event_id="x"),
        "BatchSendEvents": pb.BatchSendEventsRequest(
            items=[pb.EventItem(workflow_id="unknown", event_key="go", event_id="x")]
        ),
        "GetStatus": pb.GetStatusRequest(workflow_id="unknown"),
        "GetMetadata": pb.GetMetadataRequest(workflow_id="unknown"),
        "ListWorkflows": pb.ListWorkflowsRequest(),
        "ListTasks": pb.ListTasksRequest(workflow_id="unknown"),
        "DeleteWorkflow": pb.DeleteWorkflowRequest(workflow_id="unknown"),
    }
    methods = pb.DESCRIPTOR.services_by_name["WorkflowService"].methods
    assert requests.keys() == {method.name for method in methods if not method.server_streaming}
    return requests


def about_a_blob() -> pb.RunRequest:
    blob = payload_pb2.BlobRef(sha256="0" * 64, size_bytes=100)
    return pb.RunRequest(workflow_id="refused", source=spec_pb2.WorkflowSource(spec_blob=blob))


async def check_refusals(fleet: tuple[Engine, ...], requests: dict[str, Any]) -> None:
    """Every call, at each engine at once."""
    asked = [(engine, call, request) for engine in fleet for call, request in requests.items()]
    answers = await asyncio.gather(*(refusal(engine.address, call, request) for engine, call, request in asked))
    for (_, call, _), (code, details) in zip(asked, answers, strict=True):
        assert code is grpc.StatusCode.UNAVAILABLE, (call, details)
        retry = RetryInfo()
        assert any(detail.Unpack(retry) for detail in details.details), call
        assert retry.retry_delay.ToMilliseconds() > 0


async def check_runs_refused(clients: tuple[perdure.Client, ...], kind: type[errors.PerdureError]) -> None:
    for client in clients:
        with pytest.raises(kind):
            await client.start(perdure.event("go"), workflow_id="refused")


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    server.stop(signal.SIGQUIT)
    try:
        yield
    finally:
        server.start()


@asynccontextmanager
async def hanging_commits(server: PostgresServer) -> AsyncIterator[None]:
    """Every commit holds its locks and gets no answer until this is over, as with a disk that stalls or a synchronous
    standby that is gone. Then all of them happen, also those that nobody waits for any more."""
    await server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await server.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        await server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await server.execute("SELECT pg_reload_conf()")


async def go_through(server: PostgresServer, outage: Outage, how: str, lasts_s: float) -> None:
    began_s = time.monotonic()
    with server.paused() if how == "paused" else stopped(server):
        await check_refusals(outage.fleet, requests_about_what_is_stored())
        await check_runs_refused(outage.clients, errors.ServiceUnavailableError)
        await outage.ticks(20)
        await asyncio.sleep(max(lasts_s - (time.monotonic() - began_s), 0))
        await outage.ticks(4)
    await outage.end()


async def test_the_database_is_down_for_longer_than_the_leases(own_postgres: PostgresServer, outage: Outage) -> None:
    await go_through(own_postgres, outage, "stopped", SHORT_S)


async def test_commits_do_not_come_back_for_longer_than_the_leases(
    own_postgres: PostgresServer, outage: Outage
) -> None:
    async with hanging_commits(own_postgres):
        await check_runs_refused(outage.clients, errors.ServiceUnavailableError)
        await outage.ticks(20)
    await outage.end()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_the_database_is_away_for_half_a_minute(own_postgres: PostgresServer, outage: Outage, how: str) -> None:
    await go_through(own_postgres, outage, how, LONG_S)


async def test_an_engine_that_begins_anew_waits_for_the_database(own_postgres: PostgresServer, outage: Outage) -> None:
    zombie, heir = outage.fleet
    pid, since = zombie.pid, zombie.said()
    zombie.pause()
    try:
        await asyncio.to_thread(heir.wait_for, "engine declared dead")
    finally:
        zombie.go_on()
    await asyncio.to_thread(zombie.wait_for, "starting anew", since=since)
    with stopped(own_postgres):
        await outage.ticks(4, ("t1",))
    await asyncio.to_thread(zombie.wait_for, " serves on ", since=since)
    outage.done.touch()
    async with asyncio.timeout(HARNESS_S):
        for index, client in enumerate(outage.clients):
            await outage.send(client, f"e{index}")
        outputs = {name: await handle.output() for name, handle in outage.handles.items()}
        assert len(await outage.clients[0].run(chain(outage.traces.path, "new", 3))) == 3
    assert [len(outputs[f"c{index}"]) for index in range(2)] == [40, 40]
    assert zombie.pid == pid
    assert zombie.code() is None


async def test_the_disk_of_the_database_is_full(outage: Outage) -> None:
    admin = await asyncpg.connect(outage.database)
    try:
        await admin.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$"
        )
        for table in ("runs", "tasks", "events"):
            await admin.execute(
                f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION full_disk()"
            )
        await check_runs_refused(outage.clients, errors.StorageFullError)
        for client in outage.clients:
            with pytest.raises(errors.StorageFullError):
                await client.send_event("e0", "go", "lost", event_id="refused")
            assert len([run async for run in client.list()]) == len(outage.handles)
        await outage.ticks(20)
        await asyncio.sleep(3)
        await admin.execute("DROP FUNCTION full_disk() CASCADE")
    finally:
        await admin.close()
    await outage.end()


# ------------------------------------------------------------------------------ S3


@perdure.task(max_retries=20, retry_policy=perdure.RetryPolicy(initial_interval=0.2))
def large(path: str, name: str, before: Any = b"") -> bytes:
    leave(path, name)
    time.sleep(0.05)
    return bytes(reversed(before)) if before else os.urandom(300_000)


@pytest.mark.parametrize("kind", ["503 SlowDown", "500 InternalError", "drop", "hang", "slow"])
async def test_s3_fails_for_a_while(database: str, s3_server: S3Server, tmp_path: Path, kind: str) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxied(s3_server.url))
        blobs = s3_server.blobs_url().replace(s3_server.url, proxy.url)
        fleet = stack.enter_context(engines(tmp_path, database, blobs, ("a", "b"), *EXECUTOR, "--engine-lease-s", "20"))
        clients = [await stack.enter_async_context(perdure.Client(engine.address)) for engine in fleet]
        members = await owners(database)
        traces = Traces(tmp_path / "traces")
        handles = []
        for index in range(4):
            value: Any = large.bind(str(traces.path), f"{index}.0")
            for number in range(1, 10):
                value = large.bind(str(traces.path), f"{index}.{number}", value)
            handles.append(await clients[index % 2].start(value, workflow_id=f"w{index}"))
        await traces.until(8)
        fault = proxy.fail(kind)
        async with asyncio.timeout(HARNESS_S):
            while fault.hits < (2 if kind == "hang" else 10):
                await asyncio.sleep(0.05)
            if kind not in ("hang", "slow"):
                await check_refusals(fleet, {"Run": about_a_blob()})
            # what needs no blobs goes on
            assert len(await clients[0].run(chain(traces.path, "small", 3))) == 3
            await asyncio.sleep(2)
            proxy.heal()
            outputs = [await handle.output() for handle in handles]
        assert [len(output) for output in outputs] == [300_000] * 4
        assert await owners(database) == members
        for index, handle in enumerate(handles):
            first = await handle.status()
            assert first.status is perdure.RunStatus.SUCCESSFUL
            made = {trace.name for trace in traces.read() if trace.name.startswith(f"{index}.")}
            assert made == {f"{index}.{number}" for number in range(10)}
