"""One seed, one world of several engines: they die, leave, stand still and are cut off, each at random.

Clients ask any engine that there is, and go to another one if it does not answer. Everything random
comes from one `random.Random(seed)` and time is virtual, so a seed replays exactly.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from perdure.model import RunStatus
from perdure.service.kernel import Kernel
from perdure.service.queue.slots import ANY
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.ports import Fenced
from perdure.storage.rows import EngineRow
from simulation.actors import ActorClient, Insist
from simulation.clock import Trace, VirtualLoop
from simulation.database import Database, EngineStore
from simulation.executor import FakeExecutor, Ledger
from simulation.fleet_asking import insist
from simulation.fleet_bulk import BulkClient
from simulation.fleet_clients import Client
from simulation.fleet_curious import Watching
from simulation.fleet_promises import LEASE_S, Promises
from simulation.graphs import GRAPHS, MORE_SHAPES, SHAPES
from simulation.history import History
from simulation.idle import TTL_MS, IdleClient
from simulation.parts import Parts
from simulation.pool import PoolExecutor, Pools
from simulation.process import Process
from simulation.running import HORIZON_S, run_world
from simulation.server import PostgresData, masked
from simulation.shares import small_shares
from simulation.store import Watch
from simulation.told import Told

T = TypeVar("T")

SKEW_MAX_MS = 180_000
FATES = ("kill", "kill", "leave", "pause", "pause", "blink", "cut off")
GRACE_S = 60.0
COLLECT_S = 20.0
POOL_HORIZON_S = 800.0
"""Pools have much to do while nothing happens."""
KEEP_MS = 45_000
STUCK_SHARE = 0.5
"""Of the worlds with pools, so many have a run whose attempts hang."""


@dataclass
class FleetSeen:
    """Counts of what happened in a world, to assert that every case occurs in some world."""

    lives: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    digest: str = ""


@dataclass(eq=False)
class Seat:
    """A place where engines live one after the other. `well_s`: since when this one works undisturbed."""

    number: int
    skew_ms: int
    lives: int = 0
    faults: int = 0
    process: Process | None = None
    kernel: Kernel | None = None
    executor: FakeExecutor | PoolExecutor | None = None
    well_s: float | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once calls to this engine will never be answered."""
    doom: asyncio.Event = field(default_factory=asyncio.Event)
    """It died at a call of the store."""


