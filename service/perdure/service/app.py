"""The composition root: here, and only here, the concrete parts meet.

`running_server` is what `perdure serve` runs and what tests run; the order in which it ends is the order
of its lines: callers first, then the work, then the journal, then the stores.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from perdure import connection
from perdure.parent import end_with_parent
from perdure.service.api.gate import Gate
from perdure.service.common.clocks import wall_clock_ms
from perdure.service.common.settings import Settings, SettingsError
from perdure.service.executors.pool.pool import LeasePool
from perdure.service.executors.port import Executor
from perdure.service.executors.processes import ProcessExecutor
from perdure.service.kernel import Kernel
from perdure.service.rpc.blob import BlobServicer
from perdure.service.rpc.hangup import hang_up
from perdure.service.rpc.health import HealthServicer
from perdure.service.rpc.interceptor import ErrorInterceptor
from perdure.service.rpc.system import SystemServicer
from perdure.service.rpc.worker import WorkerServicer
from perdure.service.rpc.workflow import WorkflowServicer
from perdure.storage.ports import BlobStore, Fenced, MetadataStore, StorageUnavailable
from perdure.storage.rows import EngineRow
from perdure.storage.urls import blob_store, metadata_store, shown
from perdure.v1 import (
    blob_service_pb2,
    blob_service_pb2_grpc,
    system_service_pb2,
    system_service_pb2_grpc,
    worker_service_pb2_grpc,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)

log = logging.getLogger(__name__)

AGAIN_S: Final = 1.0
AGAIN_MAX_S: Final = 30.0
GARBAGE: Final = (20_000, 10, 10)
"""Most objects are not in cycles. To look for those as often as Python does by itself takes a tenth of the CPU."""
SERVICES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (workflow_service_pb2, "WorkflowService"),
        (blob_service_pb2, "BlobService"),
        (system_service_pb2, "SystemService"),
    )
)
REFLECTION_V1: Final = "grpc.reflection.v1.ServerReflection"
OPTIONS: Final = (
    *connection.LIMITS,
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_concurrent_streams", 10_000),
)


@dataclass(frozen=True)
class RunningServer:
    """A server that takes calls. `address` is host:port, `http_address` is too, or "" without HTTP.

    `drain` turns health to NOT_SERVING, refuses new calls and answers those that wait. Work goes on.
    """

    address: str
    kernel: Kernel
    executor: Executor
    drain: Callable[[], Awaitable[None]]
    http_address: str = ""


def package_version() -> str:
    try:
        return version("perdure")
    except PackageNotFoundError:
        return "0"


@asynccontextmanager
async def running_server(
    settings: Settings,
    *,
    store: MetadataStore | None = None,
    blobs: BlobStore | None = None,
    clock: Callable[[], int] = wall_clock_ms,
    listening: Callable[[str], Awaitable[None]] | None = None,
) -> AsyncIterator[RunningServer]:
    """Serve until the context is left. `store` and `blobs` stand in for those of the settings. `listening` is told
    the address once it and the store are certainly ours, before recovery: agents may dial in from there on."""
    engine_id = secrets.token_hex(8)
    gate = Gate()
    async with AsyncExitStack() as stack:
        store = store or metadata_store(settings.storage)
        stack.push_async_callback(store.close)
        await store.open()
        has_own_blobs = blobs is None
        blobs = blobs or blob_store(settings.blob_url)
        stack.push_async_callback(blobs.close)
        address = ""
        executor, pool = _executor(settings, blobs, engine_id, clock, lambda: address, has_processes=has_own_blobs)
        engine = EngineRow(engine_id, socket.gethostname(), settings.listen, package_version(), clock())
        kernel = Kernel(
            store,
            executor,
            owner=engine_id,
            clock=clock,
            keep_ms=settings.keep_finished_ms,
            collect_s=settings.collect_s,
            max_running=settings.max_running_workflows,
            max_pending=settings.max_pending_workflows,
            blobs=blobs,
            blob_grace_s=settings.blob_grace_s,
            lease_s=settings.engine_lease_s,
            engine=engine,
        )
        server = grpc.aio.server(interceptors=[ErrorInterceptor(gate)], options=OPTIONS)
        assert kernel.sweeper is not None
        system = SystemServicer(
            executor,
            store,
            kernel.sweeper,
            engine=engine,
            max_running=settings.max_running_workflows,
            max_pending=settings.max_pending_workflows,
        )
        _add_servicers(server, kernel, store, blobs, system)
        if pool is not None:
            worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(WorkerServicer(pool, kernel.values), server)
        health = HealthServicer(SERVICES)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        _add_reflection(server)
        try:
            port = server.add_insecure_port(settings.listen)
        except RuntimeError as error:
            raise SettingsError(f"cannot listen on {settings.listen}: the address is in use or not ours") from error
        host = settings.listen.rpartition(":")[0]
        address = f"{host}:{port}"
        await server.start()
        stack.push_async_callback(server.stop, 0)
        stack.push_async_callback(kernel.stop, grace_s=settings.drain_s)
        if listening is not None:
            await listening(address)
        if settings.http_listen:
            from perdure.service.http.events import serving_http

            http = serving_http(settings.http_listen, kernel.commands, gate, grace_s=settings.drain_s)
            system.http_address = await stack.enter_async_context(http)
        await kernel.start(recover=settings.recovery == "auto")
        gate.open()
        health.open()

        async def drain() -> None:
            health.drain()
            gate.drain()
            kernel.drain()
            if pool is not None:
                pool.drain()

        yield RunningServer(address, kernel, executor, drain, system.http_address)

        # Load balancers look elsewhere, new calls are refused, waits and streams are answered,
        # and only then do the things go away that calls depend on: the stack, backwards.
        await drain()
        await hang_up(server, gate, port, grace_s=settings.drain_s)


def _executor(
    settings: Settings,
    blobs: BlobStore,
    engine_id: str,
    clock: Callable[[], int],
    address: Callable[[], str],
    *,
    has_processes: bool,
) -> tuple[Executor, LeasePool | None]:
    """`has_processes`: the blobs are those of the settings, so that other processes can read them."""
    pool = LeasePool(engine_id=engine_id, blob_url=settings.blob_url, idle_s=settings.lease_idle_s)
    if settings.executor == "local":
        from perdure.service.executors.local import LocalExecutor

        threads = LocalExecutor(blobs, threads=settings.local_threads, clock=clock, address=address)
        if not has_processes or settings.blob_url.startswith("memory:"):  # its modules are those of this process
            return threads, None
        return ProcessExecutor(threads, pool, address), pool
    return pool, pool


def _add_servicers(
    server: grpc.aio.Server, kernel: Kernel, store: MetadataStore, blobs: BlobStore, system: SystemServicer
) -> None:
    workflows = WorkflowServicer(kernel.commands, kernel.queries, kernel.changes, store, blobs)
    workflow_service_pb2_grpc.add_WorkflowServiceServicer_to_server(workflows, server)
    blob_service_pb2_grpc.add_BlobServiceServicer_to_server(BlobServicer(blobs), server)
    system_service_pb2_grpc.add_SystemServiceServicer_to_server(system, server)


def _add_reflection(server: grpc.aio.Server) -> None:
    """v1alpha from the library, and v1, which has the same messages, by the same handler."""
    from grpc_reflection.v1alpha._async import ReflectionServicer

    servicer = ReflectionServicer(
        (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    )
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(REFLECTION_V1, {"ServerReflectionInfo": handler})
    server.add_generic_rpc_handlers((generic,))


# ------------------------------------------------------------------------------ the process


def serve(settings: Settings, *, announce: Callable[[str], None] = print) -> None:
    """Run until SIGTERM or SIGINT, then end in good order; a second signal ends the process at once."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(settings, announce))
    else:
        uvloop.run(_serve(settings, announce))


