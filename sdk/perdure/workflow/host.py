"""The engine of a Ray cluster: a process that an actor starts, watches, and restarts when it dies.

The actor is detached and named, so it outlives the driver that started it, and two drivers that start it at the same
time get the same one. It is pinned to the head node and ends with the cluster; the engine ends with it. The lock on
the storage keeps a second engine out.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

NAMESPACE: Final = "perdure"
"""Ray's namespace for our actors."""
NAME: Final = "engine"
DEFAULT_STORAGE: Final = ".perdure"
START_S: Final = 30.0
"""The longest start of an engine, including the wait for the end of its predecessor on the same storage."""
PAUSE_S: Final = 0.2
PAUSE_MAX_S: Final = 5.0
DRAIN_S: Final = 2.0
LEASE_IDLE_S: Final = 1.0
"""Short, because the cluster also does other work of the driver's."""
LINES_KEPT: Final = 20
SERVES: Final = " serves on "
ADDRESS_KEY: Final = b"perdure.engine.address"
_OF_WORKERS: Final = (
    "RAY_JOB_ID",
    "RAY_RAYLET_PID",
    "RAY_LD_PRELOAD_ON_WORKERS",
    "PYTHONBREAKPOINT",
    "OMP_NUM_THREADS",
)
"""Variables that Ray sets for the actor's process and that are not meant for its children."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine is started. `folder` and `paths`: the driver's working directory and the folders of its modules.
    `namespace`: the driver's Ray namespace."""

    storage: str = ""
    max_running_workflows: int | None = None
    max_pending_workflows: int | None = None
    namespace: str = ""
    folder: str = ""
    paths: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class EngineHost:
    """The actor. Its methods wait until the engine serves."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._folder = settings.folder if os.path.isdir(settings.folder) else os.path.expanduser("~")
        self._storage = settings.storage or os.path.join(self._folder, DEFAULT_STORAGE)
        host = _listening_host()
        self._listen = _recall_address() or f"{host}:0"
        self._http_listen = f"{host}:{_free_port(host)}"
        self._lock = threading.Lock()
        self._serving: Future[tuple[str, float]] = Future()
        self._last_lines: deque[str] = deque(maxlen=LINES_KEPT)
        # A thread, because the engine dies with the thread that started it.
        threading.Thread(target=self._keep_running, name="perdure-engine", daemon=True).start()

    async def engine(self) -> tuple[str, float, EngineSettings]:
        """The engine's address, the time since when it serves (seconds since the epoch), and its settings, with the
        storage resolved. RuntimeError with its last log lines if it does not start."""
        with self._lock:
            serving = self._serving
        address, since = await asyncio.shield(asyncio.wrap_future(serving))
        running, pending = self._limit("max_running_workflows"), self._limit("max_pending_workflows")
        return address, since, EngineSettings(self._storage, running, pending)

    def _limit(self, name: str) -> int:
        given = getattr(self._settings, name)
        return int(self._settings.environment.get(f"PERDURE_{name.upper()}", -1)) if given is None else int(given)

    # -------------------------------------------------------------------------- in the thread

    def _keep_running(self) -> None:
        pause_s, since_s = PAUSE_S, time.monotonic()
        while True:
            self._last_lines.clear()
            if self._run_once():
                pause_s, since_s = PAUSE_S, time.monotonic()
            elif time.monotonic() - since_s > START_S:
                self._give_up()
                since_s = time.monotonic()
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    def _run_once(self) -> bool:
        """Start the engine and wait for its end. Returns whether it served."""
        process = subprocess.Popen(
            self._command(),
            cwd=self._folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        has_served = False
        assert process.stdout is not None
        for line in process.stdout:
            self._last_lines.append(line)
            if not has_served and SERVES in line:
                has_served = True
                self._serves(line.partition(SERVES)[2].partition(",")[0].strip())
            else:
                sys.stdout.write(line)
                sys.stdout.flush()
        process.wait()
        if has_served:
            with self._lock:
                self._serving = Future()
        return has_served

    def _serves(self, address: str) -> None:
        self._listen = address  # so that clients find its successor
        _remember_address(address)
        with self._lock:
            self._serving.set_result((address, time.time()))

    def _give_up(self) -> None:
        text = "".join(self._last_lines).strip() or "it said nothing"
        with self._lock:
            self._serving.set_exception(RuntimeError(f"the engine of this Ray cluster does not start: {text}"))
            self._serving = Future()

    def _command(self) -> list[str]:
        import ray

        flags = {
            "--executor": "ray",
            "--ray-address": ray.get_runtime_context().gcs_address,
            "--ray-namespace": self._settings.namespace,
            "--listen": self._listen,
            "--http-listen": self._http_listen,
            "--storage": self._storage,
            "--drain-s": str(DRAIN_S),
            "--with-parent": str(os.getpid()),
            "--lease-idle-s": str(LEASE_IDLE_S),
            "--log-level": "warning",
            "--max-running-workflows": self._settings.max_running_workflows,
            "--max-pending-workflows": self._settings.max_pending_workflows,
        }
        for flag in (
            "--http-listen",
            "--lease-idle-s",
            "--log-level",
        ):  # our defaults, which the driver's variables override
            if f"PERDURE_{flag[2:].replace('-', '_').upper()}" in self._settings.environment:
                del flags[flag]
        given = [part for flag, value in flags.items() if value is not None for part in (flag, str(value))]
        return [sys.executable, "-m", "perdure.cli", "serve", *given]

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in _OF_WORKERS and not name.startswith("PERDURE_")
        }
        paths = [*self._settings.paths, *filter(None, [inherited.get("PYTHONPATH")])]
        if paths:
            inherited["PYTHONPATH"] = os.pathsep.join(paths)
        return inherited | dict(self._settings.environment)


def _listening_host() -> str:
    """The host to listen on: 127.0.0.1 if the cluster has one machine, else the node's address."""
    import ray

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    machines = {node["NodeManagerAddress"] for node in _nodes()}
    return "127.0.0.1" if len(machines) == 1 else address


