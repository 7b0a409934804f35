"""The process of `perdure serve`: its signals, and the engine's lives in it.

A life is one `running_server`. It ends when another engine has declared this one dead (fenced it). The next life begins
under another id; its start is retried while the store is away. A signal ends the process.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from perdure.parent import end_with_parent
from perdure.service.agent_process import AgentProcess
from perdure.service.app import RunningServer, package_version, running_server
from perdure.service.common.settings import Settings
from perdure.service.rpc.health import serves
from perdure.storage.addresses import shown
from perdure.storage.ports import Fenced, StorageInUse, StorageUnavailable

log = logging.getLogger(__name__)

AGAIN_S: Final = 1.0
"""The pause before the next life."""
PREDECESSOR_S: Final = 10.0
"""An engine that ends has this time, besides `drain_s`, to give its storage up to the next one."""
LOOK_S: Final = 0.2
"""The pause between two checks whether the storage is free."""
SERVES_S: Final = 1.0
"""An engine that still serves after this time is not draining, so the new one stops waiting for it."""
GARBAGE: Final = (50_000, 20, 6)
"""Thresholds of the garbage collector. Python's defaults cost a tenth of the CPU, and few objects are in cycles: runs
break theirs. A collection of the middle generation looks at all objects of the runs that came since the last one, so
it waits until there are a million more. A full collection stops the engine for a second while a run of 200,000 tasks is
in memory. It comes when six million more objects exist than at the last one."""


def serve(settings: Settings, *, announce: Callable[[str], None] = print) -> None:
    """Run until SIGTERM or SIGINT, then drain and end. A second signal ends the process at once."""
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
        if stopping.is_set():  # the second signal: do not drain; a restart recovers as after a crash
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stopping.set()
        if start is not None:  # a start waits while the store is away
            start.reschedule(loop.time())

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    if settings.with_parent:
        end_with_parent(settings.with_parent)
    agent = AgentProcess(settings)
    has_lived = False
    changed = asyncio.Event()
    watching = asyncio.create_task(_watch(changed)) if settings.watch else None
    try:
        predecessor: Predecessor | None = None
        while not stopping.is_set():
            try:
                serving = running_server(settings, listening=agent.serve, isolates=True)
                async with asyncio.timeout(None) as start, serving as server:
                    start = None
                    http = f", HTTP on {server.http_address}" if server.http_address else ""
                    where = f"{server.address}{http}, storage {shown(settings.storage)}"
                    announce(f"perdure {package_version()} serves on {where}{_workers(settings)}")
                    has_lived, predecessor = True, None
                    await _until_over(server, stopping, changed)
                    await server.drain()
                    if stopping.is_set() or changed.is_set():
                        await agent.end()
                    changed.clear()
            except TimeoutError:
                if not stopping.is_set():
                    raise
                log.info("ended before it served")
            except StorageInUse as error:
                start = None
                if predecessor is None:
                    predecessor = Predecessor(settings, loop.time())
                if not await predecessor.may_end(loop.time(), str(error)):
                    raise
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await stopping.wait()
            except (StorageUnavailable, Fenced) as error:
                start = None
                if not has_lived:  # the URL may be wrong: the user has to see the error
                    raise
                log.warning("cannot serve yet, trying again", extra={"error": str(error)})
                with suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_S):
                        await stopping.wait()
    finally:
        if watching is not None:
            watching.cancel()
        await agent.end()
    if not has_lived:
        announce("stopped before it served")
    elif settings.storage.startswith("memory:"):
        announce("stopped; what was in memory is gone")
    else:
        announce("stopped; runs go on when the service starts again")


class Predecessor:
    """The engine that has the storage when this one starts, at `now_s` by the loop's clock.

    After a restart it may still drain, so this one waits for it. An engine that serves at the address of this one is no
    predecessor: two of them were started. If the address is any free one, nobody can be asked.
    """

    def __init__(self, settings: Settings, now_s: float) -> None:
        self._address = settings.listen
        self._waits_s = settings.drain_s + PREDECESSOR_S
        self._since_s = now_s
        self._is_told = False

    async def may_end(self, now_s: float, error: str) -> bool:
        """Whether to wait for it any longer. `error` says that it has the storage."""
        waited_s = now_s - self._since_s
        if self._address.endswith(":0") or waited_s > self._waits_s:
            return False
        if await serves(self._address):
            return waited_s < SERVES_S
        if not self._is_told:
            self._is_told = True
            log.warning("waiting for the engine before to end", extra={"error": error, "at_most_s": self._waits_s})
        return True


def _workers(settings: Settings) -> str:
    """The end of the announcement: when tasks will run. The engine already takes calls."""
    match settings.executor:
        case "ray":
            return "; tasks run as soon as Ray is up, in some seconds"
        case "agents":
            return "; tasks run as soon as an agent dials in"
        case _:
            return ""


async def _watch(changed: asyncio.Event) -> None:
    """Set the event whenever a Python file below the working directory changes."""
    from watchfiles import PythonFilter, awatch

    async for _ in awatch(os.getcwd(), watch_filter=PythonFilter()):
        changed.set()


async def _until_over(server: RunningServer, stopping: asyncio.Event, changed: asyncio.Event) -> None:
    """Wait for a signal, until the modules change, or until another engine has declared this one dead."""
    fleet = server.kernel.fleet
    events = [stopping, changed, *([fleet.fenced] if fleet is not None else [])]
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if fleet is not None and fleet.fenced.is_set():
        log.error("declared dead by another engine; starting anew under another id")
        await server.executor.stop()  # other engines may have started its attempts again
    elif not stopping.is_set():
        log.info("modules have changed; starting anew with them")
    else:
        log.info("draining")