async def _serve(settings: Settings, announce: Callable[[str], None]) -> None:
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    start: asyncio.Timeout | None = None

    def stop(number: signal.Signals) -> None:
        if stopping.is_set():  # whoever asks twice does not want to wait; a restart recovers like after any death
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stopping.set()
        if start is not None:  # it may take as long as the store is away
            start.reschedule(loop.time())

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    if settings.with_parent:
        end_with_parent(settings.with_parent)
    agent = _Agent(settings)
    try:
        has_lived = False
        while not stopping.is_set():
            try:
                async with asyncio.timeout(None) as start, running_server(settings, listening=agent.serve) as server:
                    start = None
                    http = f", HTTP on {server.http_address}" if server.http_address else ""
                    where = f"{server.address}{http}, storage {shown(settings.storage)}"
                    announce(f"perdure {package_version()} serves on {where}{_workers(settings)}")
                    has_lived = True
                    await _until_over(server, stopping)
                    await server.drain()
                    if stopping.is_set():
                        await agent.end()
            except TimeoutError:
                if not stopping.is_set():
                    raise
                log.info("ended before it served")
            except (StorageUnavailable, Fenced) as error:
                start = None
                if not has_lived:  # the URL may be wrong: whoever starts us should see that
                    raise
                log.warning("no new life yet, trying again", extra={"error": str(error)})
                with suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_S):
                        await stopping.wait()
    finally:
        await agent.end()