def _free_port(host: str) -> int:
    """A free port. It is chosen here, because it must stay the same over restarts of the engine."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _nodes() -> list[dict[str, Any]]:
    """The nodes that are alive."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _recall_address() -> str:
    """The address of this cluster's engine before a restart of this actor, "" for none."""
    from ray.experimental import internal_kv

    return (internal_kv._internal_kv_get(ADDRESS_KEY, namespace=NAMESPACE) or b"").decode()


def _remember_address(address: str) -> None:
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(ADDRESS_KEY, address.encode(), namespace=NAMESPACE)


# ------------------------------------------------------------------------------ from drivers


def find_or_start(wanted: EngineSettings) -> str:
    """The address of the cluster's engine. RuntimeError if it does not start, ValueError if it runs with other
    settings."""
    import ray

    host: Any = on_head(EngineHost, NAME, max_concurrency=1000).remote(wanted)
    try:
        address, _, has = ray.get(host.engine.remote())
    except RuntimeError as error:
        raise RuntimeError(str(getattr(error, "cause", error))) from None
    for name in ("storage", "max_running_workflows", "max_pending_workflows"):
        mine, theirs = getattr(wanted, name), getattr(has, name)
        if mine not in ("", None) and mine != theirs:
            raise ValueError(
                f"the engine of this Ray cluster runs with {name}={theirs!r}, and {name}={mine!r} was asked for; "
                "leave it out, or start another cluster"
            )
    return str(address)


def serving_since(address: str) -> float | None:
    """The time since when the engine at this address serves, if it is that of this process's Ray cluster, else None."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    try:
        host = ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:
        return None
    its_address, since, _ = ray.get(host.engine.remote())
    return float(since) if its_address == address else None


def on_head(kind: type, name: str, **options: Any) -> Any:
    """The class as a detached actor without CPUs on the head node, one per name and cluster."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    head = [node["NodeID"] for node in _nodes() if "node:__internal_head__" in node["Resources"]]
    if head:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(head[0], soft=False)
    remote: Any = ray.remote(kind)
    return remote.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        **options,
    )
