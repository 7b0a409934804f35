"""The base of the executor suite: values to refer to, reports to wait for, and a cluster of
processes for the lease pool, over real gRPC. The agent here starts leases as children instead of Ray tasks.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from patience import PATIENCE_S
from perdure import codec, functions
from perdure.arguments import encode_arguments
from perdure.engine.messages import AttemptStarted, Source
from perdure.model import Call, Function, NodeRef, Payload, Shape
from perdure.service.api.fetching import FetchCalls
from perdure.service.executors.local import LocalExecutor
from perdure.service.executors.pool.pool import LeasePool
from perdure.service.executors.port import Attempt, Executor, Report, Reports
from perdure.service.rpc.worker import WorkerServicer
from perdure.storage.blobs.filesystem import FilesystemBlobStore
from perdure.storage.ports import BlobStore, CorruptData
from perdure.storage.rows import ValueKey
from perdure.v1 import worker_service_pb2 as pb
from perdure.v1 import worker_service_pb2_grpc

WAIT_S = PATIENCE_S
AIO: Any = grpc.aio
END = AIO.EOF
RUN = "run"


class Values:
    """Implements ValueReader. Values in `near` are in memory, the others have to be read."""

    def __init__(self) -> None:
        self.near: dict[ValueKey, Payload] = {}
        self.far: dict[ValueKey, Payload] = {}

    def cached(self, key: ValueKey) -> Payload | None:
        return self.near.get(key)

    async def read(self, keys: Sequence[ValueKey]) -> list[Payload]:
        await asyncio.sleep(0)
        for key in keys:
            if key not in self.near and key not in self.far:
                raise CorruptData(f"there is no value of {key.task_id}", subject=key.run_id)
        return [self.near[key] if key in self.near else self.far[key] for key in keys]


class Bench:
    """An executor at work, and what it reported."""

    def __init__(self, executor: Executor, blobs: BlobStore, values: Values) -> None:
        self.executor = executor
        self.blobs = blobs
        self.values = values
        self.reports: list[Report] = []
        self.shape = Shape()
        self._changed = asyncio.Event()

    def report(self, reports: Reports) -> None:
        for run_id, report in reports:
            assert run_id == RUN
            self.reports.append(report)
        self._changed.set()

    def attempt(
        self,
        function: Callable[..., Any] | Function,
        *args: Any,
        task: str = "t",
        attempt: int = 1,
        shape: Shape | None = None,
        wraps: int = 0,
        is_limited: bool = False,
        turn: str = "",
    ) -> Attempt:
        """An argument that is a NodeRef stands for the value of that task."""
        arguments, refs = encode_arguments(args, {}, lambda arg: arg if isinstance(arg, NodeRef) else None)
        named = function if isinstance(function, Function) else functions.encode_function(function)
        inputs = tuple(
            Source(task_id=ref.node_id, path=ref.path, wraps=wraps) for ref in refs if isinstance(ref, NodeRef)
        )
        call = Call(named, arguments, refs)
        names = "default", "wf", RUN, task, attempt
        return Attempt(*names, call, shape or self.shape, inputs, is_limited=is_limited, turn=turn)

    def submit(self, function: Callable[..., Any] | Function, *args: Any, **given: Any) -> Attempt:
        attempt = self.attempt(function, *args, **given)
        self.executor.submit(attempt)
        return attempt

    def cancel(self, attempt: Attempt) -> None:
        self.executor.cancel(*attempt.key)

    async def run(self, function: Callable[..., Any] | Function, *args: Any, **given: Any) -> Report:
        """The report that ends an attempt."""
        return await self.end(self.submit(function, *args, **given))

    def of(self, attempt: Attempt) -> list[Report]:
        key = attempt.task_id, attempt.number
        return [report for report in self.reports if (report.task_id, report.attempt) == key]

    def ends(self, attempt: Attempt) -> list[Report]:
        return [report for report in self.of(attempt) if not isinstance(report, AttemptStarted)]

    async def end(self, attempt: Attempt) -> Report:
        await self.until(lambda: bool(self.ends(attempt)))
        (end,) = self.ends(attempt)
        return end

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until the reports are so."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def value(self, payload: Payload) -> Any:
        data = None if payload.blob is None else await self.blobs.get(payload.blob.sha256)
        return codec.decode(payload, data)


async def appears(path: Path, text: str = "") -> None:
    """Until a task has written it."""
    async with asyncio.timeout(WAIT_S):
        while not path.exists() or text not in path.read_text():
            await asyncio.sleep(0.01)


# ------------------------------------------------------------------------------ executors


@asynccontextmanager
async def local_bench(folder: Path) -> AsyncIterator[Bench]:
    blobs = FilesystemBlobStore(folder / "blobs")
    bench = Bench(LocalExecutor(blobs), blobs, Values())
    await bench.executor.start(bench.report, bench.values)
    try:
        yield bench
    finally:
        await bench.executor.stop()


@asynccontextmanager
async def pool_bench(folder: Path, listen: str = "127.0.0.1:0") -> AsyncIterator[tuple[Bench, LeasePool, str]]:
    """The pool behind a server; agents can dial the address."""
    url = (folder / "blobs").as_uri()
    pool = LeasePool(engine_id=os.urandom(4).hex(), blob_url=url, idle_s=30)
    bench = Bench(pool, FilesystemBlobStore(folder / "blobs"), Values())
    await pool.start(bench.report, bench.values)
    server = grpc.aio.server()
    worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(
        WorkerServicer(pool.sessions, FetchCalls(bench.values)), server
    )
    port = server.add_insecure_port(listen)
    await server.start()
    try:
        yield bench, pool, f"127.0.0.1:{port}"
    finally:
        await pool.stop()
        await server.stop(0)


@asynccontextmanager
async def lease_bench(folder: Path, **capacity: float) -> AsyncIterator[tuple[Bench, Agent]]:
    """The pool with leases in processes of their own."""
    async with AsyncExitStack() as stack:
        bench, pool, address = await stack.enter_async_context(pool_bench(folder))
        agent = Agent(address, pool, folder / "lease.log", capacity or {"CPU": 4.0})
        stack.push_async_callback(agent.stop)
        await agent.start()
        yield bench, agent


LEASE = "import sys; from perdure.worker.lease import run_lease; run_lease(*sys.argv[1:])"


class Agent:
    """Starts and kills leases on the engine's word, as children of this process."""

    def __init__(self, address: str, pool: LeasePool, log: Path, capacity: dict[str, float]) -> None:
        self._address = address
        self._pool = pool
        self._log = log
        self._capacity = capacity
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.started = 0
        self.killed = 0
        self.failures_left = 0  # this many processes end before they connect

    async def start(self) -> None:
        self._channel: Any = grpc.aio.insecure_channel(self._address)
        stub: Any = worker_service_pb2_grpc.WorkerServiceStub(self._channel)
        self._call: Any = stub.ServeAgent()
        total = pb.ClusterCapacity(total=self._capacity)
        hello = pb.AgentHello(agent_id=os.urandom(4).hex(), cluster_id="here", python_version=functions.PYTHON_VERSION)
        hello.capacity.CopyFrom(total)
        await self._call.write(pb.ServeAgentRequest(hello=hello))
        welcome = await self._call.read()
        assert welcome.welcome.engine_id == self._pool.engine_id
        self._begin(self._serve())

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    async def hang_up(self) -> None:
        """The agent dies; its leases are left to themselves."""
        self._call.cancel()
        await self._channel.close()

    async def stop(self) -> None:
        await self.hang_up()
        for process in list(self._processes.values()):
            with suppress(ProcessLookupError):
                process.kill()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self) -> None:
        with suppress(grpc.RpcError, asyncio.CancelledError):
            while (message := await self._call.read()) is not END:
                match message.WhichOneof("kind"):
                    case "start":
                        await self._start(message.start.lease_id)
                    case "kill":
                        self._kill(message.kill.lease_id)

    async def _start(self, lease_id: str) -> None:
        arguments = (self._address, self._pool.engine_id, lease_id, self._pool.blob_url)
        program = LEASE if self.failures_left == 0 else "import sys; sys.exit(1)"
        self.failures_left = max(self.failures_left - 1, 0)
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, *arguments, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL
            )
        self._processes[lease_id] = process
        self.started += 1
        self._begin(self._watch(lease_id, process))

    def _kill(self, lease_id: str) -> None:
        if (process := self._processes.get(lease_id)) is not None:
            self.killed += 1
            with suppress(ProcessLookupError):
                process.kill()

    async def _watch(self, lease_id: str, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        del self._processes[lease_id]
        reason = f"the process ended with {code}" if code else ""
        with suppress(grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            await self._call.write(pb.ServeAgentRequest(ended=pb.LeaseEnded(lease_id=lease_id, reason=reason)))
