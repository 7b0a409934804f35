"""Slots and queues that hold over all engines of a namespace: the store counts, under a lock.

What is counted here only tells whether it is worth asking. A run that ended elsewhere freed a slot
without our knowing, so where somebody waits the store is asked every so often.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from perdure.model import RunStatus
from perdure.service.journal.loops import Loop
from perdure.service.queue.admission import ANY, Admission, Way
from perdure.storage.rows import Limit

log = logging.getLogger(__name__)

POLL_S: Final = 1.0


class SharedAdmission(Admission):
    """Admission of one engine among several."""

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self._polling = Loop("admission-poll", self._poll, trouble="queue not read, trying again", first_s=POLL_S)

    def wake(self) -> None:
        """Others have changed something: perhaps there is a slot."""
        if self.max_running != ANY and self._pending.total() > 0:
            self._loop.wake()

    async def start(self) -> None:
        await super().start()
        if self.max_running != ANY:
            self._polling.start()

    async def stop(self) -> None:
        await self._polling.stop()
        await super().stop()

    async def count(self) -> None:
        if self.max_running != ANY:
            await super().count()

    def admit(self, namespace: str, run_id: str) -> RunStatus:
        raise NotImplementedError("the store decides: see ways")

    def ways(self, namespace: str, run_id: str) -> Iterator[Way]:
        """At once if there is a slot and nobody waits; else in the queue if there is room."""
        if self.max_running == ANY:
            yield Way(RunStatus.RUNNING)
            return
        nobody_waits = Limit(namespace, RunStatus.PENDING, 1)
        yield Way(RunStatus.RUNNING, (*self._start_guards(namespace), nobody_waits))
        self._pending[namespace] += 1
        if self.max_pending == ANY:
            yield Way(RunStatus.PENDING)
        else:
            yield Way(RunStatus.PENDING, (Limit(namespace, RunStatus.PENDING, self.max_pending),))

    def leave(self, run_id: str) -> None:
        super().leave(run_id)
        self.wake()

    def _take(self, namespace: str, run_id: str) -> None:
        """Slots are the store's."""

    def _free(self, namespace: str) -> int:
        return 100

    def _start_guards(self, namespace: str) -> tuple[Limit, ...]:
        if self.max_running == ANY:
            return ()
        return (Limit(namespace, RunStatus.RUNNING, self.max_running),)

    async def _poll(self) -> float:
        self._pending = Counter(await self._store.count_pending())
        self.wake()
        return POLL_S
