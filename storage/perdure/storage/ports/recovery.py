"""All that bringing a run back into memory needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from perdure.storage.rows import RunRow, StoredRun, ValueKey


class RecoveryStore(Protocol):
    """Runs to take up, and what was recorded of each."""

    async def unfinished_runs(self, *, after: str, limit: int) -> list[RunRow]:
        """RUNNING runs of this member that are not dormant with a run id above `after`, by run id."""
        ...

    async def load_run(self, run_id: str) -> StoredRun | None:
        """All that recovery needs, read at one moment."""
        ...


class SpecStore(Protocol):
    """Graphs by their keys."""

    async def read_specs(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        """The graphs that are there, by key."""
        ...


class ValueStore(Protocol):
    """Inputs of runs and outputs of tasks."""

    async def read_values(self, keys: Sequence[ValueKey]) -> list[bytes | None]:
        """The values in the order asked for; None for one that is not there."""
        ...
