"""Records events and hands them to their runs.

Each method returns once the event is durable. A refused request raises an error of `perdure.errors` and has changed
nothing. Every request may be repeated: the id of the event makes it idempotent.
"""

from __future__ import annotations

import asyncio

from perdure import errors, wire
from perdure.engine.messages import EventArrived
from perdure.model import Payload
from perdure.service.common.trouble import refusing
from perdure.service.common.uses import use
from perdure.service.housekeeping.tombstones import Tombstones
from perdure.service.journal.journal import Journal
from perdure.service.operations.asked import SentEvent
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
        tombstones: Tombstones,
        delivery: Delivery,
    ) -> None:
        self._store = store
        self._journal = journal
        self._scheduler = scheduler
        self._current = current
        self._tombstones = tombstones
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
        asked_ms_ago: int = 0,
    ) -> SentEvent:
        """Record an event for a run and hand it to a task that waits for it. It is kept until a task takes it.

        `asked_ms_ago`: the call is a repeat, made first at least that long ago. If the run has had the event and was
        deleted since, that is the answer, whichever run has the id now."""
        self._current.refuse_while_failing()
        if (sent := await self.sent_before(namespace, workflow_id, key, event_id, asked_ms_ago)) is not None:
            return sent
        row = await self._current.row(namespace, workflow_id)
        if (sent := await self.sent_before(namespace, workflow_id, key, event_id, asked_ms_ago)) is not None:
            return sent  # that run was deleted in between, and the row is of the next one
        if row.status.is_final:
            return await self.find(row, key, event_id)
        return await self.offer(row, key, event_id, payload)

    @refusing
    async def sent_before(
        self, namespace: str, workflow_id: str, key: str, event_id: str, asked_ms_ago: int
    ) -> SentEvent | None:
        """An event that a run has had which was deleted within the last `asked_ms_ago`."""
        deleted = await self._tombstones.of_event(namespace, workflow_id, key, event_id, asked_ms_ago)
        if deleted is None:
            return None
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
