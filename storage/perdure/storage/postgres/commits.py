"""Commits over the one connection that the fence admits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perdure.storage.ports import Entry, StorageUnavailable, Unstorable
from perdure.storage.postgres import members, write
from perdure.storage.postgres.connected import Connected
from perdure.storage.postgres.connections import Connection, is_conflict
from perdure.storage.storable import fault_of
from perdure.storage.writes import Committed

COMMIT_S: Final = 10.0
COMMIT_MAX_S: Final = 160.0
"""The time limit of a commit doubles with each repetition up to this, so that a large commit succeeds in the end."""
CONFLICTS_MAX: Final = 20


class Commits(Connected):
    """Implements CommitStore."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._fence = write.Fence()
        self._commit_s = COMMIT_S

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
