"""One seed, one world of several engines: they die, leave, stand still and are cut off, each at random.

Clients ask any engine that there is, and go to another one if it does not answer. Everything random
comes from one `random.Random(seed)` and time is virtual, so a seed replays exactly.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from perdure import wire
from perdure.model import RunStatus
from perdure.service.executors.port import Work
from perdure.service.kernel import Kernel
from perdure.service.queue.admission import ANY
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.ports import Fenced
from perdure.storage.rows import EngineRow, RunQuery
from simulation.clock import Trace, VirtualLoop, fail
from simulation.database import Database, EngineStore
from simulation.executor import VOLATILE, FakeExecutor, Ledger
from simulation.fleet_bulk import BulkClient
from simulation.fleet_clients import Client
from simulation.fleet_curious import Watching
from simulation.graphs import GRAPHS, MORE_SHAPES, SHAPES
from simulation.history import History
from simulation.process import Process
from simulation.running import HORIZON_S, run_world
from simulation.store import Watch
from simulation.told import Told

LEASE_S = 6.0
TAKEOVER_S = LEASE_S + 2.0
LOADING_S = 0.5
SKEW_MAX_MS = 180_000
FATES = ("kill", "kill", "leave", "pause", "pause", "blink", "cut off")
GRACE_S = 60.0
COLLECT_S = 20.0
KEEP_MS = 45_000


@dataclass
class FleetSeen:
    """What happened in a world, for assertions that everything does happen somewhere."""

    lives: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    digest: str = ""


@dataclass(eq=False)
class Seat:
    """A place where engines live one after the other. `well_s`: since when this one works undisturbed."""

    number: int
    skew_ms: int
    process: Process | None = None
    kernel: Kernel | None = None
    well_s: float | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Who asked this engine will never hear from it."""
    doom: asyncio.Event = field(default_factory=asyncio.Event)
    """It died at a call of the store."""


