"""The agent: a Ray driver that gives an engine the use of a cluster.

It dials the engine, says what the cluster has, and starts and kills leases (Ray tasks) on the engine's
word. It decides nothing. When the engine is gone it ends its leases and dials again, for ever.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import logging
import os
import secrets
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio

from perdure import codec, failures, graphwire, logs, optionwire
from perdure.codec import PYTHON_VERSION
from perdure.model import BlobRef, Payload, Shape
from perdure.storage.ports import BlobStore
from perdure.storage.urls import blob_store
from perdure.v1 import worker_service_pb2 as pb
from perdure.v1 import worker_service_pb2_grpc
from perdure.worker.blobs import BlockingBlobs
from perdure.worker.lease import run_lease

log = logging.getLogger(__name__)

CAPACITY_S: Final = 2.0
PARENT_S: Final = 0.5
RETRY_FIRST_S: Final = 0.1
RETRY_GROWTH: Final = 1.2
RETRY_MAX_S: Final = 0.5
LEASES_END_S: Final = 1.2
"""A lease without its engine stops what it runs, or ends its process, within a second."""
PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """`ray_address`: "local" starts a Ray of its own, with `ray_cpus` CPUs (0: those of the machine); "auto"
    or an address joins one. `parent`: end when this process does (0: nobody's child)."""

    address: str
    ray_address: str = "local"
    ray_cpus: int = 0
    parent: int = 0


class _Outbox:
    """Messages of one session. What reads them may outlive the stream, so the next session has another one."""

    def __init__(self) -> None:
        self._messages: deque[pb.ServeAgentRequest] = deque()
        self._wake = asyncio.Event()

    def send(self, message: pb.ServeAgentRequest) -> None:
        self._messages.append(message)
        self._wake.set()

    async def messages(self) -> AsyncIterator[pb.ServeAgentRequest]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._messages:
                yield self._messages.popleft()


class Agent:
    """One agent over one connection to Ray."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._id = secrets.token_hex(8)
        self._leases: dict[str, Any] = {}  # object refs by lease id
        self._all_ended = asyncio.Event()
        self._out = _Outbox()
        self._threads = ThreadPoolExecutor(2, "perdure-agent")
        self._welcome: pb.AgentWelcome | None = None
        self._blobs: BlobStore | None = None  # of the engine that welcomed us

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until told to stop."""
        loop = asyncio.get_running_loop()
        pause_s = RETRY_FIRST_S
        while not stop.is_set():
            session = asyncio.create_task(self._session())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({session, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not session.done():
                session.cancel()
            (outcome,) = await asyncio.gather(session, return_exceptions=True)
            if stop.is_set():
                self._kill_all()
                break
            await self._let_leases_end()
            if isinstance(outcome, Exception) and not isinstance(outcome, grpc.RpcError):
                log.error("the agent's session failed", exc_info=outcome)
            pause_s = RETRY_FIRST_S if self._welcome is not None else min(pause_s * RETRY_GROWTH, RETRY_MAX_S)
            self._welcome = None
            await asyncio.sleep(pause_s)
        await loop.run_in_executor(self._threads, self._disconnect_ray)

    # -------------------------------------------------------------------------- Ray

    def _disconnect_ray(self) -> None:
        import ray

        ray.shutdown()

    def _capacity(self) -> dict[str, float]:
        """What the cluster has in all, by Ray's names."""
        import ray

        total: Any = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return {
            name: amount
            for name, amount in total.items()
            if not name.startswith("node:") and name != "object_store_memory"
        }

    def _hello(self, capacity: dict[str, float]) -> pb.AgentHello:
        import ray

        return pb.AgentHello(
            agent_id=self._id,
            cluster_id=ray.get_runtime_context().gcs_address,
            python_version=PYTHON_VERSION,
            capacity=pb.ClusterCapacity(total=capacity),
        )

    # -------------------------------------------------------------------------- the session

    async def _session(self) -> None:
        loop = asyncio.get_running_loop()
        capacity = await loop.run_in_executor(self._threads, self._capacity)
        self._out = out = _Outbox()
        out.send(pb.ServeAgentRequest(hello=self._hello(capacity)))
        # Otherwise a new channel inherits what the last one knew of the address: not to be tried for a second.
        options = [("grpc.use_local_subchannel_pool", 1)]
        options += [("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 10_000)]
        async with grpc.aio.insecure_channel(self._settings.address, options=options) as channel:
            stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
            refresh = asyncio.create_task(self._refresh(capacity))
            try:
                async for message in stub.ServeAgent(out.messages()):
                    await self._take(message)
            finally:
                refresh.cancel()
                if self._blobs is not None:
                    await self._blobs.close()

    async def _refresh(self, known: dict[str, float]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CAPACITY_S)
            now = await loop.run_in_executor(self._threads, self._capacity)
            if now != known:
                known = now
                self._out.send(pb.ServeAgentRequest(capacity=pb.ClusterCapacity(total=now)))

    async def _take(self, message: pb.ServeAgentResponse) -> None:
        match message.WhichOneof("kind"):
            case "welcome":
                self._welcome = message.welcome
                self._blobs = blob_store(message.welcome.blob_url)
                log.info("agent serves", extra={"engine": self._settings.address})
            case "start":
                await self._start(message.start)
            case "kill":
                self._kill(message.kill.lease_id)
            case _:
                pass

    # -------------------------------------------------------------------------- leases

    async def _start(self, start: pb.StartLease) -> None:
        if start.lease_id in self._leases:
            return
        loop = asyncio.get_running_loop()
        try:
            assert self._welcome is not None
            ref = await loop.run_in_executor(self._threads, self._submit, start, self._welcome, loop)
        except Exception as error:
            log.warning("lease not submitted", extra={"error": str(error)})
            self._ended(start.lease_id, failures.described(error))
            return
        self._leases[start.lease_id] = ref

        def done(future: Any) -> None:
            error = future.exception()
            reason = "" if error is None else failures.described(error)
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._ended, start.lease_id, reason)

        ref.future().add_done_callback(done)

    def _submit(self, start: pb.StartLease, welcome: pb.AgentWelcome, loop: asyncio.AbstractEventLoop) -> Any:
        import ray

        shape = optionwire.shape_from_proto(start.shape)
        assert self._blobs is not None
        blobs = BlockingBlobs(self._blobs, loop)
        options = ray_options(shape, lambda blob, name: _package(blobs, blob, name))
        lease: Any = ray.remote(run_lease).options(name="perdure.lease", max_retries=0, **options)
        return lease.remote(
            self._settings.address,
            welcome.engine_id,
            start.lease_id,
            welcome.blob_url,
            _import_paths(),
            environment=shape.runtime_env,
            has_others=welcome.has_others,
        )

    def _ended(self, lease_id: str, reason: str) -> None:
        self._leases.pop(lease_id, None)
        if not self._leases:
            self._all_ended.set()
        self._out.send(pb.ServeAgentRequest(ended=pb.LeaseEnded(lease_id=lease_id, reason=reason[:2000])))

    def _kill(self, lease_id: str) -> None:
        import ray

        ref = self._leases.get(lease_id)
        if ref is not None:
            ray.cancel(ref, force=True)

    async def _let_leases_end(self) -> None:
        """Before an engine hears of us again, so that it starts nothing beside what still runs. Leases whose engine
        is gone end by themselves, and Ray keeps their processes for the next ones; what does not end is killed."""
        self._all_ended.clear()
        if self._leases:
            with suppress(TimeoutError):
                async with asyncio.timeout(LEASES_END_S):
                    await self._all_ended.wait()
        self._kill_all()

    def _kill_all(self) -> None:
        for lease_id in list(self._leases):
            self._kill(lease_id)


def _import_paths() -> list[str]:
    """Where leases look for modules beside what Ray gives them: where the agent does."""
    return [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


def ray_options(shape: Shape, package: Callable[[BlobRef, str], str]) -> dict[str, Any]:
    """A shape as options of a Ray task. `package` puts a stored package into this cluster and gives its URI."""
    resources = shape.resources
    strategy = _strategy(shape.scheduling)
    named: dict[str, Any] = {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus,
        "memory": resources.memory_bytes,
        "resources": dict(resources.custom) or None,
        "accelerator_type": resources.accelerator_type or None,
        "runtime_env": _environment(json.loads(shape.runtime_env), package) if shape.runtime_env else None,
    }
    named |= strategy if isinstance(strategy, dict) else {"scheduling_strategy": strategy}
    return {name: value for name, value in named.items() if value is not None}


def _environment(named: dict[str, Any], package: Callable[[BlobRef, str], str]) -> dict[str, Any]:
    """A runtime environment with packages of this cluster in the place of stored ones."""

    def here(uri: object) -> object:
        found = graphwire.snapshot_of(uri)
        return uri if found is None else package(*found)

    if "working_dir" in named:
        named["working_dir"] = here(named["working_dir"])
    if "py_modules" in named:
        named["py_modules"] = [here(uri) for uri in named["py_modules"]]
    return named


def _package(blobs: BlockingBlobs, blob: BlobRef, name: str) -> str:
    """The cluster may have lost it since the last time, so it is always asked."""
    from ray._private.runtime_env.packaging import package_exists, upload_package_to_gcs

    endings = {".tar.gz": ".tar.gz", ".tgz": ".tar.gz", ".tar.xz": ".tar.xz"}
    ending = next((meant for ending, meant in endings.items() if name.endswith(ending)), ".zip")
    uri = f"gcs://{name}" if name.endswith(".whl") else f"gcs://_ray_pkg_{blob.sha256}{ending}"
    if not package_exists(uri):
        upload_package_to_gcs(uri, bytes(blobs.load(blob)))
    return uri


def _strategy(scheduling: str | Payload) -> Any:
    """As Ray takes it; a dictionary if other options belong to it."""
    if isinstance(scheduling, Payload):
        return codec.decode(scheduling)
    if scheduling.startswith(("node:", "node?:")):
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        kind, _, node_id = scheduling.partition(":")
        return NodeAffinitySchedulingStrategy(node_id=node_id, soft=kind.endswith("?"))
    return scheduling or None


# ------------------------------------------------------------------------------ the process


def connect_ray(settings: AgentSettings) -> None:
    """In the main thread, where Ray wants to set its handlers of signals."""
    import ray

    how: dict[str, Any] = {"address": settings.ray_address, "log_to_driver": True, "logging_level": "warning"}
    if settings.ray_address == "local":
        # A Ray of its own that listens on this machine only has nobody to keep out.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        how |= {"include_dashboard": False, "num_cpus": settings.ray_cpus or None}
    ray.init(**how)


def run_agent(settings: AgentSettings) -> None:
    """Run until SIGTERM or SIGINT, or until the parent is gone."""
    if settings.parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    connect_ray(settings)
    asyncio.run(_main(settings))


async def _main(settings: AgentSettings) -> None:
    stop = asyncio.Event()
    end_on_signals(stop)
    agent = asyncio.create_task(Agent(settings).run(stop))
    if settings.parent:
        parent = asyncio.create_task(_watch_parent(settings.parent, stop))
        parent.add_done_callback(lambda _: None)
    await agent


def end_on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _watch_parent(parent: int, stop: asyncio.Event) -> None:
    while os.getppid() == parent:
        await asyncio.sleep(PARENT_S)
    stop.set()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="perdure agent", description="give an engine the use of a Ray cluster")
    parser.add_argument("--address", required=True, help="host:port of the engine")
    parser.add_argument("--ray-address", default="auto", help="local, auto or host:port")
    parser.add_argument("--ray-cpus", type=int, default=0, help="CPUs of a local Ray; 0: those of the machine")
    parser.add_argument("--with-parent", type=int, default=0, help="end when this process ends")
    parser.add_argument("--log-level", default="info", help="how much is logged")
    parser.add_argument("--log-format", default="text", help="text or json")
    given = parser.parse_args(arguments)
    logs.configure(given.log_level, given.log_format)
    run_agent(AgentSettings(given.address, given.ray_address, given.ray_cpus, given.with_parent))


if __name__ == "__main__":
    main()
