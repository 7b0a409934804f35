"""One seed, one world: engines that live and die over one store, clients that do not give up.

Everything random comes from one `random.Random(seed)` and time is virtual, so a seed replays exactly.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from perdure import errors, graphwire, wire
from perdure.model import Failure, Payload, RunStatus
from perdure.service.executors.port import Attempt
from perdure.service.kernel import Kernel
from perdure.service.machines.graphs import source_of
from perdure.service.operations.asked import NewRun
from perdure.service.queue.slots import ANY
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import MetadataStore, StorageError, StorageFull
from perdure.storage.queries import RunQuery
from perdure.storage.rows import GRAPH
from simulation.actors import ActorClient
from simulation.clock import Trace, VirtualLoop
from simulation.curious import Curious
from simulation.disk import Disk
from simulation.executor import VOLATILE, FakeExecutor, Ledger
from simulation.graphs import GRAPHS, SHAPES
from simulation.idle import TTL_MS, IdleClient
from simulation.never import Never
from simulation.parts import Parts
from simulation.process import Crash
from simulation.running import HORIZON_S, run_world
from simulation.shares import small_shares
from simulation.store import FaultyStore, Watch
from simulation.told import Told
from simulation.twin import Twin

T = TypeVar("T")

NO_ANSWER = (StorageError, errors.DatabaseUnavailableError, errors.StorageFullError, Crash, asyncio.CancelledError)


@dataclass
class Seen:
    """Counts of what happened in a world, to assert that every case occurs in some world."""

    lives: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    digest: str = ""


class World:
    """Runs one seed. `crash_at`: die at this store call instead of at random moments. `limits`: how many
    runs may run, and how many wait. `never`: the share of runs of which the store does not take everything.
    `curious`: somebody looks at everything all the time. `store`: "memory", or "sqlite" for a real one.
    `parts`: those that there are; by default all of them, with the same dice for all. `actors`: so many, and `idle`:
    so many that are deleted when nobody calls them."""

    def __init__(
        self,
        seed: int,
        *,
        shapes: list[str] | None = None,
        trouble: float | None = None,
        crash_at: int | None = None,
        limits: tuple[int, int] = (ANY, ANY),
        never: float | None = None,
        curious: bool = False,
        store: str = "memory",
        parts: Parts | None = None,
        actors: int = 0,
        idle: int = 0,
    ) -> None:
        self.seed = seed
        self.actors = actors
        self.idle = idle
        self.disk = {"memory": lambda: None, "sqlite": Disk}[store]()
        self.parts = parts or Parts(apart=False)
        if never is None:  # by dice of its own: what a seed did before, it does
            never = random.Random(f"{seed} never").choice((0.0, 0.0, 0.3)) if crash_at is None else 0.0
        self.never = Never(seed, never)
        self.curious = random.Random(f"curious of {seed}") if curious else None
        self.limits = limits
        self.dice = random.Random(seed)
        self.trouble = self.dice.choice((0.0, 0.02, 0.1)) if trouble is None else trouble
        if self.trouble and not self.parts.has("trouble", f"{self.trouble:.0%} of the calls of the store fail"):
            self.trouble = 0.0
        self.shapes = shapes or [self.dice.choice(list(SHAPES)) for _ in range(self.dice.randint(1, 6))]
        self.crash_at = crash_at
        self.calls = 0
        self.store = MemoryMetadataStore()
        self.watch = Watch(self.store, *limits)
        self.watch.ttl_ms = TTL_MS
        self.ledger = Ledger()
        self.seen = Seen()
        self.kernel: Kernel | None = None
        self._executor: FakeExecutor | None = None
        self._up = asyncio.Event()
        self._crashed: asyncio.Event = asyncio.Event()
        self._ids = 0
        self.ends: dict[str, RunStatus] = {}
        self._disk_dice = random.Random(f"disk of {seed}")

    def dice_of(self, part: str) -> random.Random:
        """What decides about a part."""
        return self.parts.dice(self.seed, part, self.dice)

    # -------------------------------------------------------------------------- lives

    async def main(self, loop: VirtualLoop) -> Seen:
        await self.store.open()
        self.told = Told(self.watch, loop.time)
        clients = [
            asyncio.create_task(self._client(index, shape))
            for index, shape in enumerate(self.shapes)
            if self.parts.has(f"client {index}", shape)
        ]
        clients += [
            asyncio.create_task(self._actor_client(number), name=f"client of actor {number}")
            for number in range(self.actors)
            if self.parts.has(f"actor {number}")
        ]
        clients += [
            asyncio.create_task(self._idle_client(number), name=f"client of idle actor {number}")
            for number in range(self.idle)
            if self.parts.has(f"idle actor {number}")
        ]
        everybody = asyncio.gather(*clients)
        self._deaths = self.dice.randint(1, 6)
        async with asyncio.timeout(HORIZON_S):
            while not everybody.done():
                self.seen.lives += 1
                if not self._deaths and self.crash_at is None:
                    self.trouble = 0.0
                life = asyncio.create_task(self._live(loop))
                await asyncio.wait({life, everybody}, return_when=asyncio.FIRST_COMPLETED)
                if life.done():
                    life.result()
                else:
                    await self._check_slots()
                    life.cancel()
                    await asyncio.gather(life, return_exceptions=True)
        await everybody
        self.seen.marks["looks"] = self.told.count
        await self._check()
        return self.seen

    async def _live(self, loop: VirtualLoop) -> None:
        """One life of the engine, to its death."""
        dice = self.dice_of(f"life {self.seen.lives}")
        crashed = self._crashed = asyncio.Event()
        store = FaultyStore(
            await self._open(),
            self.watch,
            dice,
            trouble=self.trouble,
            on_call=lambda name: self._on_call(name, crashed),
            never=self.never,
        )
        executor = FakeExecutor(
            dice,
            self.ledger,
            GRAPHS,
            loop.clock_ms,
            self._on_submit,
            forgets=lambda attempt: bool(self.never.kind_of(attempt.workflow_id)),
        )
        max_running, max_pending = self.limits
        kernel = Kernel(
            cast(Any, store),
            executor,
            owner="engine",
            clock=loop.clock_ms,
            new_id=self._new_id,
            max_running=max_running,
            max_pending=max_pending,
        )
        before = set(loop.tasks())
        try:
            await kernel.start()
            self.kernel = kernel
            self._up.set()
            while self._deaths and self.crash_at is None:
                self._deaths -= 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(dice.random() * 20):
                        await crashed.wait()
                if self.parts.has(f"death {self._deaths}", f"of the engine at {loop.time():.2f} s"):
                    break
            else:
                await crashed.wait()
        except Crash:
            pass
        finally:
            crashed.set()
            self._up.clear()
            self.kernel = None
            executor.die()
            self._bury(loop, kernel, before)
            if self.disk is not None:
                self.disk.crash(self.parts.dice(self.seed, f"power of life {self.seen.lives}", self._disk_dice))
        await asyncio.sleep(dice.random() * 5)

    async def _open(self) -> MetadataStore:
        """The store of one life."""
        if self.disk is None:
            return self.store
        real = self.disk.store()
        await real.open()
        return cast(MetadataStore, Twin(real, self.store))

    def _bury(self, loop: VirtualLoop, kernel: Kernel, before: set[asyncio.Task[object]]) -> None:
        """Nothing of a dead process goes on."""
        me = asyncio.current_task()
        for task in loop.tasks():
            if task not in before and task is not me and not task.get_name().startswith("client"):
                task.cancel()
        if kernel.scheduler.timers._handle is not None:
            kernel.scheduler.timers._handle.cancel()

    def _on_call(self, name: str, crashed: asyncio.Event) -> None:
        if crashed.is_set():
            raise Crash(name)
        self.calls += 1
        if self.calls == self.crash_at:
            crashed.set()
            raise Crash(name)

    def _on_submit(self, attempt: Attempt) -> None:
        done = self.watch.is_done(attempt.run_id, attempt.task_id)
        assert not done, f"finished task {attempt.task_id} is dispatched again"
        for source in attempt.inputs:
            if source.task_id and not source.task_id.startswith(VOLATILE):
                done = self.watch.is_done(attempt.run_id, source.task_id)
                assert done, f"{attempt.task_id} starts before {source.task_id}"

    def _new_id(self, now_ms: int) -> str:
        self._ids += 1
        return f"{now_ms:015d}-{self._ids:05d}"

    # -------------------------------------------------------------------------- clients

    async def _client(self, index: int, shape: str) -> None:
        """Submits, sends events, perhaps cancels or resumes, and waits for the end; through every crash."""
        task = asyncio.current_task()
        assert task is not None
        task.set_name(f"client {index}")
        graph, events, expected = SHAPES[shape]
        workflow_id = f"{shape}-{index}"
        dice = self.dice_of(f"client {index}")
        await asyncio.sleep(dice.random() * 10)
        new = NewRun("default", workflow_id, f"request-{index}", source_of(graph, graphwire.encode_spec(graph)))
        never = self.never.kind_of(workflow_id)
        try:
            await self._submit(dice, new)
        except errors.InvalidFieldError:
            assert never, f"{workflow_id} was refused"
            self.seen.marks["refused start"] += 1
            return
        assert never != "start", f"{workflow_id} was started though the store does not take it"
        await self._see_through(dice, index, workflow_id, events, expected, never)

    async def _actor_client(self, number: int) -> None:
        dice = self.parts.dice(self.seed, f"actor {number}", random.Random(f"actor {number} of {self.seed}"))
        loop = asyncio.get_running_loop()
        await ActorClient(
            f"actor-{number}", dice, partial(self._insist, dice), self.seen.marks, self.store, loop.time
        ).live()

    async def _idle_client(self, number: int) -> None:
        dice = self.parts.dice(self.seed, f"idle actor {number}", random.Random(f"idle actor {number} of {self.seed}"))
        now_s = asyncio.get_running_loop().time
        name, insist = f"idle-{number}", partial(self._insist, dice)
        await IdleClient(name, dice, insist, self.seen.marks, self.watch, now_s).live()

    async def _see_through(
        self, dice: random.Random, index: int, workflow_id: str, events: int, expected: RunStatus, never: str
    ) -> None:
        """Go on with a run, while a curious client reads it, if the world has one."""
        part = f"client {index}"
        if self.curious is None or not self.parts.has(f"{part} is watched"):
            return await self._go_on(dice, part, workflow_id, events, expected, never)
        curious_dice = self.parts.dice(self.seed, f"who looks at {part}", self.curious)
        curious = Curious(workflow_id, self.told, curious_dice, partial(self._insist, dice))
        looks = [asyncio.create_task(curious.look_around(), name=f"client {index} who looks") for _ in range(2)]
        try:
            await self._go_on(dice, part, workflow_id, events, expected, never)
        finally:
            curious.is_over = True
        await asyncio.gather(*looks)
        for _ in range(4):
            await curious.look()

    async def _go_on(
        self, dice: random.Random, part: str, workflow_id: str, events: int, expected: RunStatus, never: str
    ) -> None:
        for number in range(events):
            await asyncio.sleep(dice.random() * 5)
            for _ in range(dice.choice((1, 1, 2))):  # producers repeat themselves
                await self._send(dice, workflow_id, f"event-{number}")
        cancels = dice.random() < 0.15 and self.parts.has(f"{part} cancels")
        cancels = cancels or (never == "event" and events > 0)
        if cancels:
            await asyncio.sleep(dice.random() * 10)
            try:
                cancels = await self._cancel(dice, workflow_id)
                while never == "event" and not cancels:  # nothing else ends it
                    cancels = await self._cancel(dice, workflow_id)
            except errors.InvalidFieldError:  # its tasks cannot be recorded as canceled either, so it goes on
                assert never.startswith("task")
                cancels = False
        status = await self._wait(dice, workflow_id)
        if status is RunStatus.FAILED and dice.random() < 0.5 and self.parts.has(f"{part} resumes"):
            with contextlib.suppress(errors.WorkflowAlreadyFinalError):
                await self._resume(dice, workflow_id)
            self.seen.marks["resume"] += 1
            status = await self._wait(dice, workflow_id)
        if never and status is RunStatus.FAILED and expected is not RunStatus.FAILED:
            failure = (await self._insist(dice, lambda kernel: kernel.queries.outcome("default", workflow_id))).value
            assert isinstance(failure, Failure)
            assert failure.type == "perdure.RecordRefused", f"{workflow_id} failed: {failure}"
            assert ("cannot be stored" in failure.message) is (never != "task and failure")
            self.seen.marks["refused record"] += 1
        else:
            assert status is expected or (cancels and status is RunStatus.CANCELED), f"{workflow_id} ended {status}"
        self.seen.marks["waited"] += self.watch.waited(workflow_id)
        self.ends[workflow_id] = status
        self.seen.statuses[str(status)] += 1

    async def _submit(self, dice: random.Random, new: NewRun) -> None:
        while True:
            try:
                await self._insist(dice, lambda kernel: kernel.submissions.submit(new))
                return
            except errors.QueueFullError:
                self.seen.marks["full"] += 1
                await asyncio.sleep(dice.random() * 10)

    async def _cancel(self, dice: random.Random, workflow_id: str) -> bool:
        """Ask for the end of a run. False: the request was certainly refused, and not repeated."""
        if self.curious is not None and self.curious.random() < 0.5:
            try:
                await self._ask_once(lambda kernel: kernel.lifecycle.cancel("default", workflow_id, "enough"))
            except (errors.StorageFullError, StorageFull):
                self.seen.marks["cancel refused"] += 1
                return False
            except (StorageError, errors.DatabaseUnavailableError, Crash, asyncio.CancelledError):
                pass
        await self._insist(dice, lambda kernel: kernel.lifecycle.cancel("default", workflow_id, "enough"))
        self.seen.marks["cancel"] += 1
        return True

    async def _resume(self, dice: random.Random, workflow_id: str) -> None:
        runs = [row.run_id for row in await self.store.list_runs(RunQuery("default", 1_000))]
        self.told.resumes(runs)
        while True:
            try:
                await self._insist(dice, lambda kernel: kernel.lifecycle.resume("default", workflow_id))
                return
            except errors.QueueFullError:
                await asyncio.sleep(dice.random() * 10)

    async def _send(self, dice: random.Random, workflow_id: str, event_id: str) -> None:
        payload = Payload("binary/plain", event_id.encode())
        try:
            await self._insist(
                dice,
                lambda kernel: kernel.events.send("default", workflow_id, key="k", event_id=event_id, payload=payload),
            )
        except errors.WorkflowAlreadyFinalError:
            pass
        except errors.InvalidFieldError:
            assert self.never.kind_of(workflow_id) == "event"
            self.seen.marks["refused event"] += 1

    async def _wait(self, dice: random.Random, workflow_id: str) -> RunStatus:
        while True:
            view = await self._insist(dice, lambda kernel: kernel.queries.outcome("default", workflow_id, wait_s=30))
            if view.value is not None:
                return view.status

    async def _insist(self, dice: random.Random, ask: Callable[[Kernel], Awaitable[T]]) -> T:
        """Ask until there is an answer. Death of the engine takes the question with it."""
        while True:
            try:
                return await self._ask_once(ask)
            except NO_ANSWER:
                self.seen.marks["asked again"] += 1
                await asyncio.sleep(dice.random())

    async def _ask_once(self, ask: Callable[[Kernel], Awaitable[T]]) -> T:
        await self._up.wait()
        kernel, crashed = self.kernel, self._crashed
        assert kernel is not None
        question = asyncio.ensure_future(ask(kernel))
        question.set_name("client's question")  # type: ignore[attr-defined]
        death = asyncio.create_task(crashed.wait(), name="client's fear")
        await asyncio.wait({question, death}, return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if not question.done():
            question.cancel()
        return await question

    # -------------------------------------------------------------------------- the end

    async def _check_slots(self) -> None:
        """All runs have ended: no slot is held, and no run waits for one."""
        kernel = self.kernel
        if kernel is None:
            return
        with contextlib.suppress(StorageError, Crash):
            await kernel.journal.barrier()
            assert kernel.slots.count_running("default") == kernel.slots.count_pending("default") == 0

    async def _check(self) -> None:
        """Answers match the store, and every event went to at most one task."""
        listed = await self.store.list_runs(RunQuery("default", 1_000))
        rows = {row.workflow_id: row for row in listed if row.kind == GRAPH}
        assert {workflow_id: row.status for workflow_id, row in rows.items()} == self.ends
        store = await self._open()
        assert len(await store.list_runs(RunQuery("default", 1_000))) == len(listed)
        for row in rows.values():
            assert row.end_ms is not None
            assert row.start_ms is not None or row.status is RunStatus.CANCELED
            stored = await store.load_run(row.run_id)
            assert stored is not None
            if row.status is RunStatus.SUCCESSFUL and row.workflow_id.startswith("waits"):
                assert len([run_id for run_id, _ in self.watch.consumed if run_id == row.run_id]) == 2
        for (run_id, task_id), output in self.watch.outputs.items():
            values = self.ledger.returned.get((run_id, task_id))
            if values is not None:
                assert wire.decode_payload(output).data in values or not wire.decode_payload(
                    output
                ).encoding.startswith("binary/plain")


def run_seed(seed: int, *, trace: Trace | None = None, large: bool = False, **how: Any) -> Seen:
    """Run a seed; an assertion that fails names it. `large`: as if all runs were."""
    with small_shares(large):
        world = World(seed, **how)
        try:
            return run_world(f"seed {seed}", world.main, trace)
        finally:
            if world.disk is not None:
                world.disk.close()
