"""What the engine asks of a store. Each sentence is a promise, and tests/conformance holds every
implementation to it: a promise that is not tested there is not made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from perdure.model import BlobRef
from perdure.storage.rows import (
    BlobMark,
    Committed,
    EngineRow,
    EventRow,
    MailRow,
    RunQuery,
    RunRow,
    StoredRun,
    Timer,
    ValueKey,
    Write,
)

Entry: TypeAlias = Sequence[Write]
"""Writes that belong together: all of them happen, or none."""


class StorageError(Exception):
    """The base of all that a store raises on purpose. Nothing was changed unless said otherwise."""


class StorageUnavailable(StorageError):
    """The store does not answer now. Of a commit: it may or may not have happened; repeat it."""


class StorageDenied(StorageError):
    """The store does not let us in: credentials, rights, or a name that is not there. Nothing was changed."""


class StorageFull(StorageError):
    """There is no room. Nothing was changed; it may work later."""


class Unstorable(StorageError):
    """This store never takes it, however often it is asked: it has a character, a number or a size that the store does
    not have. Nothing was changed. `field` names the first such ("PutTask.row.task_id"), "" if none is known."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(f"{message} ({field})" if field else message)
        self.field = field


class Fenced(StorageError):
    """Other members declared this one dead, or it left. Nothing was changed, and nothing that it commits
    ever will be: whoever it was may join anew, under another id."""


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
    """Runs, tasks, events, timers, for one engine. One commit at a time is the caller's duty; reads run
    beside it.

    A store that `is_shared` has many engines as members, each through an object of its own; members know
    nothing of each other but what the store says. An embedded one has a single engine: joining it is a
    formality, nobody is ever fenced, and all runs are its own.
    """

    @property
    def is_shared(self) -> bool:
        """Whether there may be other engines."""
        ...

    async def open(self) -> None:
        """Connect, and bring the schema up to date if the store is an embedded one. Raises StorageError if
        the schema of a shared one is too old or too new."""
        ...

    async def close(self) -> None:
        """Release everything. Closing twice is no error."""
        ...

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        """Make all entries durable in one transaction, in their order, but for refused ones (see AddRun).

        When it returns, the data survive the loss of power. When it raises StorageFull or CorruptData,
        nothing was changed. After StorageUnavailable the same call may be repeated: whatever had happened,
        the result is as if it had happened once. The number `change` grows from commit to commit of a
        member and is written into every run and task row that the commit touches, whatever `change`
        they bear. Events of one run are numbered in the order of commits, whoever commits.

        Raises Unstorable if there is an entry among them that no repetition will make the store take; then none
        was taken, and the others may be committed without it. Every store takes what has texts without NUL and halves
        of surrogate pairs, of 256 characters where they are ids, integers of 64 bits and a megabyte of bytes a field.

        Raises Fenced if this member was buried or has left: a commit that was under way when it was
        buried has either happened before, entirely, or never will.
        """
        ...

    # -------------------------------------------------------------------------- members

    async def join(self, engine: EngineRow, lease_ms: int) -> None:
        """Become a member for so long, by the clock of the store. From then on every commit is fenced, and
        reads that speak of this member's runs mean those with its id as `owner`. A member that has not
        joined owns all and is never fenced: so do tools look at a store. Joining again is renewing."""
        ...

    async def renew(self, lease_ms: int) -> None:
        """Be a member for so long from now on. Raises Fenced. Does not wait for a commit under way."""
        ...

    async def leave(self) -> None:
        """Cease to be a member: what it owned is ownerless at once. Leaving twice is no error."""
        ...

    async def engines(self) -> list[EngineRow]:
        """The members, those that died lately included, by `started_ms` and then id; [] if it is embedded."""
        ...

    async def bury(self) -> list[str]:
        """Declare members dead whose lease has ended; gives their ids. Whatever they had under way has
        happened or never will when this returns."""
        ...

    async def take_over(self, limit: int) -> list[RunRow]:
        """Make this member the owner of RUNNING and PENDING runs, dormant ones too, whose owner is dead or
        gone: at most so many, by run id, and those that are at work before all others. [] if there are no more.
        Members that do it at the same time never get the same run, nor wait for each other. Neither `change` nor
        `update_ms` changes. Raises Fenced. What a call took that raised StorageUnavailable, the next one gives.
        Before joining there is nothing to take over."""
        ...

    async def read_mail(self, *, limit: int) -> list[MailRow]:
        """Mail for this member's runs, by number: what it took over with a run included."""
        ...

    async def listen(self, heard: Callable[[], None]) -> None:
        """Have `heard` called on the event loop soon after commits of other members that changed runs or
        left mail, and after one leaves, until the store is closed; several may be one call. It is a hint:
        some get lost, some come twice. It is called, too, when the connection was lost and is back."""
        ...

    # -------------------------------------------------------------------------- runs

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

    async def find_event(self, run_id: str, key: str, event_id: str) -> int | None:
        """The sequence of a recorded event, consumed or not."""
        ...

    async def read_events(self, run_id: str, *, after: int) -> list[EventRow]:
        """Events of the run that no task took with a sequence above `after`, by sequence."""
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
        """RUNNING runs of this member that are not dormant with a run id above `after`, by run id."""
        ...

    async def running_runs(self) -> list[tuple[str, str]]:
        """Namespace and run id of every RUNNING run of all members, dormant ones included."""
        ...

    async def count_pending(self) -> Mapping[str, int]:
        """How many runs of all members are PENDING, by namespace; namespaces without any are left out."""
        ...

    async def pending_runs(self, namespace: str, *, limit: int) -> list[RunRow]:
        """PENDING runs of all members, in the order in which they became that: by change and then run id."""
        ...

    async def next_timers(self, *, until_ms: int, limit: int) -> list[Timer]:
        """Timers of this member's RUNNING runs due at `until_ms` or before, the earliest first.

        A task has one while its row has a `wake_ms` and the status RUNNING or BACKING_OFF.
        """
        ...

    async def list_runs(self, query: RunQuery) -> list[RunRow]:
        """A page of runs."""
        ...

    async def read_changes(self, namespace: str | None, *, after: int, limit: int) -> list[RunRow]:
        """Runs (None: of all namespaces) with a `change` above `after`, by change and then run id. If the limit
        cuts a commit in two, the rest of that commit comes all the same: a page never ends inside one.

        Whoever reads on from the last change of a page misses nothing: a commit shows once every commit
        with a lower number is decided. A member's commit may thus show a moment after it returned."""
        ...

    async def read_tasks(self, run_id: str, *, after: int) -> list[tuple[str, int]]:
        """Id and change of the run's tasks with a `change` above `after`, by change and then `seq`."""
        ...

    async def marked_blobs(self, *, after: str, limit: int) -> list[BlobMark]:
        """Marked blobs with a hash above `after`, by hash; `is_used` says whether any run uses it now."""
        ...

    async def unused_blobs(self, sha256s: Sequence[str]) -> list[str]:
        """Those of the blobs that no run uses and that are not marked, in any order."""
        ...

    async def finished_runs(self, *, before_ms: int, limit: int) -> list[RunRow]:
        """Final runs of all namespaces and members, current or not, with an `end_ms` below that: by `end_ms`
        and then run id."""
        ...

    async def last_change(self) -> int:
        """The highest number up to which every commit is decided: later ones get higher numbers. Of an
        embedded store it is the number of the last commit, 0 before the first."""
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

    async def close(self) -> None:
        """Release the connections of this event loop. Closing twice is no error, nor is a call afterwards."""
        ...
