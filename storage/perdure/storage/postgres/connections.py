"""Connections to PostgreSQL, and the meaning of their errors.

A connection on which anything went wrong is dropped, not repaired. The server decides the transaction that was under
way on it, and a repetition uses another connection. Exceeding a time limit drops the connection too, so that no caller
waits for a server that does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg

from perdure.storage.addresses import shown
from perdure.storage.ports import CorruptData, StorageError, StorageFull, StorageUnavailable, Unstorable

T = TypeVar("T")
Connection: TypeAlias = Any
"""asyncpg's; it has no types for what we do with it."""

CONNECT_S: Final = 5
CONNECT_ONCE_S: Final = 30
"""For what is not tried again: migrations and checks."""
STATEMENTS_CACHED: Final = 200
RETRY_S: Final = 0.5
CHANNEL: Final = "perdure"

# Every query has an index. Other plans are turned off and random pages are cheap (they are in memory), so plans do not
# depend on statistics, which are wrong for tables that grew a minute ago: by default costs, a nested comparison of all
# rows seems cheaper than a thousand index lookups. The other settings end the transactions of clients that vanished.
SETTINGS: Final = {
    "application_name": "perdure",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "idle_in_transaction_session_timeout": "3s",
    "jit": "off",
    "random_page_cost": "0.01",
    "seq_page_cost": "0.01",
    "synchronous_commit": "on",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


async def connect(url: str, *, timeout_s: int = CONNECT_S) -> Connection:
    """A new connection. Raises errors of the driver."""
    return await asyncpg.connect(
        url, timeout=timeout_s, server_settings=SETTINGS, statement_cache_size=STATEMENTS_CACHED
    )


async def take_texts_as_they_are(connection: Connection) -> None:
    """Have texts that are damaged read all the same: bytes that are not UTF-8 become lone surrogates."""
    await connection.set_type_codec(
        "text",
        schema="pg_catalog",
        format="binary",
        encoder=str.encode,
        decoder=lambda data: bytes(data).decode("utf-8", "surrogateescape"),
    )


class Connections:
    """At most `size` connections, each used by one at a time."""

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self._size = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._is_open = False

    def open(self) -> None:
        self._is_open = True

    def close(self) -> None:
        """Drop idle connections now, and those in use when they come back."""
        self._is_open = False
        while self._idle:
            self._idle.pop().terminate()

    @asynccontextmanager
    async def use(self, timeout_s: float) -> AsyncIterator[tuple[Connection, bool]]:
        """A connection for at most `timeout_s`, and whether it is new. Raises StorageError, also if none became free
        in that time."""
        async with self._place(timeout_s):
            if not self._is_open:
                raise StorageUnavailable("the store is not open")
            connection, is_new = await self._check_out()
            timer = asyncio.get_running_loop().call_later(timeout_s, connection.terminate)
            try:
                with meaning(self._url):
                    yield connection, is_new
            except BaseException:
                connection.terminate()
                raise
            finally:
                timer.cancel()
            if self._is_open and not connection.is_closed():
                self._idle.append(connection)
            else:
                connection.terminate()

    @asynccontextmanager
    async def _place(self, timeout_s: float) -> AsyncIterator[None]:
        """One of the `size` places. A caller in the queue fails when its own time is over, even if those before it
        still wait for the server."""
        if self._size.locked():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._size.acquire()
            except TimeoutError:
                raise StorageUnavailable(f"{shown(self._url)} does not answer those who asked before") from None
        else:
            await self._size.acquire()
        try:
            yield
        finally:
            self._size.release()

    async def _check_out(self) -> tuple[Connection, bool]:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection, False
        with meaning(self._url):
            return await connect(self._url), True

    async def call(self, work: Callable[[Connection, bool], Awaitable[T]], timeout_s: float) -> T:
        """Do something on a connection that may be new. It is done again if a text in the answer is not UTF-8, in a
        manner that is slower and takes it as it is."""
        try:
            async with self.use(timeout_s) as (connection, is_new):
                return await work(connection, is_new)
        except UnicodeDecodeError:
            pass
        async with self.use(timeout_s) as (connection, is_new):
            await take_texts_as_they_are(connection)
            done = await work(connection, is_new)
            await connection.reset_type_codec("text", schema="pg_catalog")
            return done

    async def read(self, work: Callable[[Connection], Awaitable[T]], timeout_s: float) -> T:
        """Read. A connection that died while it was idle is noticed only by its use, so the read is repeated on a new
        one."""
        while True:
            is_new = True

            async def noting(connection: Connection, is_made_now: bool) -> T:
                nonlocal is_new
                is_new = is_made_now
                return await work(connection)

            try:
                return await self.call(noting, timeout_s)
            except StorageUnavailable as error:
                if is_new or not _is_lost(error.__cause__):
                    raise
                self.forget_idle()

    def forget_idle(self) -> None:
        """Drop idle connections: after a restart of the server each of them would fail once."""
        while self._idle:
            self._idle.pop().terminate()


class Listener:
    """Calls `heard` on notifications of other members, and whenever it has connected to the server again."""

    def __init__(self, url: str, heard: Callable[[str], None]) -> None:
        self._url = url
        self._heard = heard
        self._task: asyncio.Task[None] | None = None
        self._listens = asyncio.Event()

    async def start(self) -> None:
        """Start listening. Returns when it listens, or after CONNECT_S if the server does not answer; it goes on
        trying."""
        self._task = asyncio.create_task(self._listen_forever(), name="postgres-listen")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                await self._listens.wait()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _listen_forever(self) -> None:
        while True:
            with contextlib.suppress(StorageError):
                await self._listen()
            await asyncio.sleep(RETRY_S)

    async def _listen(self) -> None:
        """Listen until the connection is lost."""
        lost = asyncio.Event()
        with meaning(self._url):
            connection = await connect(self._url)
            try:
                connection.add_termination_listener(lambda _connection: lost.set())
                await connection.add_listener(CHANNEL, lambda _c, _pid, _channel, said: self._heard(said))
                self._listens.set()
                self._heard("")
                await lost.wait()
            finally:
                connection.terminate()


# ------------------------------------------------------------------------------ errors


@contextlib.contextmanager
def meaning(url: str) -> Any:
    """Turns errors of the driver and of the server into those of the port. Other errors are bugs, and pass."""
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _of_server(error, url) from error
    except (UnicodeEncodeError, OverflowError) as error:
        raise Unstorable(f"{shown(url)}: {error}") from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError, EOFError) as error:
        if isinstance(error, ValueError):  # the driver cannot encode a value
            raise Unstorable(f"{shown(url)}: {error}") from error
        raise StorageUnavailable(f"{shown(url)} does not answer: {error or type(error).__name__}") from error


