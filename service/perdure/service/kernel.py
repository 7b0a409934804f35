"""The engine without its surroundings: everything between the store, the executor and the servicers.

`app` gives it the real ones, the simulation faulty ones on a virtual clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from perdure.service.common.clocks import elapsed_s as since_some_moment_s
from perdure.service.common.clocks import wall_clock_ms
from perdure.service.executors.port import Executor
from perdure.service.executors.renewing import RenewingExecutor
from perdure.service.fleet import repeats
from perdure.service.fleet.fleet import Fleet
from perdure.service.fleet.inbox import Inbox
from perdure.service.fleet.slots import SharedSlots
from perdure.service.housekeeping.deletion import Deletions
from perdure.service.housekeeping.retention import Retention
from perdure.service.housekeeping.sweep import Sweeper
from perdure.service.journal.journal import Journal
from perdure.service.operations.current import Current
from perdure.service.operations.events import Events
from perdure.service.operations.lifecycle import Lifecycle
from perdure.service.operations.queries import Queries
from perdure.service.operations.submit import Submissions
from perdure.service.queue.moves import Moves
from perdure.service.queue.slots import ANY, Capacity, LocalSlots, Slots
from perdure.service.queue.waiting import Waiting
from perdure.service.runs.changes import Changes
from perdure.service.runs.moments import Moments
from perdure.service.runs.scheduler import Scheduler
from perdure.service.runs.values import Values
from perdure.storage.ports import BlobStore, MetadataStore
from perdure.storage.rows import EngineRow, SetAsideRuns

log = logging.getLogger(__name__)

GRACE_LEASES: Final = 3
"""For so many leases of an engine blobs that nobody uses yet are kept at least: what it has to note takes that long,
or it was declared dead and never will."""


class Kernel:
    """One engine over one store. The store is opened and closed by whoever made it. With `blobs` it also
    removes those that nobody uses any more."""

    def __init__(
        self,
        store: MetadataStore,
        executor: Executor,
        *,
        owner: str,
        clock: Callable[[], int] = wall_clock_ms,
        elapsed_s: Callable[[], float] = since_some_moment_s,
        new_id: Callable[[int], str] | None = None,
        max_running: int = ANY,
        max_pending: int = ANY,
        blobs: BlobStore | None = None,
        blob_grace_s: float = 0,
        lease_s: float = 6.0,
        engine: EngineRow | None = None,
        collect_s: float = 0,
        keep_ms: int | None = None,
    ) -> None:
        self.store = store
        self.journal = Journal(store)
        self.values = Values(store)
        self.changes = Changes()
        is_shared = store.is_shared
        if blobs is not None and blob_grace_s:
            blob_grace_s = max(blob_grace_s, GRACE_LEASES * lease_s if is_shared else 0.0)
            executor = RenewingExecutor(executor, blobs, late_s=blob_grace_s / 2, elapsed_s=elapsed_s)
        self.blob_grace_s = blob_grace_s
        capacity = Capacity(max_running, max_pending)
        self.slots: Slots = SharedSlots(store, capacity) if is_shared else LocalSlots(store, capacity)
        self.scheduler = Scheduler(
            store,
            self.journal,
            executor,
            self.values,
            self.changes,
            clock,
            owner=owner if is_shared else "",
            on_end=self.slots.leave,
        )
        moves = Moves(store, self.journal, self.scheduler, self.slots, owner=owner)
        self.waiting = Waiting(store, self.scheduler, self.slots, moves)
        self.sweeper: Sweeper | None = None
        if blobs is not None:
            self.sweeper = Sweeper(
                store, self.journal, blobs, grace_s=blob_grace_s, collect_s=collect_s, now_s=elapsed_s
            )
        on_delete = self.sweeper.wake if self.sweeper is not None else lambda: None
        deletions = Deletions(self.journal, self.changes, clock, on_delete=on_delete)
        self.retention: Retention | None = None
        if keep_ms is not None:
            self.retention = Retention(store, moves, deletions, clock, keep_ms=keep_ms)
        moments = Moments(store, self.journal, self.scheduler)
        inbox = Inbox(store, self.journal, self.scheduler, owner=owner)
        current = Current(self.journal, moments)
        self.lifecycle = Lifecycle(
            store,
            self.journal,
            self.scheduler,
            moments,
            self.changes,
            self.slots,
            moves,
            deletions,
            current,
            owner=owner,
        )
        self.submissions = Submissions(
            store,
            self.journal,
            self.scheduler,
            self.values,
            executor,
            self.slots,
            moves,
            current,
            self.lifecycle,
            owner=owner,
            new_id=new_id,
        )
        self.events = Events(
            store,
            self.journal,
            self.scheduler,
            current,
            owner=owner,
            deliver=(lambda run_id, _event: inbox.read_soon(run_id)) if is_shared else None,
        )
        self.queries = Queries(store, moments, self.scheduler, executor, self.values, self.changes)
        self.journal.happened = partial(repeats.added, store)
        self.fleet: Fleet | None = None
        if isinstance(self.slots, SharedSlots):
            self.fleet = Fleet(
                store,
                self.journal,
                self.scheduler,
                self.changes,
                moments,
                self.slots,
                inbox,
                engine or EngineRow(owner),
                lease_ms=round(lease_s * 1000),
                clock=clock,
                elapsed_s=elapsed_s,
            )
            executor.holds_for_s = self.fleet.holds_for_s
        self.is_ready = False

    async def start(self, *, recover: bool = True) -> None:
        """Begin to work. `recover` False leaves what was unfinished RESUMABLE until somebody resumes it."""
        if self.fleet is not None:
            await self.fleet.join()
        await self.journal.start()
        if not recover:
            await self.journal.commit((SetAsideRuns(self.scheduler.clock()),))
        await self.waiting.count()
        await self.scheduler.start()
        if self.fleet is not None:
            await self.fleet.start()  # recovery is taking over what others left
        elif recover:
            count = await self.scheduler.recover()
            log.info("recovered", extra={"runs": count})
        await self.waiting.start()
        if self.sweeper is not None:
            await self.sweeper.start()
        if self.retention is not None:
            await self.retention.start()
        self.is_ready = True

    @property
    def is_quiet(self) -> bool:
        """Whether nothing goes on but attempts: what happens next comes from them, from a caller or from the clock."""
        at_rest = self.journal.is_idle and self.waiting.is_idle and not self.scheduler.is_loading
        return self.is_ready and at_rest

    def drain(self) -> None:
        """Answer everybody who waits, so that calls can end. Work goes on."""
        self.is_ready = False
        self.changes.close()

    async def stop(self, *, grace_s: float) -> None:
        """End: nothing new, then what was reported is made durable."""
        self.is_ready = False
        self.changes.close()
        if self.sweeper is not None:
            await self.sweeper.stop()
        if self.fleet is not None:
            await self.fleet.stop()
        if self.retention is not None:
            await self.retention.stop()
        await self.waiting.stop()
        try:
            await self.scheduler.stop()
            await self.journal.stop(grace_s=grace_s)
        finally:
            if self.fleet is not None:
                await self.fleet.leave()
