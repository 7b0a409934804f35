"""The agent: a Ray driver that attaches a cluster to an engine.

It dials the engine, reports the resources of the cluster, and starts and kills leases (Ray tasks) at the engine's
request. It makes no decisions. When the engine is gone, it ends its leases and dials again, for ever. When its Ray is
dead, its process ends: a process can be the driver of one Ray only, and Ray would end it sooner or later.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

from perdure import failures, logs, optionwire
from perdure.announcing import ImportFailed, announced, listed
from perdure.functions import PYTHON_VERSION
from perdure.parent import end_with_parent
from perdure.storage.ports import BlobStore
from perdure.storage.urls import blob_store
from perdure.v1 import worker_service_pb2 as pb
from perdure.v1.function_service_pb2 import FunctionInfo
from perdure.worker.blobs import BlockingBlobs
from perdure.worker.cluster import LOCAL, Cluster, ClusterState, is_death, is_refusal
from perdure.worker.dialling import Dial, dial
from perdure.worker.lease import run_lease
from perdure.worker.rayoptions import ray_options, stored_package

log = logging.getLogger(__name__)

THREADS: Final = 3
"""One for submitting leases, one for the state of the cluster, one for its demand."""
CAPACITY_S: Final = 2.0
LOOK_S: Final = 0.25
"""The pause between two checks of the processes of a Ray that we started."""
GCS_AWAY_S: Final = 30.0
"""A GCS that is silent for this long is dead. (A GCS with external storage may be restarted before.)"""
DEMAND_FIRST_S: Final = 0.1
DEMAND_GROWTH: Final = 1.2
DEMAND_MAX_S: Final = 1.0
DEMANDS_MAX: Final = 1000
FAREWELL_S: Final = 1.0
END_S: Final = 10.0
AGAIN_S: Final = 5.0
"""The pause before an agent without a parent process starts itself again."""
RAY_DEAD: Final = 75
"""The exit code of an agent whose Ray is dead, or could not be started or joined."""
PARENT_S: Final = 0.5
RETRY_FIRST_S: Final = 0.1
RETRY_GROWTH: Final = 1.2
RETRY_MAX_S: Final = 0.5
LEASES_END_S: Final = 1.2
"""The time in which leases end by themselves. A lease without an engine stops its attempts or its process in a
second."""
KILL_PAUSE_S: Final = 0.25
"""The pause between the engine's request to kill a lease and the cancellation of its Ray task. The engine requests it
when the stream of a lease breaks, and mostly because the process has ended. While Ray looks for the cause of such an
end, a cancellation makes it abort this process (`Tried to retry task that was not pending`)."""
REASON_MAX: Final = 2000


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """`ray_address`: "local" starts a Ray with `ray_cpus` CPUs (0: those of the machine); "auto" or an address joins
    one. Tasks run in Ray's `ray_namespace` ("": a new one). `parent`: the agent ends when the process of this id ends
    (0: no parent). `imports` are modules whose registered functions workers have."""

    address: str
    ray_address: str = LOCAL
    ray_cpus: int = 0
    ray_namespace: str = ""
    parent: int = 0
    imports: tuple[str, ...] = ()


class _Outbox:
    """The messages of one session. gRPC may go on reading them after the end of the stream, so each session has its
    own."""

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


class RayDied(Exception):
    """The cluster, or the connection of this process to it, is dead. The text says how."""


class Agent:
    """One agent over one connection to Ray."""

    def __init__(
        self,
        settings: AgentSettings,
        cluster: Cluster,
        functions: Sequence[FunctionInfo] = (),
        *,
        dial: Dial = dial,
    ) -> None:
        self._settings = settings
        self._functions = functions
        self._dial = dial
        self._cluster = cluster
        self._died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._id = secrets.token_hex(8)
        self._leases: dict[str, Any] = {}  # object refs by lease id
        self._all_ended = asyncio.Event()
        self._out = _Outbox()
        self._threads = ThreadPoolExecutor(THREADS, "perdure-agent")
        self._known: ClusterState | None = None  # as the engine was told
        self._asking: asyncio.Task[None] | None = None
        self._demand: asyncio.Task[None] | None = None
        self._welcome: pb.AgentWelcome | None = None
        self._blobs: BlobStore | None = None  # of the engine that welcomed us

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set. Raises RayDied when the cluster is dead."""
        loop = asyncio.get_running_loop()
        pause_s = RETRY_FIRST_S
        watch = asyncio.create_task(self._watch_ray())
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                if self._died.done():
                    raise RayDied(self._died.result())
                session = asyncio.create_task(self._session())
                ends: list[asyncio.Future[Any]] = [session, stopping, self._died]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if self._died.done():
                    await self._leave(session, self._died.result())
                session.cancel()
                (outcome,) = await asyncio.gather(session, return_exceptions=True)
                if stop.is_set():
                    self._cancel_all()
                    self._leases.clear()  # nothing is cancelled while the connection to Ray is closed
                    break
                await self._let_leases_end()
                if isinstance(outcome, Exception) and not isinstance(outcome, grpc.RpcError):
                    log.error("the agent's session failed", exc_info=outcome)
                pause_s = RETRY_FIRST_S if self._welcome is not None else min(pause_s * RETRY_GROWTH, RETRY_MAX_S)
                self._welcome = None
                await asyncio.sleep(pause_s)
        finally:
            watch.cancel()
            stopping.cancel()
        await loop.run_in_executor(self._threads, self._cluster.disconnect)

    # -------------------------------------------------------------------------- Ray

    async def _watch_ray(self) -> None:
        """Check the cluster's processes and its state, until it is dead."""
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        while not self._died.done():
            await asyncio.sleep(LOOK_S)
            if death := self._cluster.death():
                self._ray_died(death)
            elif loop.time() - asked_s >= CAPACITY_S and self._asking is None:
                self._asking = asyncio.create_task(self._refresh())
                asked_s = loop.time()

    async def _refresh(self) -> None:
        """Ask for the cluster's state, and send it to the engine if it has changed."""
        try:
            state = await self._state()
        except Exception as error:
            self._ray_died(failures.described(error))
            return
        finally:
            self._asking = None
        if state != self._known:
            self._known = state
            self._out.send(pb.ServeAgentRequest(capacity=_capacity(state)))

    async def _state(self) -> ClusterState:
        """The cluster's state. Has a deadline, because a call to a dead GCS blocks its thread for longer."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(GCS_AWAY_S):
                state = await loop.run_in_executor(self._threads, self._cluster.state)
        except TimeoutError:
            raise RayDied(f"its GCS does not answer for {GCS_AWAY_S:.0f} s") from None
        if not state.has_us:
            raise RayDied("the node that the agent runs on was declared dead")
        return state

    def _watch_demand(self, on: bool) -> None:
        if self._demand is not None:
            self._demand.cancel()
        self._demand = asyncio.create_task(self._tell_demand(self._out)) if on else None

    async def _tell_demand(self, out: _Outbox) -> None:
        """While leases are idle, send the cluster's waiting demand to the engine, whenever there is any."""
        loop = asyncio.get_running_loop()
        pause_s = DEMAND_FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * DEMAND_GROWTH, DEMAND_MAX_S)
            try:
                waiting = await loop.run_in_executor(self._threads, self._cluster.demand)
            except Exception as error:  # a dead GCS is noticed by `_refresh`
                log.debug("no demand told: %s", failures.described(error))
                continue
            if waiting:
                requests = [
                    pb.ResourceDemand(wanted=pb.ResourceAmounts(amounts=wanted), count=count)
                    for wanted, count in waiting[:DEMANDS_MAX]
                ]
                out.send(pb.ServeAgentRequest(demand=pb.ClusterDemand(requests=requests)))

    def _ray_died(self, how: str) -> None:
        if not self._died.done():
            self._died.set_result(how)

    async def _leave(self, session: asyncio.Task[None], how: str) -> NoReturn:
        """Tell the engine why the agent leaves, then raise RayDied."""
        self._out.send(pb.ServeAgentRequest(leaving=pb.AgentLeaving(reason=f"{self._cluster.name} is dead: {how}")))
        await asyncio.wait({session}, timeout=FAREWELL_S)
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)
        raise RayDied(how)

    def _hello(self, state: ClusterState) -> pb.AgentHello:
        return pb.AgentHello(
            agent_id=self._id,
            cluster_id=self._cluster.id(),
            python_version=PYTHON_VERSION,
            capacity=_capacity(state),
            functions=self._functions,
        )

    # -------------------------------------------------------------------------- the session

    async def _session(self) -> None:
        try:
            self._known = state = await self._state()
        except RayDied as died:
            self._ray_died(str(died))
            return
        self._out = out = _Outbox()
        out.send(pb.ServeAgentRequest(hello=self._hello(state)))
        async with self._dial(self._settings.address) as stub:
            try:
                async for message in stub.ServeAgent(out.messages()):
                    await self._handle(message)
            finally:
                self._watch_demand(False)
                if self._blobs is not None:
                    await self._blobs.close()

    async def _handle(self, message: pb.ServeAgentResponse) -> None:
        match message.WhichOneof("kind"):
            case "welcome":
                self._welcome = message.welcome
                self._blobs = blob_store(message.welcome.blob_url)
                log.info("agent serves", extra={"engine": self._settings.address})
            case "start":
                await self._start(message.start)
            case "kill":
                self._kill(message.kill.lease_id)
            case "watch_demand":
                self._watch_demand(message.watch_demand.on)
            case _:
                pass

    # -------------------------------------------------------------------------- leases

    async def _start(self, start: pb.StartLease) -> None:
        if start.lease_id in self._leases:
            return
        loop = asyncio.get_running_loop()
        assert self._welcome is not None
        submitted = loop.run_in_executor(self._threads, self._submit, start, self._welcome, loop)
        try:
            ref = await asyncio.shield(submitted)
        except asyncio.CancelledError:  # the session is over, and the thread submits the lease all the same
            submitted.add_done_callback(_cancel_submitted)
            raise
        except Exception as error:
            self._failed(start.lease_id, error)
            return
        self._leases[start.lease_id] = ref

        def done(future: Any) -> None:
            if loop.is_closed():
                return
            if (error := future.exception()) is None:
                loop.call_soon_threadsafe(self._ended, start.lease_id)
            else:
                loop.call_soon_threadsafe(self._failed, start.lease_id, error)

        ref.future().add_done_callback(done)

    def _submit(self, start: pb.StartLease, welcome: pb.AgentWelcome, loop: asyncio.AbstractEventLoop) -> Any:
        import ray

        shape = optionwire.shape_from_proto(start.shape)
        assert self._blobs is not None
        blobs = BlockingBlobs(self._blobs, loop)
        options = ray_options(shape, lambda blob, name: stored_package(blobs, blob, name))
        lease: Any = ray.remote(run_lease).options(name="perdure.lease", max_retries=0, **options)
        return lease.remote(
            self._settings.address,
            welcome.engine_id,
            start.lease_id,
            welcome.blob_url,
            _import_paths(),
            environment=shape.runtime_env,
            has_others=welcome.has_others,
            imports=self._settings.imports,
        )

    def _failed(self, lease_id: str, error: BaseException) -> None:
        if is_death(error):
            self._ray_died(failures.described(error))
        self._ended(lease_id, failures.described(error), refused=is_refusal(error))

    def _ended(self, lease_id: str, reason: str = "", *, refused: bool = False) -> None:
        self._leases.pop(lease_id, None)
        if not self._leases:
            self._all_ended.set()
        ended = pb.LeaseEnded(lease_id=lease_id, reason=reason[:REASON_MAX], refused=refused)
        self._out.send(pb.ServeAgentRequest(ended=ended))

    def _kill(self, lease_id: str) -> None:
        """Kill a lease, unless it ends by itself at once."""
        asyncio.get_running_loop().call_later(KILL_PAUSE_S, self._cancel, lease_id)

    def _cancel(self, lease_id: str) -> None:
        import ray

        ref = self._leases.get(lease_id)
        if ref is not None:
            ray.cancel(ref, force=True)

    async def _let_leases_end(self) -> None:
        """Wait for the leases to end before the agent dials again, so that no attempt starts beside its predecessor.
        Leases end by themselves when their engine is gone, and Ray reuses their processes. Those that do not end are
        killed."""
        self._all_ended.clear()
        if self._leases:
            with suppress(TimeoutError):
                async with asyncio.timeout(LEASES_END_S):
                    await self._all_ended.wait()
        self._cancel_all()

    def _cancel_all(self) -> None:
        for lease_id in list(self._leases):
            self._cancel(lease_id)