class FleetWorld:
    """Runs one seed. `limits`: how many runs may run, and how many wait. `trouble`: how often the store fails,
    until there are no more faults to come and it is later than `trouble_until_s`. `fates`: what may become of
    engines. `faults`: so many of these, and no others. `more`: with batches, blobs that are collected, retention
    and ids that are used again, each in some worlds. `crash_at`: the first engine dies at this call of its store,
    before it takes effect or (`crash_after`) when it has, and nothing else happens. `curious`: somebody looks at
    everything all the time, and answers of the store take their time, too."""

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
    ) -> None:
        self.fates = fates
        self.curious = random.Random(f"curious of {seed}") if curious else None
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
        self.seen = FleetSeen()
        self.history = History()
        self.ledger = Ledger()
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

    async def main(self, loop: VirtualLoop) -> FleetSeen:
        self.loop = loop
        self.database = Database(loop.clock_ms)
        self.watch = Watch(self.database.view, *self.limits)
        self.watch.on_delete = self._on_delete
        self.told = Told(self.watch, loop.time)
        self.blobs = MemoryBlobStore(loop.time)
        clients = [
            asyncio.create_task(Client(self, index, shape).live(), name=f"client {index}")
            for index, shape in enumerate(self.shapes)
        ]
        clients += [asyncio.create_task(BulkClient(self, index).live()) for index in range(self.bulks)]
        everybody = asyncio.gather(*clients)
        watching = Watching(self, self.curious) if self.curious is not None else None
        if watching is not None:
            self._witnesses.append(asyncio.create_task(watching.watch()))
        seats = [asyncio.create_task(self._sit(seat)) for seat in self.seats]
        outage = asyncio.create_task(self._outages())
        try:
            async with asyncio.timeout(HORIZON_S):
                await asyncio.wait({everybody, *seats}, return_when=asyncio.FIRST_COMPLETED)
                for seat in seats:
                    if seat.done():
                        seat.result()
                await everybody
                if watching is not None:
                    await watching.check_all(self._witnesses[0])
        finally:
            for task in (outage, *seats, *clients, *self._witnesses):
                task.cancel()
            for seat in self.seats:
                if seat.process is not None:
                    seat.process.kill()
            await asyncio.gather(outage, *seats, *clients, *self._witnesses, return_exceptions=True)
        await self._check()
        return self.seen

    # -------------------------------------------------------------------------- engines

    async def _sit(self, seat: Seat) -> None:
        """One life after the other."""
        await asyncio.sleep(self.dice.choice((0, self.dice.random() * 8)))
        while True:
            await self._live(seat)
            await asyncio.sleep(self.dice.random() * 5)

    async def _live(self, seat: Seat) -> None:
        self.seen.lives += 1
        dice = self.dice
        process = seat.process = Process(f"engine-{seat.number}.{self.seen.lives}")
        seat.doom = asyncio.Event()
        store = EngineStore(
            self.database,
            process,
            self.watch,
            dice,
            trouble=self._trouble(),
            on_call=self._dying(seat, process),
            slow=self.curious,
        )

        def clock() -> int:
            return self.loop.clock_ms() + seat.skew_ms

        executor = FakeExecutor(dice, self.ledger, GRAPHS, clock, self._on_submit, self._on_begin, self.blobs)
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

    async def _serve(self, seat: Seat, kernel: Kernel, executor: FakeExecutor, leave: asyncio.Event) -> None:
        """What the process does, as `perdure serve` does it."""
        fleet = kernel.fleet
        assert fleet is not None
        try:
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
            await kernel.stop(grace_s=2.0)
        except Fenced:
            self.seen.marks["fenced"] += 1  # before it had begun

    async def _fate(
        self, seat: Seat, process: Process, store: EngineStore, life: asyncio.Task[None], leave: asyncio.Event
    ) -> None:
        """What happens to the engine until it is over."""
        dice = self.dice
        if self.crash_at is not None:
            doom = asyncio.create_task(seat.doom.wait())
            await asyncio.wait({life, doom}, return_when=asyncio.FIRST_COMPLETED)
            doom.cancel()
            if not seat.doom.is_set():
                life.result()
            return
        while not life.done():
            store.trouble = self._trouble()
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
            match dice.choice(self.fates):
                case "kill":
                    self.seen.marks["kill"] += 1
                    left = {
                        run_id
                        for run_id, kept in self.database.shared.runs.items()
                        if kept.row.owner == process.name and kept.row.status is RunStatus.RUNNING
                    }
                    self._witnesses.append(asyncio.create_task(self._expect_takeover(process.name, seat, left)))
                    return
                case "leave":
                    leave.set()
                    await asyncio.wait({life}, timeout=60)
                    return
                case "pause":
                    await self._stand_still(seat, process, LEASE_S * (0.8 + dice.random() * 4))
                case "blink":
                    await self._stand_still(seat, process, dice.random() * LEASE_S / 2)
                case _:
                    self.seen.marks["cut off"] += 1
                    seat.well_s = None
                    store.is_cut_off = True
                    await asyncio.sleep(dice.random() * 20)
                    store.is_cut_off = False
                    seat.well_s = self.loop.time() if seat.kernel is not None else None
        life.result()

    async def _stand_still(self, seat: Seat, process: Process, seconds: float) -> None:
        self.seen.marks["pause"] += 1
        seat.well_s = None
        process.pause()
        await asyncio.sleep(seconds)
        process.resume()
        seat.well_s = self.loop.time() if seat.kernel is not None else None

    async def _outages(self) -> None:
        """The database is away for everybody."""
        if self.outages and self.dice.random() < 0.3:
            await asyncio.sleep(self.dice.random() * 60)
            self.seen.marks["outage"] += 1
            await self.database.outage(self.dice.choice((1, 5, 30)) + self.dice.random())

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

    # -------------------------------------------------------------------------- promises

    def _on_delete(self, run_id: str, end_ms: int | None) -> None:
        name = self.watch.requests[run_id].removeprefix("request of ")
        self.history.removed(name, run_id, self.loop.time())
        if not any(call.kind == "delete" and call.workflow_id == name for call in self.history.calls):
            is_old = end_ms is not None and self.keep_ms is not None and end_ms + self.keep_ms <= self.loop.clock_ms()
            assert is_old, f"{run_id} of {name} was deleted before its time"

    def _on_submit(self, work: Work) -> None:
        def look() -> None:
            done = self.watch.is_done(work.run_id, work.task_id)
            assert not done, f"finished task {work.task_id} of {work.run_id} is dispatched again"
            for source in work.inputs:
                if source.task_id and not source.task_id.startswith(VOLATILE):
                    ready = self.watch.is_done(work.run_id, source.task_id)
                    assert ready, f"{work.task_id} starts before {source.task_id}"

        self.watch.guard(look)

    def _on_begin(self, work: Work) -> None:
        done = self.watch.is_done(work.run_id, work.task_id)
        if done:
            fail(AssertionError(f"finished task {work.task_id} of {work.run_id} runs again"))
        for source in work.inputs:
            self._look_at_blob(work.run_id, source.task_id)

    def _look_at_blob(self, run_id: str, task_id: str) -> None:
        output = self.watch.outputs.get((run_id, task_id))
        blob = wire.decode_payload(output).blob if output is not None else None
        if blob is not None and not self.blobs.has(blob.sha256):
            fail(AssertionError(f"the value of {task_id} of {run_id} was removed"))

    async def _expect_takeover(self, engine_id: str, dead: Seat, left: set[str]) -> None:
        """If somebody else was well all the time, nothing is the dead one's after its lease and a bit, and what
        it `left` at work is at work elsewhere."""
        killed_s = self.loop.time()
        await asyncio.sleep(TAKEOVER_S + LOADING_S)
        witnesses = [
            seat
            for seat in self.seats
            if seat.kernel is not None and seat.well_s is not None and seat.well_s <= killed_s and seat is not dead
        ]
        was_up = not self.database.is_down and self.database.up_s <= killed_s
        if not witnesses or not was_up or self.trouble:
            return
        self.seen.marks["taken over"] += 1
        self.seen.marks["runs taken over"] += len(left)
        unfinished = (RunStatus.RUNNING, RunStatus.PENDING)
        for run_id, kept in self.database.shared.runs.items():
            if kept.row.status in unfinished and kept.row.owner == engine_id:
                fail(AssertionError(f"{run_id} is still {engine_id}'s, which died {TAKEOVER_S} s ago"))
        kernels = {seat.process.name: seat.kernel for seat in witnesses if seat.process is not None}
        for run_id in left:
            kept = self.database.shared.runs.get(run_id)
            if kept is None or kept.row.status is not RunStatus.RUNNING or kept.row.is_dormant:
                continue
            heir = kernels.get(kept.row.owner)
            if heir is not None and heir.scheduler.find_live(run_id) is None:
                fail(AssertionError(f"{run_id} is {kept.row.owner}'s, which does not work on it"))

    async def _check(self) -> None:
        """What was told is what is stored, and every event went to one task or to none."""
        self.history.check()
        told = {call.run_id for call in self.history.calls}
        deleted = {call.workflow_id.partition("/")[0] for call in self.history.calls if call.kind == "delete"}
        for run_id, task_id in self.watch.outputs:
            if run_id in self.database.shared.runs:
                self._look_at_blob(run_id, task_id)
        for row in await self.database.view.list_runs(RunQuery("default", 1_000)):
            if row.workflow_id in deleted and row.run_id not in told:
                continue  # a request that nobody answered, carried out when its id was free again
            assert row.status.is_final, f"{row.workflow_id} is {row.status}"
            assert row.end_ms is not None
            shape = row.workflow_id.partition("-")[0]
            consumed = {sequence for run_id, sequence in self.watch.consumed if run_id == row.run_id}
            known = self.history.events(row.run_id)
            if row.status is RunStatus.SUCCESSFUL:
                assert len(consumed) == MORE_SHAPES[shape][1], f"{row.workflow_id} took {len(consumed)} events"
            assert consumed <= known.keys(), f"{row.workflow_id} took events that nobody sent"


def run_fleet(seed: int, *, trace: Trace | None = None, **how: Any) -> FleetSeen:
    """Run a seed; an assertion that fails names it."""
    return run_world(f"fleet seed {seed}", FleetWorld(seed, **how).main, trace)
