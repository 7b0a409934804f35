"""Records events and hands them to their runs.

Each method returns once the event is durable. A refused request raises an error of `perdure.errors` and has changed
nothing. Every request may be repeated: the id of the event makes it idempotent.
"""

from __future__ import annotations

import asyncio

from perdure import errors, wire
from perdure.engine.messages import EventArrived
from perdure.model import Payload
from perdure.service.common.repeat import Repeat
from perdure.service.common.trouble import refusing
from perdure.service.common.uses import use
from perdure.service.housekeeping.tombstones import DeletedRun
from perdure.service.journal.journal import Journal
from perdure.service.operations.asked import NewEvent, SentEvent
from perdure.service.operations.current import Current
from perdure.service.runs.delivery import Delivery
from perdure.service.runs.moments import not_found
from perdure.service.runs.scheduler import Scheduler
from perdure.storage.ports import EventStore
from perdure.storage.rows import AddEvent, EntryResult, RunRow


class Events:
    """Takes events for runs."""

    def __init__(
        self,
        store: EventStore,
        journal: Journal,
        scheduler: Scheduler,
        current: Current,
        delivery: Delivery,
    ) -> None:
        self._store = store
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
        return await self.offer(row, key, event_id, payload)

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

    def offer(self, row: RunRow, key: str, event_id: str, payload: Payload) -> asyncio.Future[SentEvent]:
        """Append an event for a run that is not final to the journal, before this returns."""
        now_ms = self._scheduler.clock()
        write = AddEvent(row.run_id, event_id, key, wire.encode_payload(payload), now_ms)

        def then(result: EntryResult, _change: int) -> SentEvent:
            if not result.sequence:  # it ended and was deleted since the look at it
                raise not_found(row.namespace, row.workflow_id)
            # Here and not after the await, since events arrive in the order of commits. A duplicate is handed
            # over too: the answer of its first commit may have been lost.
            self._delivery.deliver(row, EventArrived(result.sequence, key, payload, now_ms))
            return SentEvent(row.run_id, result.sequence, result.is_duplicate, now_ms)

        note = self._delivery.note(row)
        entry = (write, *use(row.run_id, payload.blobs()), note)
        return self._journal.commit(entry, then, droppable=True)
