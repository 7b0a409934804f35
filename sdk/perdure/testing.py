"""The real engine in the test's own process, with a store in memory, a clock that can jump, and crashes on demand.

async with perdure.testing.engine() as engine:
    await engine.client.run(nag.bind(perdure.sleep(86_400)))  # takes milliseconds
    engine.crash_at("after commit", 3)
    await engine.client.run(chain)  # crashes on the way, restarts, and goes on

Everything is as in `perdure serve`, gRPC included, except the store (a dict), the executor (threads of this process)
and the clock. A task at the top level of a module shares the module's globals with the test. A task defined inside a
function is copied, with the variables of its closure.

The clock is the wall clock plus the skipped time. Sleeps, pauses between attempts, and time limits of attempts and
events follow it. `time.time()` in a task is the real time. pytest finds the fixtures `perdure_engine` and
`perdure_client` by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

from perdure.client import Client
from perdure.service.app import RunningServer, running_server
from perdure.service.common.clocks import wall_clock_ms
from perdure.service.common.settings import Settings
from perdure.service.executors.local import LocalExecutor
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import Entry, MetadataStore
from perdure.storage.writes import Committed

__all__ = ["CrashPoint", "Engine", "Time", "engine"]

T = TypeVar("T")

Time: TypeAlias = Literal["skip", "flow"]
CrashPoint: TypeAlias = Literal["before commit", "after commit"]

LOOK_S: Final = 0.002
"""The pause between two checks whether the engine is idle, of which there is no notification."""
SETTLE_S: Final = 1.0
"""`advance` does not wait longer than this for a running attempt."""


@asynccontextmanager
async def engine(*, time: Time = "skip", threads: int = 4) -> AsyncIterator[Engine]:
    """An engine with an empty store, for the time of the context. `threads` run its tasks.

    time "skip": while a client waits for an output and only a timer can happen next, the clock jumps to that timer. It
    does not jump while an attempt or a call is under way, or while no client waits: a test may start a run that waits
    a week for an event, send the event, and then ask for the output. The engine cannot know what a test will do
    concurrently with a waiting call.

    time "flow": the clock runs at its real speed; `Engine.advance` moves it forward.
    """
    made = Engine(time, threads)
    await made._begin()
    try:
        yield made
    finally:
        await made._end()


class Engine:
    """Made by `engine()`. `client` is connected to it and survives its crashes; other clients use `address`."""

    client: Client
    address: str

    def __init__(self, time: Time, threads: int) -> None:
        self.crashes = 0
        self._skips = time == "skip"
        self._threads = threads
        self._skipped_ms = 0
        self._metadata = MemoryMetadataStore()
        self._blobs = MemoryBlobStore()
        self._dooms: list[_Doom] = []
        self._changing = asyncio.Lock()  # held during a restart
        self._crashing: set[asyncio.Task[None]] = set()

    # -------------------------------------------------------------------------- time

    def now(self) -> datetime:
        """The time by the engine's clock."""
        return datetime.fromtimestamp(self._clock() / 1000, UTC)

    async def advance(self, seconds: float | timedelta) -> None:
        """Move the clock forward. Each timer on the way fires at its time, and its consequences happen before the next
        timer fires. Attempts that take longer than a second of real time are not waited for."""
        if isinstance(seconds, timedelta):
            seconds = seconds.total_seconds()
        if seconds < 0:
            raise ValueError("time goes forward only")
        until_ms = self._clock() + round(seconds * 1000)
        fired_ms = -1
        await self._settle()
        while (next_ms := await self._next_ms(after_ms=fired_ms)) is not None and next_ms <= until_ms:
            await self._move_to(next_ms)
            await self._settle()
            fired_ms = next_ms
        await self._move_to(until_ms)

    def _clock(self) -> int:
        return wall_clock_ms() + self._skipped_ms

    async def _next_ms(self, *, after_ms: int = -1) -> int | None:
        return await self._server.kernel.scheduler.timers.next_ms(after_ms=after_ms)

    async def _move_to(self, moment_ms: int) -> None:
        self._skipped_ms += max(moment_ms - self._clock(), 0)
        await self._server.kernel.scheduler.timers.clock_moved()

    async def _settle(self) -> None:
        """Wait until the engine and its attempts are idle, for at most SETTLE_S."""
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while not self._is_quiet() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(LOOK_S)

    def _is_quiet(self) -> bool:
        return not self._changing.locked() and self._server.kernel.is_quiet and self._executor.is_idle

    async def _skip_forever(self, client: _CountingClient) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            waits = self._server.kernel.changes.count_waits()
            # A call of the client that is not among the engine's waits is in transit.
            if waits and waits >= client.under_way and self._is_quiet():
                next_ms = await self._next_ms()
                if next_ms is not None:
                    await self._move_to(next_ms)

    # -------------------------------------------------------------------------- death

    async def crash(self, *, away: float | timedelta = 0) -> None:
        """Crash as by SIGKILL, and restart on the same store `away` seconds (of the engine's time) later.

        Committed data is kept, everything else is lost. Attempts are interrupted, calls under way break, and `client`
        repeats them. Returns once the engine takes calls.
        """
        away_s = away.total_seconds() if isinstance(away, timedelta) else away
        async with self._changing:
            self.crashes += 1
            self._store.is_dead = True
            await self._life.__aexit__(_Killed, _Killed(), None)
            self._skipped_ms += round(away_s * 1000)
            await self._live()

    def crash_at(self, point: CrashPoint, nth: int = 1) -> None:
        """Crash once, at the `nth` commit from now on: before it, or after it but before its result is used. `crashes`
        says whether that happened."""
        if point not in ("before commit", "after commit") or nth < 1:
            raise ValueError("crash_at takes 'before commit' or 'after commit' and a number from 1")
        self._dooms.append(_Doom(point, nth))

    def _passes(self, point: CrashPoint) -> bool:
        """Whether the engine goes on at this point. False: it crashes."""
        met = [doom for doom in self._dooms if doom.meets(point)]
        if not met:
            return True
        self._dooms = [doom for doom in self._dooms if doom not in met]
        task = asyncio.create_task(self.crash(), name="crash")
        self._crashing.add(task)
        task.add_done_callback(self._crashing.discard)
        return False

    # -------------------------------------------------------------------------- lives

    async def _begin(self) -> None:
        self.address = "127.0.0.1:0"
        await self._live()
        self.address = self._server.address
        self.client = client = _CountingClient(self.address, modules=False)
        self._skipper = asyncio.create_task(self._skip_forever(client), name="skipper") if self._skips else None

    async def _live(self) -> None:
        """Start the engine, on the same store and at the same address as before."""
        self._store = _MortalStore(self._metadata, self._passes)
        settings = Settings(
            listen=self.address,
            storage="memory:",
            executor="local",
            local_threads=self._threads,
            drain_s=0,
        )
        store = cast(MetadataStore, self._store)
        self._life: AbstractAsyncContextManager[RunningServer] = running_server(
            settings, store=store, blobs=self._blobs, clock=self._clock
        )
        self._server = await self._life.__aenter__()
        assert isinstance(self._server.executor, LocalExecutor)
        self._executor = self._server.executor

    async def _end(self) -> None:
        await asyncio.gather(*self._crashing)
        if self._skipper is not None:
            self._skipper.cancel()
            await asyncio.gather(self._skipper, return_exceptions=True)
        await self.client.close()
        await self._life.__aexit__(None, None, None)


