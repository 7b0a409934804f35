"""Runs attempts without a cluster, in processes beside the engine.

User code may end or hang its process. In separate processes that costs only its own attempts, and the engine goes on.
A Python process can hold one version of a module, so each package of modules has processes of its own, and runs with
different versions go on side by side. The processes are leases, as on Ray, and get their attempts from `LeasePool`; no
attempt waits for resources. With `threads`, attempts without modules run in threads of the engine instead.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from perdure.announcing import ImportFailed, announced
from perdure.model import Resources, Shape
from perdure.service.executors.pool.leases import AgentSession
from perdure.service.executors.pool.pool import LeasePool
from perdure.service.executors.port import Attempt, Executor, Functions, Reports, ValueReader, Waiting, forever
from perdure.snapshots import MODULES_GONE
from perdure.v1 import worker_service_pb2 as pb
from perdure.v1.function_service_pb2 import FunctionInfo

log = logging.getLogger(__name__)

STOP_S: Final = 3.0
"""The wait before leases are killed. A lease ends by itself about a second after its stream."""


class ProcessExecutor:
    """Implements Executor over two others. `address` returns the engine's address, once it has one. `threads` runs the
    attempts without modules; None: those have processes, too."""

    def __init__(
        self, threads: Executor | None, pool: LeasePool, address: Callable[[], str], imports: Sequence[str] = ()
    ) -> None:
        self._threads = threads
        self._pool = pool
        self._processes = _Processes(pool, address, imports)

    async def start(
        self, report: Callable[[Reports], None], values: ValueReader, holds_for_s: Callable[[], float] = forever
    ) -> None:
        for executor in self._executors():
            await executor.start(report, values, holds_for_s)
        self._processes.start()

    async def stop(self) -> None:
        await asyncio.gather(*(executor.stop() for executor in self._executors()))
        await self._processes.stop()

    def _executors(self) -> list[Executor]:
        return [self._pool] if self._threads is None else [self._threads, self._pool]

    def submit(self, attempt: Attempt) -> None:
        shape = _shape_of(attempt.shape.runtime_env, attempt.shape.keep_warm_ms)
        if not shape.runtime_env and self._threads is not None:
            self._threads.submit(attempt)
        else:
            self._pool.submit(replace(attempt, shape=shape))

    def cancel(self, run_id: str, task_id: str, number: int) -> None:
        for executor in self._executors():
            executor.cancel(run_id, task_id, number)

    def waiting(self, run_id: str, task_id: str, number: int) -> Waiting | None:
        found = (executor.waiting(run_id, task_id, number) for executor in self._executors())
        return next(filter(None, found), None)

    def loading(self, run_id: str, task_id: str, number: int) -> str:
        found = (executor.loading(run_id, task_id, number) for executor in self._executors())
        return next(filter(None, found), "")

    def python_versions(self) -> frozenset[str]:
        return self._executors()[0].python_versions()

    def functions(self) -> Functions:
        return self._executors()[0].functions()


@lru_cache(1_000)
def _shape_of(environment: str, keep_warm_ms: int) -> Shape:
    """The shape of the processes for a runtime environment. Only the program's modules distinguish them."""
    modules = json.loads(environment).get("modules") if '"modules"' in environment else None
    kept = json.dumps({"modules": modules}, separators=(",", ":")) if modules is not None else ""
    return Shape(Resources(num_cpus=0), runtime_env=kept, keep_warm_ms=keep_warm_ms)


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process, which may have ended by itself."""
    with suppress(ProcessLookupError):
        process.kill()


class _Processes:
    """Starts and ends leases at the pool's request, as an agent does. Packages are unpacked in a temporary folder."""

    def __init__(self, pool: LeasePool, address: Callable[[], str], imports: Sequence[str]) -> None:
        self._pool = pool
        self._address = address
        self._imports = imports
        self._welcome = pb.AgentWelcome()
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: AgentSession | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="perdure-modules-", ignore_cleanup_errors=True)
        if self._imports:
            self._spawn(self._attach_with_functions())
        else:
            self._attach(())

    async def _attach_with_functions(self) -> None:
        functions: Sequence[FunctionInfo] = ()
        try:
            functions = await announced(self._imports)
        except ImportFailed as error:
            log.error("no function has a name: %s", error)
        self._attach(functions)

    def _attach(self, functions: Sequence[FunctionInfo]) -> None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        hello = pb.AgentHello(agent_id=secrets.token_hex(8), cluster_id="processes", python_version=version)
        hello.functions.extend(functions)
        self._session = session = self._pool.sessions.agent_connected(hello)
        self._spawn(self._serve(session))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work, name="lease-processes")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, session: AgentSession) -> None:
        while not session.outbox.is_closed:
            await session.outbox.wait()
            while session.messages:
                message = session.messages.popleft()
                match message.WhichOneof("kind"):
                    case "welcome":
                        self._welcome = message.welcome
                    case "start":
                        self._spawn(self._run(session, message.start))
                    case "kill":
                        if (process := self._running.get(message.kill.lease_id)) is not None:
                            _kill(process)
                    case _:
                        pass

    async def _run(self, session: AgentSession, start: pb.StartLease) -> None:
        assert self._folder is not None
        given = {
            "address": self._address(),
            "engine_id": self._welcome.engine_id,
            "lease_id": start.lease_id,
            "blob_url": self._welcome.blob_url,
            "has_others": self._welcome.has_others,
            "modules": dict(start.shape.runtime_env).get("modules"),
            "folder": self._folder.name,
            "imports": list(self._imports),
        }
        reason, is_refused = "", False
        try:
            command = (sys.executable, "-m", "perdure.worker.process", json.dumps(given))
            process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
        except OSError as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            self._running[start.lease_id] = process
            try:
                code = await process.wait()
                reason = f"ProcessEnded: with exit code {code}" if code else "ProcessEnded: by itself"
                if is_refused := code == MODULES_GONE:
                    reason = f"CorruptData: the modules of the run are gone or damaged: {given['modules']}"
            finally:
                del self._running[start.lease_id]
        ended = pb.LeaseEnded(lease_id=start.lease_id, reason=reason, refused=is_refused)
        self._pool.sessions.lease_ended(session, ended)

    async def stop(self) -> None:
        session, self._session = self._session, None
        ends = [process.wait() for process in self._running.values()]
        if ends:
            await asyncio.wait([asyncio.ensure_future(end) for end in ends], timeout=STOP_S)
        for process in list(self._running.values()):
            _kill(process)
            await process.wait()
        if session is not None:
            session.outbox.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._folder is not None:
            self._folder.cleanup()
