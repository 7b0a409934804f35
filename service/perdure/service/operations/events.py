"""Records events and hands them to their runs.

Each method returns once the event is durable. A refused request raises an error of `perdure.errors` and has changed
nothing. Every request may be repeated: the id of the event makes it idempotent.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Final

from perdure import errors, wire
from perdure.engine.messages import EventArrived
from perdure.model import Payload
from perdure.service.common.repeat import Repeat, aged
from perdure.service.common.trouble import refusing
from perdure.service.common.uses import names_of, use
from perdure.service.housekeeping.tombstones import DeletedRun
from perdure.service.journal.journal import Journal
from perdure.service.machines.actors import MAIL, events_of
from perdure.service.operations.asked import NewEvent, SentEvent
from perdure.service.operations.current import Current
from perdure.service.runs.delivery import Delivery
from perdure.service.runs.moments import Moments, not_found
from perdure.service.runs.scheduler import Scheduler
from perdure.storage.ports import EventStore
from perdure.storage.rows import ACTOR, RunRow
from perdure.storage.writes import AddEvent, EntryResult

EVENTS_MAX: Final = 1_000
"""Events for an actor that no graph has taken. Some more may be recorded if they are sent at the same time."""


class Events:
    """Takes events for runs."""

    def __init__(
        self,
        store: EventStore,
        journal: Journal,
        scheduler: Scheduler,
        current: Current,
        delivery: Delivery,
        moments: Moments,
    ) -> None:
        self._store = store
        self._moments = moments
        self._journal = journal
        self._scheduler = scheduler
        self._current = current
        self._delivery = delivery

    @refusing
    async def send(
        self,
        namespace: str,
        workflow_id: str,
        *,
        key: str,
        event_id: str,
        payload: Payload,
        repeat: Repeat | None = None,
    ) -> SentEvent:
        """Record an event for a run and hand it to a task that waits for it. It is kept until a task takes it.

        If the call is a repeat, and the run has had the event and was deleted since, that is the answer, whichever run
        has the id now."""
        self._current.refuse_while_failing()
        event = NewEvent(workflow_id, key, event_id, payload)
        row = await self.named(namespace, event, repeat)
        if isinstance(row, DeletedRun):
            return self.of_deleted(row)
        if row.status.is_final:
            return await self.find(row, key, event_id)
        came_ms = self._scheduler.clock()
        try:
            offer = self.offer if await self.room(row) > 0 else self.offer_again
            return await offer(row, key, event_id, payload)
        except errors.WorkflowNotFoundError:  # it was deleted since the look at it, perhaps with this event
            deleted = await self.named(namespace, event, aged(repeat, self._scheduler.clock() - came_ms))
            if not isinstance(deleted, DeletedRun):
                raise
            return self.of_deleted(deleted)

    @refusing
    async def named(self, namespace: str, event: NewEvent, repeat: Repeat | None) -> RunRow | DeletedRun:
        """The run that an event is for. Raises WorkflowNotFoundError."""
        return await self._current.of_event(namespace, event.workflow_id, event.key, event.event_id, repeat)

    def of_deleted(self, deleted: DeletedRun) -> SentEvent:
        """An event that a deleted run has had."""
        return SentEvent(deleted.row.run_id, deleted.sequence, True, self._scheduler.clock())

    def refuse_while_failing(self) -> None:
        """Refuse a request while the store fails, before anything depends on the answer."""
        self._current.refuse_while_failing()

    @refusing
    async def find(self, row: RunRow, key: str, event_id: str) -> SentEvent:
        """An event that a final run has had already, so that its sender is answered again. Raises
        WorkflowAlreadyFinalError if there is none."""
        sequence = await self._store.find_event(row.run_id, key, event_id)
        if sequence is None:
            raise errors.WorkflowAlreadyFinalError(
                f"workflow {row.workflow_id!r} is {row.status} and takes no events", status=str(row.status)
            )
        return SentEvent(row.run_id, sequence, True, self._scheduler.clock())

    async def room(self, row: RunRow) -> float:
        """The number of events that the run may still get. A workflow ends, and its events go with it. An actor stays,
        so it has a bound. Events that are on their way are not counted."""
        if row.kind != ACTOR:
            return inf
        return EVENTS_MAX - (await self._moments.look(row, events_of)).taken

    async def offer_again(self, row: RunRow, key: str, event_id: str, payload: Payload) -> SentEvent:
        """As `offer`, for an actor without room. Raises MailboxFullError unless the event is recorded already."""
        if await self._store.find_event(row.run_id, key, event_id) is None:
            raise errors.MailboxFullError(
                f"{EVENTS_MAX} events for the actor {row.workflow_id!r} wait for a graph that takes them; "
                "that is as many as may",
                actor_id=row.workflow_id,
            )
        return await self.offer(row, key, event_id, payload)

    def offer(self, row: RunRow, key: str, event_id: str, payload: Payload) -> asyncio.Future[SentEvent]:
        """Append an event for a run that is not final to the journal, before this returns."""
        now_ms = self._scheduler.clock()
        write = AddEvent(row.run_id, event_id, key, wire.encode_payload(payload), now_ms)

        def then(result: EntryResult, _change: int) -> SentEvent:
            if not result.sequence:  # it ended and was deleted since the look at it
                raise not_found(row.namespace, row.workflow_id)
            # Here and not after the await, since events arrive in the order of commits. A duplicate is handed
            # over too: the answer of its first commit may have been lost.
            self._delivery.deliver(row, EventArrived(result.sequence, key, payload, now_ms), note)
            return SentEvent(row.run_id, result.sequence, result.is_duplicate, now_ms)

        note = self._delivery.note(row)
        user = event_id if key == MAIL else ""  # the task of a call has its id
        entry = (write, *use(row.run_id, names_of(payload.blobs()), user), note)
        return self._journal.commit(entry, then, droppable=True)
