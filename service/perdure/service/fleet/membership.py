"""This engine's lease, and takeover of runs whose owner's lease has ended.

An engine that does not renew its lease in time is declared dead (fenced) by another one. From then on the store rejects
its commits, so its runs can go on elsewhere while it still believes to be alive. Leases are measured by the clock of
the database, not by those of the engines.

While the database is away no engine can renew. An engine that has seen the outage waits one lease before it declares
another one dead, so that an outage does not cost engines.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from perdure.service.fleet import repeats
from perdure.service.journal.loops import Loop, until_answered
from perdure.storage.ports import Entry, Fenced, MemberStore, RunStore, StorageError
from perdure.storage.rows import EngineRow, RunRow

log = logging.getLogger(__name__)

CHUNK: Final = 500
"""Runs that are taken over in one transaction. It is bounded so that surviving engines share the runs."""
WATCH_S: Final = 1.0


class MembershipStore(MemberStore, RunStore, Protocol):
    """The part of the store that membership uses."""


class Membership:
    """Renews this engine's lease, and declares engines dead whose lease has ended.

    `fenced` is called if this engine was declared dead. `elapsed_s` is a clock that goes on while the process is
    stopped; the time of an event loop may stand still within a step.
    """

    def __init__(
        self,
        store: MembershipStore,
        engine: EngineRow,
        *,
        lease_ms: int,
        fenced: Callable[[], None],
        elapsed_s: Callable[[], float],
    ) -> None:
        self.engine = engine
        self._store = store
        self._lease_ms = lease_ms
        self._fenced = fenced
        self._elapsed_s = elapsed_s
        self._patient_until_s = 0.0
        self._renewing = Loop(
            "membership-renew",
            self._renew,
            trouble="lease not renewed, trying again",
            first_s=lease_ms / 3000,
            failed=self._not_renewed,
        )
        self._watching = Loop(
            "membership-watch",
            self._watch,
            trouble="others not seen, trying again",
            failed=self._not_seen,
            fenced=fenced,
        )
        self._holds_until_s = 0.0
        self._take_up: Callable[[list[RunRow]], None] = lambda _rows: None

    @property
    def holds(self) -> bool:
        """Whether the lease certainly has not ended. It is measured from before the call that renewed it, so it ends
        here before it ends in the store."""
        return self.holds_for_s > 0

    @property
    def holds_for_s(self) -> float:
        """How long the lease certainly still holds; from any thread."""
        return self._holds_until_s - self._elapsed_s()

    async def join(self) -> None:
        """Become a member, and renew the lease until `leave`. Waits for the store if necessary."""

        async def join() -> None:
            async with self._held():
                await self._store.join(self.engine, self._lease_ms)

        await until_answered(join, trouble="not joined")
        self._renewing.start()

    async def start(self, take_up: Callable[[list[RunRow]], None]) -> None:
        """Begin to declare engines dead whose lease has ended, and to take over runs without an owner. `take_up` is
        called with their rows."""
        self._take_up = take_up
        self._watching.start()

    async def stop(self) -> None:
        """Stop taking over runs. The engine stays a member, since work under way has to become durable."""
        await self._watching.stop()

    async def leave(self) -> None:
        """Give up all runs, so that other engines need not wait for the end of the lease."""
        await self._renewing.stop()
        with contextlib.suppress(StorageError):
            await self._store.leave()

    async def renew(self) -> None:
        """Renew the lease. Raises StorageError, Fenced included."""
        try:
            async with self._held():
                await self._store.renew(self._lease_ms)
        except Fenced:
            log.error("this engine was declared dead; it stops")
            self._holds_until_s = 0.0
            self._fenced()
            raise

    async def happened(self, entries: Sequence[Entry]) -> Mapping[int, int]:
        """See `repeats`."""
        return await repeats.happened(self._store, self.engine.engine_id, entries)

    def fence(self) -> None:
        """The store says that this engine was declared dead."""
        self._fenced()

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        asked_s = self._elapsed_s()
        yield
        self._holds_until_s = max(self._holds_until_s, asked_s + self._lease_ms / 1000)

    async def _renew(self) -> float:
        await self.renew()
        return self._lease_ms / 3000

    def _not_renewed(self) -> float:
        self._was_away()
        return self._lease_ms / 20_000

    async def _watch(self) -> float:
        await self.look_around()
        return WATCH_S

    def _not_seen(self) -> float:
        self._was_away()
        return WATCH_S

    def _was_away(self) -> None:
        """The store did not answer."""
        self._patient_until_s = self._elapsed_s() + self._lease_ms / 1000

    async def look_around(self) -> None:
        """Declare engines dead whose lease has ended, and take over runs without an owner."""
        if self._elapsed_s() >= self._patient_until_s:
            for engine_id in await self._store.bury():
                log.warning("engine declared dead", extra={"engine": engine_id})
        while rows := await self._store.take_over(CHUNK):
            log.info("runs taken over", extra={"runs": len(rows)})
            self._take_up(rows)
