"""What the engine asks of a store. Each sentence is a promise, and tests/conformance holds every
implementation to it: a promise that is not tested there is not made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from perdure.model import BlobRef
from perdure.storage.rows import BlobMark, Committed, RunQuery, RunRow, StoredRun, Timer, ValueKey, Write

Entry: TypeAlias = Sequence[Write]
"""Writes that belong together: all of them happen, or none."""


class StorageError(Exception):
    """The base of all that a store raises on purpose. Nothing was changed unless said otherwise."""


class StorageUnavailable(StorageError):
    """The store does not answer now. Of a commit: it may or may not have happened; repeat it."""


class StorageFull(StorageError):
    """There is no room. Nothing was changed; it may work later."""


class CorruptData(StorageError):
    """What is stored is not what was written. `subject` names it."""

    def __init__(self, message: str, subject: str) -> None:
        super().__init__(message)
        self.subject = subject


class BlobNotFound(StorageError):
    """There is no such blob. `sha256` names it."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"there is no blob {sha256}")
        self.sha256 = sha256


class MetadataStore(Protocol):
    """Runs, tasks, events, timers. One commit at a time is the caller's duty; reads run beside it."""

    async def open(self) -> None:
        """Connect, and bring the schema up to date if the store is an embedded one."""
        ...

    async def close(self) -> None:
        """Release everything. Closing twice is no error."""
        ...

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        """Make all entries durable in one transaction, in their order, but for refused ones (see AddRun).

        When it returns, the data survive the loss of power. When it raises StorageFull, nothing was
        changed. After StorageUnavailable the same call may be repeated: whatever had happened, the
        result is as if it had happened once. The number `change` grows from commit to commit and
        is written into every run and task row that the commit touches, whatever `change` they bear.
        """
        ...

    async def find_run(self, namespace: str, workflow_id: str) -> RunRow | None:
        """The current run of a workflow id."""
        ...

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        """The run that a request id made."""
        ...

    async def get_run(self, run_id: str) -> RunRow | None:
        """A run by its own id, current or not."""
        ...

    async def find_event(self, run_id: str, key: str, event_id: str) -> int | None:
        """The sequence of a recorded event, consumed or not."""
        ...

    async def load_run(self, run_id: str) -> StoredRun | None:
        """All that recovery needs, read at one moment."""
        ...

    async def read_specs(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        """The graphs that are there, by key."""
        ...

    async def read_values(self, keys: Sequence[ValueKey]) -> list[bytes | None]:
        """The values in the order asked for; None for one that is not there."""
        ...

    async def unfinished_runs(self, *, after: str, limit: int) -> list[RunRow]:
        """RUNNING runs that are not dormant with a run id above `after`, by run id."""
        ...

    async def running_runs(self) -> list[tuple[str, str]]:
        """Namespace and run id of every RUNNING run, dormant ones included."""
        ...

    async def count_pending(self) -> Mapping[str, int]:
        """How many runs are PENDING, by namespace; namespaces without any are left out."""
        ...

    async def pending_runs(self, namespace: str, *, limit: int) -> list[RunRow]:
        """PENDING runs, in the order in which they became that: by change and then run id."""
        ...

    async def next_timers(self, *, until_ms: int, limit: int) -> list[Timer]:
        """Timers of RUNNING runs due at `until_ms` or before, the earliest first.

        A task has one while its row has a `wake_ms` and the status RUNNING or BACKING_OFF.
        """
        ...

    async def list_runs(self, query: RunQuery) -> list[RunRow]:
        """A page of runs."""
        ...

    async def read_changes(self, namespace: str, *, after: int, limit: int) -> list[RunRow]:
        """Runs with a `change` above `after`, by change and then run id. If the limit cuts a commit in
        two, the rest of that commit comes all the same: a page never ends inside one."""
        ...

    async def read_tasks(self, run_id: str, *, after: int) -> list[tuple[str, int]]:
        """Id and change of the run's tasks with a `change` above `after`, by change and then `seq`."""
        ...

    async def marked_blobs(self, *, after: str, limit: int) -> list[BlobMark]:
        """Marked blobs with a hash above `after`, by hash; `is_used` says whether any run uses it now."""
        ...

    async def last_change(self) -> int:
        """The number of the last commit, 0 before the first."""
        ...


class BlobWriter(Protocol):
    """A blob in the making."""

    async def write(self, chunk: bytes | memoryview) -> None:
        """Add bytes."""
        ...

    def sha256(self) -> str:
        """The hash of what was written so far."""
        ...

    async def commit(self) -> BlobRef:
        """Make the blob durable and visible under its hash. Until then nobody sees anything of it."""
        ...


class BlobStore(Protocol):
    """Immutable bytes by the SHA-256 of their content."""

    def writer(self) -> AbstractAsyncContextManager[BlobWriter]:
        """Write a blob in pieces. Leaving the context without `commit` leaves nothing behind."""
        ...

    async def put(self, chunks: Iterable[bytes | memoryview]) -> BlobRef:
        """Write a blob whole. When it returns, the blob survives the loss of power. A blob that is
        there already is not written again, but counts as put now."""
        ...

    async def get(self, sha256: str) -> memoryview:
        """All bytes, read-only; mapped rather than read where that is possible.
        Raises BlobNotFound, CorruptData."""
        ...

    async def size(self, sha256: str) -> int | None:
        """Length in bytes, None if there is no such blob."""
        ...

    async def renew(self, sha256: str) -> int | None:
        """Let a blob count as put now. Length in bytes, None if there is no such blob."""
        ...

    async def delete(self, sha256: str, *, idle_s: float = 0) -> bool:
        """Remove a blob, unless it was put within the last `idle_s` seconds: then False, and it stays.
        Whoever puts it at the same time has it. Memory mapped before stays readable. Removing twice
        is no error."""
        ...

    def list(self) -> AsyncIterator[BlobRef]:
        """Every blob, in no particular order."""
        ...
