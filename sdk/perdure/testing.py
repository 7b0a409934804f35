"""An engine in the test's own process: the real one, with a store in memory, time to skip, and sudden death.

async with perdure.testing.engine() as engine:
    await engine.client.run(nag.bind(perdure.sleep(86_400)))  # takes milliseconds
    engine.crash_at("after commit", 3)
    await engine.client.run(chain)  # dies on the way, comes back, and goes on

Everything is what `perdure serve` runs, gRPC included; only the store (a dict), the executor (threads of
this process) and the clock are others. Tasks defined at the top of a module share its globals with
the test; those defined inside a function are copied, with what they enclose.

The clock is the wall clock plus what was skipped. All that the engine waits for follows it: sleeps, pauses
between attempts, time limits of attempts and of events. Code of tasks does not: `time.time()` tells
the truth there. With pytest, the fixtures `perdure_engine` and `perdure_client` are there by themselves.
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
from perdure.storage.rows import Committed

__all__ = ["CrashPoint", "Engine", "Time", "engine"]

T = TypeVar("T")

Time: TypeAlias = Literal["skip", "flow"]
CrashPoint: TypeAlias = Literal["before commit", "after commit"]

LOOK_S: Final = 0.002
"""Nobody announces that nothing happens any more, so it is looked for this often."""
SETTLE_S: Final = 1.0
"""An attempt that runs for longer than this does not keep `advance` from going on."""


@asynccontextmanager
async def engine(*, time: Time = "skip", threads: int = 4) -> AsyncIterator[Engine]:
    """An engine with an empty store, for as long as the context lasts. `threads` run its tasks.

    time "skip": while a client waits for an output and all that could still happen is a timer, it is that
    timer's moment. Time is not skipped while an attempt or a call is under way, nor while nobody waits:
    a test may start a run that waits a week for an event, send the event, and only then ask for the output.
    What the test itself intends to do beside a call that waits, the engine cannot know.

    time "flow": time passes as it does outside, but for what `Engine.advance` adds.
    """
    made = Engine(time, threads)
    await made._begin()
    try:
        yield made
    finally:
        await made._end()


class Engine:
    """Made by `engine()`. `client` is connected to it and survives its crashes; `address` is for others."""

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
        self._changing = asyncio.Lock()  # held while a life ends and the next begins
        self._crashing: set[asyncio.Task[None]] = set()

    # -------------------------------------------------------------------------- time

    def now(self) -> datetime:
        """What the engine takes for the present."""
        return datetime.fromtimestamp(self._clock() / 1000, UTC)

    async def advance(self, seconds: float | timedelta) -> None:
        """Let time pass: every timer on the way fires at its moment, and what it sets off happens before
        the next one fires. Attempts that take longer than a second of real time are not waited for."""
        if isinstance(seconds, timedelta):
            seconds = seconds.total_seconds()
        if seconds < 0:
            raise ValueError("time goes forward only")
        until_ms = self._clock() + round(seconds * 1000)
        await self._settle()
        while (next_ms := await self._next_ms()) is not None and next_ms <= until_ms:
            await self._move_to(next_ms)
            await self._settle()
        await self._move_to(until_ms)

    def _clock(self) -> int:
        return wall_clock_ms() + self._skipped_ms

    async def _next_ms(self) -> int | None:
        return await self._server.kernel.scheduler.timers.next_ms()

    async def _move_to(self, moment_ms: int) -> None:
        self._skipped_ms += max(moment_ms - self._clock(), 0)
        await self._server.kernel.scheduler.timers.clock_moved()

    async def _settle(self) -> None:
        """Wait until nothing happens, in the engine or in attempts that are not stuck."""
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while not self._is_quiet() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(LOOK_S)

    def _is_quiet(self) -> bool:
        return not self._changing.locked() and self._server.kernel.is_quiet and self._executor.is_idle

    async def _skip_forever(self, client: _CountingClient) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            waits = self._server.kernel.changes.count_waits()
            # A call of ours that the engine does not know as waiting is on its way, in or out.
            if waits and waits >= client.under_way and self._is_quiet():
                next_ms = await self._next_ms()
                if next_ms is not None:
                    await self._move_to(next_ms)

    # -------------------------------------------------------------------------- death

    async def crash(self, *, away: float | timedelta = 0) -> None:
        """Die as by SIGKILL and come back on the same store, `away` seconds (of the engine's time) later.

        What was committed is there, anything else is lost: attempts are interrupted, calls under way break,
        and `client` asks again. Returns once the engine takes calls.
        """
        away_s = away.total_seconds() if isinstance(away, timedelta) else away
        async with self._changing:
            self.crashes += 1
            self._store.is_dead = True
            await self._life.__aexit__(_Killed, _Killed(), None)
            self._skipped_ms += round(away_s * 1000)
            await self._live()

    def crash_at(self, point: CrashPoint, nth: int = 1) -> None:
        """Crash at the `nth` commit from now on, once: before it has happened, or after it has, but before
        anybody was told of it and anything was done about it. `crashes` tells whether it came to that."""
        if point not in ("before commit", "after commit") or nth < 1:
            raise ValueError("crash_at takes 'before commit' or 'after commit' and a number from 1")
        self._dooms.append(_Doom(point, nth))

    def _passes(self, point: CrashPoint) -> bool:
        """Whether the engine may live on past this point."""
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
        """Begin a life of the engine: on the store of the last one, at the same address."""
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
    """Ends a life of the engine without its last words."""


@dataclass(slots=True, eq=False)
class _Doom:
    """A crash to come, `left` commits away."""

    point: CrashPoint
    left: int

    def meets(self, point: CrashPoint) -> bool:
        self.left -= point == self.point
        return self.left == 0


class _CountingClient(Client):
    """A client that knows how many of its calls are under way."""

    @property
    def under_way(self) -> int:
        return self._transport.under_way


class _MortalStore:
    """The store as one life of the engine sees it: when that is over, nothing gets in any more and nobody
    is answered. Implements MetadataStore."""

    is_shared = False

    def __init__(self, store: MetadataStore, passes: Callable[[CrashPoint], bool]) -> None:
        self._store = store
        self._passes = passes
        self.is_dead = False

    async def open(self) -> None:
        """It is."""

    async def close(self) -> None:
        """The next life needs it."""

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
            await asyncio.Event().wait()  # until whoever asks is cancelled
