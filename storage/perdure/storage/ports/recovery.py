"""The ports for loading a run into memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from perdure.storage.rows import RunRow, StoredRun, ValueKey


class RecoveryStore(Protocol):
    """Unfinished runs, and the records of each."""

    async def unfinished_runs(self, *, after: str, limit: int) -> list[RunRow]:
        """RUNNING runs of this member that are not dormant with a run id above `after`, by run id."""
        ...

    async def load_run(self, run_id: str) -> StoredRun | None:
        """Everything that recovery needs, from one snapshot."""
        ...


class SpecStore(Protocol):
    """Graphs by their keys."""

    async def read_specs(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        """The existing graphs of these keys, by key."""
        ...


class ValueStore(Protocol):
    """Inputs of runs and outputs of tasks."""

    async def read_values(self, keys: Sequence[ValueKey]) -> list[bytes | None]:
        """The values in the order of the keys; None for a missing one."""
        ...
