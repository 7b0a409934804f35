"""The ports for listing runs and for following changes."""

from __future__ import annotations

from typing import Protocol

from perdure.storage.queries import RunQuery
from perdure.storage.rows import RunRow


class ListingStore(Protocol):
    """Runs by conditions."""

    async def list_runs(self, query: RunQuery) -> list[RunRow]:
        """A page of runs."""
        ...


class ChangeStore(Protocol):
    """The runs and tasks that changed since a commit."""

    async def read_changes(self, namespace: str | None, *, after: int, limit: int) -> list[RunRow]:
        """Runs (None: of all namespaces) with a `change` above `after`, by change and then run id. A page never ends
        inside a commit: it has more than `limit` runs if necessary.

        A reader that goes on from the last change of a page misses nothing: a commit becomes visible here once every
        commit with a lower number is decided. So a member's commit may become visible a moment after it returned."""
        ...

    async def read_tasks(self, run_id: str, *, after: int) -> list[tuple[str, int]]:
        """Id and change of the run's tasks with a `change` above `after`, by change and then `seq`."""
        ...

    async def last_change(self) -> int:
        """The highest number up to which every commit is decided; later commits get higher numbers. In an embedded
        store it is the number of the last commit, 0 before the first."""
        ...
