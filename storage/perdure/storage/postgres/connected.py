"""The connections of a store: one commits, a few read, others renew the membership and listen. A broken one is replaced
when it is needed next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from perdure.storage.postgres import schema
from perdure.storage.postgres.connections import Connection, Connections, Listener

T = TypeVar("T")

READERS: Final = 4
READ_S: Final = 10.0


class Connected:
    """A store that can be opened and read. `_engine_id` is the engine whose runs are read, "" before it joins."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._reads = Connections(url, READERS)
        self._commits = Connections(url, 1)
        self._members = Connections(url, 1)
        self._renewals = Connections(url, 1)  # a takeover may take a while, during which we must renew
        self._listener: Listener | None = None
        self._engine_id = ""

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

    async def _read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await self._reads.read(work, READ_S)