def is_conflict(error: BaseException | None) -> bool:
    """Whether the server aborted the transaction because of a concurrent one. It can be repeated at once."""
    return isinstance(error, (asyncpg.DeadlockDetectedError, asyncpg.SerializationError))


def _is_lost(error: BaseException | None) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        return _state(error)[:2] in ("08", "57")
    return isinstance(error, (asyncpg.InterfaceError, OSError))


_CONFIGURED_WRONGLY: Final = ("28", "3D", "3F", "42")
"""Classes of errors of configuration: authorization, no such database, schema or table."""
_NEVER: Final = ("22", "23", "54")
"""Classes that repetition does not help: data exception, integrity, a limit of the program (as of rows in indexes)."""
_RACED: Final = "23505"
"""Another transaction was faster with the same key: the next attempt sees it."""
_TOO_LARGE: Final = "08P01"
"""A message larger than a gigabyte, which no server reads."""
_CORRUPT: Final = ("XX001", "XX002", "58P01", "58P02")


def _state(error: Any) -> str:
    return error.sqlstate or ""


def _of_server(error: Exception, url: str) -> Exception:
    state = _state(error)
    said = f"{shown(url)}: {error}"
    if state == "53100":
        return StorageFull(said)
    if state in _CORRUPT:
        return CorruptData(said, subject=shown(url))
    if (state[:2] in _NEVER and state != _RACED) or state == _TOO_LARGE:
        return Unstorable(said)
    if isinstance(error, asyncpg.InvalidCachedStatementError):  # a migration ran beside us
        return StorageUnavailable(said)
    if state[:2] in ("08", "25", "40", "53", "55", "57", "58"):
        return StorageUnavailable(said)
    if state[:2] in _CONFIGURED_WRONGLY:
        return StorageError(said)
    return error
