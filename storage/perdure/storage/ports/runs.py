"""Rows of runs by their keys."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from perdure.storage.rows import RunRow


class RunStore(Protocol):
    """Runs by workflow id, request id or run id."""

    async def find_run(self, namespace: str, workflow_id: str) -> RunRow | None:
        """The current run of a workflow id."""
        ...

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        """The run that a request id made."""
        ...

    async def get_run(self, run_id: str) -> RunRow | None:
        """A run by its own id, current or not."""
        ...

    async def get_runs(self, run_ids: Collection[str]) -> list[RunRow]:
        """The existing runs of these ids, in no particular order."""
        ...
