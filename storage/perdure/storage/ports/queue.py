"""The port for queues: runs that hold a slot, and runs that wait for one. Actors do neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from perdure.storage.rows import RunRow


class QueueStore(Protocol):
    """Runs of all members by their place in the queues, without actors."""

    async def running_runs(self) -> list[tuple[str, str]]:
        """Namespace and run id of every RUNNING run of all members, dormant ones included."""
        ...

    async def count_pending(self) -> Mapping[str, int]:
        """The number of PENDING runs of all members, by namespace; namespaces without any are left out."""
        ...

    async def pending_runs(self, namespace: str, *, limit: int) -> list[RunRow]:
        """PENDING runs of all members, in the order in which they became PENDING: by change and then run id."""
        ...
