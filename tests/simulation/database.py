"""The database that engines share, as each of them has it: far away, sometimes gone, never quite sure.

A call travels to the database and its answer travels back. On either way it may get lost, and what was
sent arrives even if the sender stands still by then, or is dead. Hints come late, twice, or never.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from perdure.storage.memory.store import MemoryMetadataStore, SharedMemory
from perdure.storage.ports import Entry, MetadataStore, StorageFull, StorageUnavailable
from perdure.storage.rows import RunRow
from perdure.storage.writes import Committed
from simulation.process import Process
from simulation.server import PostgresData, PostgresTwin
from simulation.store import Watch

STALL_SHARE = 0.01
"""Of what is sent while there is trouble, so much is held up on its way for seconds."""
STALL_MAX_S = 12.0
BACK_S = (0.0, 0.0, 0.0005, 0.0005, 0.002, 0.3)
"""How long answers travel."""


class Database:
    """The database that all engines share. While it `is_down`, every call fails. `data`: those of a real one."""

    def __init__(self, clock: Callable[[], int], data: PostgresData | None = None) -> None:
        self.shared = SharedMemory(clock)
        self._data = data
        self.view = self.shared.member()
        """A read-only view for checks."""
        self.is_down = False
        self.up_s = 0.0
        """Since when it has been there, by the loop's time."""
        self._on_its_way: set[asyncio.Task[None]] = set()

    def member(self, dice: random.Random) -> tuple[MemoryMetadataStore, MetadataStore]:
        """For one more engine: what the world looks at, and what the engine asks."""
        model = self.shared.member()
        return model, model if self._data is None else cast(MetadataStore, self._data.member(model, dice))

    def carry(self, work: asyncio.Task[None]) -> None:
        """Something is on its way, whatever becomes of its sender."""
        self._on_its_way.add(work)
        work.add_done_callback(self._on_its_way.discard)

    async def outage(self, seconds: float) -> None:
        self.is_down = True
        await asyncio.sleep(seconds)
        self.is_down = False
        self.up_s = asyncio.get_running_loop().time()


class EngineStore:
    """The store as one process has it. `is_cut_off`: the network between the two is down. `slow`: dice for how long
    answers are on their way; without them they are there at once."""

    is_shared = True

    def __init__(
        self,
        database: Database,
        process: Process,
        watch: Watch,
        dice: random.Random,
        *,
        trouble: float,
        on_call: Callable[[int], int] = lambda _number: 0,
        slow: random.Random | None = None,
        dice_name: str = "",
    ) -> None:
        self._on_call = on_call
        self._slow = slow
        self._database = database
        self._member, self._inner = database.member(random.Random(f"database of {process.name} {dice_name}"))
        self._process = process
        self._watch = watch
        self._dice = dice
        self.trouble = trouble
        self.is_cut_off = False
        self._taken: list[RunRow] = []
        """The result of a call whose answer was lost; the next call returns it."""

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        async def there() -> Committed:
            before = self._watch.owners()
            self._watch.note_ends(entries)
            try:
                committed = await self._inner.commit(entries)
            except StorageUnavailable:
                if isinstance(self._inner, PostgresTwin) and self._inner.happened is not None:
                    await see(before, self._inner.happened)
                raise
            await see(before, committed)
            return committed

        async def see(before: dict[str, str], committed: Committed) -> None:
            self._watch.guard(lambda: self._watch.see_writes(self._process.name, before, entries, committed))
            self._watch.guard(lambda: self._watch.see(entries, committed))
            await self._watch.look_at_queue()

        if self._dice.random() < self.trouble / 2:
            self._process.check()
            raise StorageFull("no room")
        return await self._ask(there, latency_s=self._dice.choice((0.0005, 0.002, self._dice.random() * 0.2)))

    async def take_over(self, limit: int) -> list[RunRow]:
        async def there() -> list[RunRow]:
            self._taken = await self._inner.take_over(limit)
            return self._taken

        if lost := self._taken:
            self._taken = []
            return lost
        rows: list[RunRow] = await self._ask(there, latency_s=0.0005)
        self._taken = []
        return rows

    async def listen(self, heard: Callable[[], None]) -> None:
        def hint() -> None:
            for _ in range(self._dice.choice((0, 1, 1, 1, 2))):
                self._process.call_later(self._dice.choice((0.0005, self._dice.random() * 3)), heard)

        self._process.check()
        await self._inner.listen(hint)

    async def close(self) -> None:
        await self._inner.close()

    def hang_up(self) -> None:
        """The process is dead: the database notices that its connection is gone."""
        self._database.shared.listeners.pop(self._member, None)

    async def _ask(self, there: Callable[[], Awaitable[Any]], *, latency_s: float) -> Any:
        self._process.check()
        if isinstance(self._inner, PostgresTwin):
            self._inner.is_troubled = self.trouble > 0
        number = self._on_call(0)
        dice = self._dice
        if self._database.is_down or self.is_cut_off or dice.random() < self.trouble:
            await asyncio.sleep(dice.choice((0.0005, dice.random() * 0.5)))
            raise StorageUnavailable("no answer")
        # Outside of the process: what is on its way arrives.
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        stalls = self.trouble and dice.random() < STALL_SHARE
        work = self._travel(there, dice.random() * STALL_MAX_S if stalls else latency_s, answer)
        self._database.carry(loop.create_task(work, context=contextvars.Context()))
        result = await answer
        if self._slow is not None:
            await asyncio.sleep(self._slow.choice(BACK_S))
        if number:
            self._on_call(number)
        self._process.check()
        if self._database.is_down or self.is_cut_off or dice.random() < self.trouble / 2:
            raise StorageUnavailable("the answer was lost")
        return result

    async def _travel(self, there: Callable[[], Awaitable[Any]], latency_s: float, answer: asyncio.Future[Any]) -> None:
        await asyncio.sleep(latency_s)
        try:
            if self._database.is_down:
                raise StorageUnavailable("the connection broke")
            result = await there()
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(result)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def ask(*args: Any, **how: Any) -> Any:
            return await self._ask(lambda: method(*args, **how), latency_s=0.0005)

        return ask
