"""The composition root: only this module combines the concrete parts.

`process` and the tests run `running_server`. It is taken down in the reverse order of its lines: the callers first,
then the work, then the journal, then the stores.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from perdure import connection, registry
from perdure.announcing import listed
from perdure.service.api.actors import ActorCalls
from perdure.service.api.batch import BatchCalls
from perdure.service.api.blobs import BlobCalls
from perdure.service.api.calls import Calls
from perdure.service.api.events import EventCalls
from perdure.service.api.fetching import FetchCalls
from perdure.service.api.functions import FunctionCalls
from perdure.service.api.gate import Gate
from perdure.service.api.listing import ListCalls
from perdure.service.api.naming import Naming
from perdure.service.api.runs import RunCalls
from perdure.service.api.sources import Sources
from perdure.service.api.streaming import Streams
from perdure.service.api.system import SystemCalls
from perdure.service.api.watch import Watcher
from perdure.service.catalogue.catalogue import Catalogue
from perdure.service.common.clocks import wall_clock_ms
from perdure.service.common.settings import Settings, SettingsError
from perdure.service.executors.pool.pool import LeasePool
from perdure.service.executors.port import Executor
from perdure.service.executors.processes import ProcessExecutor
from perdure.service.kernel import Kernel
from perdure.service.operations.batches import Batches
from perdure.service.rpc.actor import ActorServicer
from perdure.service.rpc.blob import BlobServicer
from perdure.service.rpc.function import FunctionServicer
from perdure.service.rpc.hangup import hang_up
from perdure.service.rpc.health import HealthServicer
from perdure.service.rpc.interceptors.chain import Chain
from perdure.service.rpc.interceptors.errors import answer_errors
from perdure.service.rpc.interceptors.gate import admit_by
from perdure.service.rpc.interceptors.malformed import refuse_malformed
from perdure.service.rpc.system import SystemServicer
from perdure.service.rpc.worker import WorkerServicer
from perdure.service.rpc.workflow import WorkflowServicer
from perdure.storage.ports import BlobStore, MetadataStore
from perdure.storage.rows import EngineRow
from perdure.storage.urls import blob_store, metadata_store
from perdure.v1 import (
    actor_service_pb2,
    actor_service_pb2_grpc,
    blob_service_pb2,
    blob_service_pb2_grpc,
    function_service_pb2,
    function_service_pb2_grpc,
    system_service_pb2,
    system_service_pb2_grpc,
    worker_service_pb2_grpc,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)

SERVICES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (workflow_service_pb2, "WorkflowService"),
        (actor_service_pb2, "ActorService"),
        (blob_service_pb2, "BlobService"),
        (function_service_pb2, "FunctionService"),
        (system_service_pb2, "SystemService"),
    )
)
REFLECTION_V1: Final = "grpc.reflection.v1.ServerReflection"
PENDING_MAX: Final = 100_000
OPTIONS: Final = (
    *connection.LIMITS,
    ("grpc.so_reuseport", 0),
    *connection.pings(10.0, 20.0),  # the stream of a lease that stands still breaks within 30 s
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # workers send one every 10 s, which may arrive late
    ("grpc.http2.max_concurrent_streams", 10_000),
    # Calls that wait for the event loop. Beyond its own limits of 1,000 and 3,000 gRPC ends calls as cancelled.
    ("grpc.server.max_pending_requests", PENDING_MAX),
    ("grpc.server.max_pending_requests_hard_limit", PENDING_MAX),
)


@dataclass(frozen=True)
class RunningServer:
    """A server that takes calls. `address` and `http_address` are host:port; `http_address` is "" without HTTP.

    `drain` sets health to NOT_SERVING, refuses new calls and answers waiting ones. Work goes on.
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
    isolates: bool = False,
) -> AsyncIterator[RunningServer]:
    """Serve until the context is left.

    With `isolates` the local executor runs no user code in this process, unless the settings ask for threads or keep
    everything in memory. Without, functions share the modules of the program that serves.

    `store` and `blobs` replace those of the settings. `listening` is called with the address before recovery, once
    this process certainly holds the address and the store: agents may dial from then on. Raises SettingsError if the
    address is taken, and the errors of the stores.
    """
    engine_id = secrets.token_hex(8)
    gate = Gate()
    async with AsyncExitStack() as stack:
        store = store or metadata_store(settings.storage)
        stack.push_async_callback(store.close)
        await store.open()
        has_own_blobs = blobs is None
        blobs = blobs or blob_store(settings.blob_url)
        stack.push_async_callback(blobs.close)
        address = http_address = ""
        executor, pool = _executor(
            settings, blobs, engine_id, clock, lambda: address, has_processes=has_own_blobs, isolates=isolates
        )
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
        chain = Chain((answer_errors, admit_by(gate), refuse_malformed))
        server = grpc.aio.server(handlers=(chain,), options=OPTIONS)
        assert kernel.sweeper is not None
        system = SystemCalls(
            executor,
            store,
            kernel.sweeper,
            engine=engine,
            http_address=lambda: http_address,
            max_running=settings.max_running_workflows,
            max_pending=settings.max_pending_workflows,
        )
        catalogue = Catalogue(store, executor.functions, clock, allowed=listed(settings.allow_modules))
        naming = Naming(catalogue)
        sources = Sources(blobs, naming, grace_s=kernel.blob_grace_s)
        calls = Calls(
            runs=RunCalls(kernel.submissions, kernel.lifecycle, kernel.queries, sources, blobs),
            batches=BatchCalls(
                Batches(kernel.submissions, kernel.events, kernel.queries, kernel.changes),
                kernel.queries,
                sources,
                blobs,
            ),
            events=EventCalls(kernel.events, sources),
            lists=ListCalls(kernel.queries, store),
            watcher=Watcher(store, kernel.queries, kernel.changes, clock),
            actors=ActorCalls(kernel.actors, sources, naming, blobs),
            blobs=BlobCalls(blobs),
            functions=FunctionCalls(catalogue),
            system=system,
        )
        streams = Streams(gate)
        _add_services(chain, calls, streams)
        if pool is not None:
            worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(
                WorkerServicer(pool.sessions, FetchCalls(kernel.values)), chain.services
            )
        health = HealthServicer(SERVICES)
        health_pb2_grpc.add_HealthServicer_to_server(health, chain.services)
        _add_reflection(chain)
        _check_address(settings.listen)
        try:
            port = server.add_insecure_port(settings.listen)
        except RuntimeError as error:  # something else has taken it in between
            raise SettingsError(f"cannot listen on {settings.listen}: the address is in use or not ours") from error
        host = settings.listen.rpartition(":")[0]
        address = f"{host}:{port}"
        await server.start()
        stack.push_async_callback(server.stop, 0)
        stack.push_async_callback(kernel.stop, grace_s=settings.drain_s)
        if listening is not None:
            await listening(address)
        if settings.http_listen:
            from perdure.service.http.server import serving_http

            http = serving_http(settings.http_listen, calls, gate, grace_s=settings.drain_s)
            http_address = await stack.enter_async_context(http)
        await catalogue.start()
        stack.push_async_callback(catalogue.stop)
        await kernel.start(recover=settings.recovery == "auto")
        gate.open()
        health.open()

        async def drain() -> None:
            health.drain()
            gate.drain()
            streams.drain()
            kernel.drain()
            if pool is not None:
                pool.drain()

        yield RunningServer(address, kernel, executor, drain, http_address)

        # First health becomes NOT_SERVING, new calls are refused, and waits and streams are answered. Then the stack
        # takes down the parts that calls depend on.
        await drain()
        await hang_up(server, gate, port, grace_s=settings.drain_s)