class _Killed(Exception):
    """Ends the engine without a drain."""


@dataclass(slots=True, eq=False)
class _Doom:
    """A planned crash, `left` commits away."""

    point: CrashPoint
    left: int

    def meets(self, point: CrashPoint) -> bool:
        self.left -= point == self.point
        return self.left == 0


class _CountingClient(Client):
    """A client that counts its calls under way."""

    @property
    def under_way(self) -> int:
        return self._transport.under_way


class _MortalStore:
    """The store of one life of the engine. After a crash it takes no writes and never answers. Implements
    MetadataStore."""

    is_shared = False

    def __init__(self, store: MetadataStore, passes: Callable[[CrashPoint], bool]) -> None:
        self._store = store
        self._passes = passes
        self.is_dead = False

    async def open(self) -> None:
        """Nothing to do: the store stays open."""

    async def close(self) -> None:
        """Nothing to do: the restarted engine needs the store."""

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        await self._reach("before commit")
        committed = await self._store.commit(entries)
        await self._reach("after commit")
        return committed

    def __getattr__(self, name: str) -> Any:
        read = getattr(self._store, name)

        async def reading(*args: Any, **named: Any) -> Any:
            await self._reach(None)
            return await read(*args, **named)

        return reading

    async def _reach(self, point: CrashPoint | None) -> None:
        if not self.is_dead and point is not None and not self._passes(point):
            self.is_dead = True
        if self.is_dead:
            await asyncio.Event().wait()  # until the caller is cancelled
