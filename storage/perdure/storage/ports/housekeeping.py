"""The port for removing old runs and unused blobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from perdure.storage.rows import BlobMark, RunRow


class HousekeepingStore(Protocol):
    """Blobs that may be unused, and runs that ended long ago."""

    async def marked_blobs(self, *, after: str, limit: int) -> list[BlobMark]:
        """Marked blobs with a hash above `after`, by hash. `is_used` says whether a run uses the blob now."""
        ...

    async def unused_blobs(self, sha256s: Sequence[str]) -> list[str]:
        """The given blobs that no run uses and that are not marked, in any order."""
        ...

    async def finished_runs(self, *, before_ms: int, limit: int) -> list[RunRow]:
        """Final runs of all namespaces and members, current or not, with an `end_ms` below that: by `end_ms`
        and then run id. Actors that failed are left out: they may have a state, and go on when they are resumed."""
        ...