def _check_address(listen: str) -> None:
    """Raise SettingsError if it cannot be listened on. gRPC would also print lines of its own about that."""
    host, _, port = listen.rpartition(":")
    try:
        places = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        for number, (family, kind, _, _, place) in enumerate(places, 1):
            try:
                with socket.socket(family, kind) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(place)
                return
            except OSError:
                if number == len(places):
                    raise
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {listen}: {error.strerror}; end what uses it, or give another address with --listen"
        ) from error


def _executor(
    settings: Settings,
    blobs: BlobStore,
    engine_id: str,
    clock: Callable[[], int],
    address: Callable[[], str],
    *,
    has_processes: bool,
    isolates: bool,
) -> tuple[Executor, LeasePool | None]:
    """`has_processes`: the blobs are those of the settings, so that other processes can read them."""
    pool = LeasePool(engine_id=engine_id, blob_url=settings.blob_url, idle_s=settings.lease_idle_s)
    if settings.executor == "local":
        from perdure.service.executors.local import THREADS, LocalExecutor

        imports = listed(settings.imports)
        if not isolates or settings.local_threads:
            registry.look_in(imports)
        in_memory = not has_processes or settings.blob_url.startswith("memory:")  # other processes cannot read it
        if isolates and not in_memory and not settings.local_threads:
            return ProcessExecutor(None, pool, address, imports), pool
        threads = LocalExecutor(blobs, threads=settings.local_threads or THREADS, clock=clock, address=address)
        return (threads, None) if in_memory else (ProcessExecutor(threads, pool, address, imports), pool)
    return pool, pool


def _add_services(chain: Chain, calls: Calls, streams: Streams) -> None:
    """Add the services that clients call."""
    workflows = WorkflowServicer(calls.runs, calls.events, calls.lists, calls.batches, calls.watcher, streams)
    workflow_service_pb2_grpc.add_WorkflowServiceServicer_to_server(workflows, chain.services)
    actors = ActorServicer(calls.actors, calls.lists, streams)
    actor_service_pb2_grpc.add_ActorServiceServicer_to_server(actors, chain.services)
    blob_service_pb2_grpc.add_BlobServiceServicer_to_server(BlobServicer(calls.blobs), chain.services)
    functions = FunctionServicer(calls.functions)
    function_service_pb2_grpc.add_FunctionServiceServicer_to_server(functions, chain.services)
    system_service_pb2_grpc.add_SystemServiceServicer_to_server(SystemServicer(calls.system), chain.services)


def _add_reflection(chain: Chain) -> None:
    """Add reflection v1alpha from the library, and v1, which has the same messages, with the same handler."""
    from grpc_reflection.v1alpha._async import ReflectionServicer

    servicer = ReflectionServicer(
        (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    )
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, chain.services)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(REFLECTION_V1, {"ServerReflectionInfo": handler})
    chain.add_generic_rpc_handlers((generic,))
