"""Runs by what they are, and by when they changed."""

from __future__ import annotations

from typing import Protocol

from perdure.storage.rows import RunQuery, RunRow


class ListingStore(Protocol):
    """Runs by conditions."""

    async def list_runs(self, query: RunQuery) -> list[RunRow]:
        """A page of runs."""
        ...


class ChangeStore(Protocol):
    """What has changed since a commit."""

    async def read_changes(self, namespace: str | None, *, after: int, limit: int) -> list[RunRow]:
        """Runs (None: of all namespaces) with a `change` above `after`, by change and then run id. If the limit
        cuts a commit in two, the rest of that commit comes all the same: a page never ends inside one.

        Whoever reads on from the last change of a page misses nothing: a commit shows once every commit
        with a lower number is decided. A member's commit may thus show a moment after it returned."""
        ...

    async def read_tasks(self, run_id: str, *, after: int) -> list[tuple[str, int]]:
        """Id and change of the run's tasks with a `change` above `after`, by change and then `seq`."""
        ...

    async def last_change(self) -> int:
        """The highest number up to which every commit is decided: later ones get higher numbers. Of an
        embedded store it is the number of the last commit, 0 before the first."""
        ...
