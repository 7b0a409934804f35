"""A store that fails: slow, unavailable before or after the effect, full, dead at any call, and in some worlds with
records that it never takes.

It also watches. Whatever the engine commits passes through here, so here the promises are checked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from perdure.engine.actor.mailbox import MAIL
from perdure.model import TaskStatus
from perdure.service.queue.slots import ANY
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import Entry, MetadataStore, StorageFull, StorageUnavailable, Unstorable
from perdure.storage.writes import AddEvent, AddRun, Committed, ConsumeEvent, DeleteRun, DropTasks, PutTask, SetRun
from simulation.clock import clock_ms, fail, note
from simulation.never import Never, Refusals


class Watch:
    """The invariants over everything ever committed, by any engine."""

    def __init__(self, store: MemoryMetadataStore, max_running: int, max_pending: int) -> None:
        self._store = store
        self._max_running = max_running
        self._max_pending = max_pending
        self._queue: list[str] = []
        self._queued: set[str] = set()
        self.outputs: dict[tuple[str, str], bytes] = {}
        self.recorded: dict[tuple[str, str], set[TaskStatus]] = {}
        """The states in which a task has ever been stored."""
        self.owners_of_graphs: set[tuple[str, str]] = set()
        """Tasks that returned one."""
        self.consumed: dict[tuple[str, int], str] = {}
        self.finals: dict[str, str] = {}
        self.requests: dict[str, str] = {}
        """Which request made a run."""
        self.ttl_ms = 0
        """The time for which actors may be idle."""
        self.on_delete: Callable[[str, int | None], None] = lambda _run_id, _end_ms: None
        self._deleted: set[str] = set()
        self.calls: dict[str, dict[str, int]] = {}
        """The actors that have recorded a call, each with its sequence, by call."""
        self._ended_ms: dict[str, int] = {}
        """When the last call of an actor ended, by the clock of its worker."""
        self._ends_ms: dict[str, int | None] = {}

    def guard(self, look: Callable[[], None]) -> None:
        """End the world with the error of a check. The engine would take an exception for a fault of its store."""
        try:
            look()
        except Exception as error:
            fail(error)

    async def look_at_queue(self) -> None:
        try:
            await self.see_queue()
        except Exception as error:
            fail(error)

    def see_order(self, run_id: str, sequence: int) -> None:
        """Events of a key go to its waiters in the order of arrival."""
        kept = self._store._runs[run_id]
        key = kept.events[sequence].key
        if key == MAIL:  # a call that waits may be dropped
            return
        earlier = [event.sequence for event in kept.events.values() if event.key == key and event.sequence < sequence]
        passed = [number for number in earlier if (run_id, number) not in self.consumed]
        assert not passed, f"event {sequence} of {run_id} passed {passed}"

    def note_ends(self, entries: Sequence[Entry]) -> None:
        """When that ended which is about to be deleted."""
        writes = (write for entry in entries for write in entry if isinstance(write, DeleteRun))
        for write in writes:
            if (kept := self._store._runs.get(write.run_id)) is not None:
                self._ends_ms[write.run_id] = kept.row.end_ms

    def owners(self) -> dict[str, str]:
        """The current owner of each run."""
        return {run_id: kept.row.owner for run_id, kept in self._store._runs.items()}

    def see_writes(self, engine_id: str, before: dict[str, str], entries: Sequence[Entry], done: Committed) -> None:
        """Only the owner of a run wrote records that need ownership."""
        owners = dict(before)
        for entry, result in zip(entries, done.results, strict=True):
            if result.is_refused:
                continue
            for write in entry:
                match write:
                    case AddRun(row=row):
                        owners.setdefault(row.run_id, row.owner)
                    case SetRun(expects=None) | ConsumeEvent():
                        owner = owners.get(write.run_id, engine_id)
                        assert owner == engine_id, f"{engine_id} writes of {write.run_id}, which is {owner}'s"
                    case DropTasks(run_id=run_id):
                        owner = owners.get(run_id, engine_id)
                        assert owner == engine_id, f"{engine_id} removes tasks of {owner}'s {run_id}"
                    case PutTask(row=row):
                        owner = owners.get(row.run_id, engine_id)
                        assert owner == engine_id, f"{engine_id} writes {row.task_id} of {owner}'s {row.run_id}"
                    case SetRun() if write.owner:
                        owners[write.run_id] = write.owner
                    case _:
                        pass

    def see(self, entries: Sequence[Entry], committed: Committed) -> None:
        note("committed", entries, committed)
        happened = [entry for entry, result in zip(entries, committed.results, strict=True) if not result.is_refused]
        # A commit that is repeated goes through what it went through before.
        last = {
            (write.row.run_id, write.row.task_id): write
            for entry in happened
            for write in entry
            if type(write) is PutTask
        }
        for entry, result in zip(entries, committed.results, strict=True):
            for write in entry:
                if isinstance(write, AddEvent) and write.key == MAIL and result.sequence:
                    self.calls.setdefault(write.event_id, {})[write.run_id] = result.sequence
        for entry in happened:
            for write in entry:
                if type(write) is PutTask:
                    if write.row.ended_ms is not None:
                        last_ms = self._ended_ms.get(write.row.run_id, 0)
                        self._ended_ms[write.row.run_id] = max(last_ms, write.row.ended_ms)
                    self.recorded.setdefault((write.row.run_id, write.row.task_id), set()).add(write.row.status)
                    if write.row.spec_key:
                        self.owners_of_graphs.add((write.row.run_id, write.row.task_id))
                match write:
                    case PutTask(row=row) if last[row.run_id, row.task_id] is not write:
                        pass
                    case PutTask(row=row) if row.output is not None:
                        known = self.outputs.setdefault((row.run_id, row.task_id), row.output)
                        assert known == row.output, f"the output of {row.task_id} changed"
                    case PutTask(row=row):
                        done = (row.run_id, row.task_id) in self.outputs
                        assert not done, f"{row.task_id} had an output and is now {row.status}"
                    case ConsumeEvent():
                        self.see_order(write.run_id, write.sequence)
                        known_task = self.consumed.setdefault((write.run_id, write.sequence), write.task_id)
                        assert known_task == write.task_id, f"event {write.sequence} was delivered twice"
                    case SetRun() if write.status.is_final:
                        before = self.finals.setdefault(write.run_id, str(write.status))
                        assert before == write.status or before == "FAILED", (
                            f"{write.run_id}: {before} -> {write.status}"
                        )
                        self.finals[write.run_id] = str(write.status)
                    case AddRun(row=row):
                        assert row.run_id not in self._deleted, f"{row.run_id} was deleted and is back"
                        self.requests[row.run_id] = row.request_id
                    case DeleteRun():
                        is_idle = write.last_event is not None
                        assert is_idle or write.run_id in self.finals, "an active run was deleted"
                        if is_idle and write.run_id not in self._deleted:
                            self.see_idle(write.run_id)
                        if write.run_id not in self._deleted:
                            self._deleted.add(write.run_id)
                            self.on_delete(write.run_id, self._ends_ms.get(write.run_id))
                    case _:
                        pass

    def see_idle(self, run_id: str) -> None:
        """An actor that was deleted because nobody called it had done all that was asked of it, and for its time."""
        for call_id, actors in self.calls.items():
            if run_id in actors:
                assert (run_id, actors[run_id]) in self.consumed, f"{run_id} was deleted, and {call_id} had not ended"
        idle_ms = clock_ms() - self._ended_ms[run_id]
        assert idle_ms >= self.ttl_ms, f"{run_id} was deleted after {idle_ms} ms"

    def kept_of(self, actor_id: str) -> list[str]:
        """The rows that are left of an actor, by their kinds."""
        return [run_id for run_id, kept in self._store._runs.items() if kept.row.workflow_id == actor_id]

    async def see_queue(self) -> None:
        """Active and waiting runs stay within their limits, and the run that waited longest starts first."""
        if self._max_running == ANY:
            return
        running = {run_id for _, run_id in await self._store.running_runs()}
        rows = await self._store.pending_runs("default", limit=1_000)
        assert len(running) <= self._max_running, f"{len(running)} runs at work"
        assert self._max_pending == ANY or len(rows) <= self._max_pending + self._max_running, f"{len(rows)} runs wait"
        queue = [row.run_id for row in rows]
        stayed = [run_id for run_id in self._queue if run_id in queue]
        assert queue[: len(stayed)] == stayed, "the order of the queue changed"
        for place, run_id in enumerate(self._queue):
            passed = [other for other in self._queue[:place] if other in queue]
            assert run_id not in running or not passed, f"{run_id} passed {passed} in the queue"
        self._queue = queue
        self._queued.update(row.workflow_id for row in rows)

    def waited(self, workflow_id: str) -> bool:
        """Whether it was ever PENDING."""
        return workflow_id in self._queued

    def is_done(self, run_id: str, task_id: str) -> bool:
        return (run_id, task_id) in self.outputs


class FaultyStore:
    """A metadata store in front of one that outlives it; as many of these as there are lives."""

    def __init__(
        self,
        inner: MetadataStore,
        watch: Watch,
        dice: random.Random,
        *,
        trouble: float,
        on_call: Callable[[str], None] = lambda _name: None,
        never: Never | None = None,
    ) -> None:
        self._never = never
        self._refusals = Refusals()
        self._inner = inner
        self._watch = watch
        self._dice = dice
        self.trouble = trouble
        self.is_shared = inner.is_shared
        self._on_call = on_call

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        self._on_call("before commit")
        await asyncio.sleep(self._dice.choice((0.0, 0.0005, self._dice.random() * 0.2)))
        roll = self._dice.random()
        if roll < self.trouble:
            raise StorageUnavailable("no answer")
        if roll < self.trouble * 1.5:
            raise StorageFull("no room")
        if self._never is not None:
            try:
                self._never.check(entries)
            except Unstorable:
                self._refusals.note(entries)
                raise
        committed = await self._inner.commit(entries)
        self._watch.guard(lambda: self._watch.see(entries, committed))
        self._watch.guard(lambda: self._refusals.see(entries, committed))
        await self._watch.look_at_queue()
        self._on_call("after commit")
        if roll > 1 - self.trouble:
            raise StorageUnavailable("the answer was lost")
        await asyncio.sleep(self._dice.choice((0.0, 0.0005)))
        return committed

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def read(*args: Any, **kwargs: Any) -> Any:
            self._on_call(name)
            if self._dice.random() < self.trouble:
                raise StorageUnavailable("no answer")
            await asyncio.sleep(self._dice.choice((0.0, 0.0003)))
            return await method(*args, **kwargs)

        return read