def _workers(settings: Settings) -> str:
    """Who will run tasks, for the line that tells of a service: it takes calls before anybody can."""
    match settings.executor:
        case "ray":
            return "; tasks run as soon as Ray is up, in some seconds"
        case "agents":
            return "; tasks run as soon as an agent dials in"
        case _:
            return ""


async def _until_over(server: RunningServer, stopping: asyncio.Event) -> None:
    """Until somebody wants the end, or others have declared this engine dead: then it begins a new life."""
    fleet = server.kernel.fleet
    events = [stopping, *([fleet.fenced] if fleet is not None else [])]
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if fleet is not None and fleet.fenced.is_set():
        log.error("declared dead by another engine; starting anew under another id")
        await server.executor.stop()  # what runs here may be running elsewhere already
    else:
        log.info("draining")


class _Agent:
    """The agent of the local cluster, in a process of its own that ends with this one. It outlives the lives of
    the engine, and its Ray with it: it dials again by itself."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._address = ""
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def serve(self, address: str) -> None:
        """Give the engine there the use of the cluster. Ray takes seconds to start, so this does not wait for it."""
        if self._settings.executor != "ray":
            return
        if self._process is not None and self._process.returncode is None and address == self._address:
            return
        await self.end()
        command = [sys.executable, "-m", "perdure.worker.agent", "--address", address]
        command += ["--with-parent", str(os.getpid()), "--log-level", self._settings.log_level]
        command += ["--log-format", self._settings.log_format]
        command += ["--ray-address", self._settings.ray_address, "--ray-cpus", str(self._settings.ray_cpus)]
        command += ["--ray-namespace", self._settings.ray_namespace]
        self._address = address
        self._process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
        self._watch = asyncio.create_task(self._start_again(self._process, command))

    async def _start_again(self, process: asyncio.subprocess.Process, command: list[str]) -> None:
        """Whenever it ends by itself: Ray ends the processes of its drivers if something surprises it."""
        loop = asyncio.get_running_loop()
        pause_s = AGAIN_S
        while True:
            began_s = loop.time()
            code = await process.wait()
            pause_s = AGAIN_S if loop.time() - began_s > AGAIN_MAX_S else min(pause_s * 2, AGAIN_MAX_S)
            log.error("the agent ended; another one is started", extra={"exit_code": code, "after_s": pause_s})
            await asyncio.sleep(pause_s)
            process = self._process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)

    async def end(self) -> None:
        """End it, if it is there."""
        if self._watch is not None:
            self._watch.cancel()
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), self._settings.drain_s + 10)
            except TimeoutError:
                process.kill()
                await process.wait()
