"""Runs in PostgreSQL, for one or several engines.

One connection commits, a few read, others renew the membership and listen. A broken connection is replaced when it is
needed next. A commit is numbered by its transaction id. Transactions end in another order than they begin, so readers
of changes see only numbers below which all transactions have ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from perdure.storage.ports import Entry, StorageUnavailable, Unstorable
from perdure.storage.postgres import members, read, schema, write
from perdure.storage.postgres.connections import Connection, Connections, Listener, is_conflict
from perdure.storage.rows import (
    BlobMark,
    Committed,
    EngineRow,
    EventName,
    EventRow,
    MailRow,
    RunQuery,
    RunRow,
    StoredRun,
    Timer,
    Tombstone,
    ValueKey,
)
from perdure.storage.storable import fault_of

T = TypeVar("T")

READERS: Final = 4
READ_S: Final = 10.0
LOAD_S: Final = 60.0
"""A run may have very many tasks."""
COMMIT_S: Final = 10.0
COMMIT_MAX_S: Final = 160.0
"""The time limit of a commit doubles with each repetition up to this, so that a large commit succeeds in the end."""
MEMBER_S: Final = 5.0
CONFLICTS_MAX: Final = 20


class PostgresMetadataStore:
    """Implements MetadataStore."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._reads = Connections(url, READERS)
        self._commits = Connections(url, 1)
        self._members = Connections(url, 1)
        self._renewals = Connections(url, 1)  # declaring a member dead may wait for a lock, during which we must renew
        self._listener: Listener | None = None
        self._engine_id = ""
        self._fence = write.Fence()
        self._commit_s = COMMIT_S
        self._call = 0
        self._doubtful_call = 0

    @property
    def is_shared(self) -> bool:
        return True

    @property
    def _all(self) -> tuple[Connections, ...]:
        return (self._reads, self._commits, self._members, self._renewals)

    async def open(self) -> None:
        for connections in self._all:
            connections.open()
        try:
            async with self._reads.use(READ_S) as (connection, _):
                await schema.verify(connection, self._url)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._listener is not None:
            await self._listener.stop()
            self._listener = None
        for connections in self._all:
            connections.close()

    # -------------------------------------------------------------------------- writing

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        try:
            committed = await self._commits.call(
                lambda connection, is_new: self._commit(connection, is_new, entries), self._commit_s
            )
        except Unstorable as error:
            raise Unstorable(str(error), fault_of(entries)) from error
        except StorageUnavailable:
            self._commit_s = min(self._commit_s * 2, COMMIT_MAX_S)
            raise
        self._commit_s = COMMIT_S
        return committed

    async def _commit(self, connection: Connection, is_new: bool, entries: Sequence[Entry]) -> Committed:
        engine_id = self._engine_id
        if engine_id and (is_new or self._fence.engine_id != engine_id):
            session = await members.begin_session(connection, engine_id)
            self._fence = write.Fence(engine_id, session)
        for _ in range(CONFLICTS_MAX):
            try:
                return await write.commit(connection, self._fence, entries)
            except write.NotAlive:
                if not await members.is_member(connection, engine_id):
                    raise members.fenced(engine_id) from None
                raise StorageUnavailable("another connection of this engine commits") from None
            except write.Raced:
                continue
            except Exception as error:
                if not is_conflict(error):
                    raise
        raise StorageUnavailable("other members were always faster")

    # -------------------------------------------------------------------------- members

    async def join(self, engine: EngineRow, lease_ms: int) -> None:
        async with self._renewals.use(MEMBER_S) as (connection, _):
            await members.join(connection, engine, schema.known(), lease_ms)
        self._engine_id = engine.engine_id

    async def renew(self, lease_ms: int) -> None:
        if self._engine_id:
            async with self._renewals.use(MEMBER_S) as (connection, _):
                await members.renew(connection, self._engine_id, lease_ms)

    async def leave(self) -> None:
        if self._engine_id:
            await self._as_member(lambda connection: members.leave(connection, self._engine_id))

    async def engines(self) -> list[EngineRow]:
        return await self._read(read.engines)

    async def bury(self) -> list[str]:
        return await self._as_member(members.bury)

    async def take_over(self, limit: int) -> list[RunRow]:
        if not self._engine_id:
            return []
        return await self._as_member(lambda connection: self._take_over(connection, limit))

    async def _take_over(self, connection: Connection, limit: int) -> list[RunRow]:
        if self._doubtful_call:
            lost, self._call = self._doubtful_call, self._call + 1
            rows = await members.taken_by(connection, self._engine_id, lost, self._call)
            self._doubtful_call = 0
            if rows:
                return rows
        self._call += 1
        self._doubtful_call = self._call
        rows = await members.take_over(connection, self._engine_id, self._call, limit)
        self._doubtful_call = 0
        return rows

    async def read_mail(self, *, limit: int) -> list[MailRow]:
        return await self._read(lambda connection: read.read_mail(connection, self._engine_id, limit))

    async def listen(self, heard: Callable[[], None]) -> None:
        def heard_of(engine_id: str) -> None:
            if not engine_id or engine_id != self._engine_id:
                heard()

        if self._listener is not None:
            await self._listener.stop()
        self._listener = Listener(self._url, heard_of)
        await self._listener.start()

    async def _as_member(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await self._members.call(lambda connection, _is_new: work(connection), MEMBER_S)

    # -------------------------------------------------------------------------- reading

    async def _read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await self._reads.read(work, READ_S)

    async def find_run(self, namespace: str, workflow_id: str) -> RunRow | None:
        return await self._read(lambda connection: read.find_run(connection, namespace, workflow_id))

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        return await self._read(lambda connection: read.find_request(connection, namespace, request_id))

    async def get_run(self, run_id: str) -> RunRow | None:
        return await self._read(lambda connection: read.get_run(connection, run_id))

    async def get_runs(self, run_ids: Collection[str]) -> list[RunRow]:
        return await self._read(lambda connection: read.get_runs(connection, run_ids))

    async def find_event(self, run_id: str, key: str, event_id: str) -> int | None:
        return await self._read(lambda connection: read.find_event(connection, run_id, key, event_id))

    async def read_events(self, run_id: str, *, after: int) -> list[EventRow]:
        return await self._read(lambda connection: read.read_events(connection, run_id, after))

    async def latest_events(self, run_id: str, *, limit: int) -> list[EventName]:
        return await self._read(lambda connection: read.latest_events(connection, run_id, limit))

    async def read_tombstone(self, key: str) -> Tombstone | None:
        return await self._read(lambda connection: read.read_tombstone(connection, key))

    async def load_run(self, run_id: str) -> StoredRun | None:
        return await self._reads.read(lambda connection: read.load_run(connection, run_id), LOAD_S)

    async def read_specs(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        wanted = list(keys)
        return await self._read(lambda connection: read.read_specs(connection, wanted))

    async def read_values(self, keys: Sequence[ValueKey]) -> list[bytes | None]:
        return await self._read(lambda connection: read.read_values(connection, keys))

    async def unfinished_runs(self, *, after: str, limit: int) -> list[RunRow]:
        me = self._engine_id
        return await self._read(lambda connection: read.unfinished_runs(connection, me, after, limit))

    async def running_runs(self) -> list[tuple[str, str]]:
        return await self._read(read.running_runs)

    async def count_pending(self) -> Mapping[str, int]:
        return await self._read(read.count_pending)

    async def pending_runs(self, namespace: str, *, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: read.pending_runs(connection, namespace, limit))

    async def next_timers(self, *, until_ms: int, limit: int) -> list[Timer]:
        me = self._engine_id
        return await self._read(lambda connection: read.next_timers(connection, me, until_ms, limit))

    async def list_runs(self, query: RunQuery) -> list[RunRow]:
        return await self._read(lambda connection: read.list_runs(connection, query))

    async def read_changes(self, namespace: str | None, *, after: int, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: read.read_changes(connection, namespace, after, limit))

    async def read_tasks(self, run_id: str, *, after: int) -> list[tuple[str, int]]:
        return await self._read(lambda connection: read.read_tasks(connection, run_id, after))

    async def marked_blobs(self, *, after: str, limit: int) -> list[BlobMark]:
        return await self._read(lambda connection: read.marked_blobs(connection, after, limit))

    async def unused_blobs(self, sha256s: Sequence[str]) -> list[str]:
        return await self._read(lambda connection: read.unused_blobs(connection, sha256s))

    async def finished_runs(self, *, before_ms: int, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: read.finished_runs(connection, before_ms, limit))

    async def last_change(self) -> int:
        return await self._read(read.last_change)
