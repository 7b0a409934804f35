"""The engine without its surroundings: everything between the store, the executor and the servicers. `app` passes the
real ones; the simulation passes faulty ones on a virtual clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from perdure.ids import TimeOrderedIds
from perdure.service.common.clocks import elapsed_s as since_some_moment_s
from perdure.service.common.clocks import wall_clock_ms
from perdure.service.executors.asking import AskingExecutor
from perdure.service.executors.port import Executor
from perdure.service.executors.renewing import RenewingExecutor
from perdure.service.fleet.among_several import AmongSeveral
from perdure.service.fleet.fleet import Fleet
from perdure.service.fleet.inbox import Inbox
from perdure.service.fleet.membership import Membership
from perdure.service.fleet.slots import SharedSlots
from perdure.service.housekeeping.deletion import Deletions
from perdure.service.housekeeping.retention import Retention
from perdure.service.housekeeping.sweep import Sweeper
from perdure.service.housekeeping.tombstones import Tombstones
from perdure.service.journal.journal import Journal
from perdure.service.journal.membership import SoleMember
from perdure.service.machines.actors import ACTORS, blobs_of_returned
from perdure.service.machines.definitions import Definitions
from perdure.service.machines.graphs import GRAPHS
from perdure.service.machines.kinds import Kinds
from perdure.service.operations.actors import Actors
from perdure.service.operations.current import Current
from perdure.service.operations.events import Events
from perdure.service.operations.lifecycle import Lifecycle
from perdure.service.operations.queries import Queries
from perdure.service.operations.submit import Submissions
from perdure.service.queue.moves import Moves
from perdure.service.queue.pending import PendingRuns
from perdure.service.queue.slots import ANY, Capacity, LocalSlots, Slots
from perdure.service.runs.changes import Changes
from perdure.service.runs.delivery import Delivery, LocalDelivery
from perdure.service.runs.moments import Moments
from perdure.service.runs.ownership import Alone, Ownership
from perdure.service.runs.scheduler import Scheduler
from perdure.service.runs.values import Values
from perdure.storage.ports import BlobStore, MetadataStore
from perdure.storage.rows import EngineRow
from perdure.storage.writes import SetAsideRuns

log = logging.getLogger(__name__)

KINDS: Final = Kinds([GRAPHS, ACTORS])
"""The kinds of runs that every engine knows."""
GRACE_LEASES: Final = 3
"""Blobs without a use are kept for at least this many engine leases. By then an engine has recorded the use of a blob,
or it was declared dead and never will."""


@dataclass(frozen=True)
class _Standing:
    """The base of an engine, alone or among several. `join` makes the parts that need the scheduler."""

    journal: Journal
    changes: Changes
    ownership: Ownership
    slots: Slots
    blob_grace_s: float
    """Blobs without a use are kept for at least this time."""
    join: Callable[[Scheduler, Moments], tuple[Delivery, Fleet | None]]


def _alone(store: MetadataStore, owner: str, capacity: Capacity) -> _Standing:
    changes = Changes()
    return _Standing(
        Journal(store, SoleMember(store), finished=changes.advance),
        changes,
        Alone(owner),
        LocalSlots(store, capacity),
        0,
        lambda scheduler, _moments: (LocalDelivery(scheduler), None),
    )


def _among_several(
    store: MetadataStore,
    owner: str,
    engine: EngineRow | None,
    capacity: Capacity,
    *,
    lease_s: float,
    clock: Callable[[], int],
    elapsed_s: Callable[[], float],
) -> _Standing:
    fenced = asyncio.Event()
    engine = engine or EngineRow(owner)
    membership = Membership(store, engine, lease_ms=round(lease_s * 1000), fenced=fenced.set, elapsed_s=elapsed_s)
    journal = Journal(store, membership)
    changes = Changes(is_complete=False)
    ownership = AmongSeveral(owner, store, journal, changes, membership)
    slots = SharedSlots(store, capacity)

    def join(scheduler: Scheduler, moments: Moments) -> tuple[Delivery, Fleet | None]:
        inbox = Inbox(store, journal, scheduler, ownership)
        fleet = Fleet(store, journal, scheduler, changes, moments, slots, inbox, membership, clock, fenced=fenced)
        return inbox, fleet

    return _Standing(journal, changes, ownership, slots, GRACE_LEASES * lease_s, join)


class Kernel:
    """One engine over one store. The caller opens and closes the store. With `blobs`, the engine also removes unused
    blobs."""

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
        kinds: Kinds = KINDS,
    ) -> None:
        capacity = Capacity(max_running, max_pending)
        if store.is_shared:
            standing = _among_several(store, owner, engine, capacity, lease_s=lease_s, clock=clock, elapsed_s=elapsed_s)
        else:
            standing = _alone(store, owner, capacity)
        if blobs is not None and blob_grace_s:
            blob_grace_s = max(blob_grace_s, standing.blob_grace_s)
            late_s = blob_grace_s / 2
            executor = RenewingExecutor(executor, blobs, late_s=late_s, elapsed_s=elapsed_s, named_by=blobs_of_returned)
        executor = asking = AskingExecutor(executor)
        self.store = store
        self.blob_grace_s = blob_grace_s
        self.journal = journal = standing.journal
        self.changes = changes = standing.changes
        self.slots = slots = standing.slots
        ownership = standing.ownership

        # runs
        self.values = values = Values(store)
        definitions = Definitions(store, kinds)
        self.scheduler = scheduler = Scheduler(
            store,
            definitions,
            journal,
            executor,
            values,
            changes,
            clock,
            ownership,
            on_end=slots.leave,
            on_forget=lambda: self.sweeper.wake() if self.sweeper is not None else None,
            remove=lambda row, last_event: self._deletions.remove_unused(row, last_event),
        )
        moments = Moments(store, journal, scheduler, ownership)
        delivery, self.fleet = standing.join(scheduler, moments)

        # queue
        moves = Moves(journal, scheduler, slots, ownership)
        self.pending_runs = PendingRuns(store, scheduler, slots, moves)

        # housekeeping
        self.sweeper: Sweeper | None = None
        if blobs is not None:
            self.sweeper = Sweeper(store, journal, blobs, grace_s=blob_grace_s, collect_s=collect_s, now_s=elapsed_s)
        on_delete = self.sweeper.wake if self.sweeper is not None else lambda: None
        tombstones = Tombstones(store, clock)
        self._deletions = deletions = Deletions(journal, changes, clock, tombstones, on_delete=on_delete)
        self.retention: Retention | None = None
        if keep_ms is not None:
            self.retention = Retention(store, moves, deletions, clock, keep_ms=keep_ms)

        # operations
        current = Current(journal, moments, tombstones, clock)
        self.lifecycle = Lifecycle(store, journal, scheduler, moments, slots, moves, deletions, current, ownership)
        self.submissions = Submissions(
            store,
            journal,
            scheduler,
            values,
            executor,
            slots,
            moves,
            tombstones,
            current,
            self.lifecycle,
            ownership,
            new_id=new_id,
        )
        self.events = Events(store, journal, scheduler, current, delivery, moments)
        self.queries = Queries(store, moments, scheduler, executor, values, changes)
        self.actors = Actors(
            store,
            moments,
            scheduler,
            changes,
            self.submissions,
            self.lifecycle,
            self.events,
            self.queries,
            asking,
            values,
            journal,
            ownership,
            new_id or TimeOrderedIds(),
        )
        self.is_ready = False

    async def start(self, *, recover: bool = True) -> None:
        """Begin to work. `recover` False makes unfinished runs RESUMABLE instead of recovering them."""
        if self.fleet is not None:
            await self.fleet.join()
        await self.journal.start()
        if not recover:
            await self.journal.commit((SetAsideRuns(self.scheduler.clock()),))
        await self.pending_runs.count()
        await self.scheduler.start()
        if self.fleet is not None:
            await self.fleet.start()  # recovery: runs without a living owner are taken over
        elif recover:
            count = await self.scheduler.recover()
            log.info("recovered", extra={"runs": count})
        await self.pending_runs.start()
        if self.sweeper is not None:
            await self.sweeper.start()
        if self.retention is not None:
            await self.retention.start()
        self.is_ready = True

    @property
    def is_quiet(self) -> bool:
        """Whether only attempts are under way: the next change comes from an attempt, a caller or the clock."""
        at_rest = self.journal.is_idle and self.pending_runs.is_idle and self.scheduler.is_idle
        return self.is_ready and at_rest

    def drain(self) -> None:
        """Answer all waiting calls, so that they can end. Work goes on."""
        self.is_ready = False
        self.changes.close()

    async def stop(self, *, grace_s: float) -> None:
        """Stop: take no new work, then make reported results durable."""
        self.is_ready = False
        self.changes.close()
        if self.sweeper is not None:
            await self.sweeper.stop()
        if self.fleet is not None:
            await self.fleet.stop()
        if self.retention is not None:
            await self.retention.stop()
        await self.pending_runs.stop()
        try:
            await self.scheduler.stop()
            await self.journal.stop(grace_s=grace_s)
        finally:
            if self.fleet is not None:
                await self.fleet.leave()
