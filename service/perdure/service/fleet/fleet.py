"""All services of an engine among several, behind one class for the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from perdure.model import RunStatus
from perdure.service.fleet.follower import Follower
from perdure.service.fleet.inbox import Inbox
from perdure.service.fleet.membership import Membership
from perdure.service.fleet.post import Post
from perdure.service.fleet.slots import SharedSlots
from perdure.service.journal.journal import Journal
from perdure.service.runs.changes import Changes
from perdure.service.runs.moments import Moments
from perdure.service.runs.scheduler import Scheduler
from perdure.storage.ports import ChangeStore, EventStore, MailStore, MemberStore, RunStore
from perdure.storage.rows import RunRow


class FleetStore(ChangeStore, EventStore, MailStore, MemberStore, RunStore, Protocol):
    """The additional store operations of an engine among several."""


class Fleet:
    """This engine among the others. `fenced` is set once it was declared dead: it must stop then."""

    def __init__(
        self,
        store: FleetStore,
        journal: Journal,
        scheduler: Scheduler,
        changes: Changes,
        moments: Moments,
        slots: SharedSlots,
        inbox: Inbox,
        membership: Membership,
        clock: Callable[[], int],
        *,
        fenced: asyncio.Event,
    ) -> None:
        self.fenced = fenced
        self._store = store
        self._scheduler = scheduler
        self._slots = slots
        self._inbox = inbox
        self._post = Post(store, journal, scheduler, inbox)
        self._follower = Follower(store, journal, scheduler, changes, moments, clock, moved=slots.heard)
        self._membership = membership

    async def join(self) -> None:
        """Become a member. Must be called before the first commit."""
        await self._membership.join()

    async def start(self) -> None:
        """Begin to follow other engines, and to take over the runs of dead ones."""
        await self._store.listen(self._heard)
        await self._post.start()
        await self._follower.start()
        await self._slots.start()
        await self._membership.start(self._take_up)

    async def stop(self) -> None:
        """Take over no more runs."""
        await self._membership.stop()
        await self._slots.stop()
        await self._post.stop()
        await self._follower.stop()
        await self._inbox.stop()

    async def leave(self) -> None:
        """Give up the membership, so that other engines may take over the runs. The caller has made everything
        durable."""
        await self._membership.leave()

    def _heard(self) -> None:
        self._post.wake()
        self._follower.heard()
        self._slots.heard()

    def _take_up(self, rows: list[RunRow]) -> None:
        """Start the runs that this engine now owns. Dormant ones wait for their timers or mail."""
        for row in rows:
            if row.status is RunStatus.RUNNING and not row.is_dormant:
                self._scheduler.take_up(row.run_id)
        self._scheduler.timers.look_again()
        self._post.wake()
        self._slots.heard()
