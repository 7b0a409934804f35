"""Delivery of an event from its commit to its run."""

from __future__ import annotations

from typing import Protocol

from perdure.engine.messages import EventArrived
from perdure.service.runs.scheduler import Scheduler
from perdure.storage.rows import RunRow
from perdure.storage.writes import SetDormant, Write


class Delivery(Protocol):
    """Brings events to their runs."""

    def note(self, row: RunRow) -> Write:
        """The write to store together with an event for the run. If the engine dies before it hands the event over, the
        write makes the next owner of the run look for events."""
        ...

    def deliver(self, row: RunRow, event: EventArrived, note: Write) -> None:
        """Hand over an event that is durable, and its note with it. `row` is the run's row from before the commit.
        Called in the order of commits."""
        ...


class LocalDelivery:
    """Implements Delivery for the only engine over a store: runs get their events in the order of its commits."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def note(self, row: RunRow) -> Write:
        note = SetDormant(row.run_id, False)
        self._scheduler.roused(row.run_id, note)
        return note

    def deliver(self, row: RunRow, event: EventArrived, note: Write) -> None:
        self._scheduler.deliver(row.run_id, event, note)
