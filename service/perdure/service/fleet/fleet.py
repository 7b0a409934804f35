"""Everything that an engine does because it is not alone, in one place for the kernel."""

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
    """What an engine among several asks of the store besides."""


class Fleet:
    """This engine among the others. `fenced` is set once it was declared dead: it may do nothing any more."""

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
        self._follower = Follower(store, journal, scheduler, changes, moments, clock)
        self._membership = membership

    async def join(self) -> None:
        """Become a member. Comes before the first commit."""
        await self._membership.join()

    async def start(self) -> None:
        """Begin to hear of the others, and to take over what they left."""
        await self._store.listen(self._heard)
        await self._post.start()
        await self._follower.start()
        await self._slots.start()
        await self._membership.start(self._take_up)

    async def stop(self) -> None:
        """Take nothing over any more."""
        await self._membership.stop()
        await self._slots.stop()
        await self._post.stop()
        await self._follower.stop()
        await self._inbox.stop()

    async def leave(self) -> None:
        """All is durable: others may go on with what is ours."""
        await self._membership.leave()

    def _heard(self) -> None:
        self._post.wake()
        self._follower.heard()
        self._slots.wake()

    def _take_up(self, rows: list[RunRow]) -> None:
        """These runs are ours now. Dormant ones wait for their timers, or for mail that is there already."""
        for row in rows:
            if row.status is RunStatus.RUNNING and not row.is_dormant:
                self._scheduler.take_up(row.run_id)
        self._scheduler.timers.look_again()
        self._post.wake()
        self._slots.wake()
