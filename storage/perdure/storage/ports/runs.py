"""Rows of runs by their keys."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from perdure.storage.rows import RunRow


class RunStore(Protocol):
    """Runs that somebody names."""

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
        """Those of these runs that there are, in no order."""
        ...