class FleetWorld:
    """Runs one seed. `limits`: how many runs may run, and how many wait. `trouble`: how often the store fails,
    until there are no more faults to come and it is later than `trouble_until_s`. `fates`: what may become of
    engines. `faults`: so many of these, and no others. `more`: with batches, blobs that are collected, retention
    and ids that are used again, each in some worlds. `crash_at`: the first engine dies at this call of its store,
    before it takes effect or (`crash_after`) when it has, and nothing else happens. `curious`: somebody looks at
    everything all the time, and answers of the store take their time, too. `attaching`: some clients also start runs
    under ids in use, where nothing is removed by its age. `pool`: attempts are run by the real lease
    pool, over a simulated network. `store`: "memory", or "postgres" for a real one. `parts`: those that there are; by
    default all of them, with the same dice for all. `actors`: so many, and `idle`:
    so many that are deleted when nobody calls them."""

    def __init__(
        self,
        seed: int,
        *,
        engines: int | None = None,
        shapes: list[str] | None = None,
        trouble: float | None = None,
        limits: tuple[int, int] = (ANY, ANY),
        trouble_until_s: float = 0.0,
        fates: tuple[str, ...] = FATES,
        faults: int | None = None,
        more: bool = False,
        crash_at: int | None = None,
        crash_after: bool = False,
        curious: bool = False,
        attaching: bool = False,
        pool: bool = False,
        store: str = "memory",
        parts: Parts | None = None,
        actors: int = 0,
        idle: int = 0,
    ) -> None:
        self.seed = seed
        self.actors = actors
        self.idle = idle
        self._has_pool = pool
        self._data_of = store
        self._data: PostgresData | None = None
        self.parts = parts or Parts(apart=False)
        self.fates = fates
        self.curious = random.Random(f"curious of {seed}") if curious else None
        self.attaching = random.Random(f"attaching of {seed}") if attaching else None
        self.crash_at, self.crash_after, self._calls = crash_at, crash_after, 0
        self.limits = limits
        self.trouble_until_s = trouble_until_s
        self.dice = dice = random.Random(seed)
        self.trouble = dice.choice((0.0, 0.0, 0.02, 0.08, 0.2)) if trouble is None else trouble
        self.shapes = shapes or [dice.choice(list(SHAPES)) for _ in range(dice.randint(1, 6))]
        self.faults_left = dice.randint(1, 10) if faults is None else faults
        self.outages = faults is None
        self.seats = [
            Seat(number, dice.choice((0, dice.randint(-SKEW_MAX_MS, SKEW_MAX_MS))))
            for number in range(engines or dice.randint(2, 4))
        ]
        self.more = random.Random(f"more of {seed}") if more else None
        self.keep_ms, self.bulks, self.with_blobs, self.collect_s = None, 0, False, 0.0
        if self.more is not None:
            self._draw_more(self.more)
        if pool and random.Random(f"stuck of {seed}").random() < STUCK_SHARE:
            self.shapes = [*self.shapes, "stuck"]
        self.seen = FleetSeen()
        if self.idle:  # an actor is idle by the clock of its engine
            for seat in self.seats:
                seat.skew_ms = 0
        self._leave_out()
        self.history = History()
        self.ledger = Ledger()
        self.promises = Promises(self)
        self.somebody_up = asyncio.Event()
        self._witnesses: list[asyncio.Task[None]] = []
        self._ids = 0

    def _draw_more(self, more: random.Random) -> None:
        self.keep_ms = more.choice((None, None, KEEP_MS))
        if self.keep_ms is not None:
            for seat in self.seats:  # how long something is kept is by the clock of who removes it
                seat.skew_ms = 0
            self.shapes = [*self.shapes, "fails"]
        self.bulks = more.choice((0, 1, 2))
        self.with_blobs = more.random() < 0.5
        if self.with_blobs:
            self.collect_s = more.choice((0.0, COLLECT_S))
            self.shapes = self.shapes + more.choices(
                [shape for shape in MORE_SHAPES if shape not in SHAPES], k=more.randint(1, 3)
            )

    def _leave_out(self) -> None:
        """What a world that is made shorter does not have."""
        if self.trouble and not self.parts.has("trouble", f"{self.trouble:.0%} of the calls of the store fail"):
            self.trouble = 0.0
        for seat in self.seats:
            if seat.skew_ms and not self.parts.has(f"skew {seat.number}", f"the clock of engine {seat.number} is off"):
                seat.skew_ms = 0
        self.seats = [seat for seat in self.seats if not seat.number or self.parts.has(f"engine {seat.number}")]
        if self.keep_ms is not None and not self.parts.has("retention"):
            self.keep_ms = None
        if self.collect_s and not self.parts.has("collection", "blobs that nobody uses are removed"):
            self.collect_s = 0.0

    def dice_of(self, part: str) -> random.Random:
        """What decides about a part."""
        return self.parts.dice(self.seed, part, self.dice)

    def more_of(self, part: str) -> random.Random | None:
        """The same for what only some worlds have."""
        return self.parts.dice(self.seed, f"more of {part}", self.more) if self.more is not None else None

    def curious_of(self, part: str) -> random.Random | None:
        """The same for clients that only read."""
        return self.parts.dice(self.seed, f"who looks at {part}", self.curious) if self.curious is not None else None

    def attaching_of(self, part: str) -> random.Random | None:
        """The same for clients that attach. A run that is removed by its age leaves its id to whoever asks late."""
        if self.attaching is None or self.keep_ms is not None:
            return None
        return self.parts.dice(self.seed, f"who attaches to {part}", self.attaching)

    async def main(self, loop: VirtualLoop) -> FleetSeen:
        self.loop = loop
        if self._data_of == "postgres":
            self._data = PostgresData(loop.clock_ms)
            loop.trace.mask = masked()
        self.database = Database(loop.clock_ms, self._data)
        self.watch = Watch(self.database.view, *self.limits)
        self.watch.on_delete = self.promises.on_delete
        self.watch.ttl_ms = TTL_MS
        self.told = Told(self.watch, loop.time)
        self.blobs = MemoryBlobStore(loop.time)
        self.pools = Pools(self) if self._has_pool else None
        clients = [
            asyncio.create_task(Client(self, index, shape).live(), name=f"client {index}")
            for index, shape in enumerate(self.shapes)
            if self.parts.has(f"client {index}", shape)
        ]
        clients += [
            asyncio.create_task(BulkClient(self, index).live())
            for index in range(self.bulks)
            if self.parts.has(f"bulk {index}", "many workflows in each call")
        ]
        clients += [
            asyncio.create_task(self._actor_client(number))
            for number in range(self.actors)
            if self.parts.has(f"actor {number}")
        ]
        clients += [
            asyncio.create_task(self._idle_client(number))
            for number in range(self.idle)
            if self.parts.has(f"idle actor {number}")
        ]
        everybody = asyncio.gather(*clients)
        curious = self.curious_of("everything")
        is_watched = curious is not None and self.parts.has("watch of everything")
        watching = Watching(self, curious) if curious is not None and is_watched else None
        if watching is not None:
            watch = asyncio.create_task(watching.watch())
            self._witnesses.append(watch)
        seats = [asyncio.create_task(self._sit(seat)) for seat in self.seats]
        outage = asyncio.create_task(self._outages())
        if self.pools is not None:
            self._witnesses.append(asyncio.create_task(self._run_clusters(self.pools)))
        try:
            async with asyncio.timeout(HORIZON_S if self.pools is None else POOL_HORIZON_S):
                await asyncio.wait({everybody, *seats}, return_when=asyncio.FIRST_COMPLETED)
                for seat in seats:
                    if seat.done():
                        seat.result()
                await everybody
                if watching is not None:
                    await watching.check_all(watch)
                if self.pools is not None:
                    await self.pools.check()
        finally:
            for task in (outage, *seats, *clients, *self._witnesses):
                task.cancel()
            for seat in self.seats:
                if seat.process is not None:
                    seat.process.kill()
            await asyncio.gather(outage, *seats, *clients, *self._witnesses, return_exceptions=True)
        await self.promises.check()
        return self.seen

    async def _actor_client(self, number: int) -> None:
        name = f"actor-{number}"
        dice = self.parts.dice(self.seed, f"actor {number}", random.Random(f"actor {number} of {self.seed}"))

        insist = self._insister(name, dice)
        await ActorClient(name, dice, insist, self.seen.marks, self.database.view, self.loop.time).live()

    async def _idle_client(self, number: int) -> None:
        name = f"idle-{number}"
        dice = self.parts.dice(self.seed, f"idle actor {number}", random.Random(f"idle actor {number} of {self.seed}"))
        insist = self._insister(name, dice)
        await IdleClient(name, dice, insist, self.seen.marks, self.watch, self.loop.time).live()

    def _insister(self, actor: str, dice: random.Random) -> Insist:
        async def ask_any(ask: Callable[[Kernel], Awaitable[T]]) -> T:
            return await insist(self, dice, [("actor", actor, "")], lambda kernel, _calls: ask(kernel))

        return ask_any

    async def _run_clusters(self, pools: Pools) -> None:
        try:
            await pools.live()
        except Exception as error:
            self.loop.fail(error)

    def close(self) -> None:
        if self._data is not None:
            self._data.close()

    # -------------------------------------------------------------------------- engines

    async def _sit(self, seat: Seat) -> None:
        """One life after the other."""
        dice = self.dice_of(f"engine {seat.number}")
        await asyncio.sleep(dice.choice((0, dice.random() * 8)))
        while True:
            await self._live(seat)
            await asyncio.sleep(dice.random() * 5)

    async def _live(self, seat: Seat) -> None:
        self.seen.lives += 1
        seat.lives += 1
        dice = self.dice_of(f"life {seat.number}.{seat.lives}")
        process = seat.process = Process(f"engine-{seat.number}.{self.seen.lives}")
        seat.doom = asyncio.Event()
        store = EngineStore(
            self.database,
            process,
            self.watch,
            dice,
            trouble=self._trouble(),
            on_call=self._dying(seat, process),
            slow=self.curious_of(f"life {seat.number}.{seat.lives}"),
            dice_name=str(self.seed),
        )

        def clock() -> int:
            return self.loop.clock_ms() + seat.skew_ms

        executor: FakeExecutor | PoolExecutor = (
            FakeExecutor(dice, self.ledger, GRAPHS, clock, self.promises.on_submit, self.promises.on_begin, self.blobs)
            if self.pools is None
            else self.pools.executor(seat, process, clock)
        )
        seat.executor = executor
        kernel = Kernel(
            cast(Any, store),
            executor,
            owner=process.name,
            clock=clock,
            elapsed_s=self.loop.time,
            new_id=self._new_id,
            max_running=self.limits[0],
            max_pending=self.limits[1],
            lease_s=LEASE_S,
            engine=EngineRow(process.name),
            keep_ms=self.keep_ms,
            blobs=self.blobs if self.with_blobs else None,
            blob_grace_s=GRACE_S,
            collect_s=self.collect_s,
        )
        seat.gone = asyncio.Event()
        leave = asyncio.Event()
        life = process.spawn(self._serve(seat, kernel, executor, leave))
        try:
            await self._fate(seat, process, store, life, leave)
        finally:
            seat.gone.set()
            seat.kernel, seat.well_s = None, None
            self._count_up()
            executor.die()
            store.hang_up()
            process.kill()

    async def _serve(
        self, seat: Seat, kernel: Kernel, executor: FakeExecutor | PoolExecutor, leave: asyncio.Event
    ) -> None:
        """What the process does, as `perdure serve` does it."""
        fleet = kernel.fleet
        assert fleet is not None
        try:
            if isinstance(executor, PoolExecutor):
                executor.listen(kernel)
                await asyncio.sleep(executor.opens_after_s)
            await kernel.start()
            seat.kernel, seat.well_s = kernel, self.loop.time()
            self._count_up()
            waits = [asyncio.create_task(event.wait()) for event in (leave, fleet.fenced)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            seat.kernel, seat.well_s = None, None
            self._count_up()
            if fleet.fenced.is_set():
                self.seen.marks["fenced"] += 1
                await executor.stop()
            else:
                self.seen.marks["left"] += 1
            kernel.drain()
            if isinstance(executor, PoolExecutor):
                executor.pool.drain()
            await kernel.stop(grace_s=2.0)
        except Fenced:
            self.seen.marks["fenced"] += 1  # before it had begun

    async def _fate(
        self, seat: Seat, process: Process, store: EngineStore, life: asyncio.Task[None], leave: asyncio.Event
    ) -> None:
        """What happens to the engine until it is over."""
        if self.crash_at is not None:
            doom = asyncio.create_task(seat.doom.wait())
            await asyncio.wait({life, doom}, return_when=asyncio.FIRST_COMPLETED)
            doom.cancel()
            if not seat.doom.is_set():
                life.result()
            return
        while not life.done():
            store.trouble = self._trouble()
            fault = f"fault {seat.number}.{seat.faults + 1}"
            dice = self.dice_of(fault)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(dice.random() * 25):
                    await asyncio.wait({life})
            if life.done() or self.faults_left <= 0:
                if self.faults_left <= 0:
                    await asyncio.wait({life}, timeout=max(self.trouble_until_s - self.loop.time(), 0))
                store.trouble = self._trouble()
                if self.faults_left <= 0:
                    await asyncio.wait({life})
                continue
            self.faults_left -= 1
            seat.faults += 1
            fate = dice.choice(self.fates)
            if not self.parts.has(fault, f"{fate} of {process.name} at {self.loop.time():.2f} s"):
                continue
            match fate:
                case "kill":
                    self.seen.marks["kill"] += 1
                    left = {
                        run_id
                        for run_id, kept in self.database.shared.runs.items()
                        if kept.row.owner == process.name and kept.row.status is RunStatus.RUNNING
                    }
                    self._witnesses.append(asyncio.create_task(self.promises.expect_takeover(process.name, seat, left)))
                    return
                case "leave":
                    leave.set()
                    await asyncio.wait({life}, timeout=60)
                    return
                case "pause":
                    await self.stand_still(seat, process, LEASE_S * (0.8 + dice.random() * 4))
                case "blink":
                    await self.stand_still(seat, process, dice.random() * LEASE_S / 2)
                case _:
                    self.seen.marks["cut off"] += 1
                    seat.well_s = None
                    store.is_cut_off = True
                    await asyncio.sleep(dice.random() * 20)
                    store.is_cut_off = False
                    seat.well_s = self.loop.time() if seat.kernel is not None else None
        life.result()

    async def stand_still(self, seat: Seat, process: Process, seconds: float) -> None:
        self.seen.marks["pause"] += 1
        seat.well_s = None
        process.pause()
        await asyncio.sleep(seconds)
        process.resume()
        seat.well_s = self.loop.time() if seat.kernel is not None else None

    async def _outages(self) -> None:
        """The database is away for everybody."""
        dice = self.dice_of("outage")
        if self.outages and dice.random() < 0.3:
            await asyncio.sleep(dice.random() * 60)
            if not self.parts.has("outage", f"the database is away from {self.loop.time():.2f} s on"):
                return
            self.seen.marks["outage"] += 1
            await self.database.outage(dice.choice((1, 5, 30)) + dice.random())

    def _dying(self, seat: Seat, process: Process) -> Callable[[int], int]:
        """Called before each call of the store (with 0: gives its number) and after it took effect (with that)."""

        def call(number: int) -> int:
            if self.crash_at is None or seat.number:
                return 0
            is_after, number = number > 0, number or self._calls + 1
            self._calls = max(self._calls, number)
            if number == self.crash_at and is_after is self.crash_after and not self.seen.marks["died at a call"]:
                self.seen.marks["died at a call"] += 1
                process.is_dead = True
                seat.doom.set()
            process.check()
            return number

        return call

    def _trouble(self) -> float:
        is_late = self.faults_left <= 0 and self.loop.time() >= self.trouble_until_s
        return 0.0 if is_late else self.trouble

    def _count_up(self) -> None:
        if any(seat.kernel is not None for seat in self.seats):
            self.somebody_up.set()
        else:
            self.somebody_up.clear()

    def _new_id(self, now_ms: int) -> str:
        self._ids += 1
        return f"{now_ms:015d}-{self._ids:05d}"


def run_fleet(seed: int, *, trace: Trace | None = None, large: bool = False, **how: Any) -> FleetSeen:
    """Run a seed; an assertion that fails names it. `large`: as if all runs were."""
    with small_shares(large):
        world = FleetWorld(seed, **how)
        try:
            return run_world(f"fleet seed {seed}", world.main, trace)
        finally:
            world.close()