def _cancel_submitted(submitted: asyncio.Future[Any]) -> None:
    """Cancel a lease that nobody knows. Ray would keep it until it can place it."""
    import ray

    if submitted.exception() is None and ray.is_initialized():
        ray.cancel(submitted.result(), force=True)


def _capacity(state: ClusterState) -> pb.ClusterCapacity:
    nodes = [pb.ResourceAmounts(amounts=node) for node in state.nodes]
    return pb.ClusterCapacity(total=state.total, nodes=nodes)


def _import_paths() -> list[str]:
    """Folders in which leases look for modules, after those of Ray: the same as for the agent."""
    return [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


# ------------------------------------------------------------------------------ the process


def run_agent(settings: AgentSettings) -> None:
    """Run until SIGTERM or SIGINT, or until the parent is gone. If Ray cannot be started or joined, or is dead, the
    process ends with the exit code RAY_DEAD. An agent without a parent starts itself again instead."""
    if settings.parent:
        end_with_parent(settings.parent)
    cluster = Cluster(settings.ray_address, settings.ray_cpus, settings.ray_namespace)
    try:
        functions = asyncio.run(announced(settings.imports))
        cluster.connect()
    except ImportFailed as error:
        log.error("the agent ends: %s", error)
        text = str(error)
        _in_time(lambda: asyncio.run(tell_of_failure(settings.address, text)))
    except ModuleNotFoundError:
        raise
    except Exception as error:
        how = "started" if settings.ray_address == LOCAL else "joined"
        text = f"{cluster.name} cannot be {how}: {failures.described(error)}"
        log.error("the agent ends: %s", text)
        _in_time(lambda: asyncio.run(tell_of_failure(settings.address, text)))
    else:
        log.info("%s (%s) is there", cluster.name, cluster.id())
        try:
            asyncio.run(_main(settings, cluster, functions))
            return
        except RayDied as died:
            log.error("%s is dead, and the agent ends: %s", cluster.name, died)
            _in_time(cluster.end_by_force)
    if not settings.parent:
        _start_anew()
    _leave_process(RAY_DEAD)


async def tell_of_failure(address: str, text: str) -> None:
    """Tell the engine, if it can be reached, why no agent comes. The engine shows that to callers whose tasks wait."""

    async def messages() -> AsyncIterator[pb.ServeAgentRequest]:
        yield pb.ServeAgentRequest(leaving=pb.AgentLeaving(reason=text[:REASON_MAX]))

    with suppress(grpc.RpcError, TimeoutError):
        async with dial(address) as stub, asyncio.timeout(FAREWELL_S):
            async for _ in stub.ServeAgent(messages()):
                pass


def _start_anew() -> NoReturn:
    """Replace this process by a new one of the same program. Files that Ray left open are closed, because Ray would
    take them for a living driver."""
    log.warning("another agent is started in %.0f s", AGAIN_S)
    time.sleep(AGAIN_S)
    logging.shutdown()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _in_time(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(END_S)


def _leave_process(code: int) -> NoReturn:
    """End the process without Ray's exit handlers, which would wait for dead processes."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _main(settings: AgentSettings, cluster: Cluster, functions: Sequence[FunctionInfo]) -> None:
    stop = asyncio.Event()
    end_on_signals(stop)
    agent = asyncio.create_task(Agent(settings, cluster, functions).run(stop))
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
    parser.add_argument("--ray-namespace", default="", help="Ray's namespace of the tasks; default: one of its own")
    parser.add_argument("--import", dest="imports", default="", help="modules whose functions workers have")
    parser.add_argument("--with-parent", type=int, default=0, help="end when this process ends")
    parser.add_argument("--log-level", default="info", help="how much is logged")
    parser.add_argument("--log-format", default="text", help="text or json")
    given = parser.parse_args(arguments)
    logs.configure(given.log_level, given.log_format)
    ray = given.ray_address, given.ray_cpus, given.ray_namespace
    run_agent(AgentSettings(given.address, *ray, given.with_parent, listed(given.imports)))


if __name__ == "__main__":
    main()
