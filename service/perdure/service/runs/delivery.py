"""The way of an event from its commit to its run."""

from __future__ import annotations

from typing import Protocol

from perdure.engine.messages import EventArrived
from perdure.service.runs.scheduler import Scheduler
from perdure.storage.rows import RunRow, SetDormant, Write


class Delivery(Protocol):
    """Brings events to their runs."""

    def note(self, row: RunRow) -> Write:
        """An event for the run is about to be stored; gives what is stored with it. If the engine dies before the event
        is handed over, that makes the next owner of the run look at it."""
        ...

    def deliver(self, row: RunRow, event: EventArrived) -> None:
        """The event is durable: hand it over. `row` is as it was before. Called in the order of commits."""
        ...


class LocalDelivery:
    """Implements Delivery for the only engine over a store: runs get their events in the order of its commits."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def note(self, row: RunRow) -> Write:
        self._scheduler.roused(row.run_id)
        return SetDormant(row.run_id, False)

    def deliver(self, row: RunRow, event: EventArrived) -> None:
        self._scheduler.deliver(row.run_id, event)
