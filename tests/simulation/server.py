"""PostgreSQL in worlds of several engines: a real server, whose clock is that of the world.

While a statement is on its way to the server, nothing else happens in the world, and no time passes. So a world stays
the same each time, and what is tested is what statements do, not how they run beside each other. Connections die
before a call has an effect, or when it has, which is for the store to sort out. Notifications come from the reference
in memory, in the time of the world.
"""

from __future__ import annotations

import asyncio
import atexit
import random
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import cache
from typing import Any, Final, TypeVar

import asyncpg

from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import Entry, StorageUnavailable
from perdure.storage.postgres import members
from perdure.storage.postgres.connections import Connection, Connections
from perdure.storage.postgres.store import PostgresMetadataStore
from perdure.storage.rows import RunRow
from perdure.storage.writes import Committed, Mail
from postgres import SETTINGS, PostgresServer, running_postgres
from simulation.twin import Twin

T = TypeVar("T")

FIRST_NUMBER: Final = 7_000_000_000_000
"""Commits have numbers above this one. They are other ones each time, so they are masked in the trace."""
LOST_SHARE: Final = 0.3
"""Of the calls, while there is trouble, so many lose their connection."""
BY_CLOCK: Final = frozenset({"join", "renew", "bury"})
"""Calls in which the server looks at its clock."""
STATEMENTS: Final = ("execute", "fetch", "fetchrow", "fetchval")
CALL_MAX_S: Final = 60.0
OF_WORLDS: Final = {**SETTINGS, "fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
_CLOCK: Final = """
    CREATE SCHEMA world;
    CREATE TABLE world.clock (now_ms bigint);
    INSERT INTO world.clock VALUES (0);
    CREATE FUNCTION world.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
        AS 'SELECT to_timestamp(now_ms / 1000.0) FROM world.clock';
"""


class Server:
    """One a process, with a thread and an event loop for the connections to it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.postgres: PostgresServer = self._stack.enter_context(running_postgres(settings=OF_WORLDS))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="postgres-of-worlds", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the loop of the connections, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_MAX_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._stack.close()


@cache
def server() -> Server:
    return Server()


class PostgresData:
    """The database of one world."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._server = server()
        self._now_ms = 0
        self._stores: list[PostgresMetadataStore] = []
        self._database: AbstractAsyncContextManager[str] = self._server.postgres.database()
        self._url = self._server.run(self._open())

    async def _open(self) -> str:
        url = await self._database.__aenter__()
        name = url.rpartition("/")[2]
        self._mine = await asyncpg.connect(url)
        await self._mine.execute(_CLOCK)
        await self._mine.execute(f"UPDATE numbering SET shift = {FIRST_NUMBER}")
        await self._mine.execute(f"ALTER DATABASE {name} SET search_path = world, pg_catalog, public")
        return url

    def member(self, model: MemoryMetadataStore, dice: random.Random) -> PostgresTwin:
        """The store of one more engine."""
        store = PostgresMetadataStore(self._url)
        self._stores.append(store)
        twin = PostgresTwin(self, store, model, dice)
        self.run(store.open)
        return twin

    def run(self, call: Callable[[], Awaitable[T]], *, by_clock: bool = False) -> T:
        async def timed() -> T:
            if by_clock and self._now_ms != (now_ms := self._clock()):
                await self._mine.execute("UPDATE world.clock SET now_ms = $1", now_ms)
                self._now_ms = now_ms
            return await call()

        return self._server.run(timed())

    async def first_mail(self, after: int) -> int | None:
        """The lowest number of a letter above another one."""
        found: int | None = await self._mine.fetchval("SELECT min(number) FROM mail WHERE number > $1", after)
        return found

    def close(self) -> None:
        async def close() -> None:
            for store in self._stores:
                await store.close()
            await self._mine.close()
            await self._database.__aexit__(None, None, None)

        self._server.run(close())


class _Dying:
    """A connection that dies when the answer to one of its statements is on its way."""

    def __init__(self, inner: Connection, lossy: _Lossy) -> None:
        self._inner = inner
        self._lossy = lossy

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in STATEMENTS:
            return found

        async def ask(*args: Any, **how: Any) -> Any:
            answer = await found(*args, **how)
            self._lossy.answered(args[0], answer)
            return answer

        return ask


class _Lossy(Connections):
    """Connections of a store. `loss`: how the next call loses its connection, "" for not at all: before it does
    anything, with the answer to a statement, or when it is done."""

    def __init__(self, url: str, size: int) -> None:
        super().__init__(url, size)
        self.loss: str | int = ""
        self.left = 0
        self.done: Any = None
        """What a call that was lost had done."""
        self.taken: list[Any] | None = None
        """The rows that a takeover has given."""

    async def call(self, work: Callable[[Connection, bool], Awaitable[T]], timeout_s: float) -> T:
        loss, self.loss = self.loss, ""
        self.done = self.taken = None
        self.left = loss if isinstance(loss, int) else 0

        async def dying(connection: Connection, is_new: bool) -> T:
            if loss == "before":
                raise ConnectionResetError("before")
            done = await work(_Dying(connection, self) if self.left else connection, is_new)
            if loss == "after":
                self.done = done
                raise ConnectionResetError("after")
            return done

        return await super().call(dying, timeout_s)

    def answered(self, statement: str, answer: Any) -> None:
        if statement is members._TAKE:
            self.taken = answer
        self.left -= 1
        if not self.left:
            raise ConnectionResetError("with an answer")


class PostgresTwin(Twin):
    """One engine's store. Whether an answer is lost is decided before the call, by dice of the world."""

    def __init__(
        self, data: PostgresData, real: PostgresMetadataStore, model: MemoryMetadataStore, dice: random.Random
    ) -> None:
        super().__init__(real, model, self._ask)
        self._data = data
        self._dice = dice
        self.is_troubled = False
        self._commits = real._commits = _Lossy(real._url, 1)
        self._members = real._members = _Lossy(real._url, 1)
        self._taken: list[str] = []
        """The runs of a takeover whose answer was lost."""

    async def _ask(self, call: Callable[[], Awaitable[Any]], name: str) -> Any:
        return self._data.run(call, by_clock=name in BY_CLOCK)

    def _arm(self, connections: _Lossy, losses: Sequence[str | int]) -> None:
        is_lost = self.is_troubled and self._dice.random() < LOST_SHARE
        connections.loss = self._dice.choice(losses) if is_lost else ""

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        self._arm(self._commits, ("before", "after"))
        try:
            committed: Committed = await self._ask(lambda: self._real.commit(entries), "commit")
        except StorageUnavailable:
            if self._commits.done is not None:
                await self.follow(entries, self._commits.done)
            raise
        await self.follow(entries, committed)
        return committed

    @property
    def happened(self) -> Committed | None:
        """The last commit, if its answer was lost."""
        lost: Committed | None = self._commits.done
        return lost

    async def follow(self, entries: Sequence[Entry], committed: Committed) -> None:
        all_ = self._model._all
        if any(isinstance(write, Mail) for entry in entries for write in entry):
            first = self._data.run(lambda: self._data.first_mail(all_.mail_number))
            all_.mail_number = all_.mail_number if first is None else first - 1
        await super().follow(entries, committed)

    async def take_over(self, limit: int) -> list[RunRow]:
        self._arm(self._members, (1, 1, 2, 3))
        lost = [row for row in await self._model.get_runs(self._taken) if row.owner == self._model._engine_id]
        try:
            rows: list[RunRow] = await self._ask(lambda: self._real.take_over(limit), "take_over")
        except StorageUnavailable:
            if self._members.taken is not None:
                self._taken = [row.run_id for row in await self._model.take_over(limit)]
            raise
        self._taken = []
        self._compare("take_over", (limit,), rows, lost or await self._model.take_over(limit))
        return rows

    async def listen(self, heard: Callable[[], None]) -> None:
        await self._model.listen(heard)

    async def close(self) -> None:
        await self._model.close()


def masked() -> Callable[[str], str]:
    """Replaces the numbers of commits by their order of appearance."""
    names: dict[str, str] = {}

    def name(found: re.Match[str]) -> str:
        return names.setdefault(found[0], f"commit-{len(names)}")

    return lambda line: _NUMBER.sub(name, line)


_NUMBER: Final = re.compile(r"\b7\d{12}\b")
