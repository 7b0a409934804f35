"""The dicts that hold the rows, and a store's place among those that share them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from perdure.model import RunStatus, TaskStatus
from perdure.storage.ports import Fenced
from perdure.storage.rows import (
    ACTOR,
    CALL_KEY,
    IDLE_TASK,
    EngineRow,
    EventRow,
    FunctionRow,
    MailRow,
    RunRow,
    TaskRow,
    Tombstone,
)

UNFINISHED = (RunStatus.RUNNING, RunStatus.PENDING)
TIMED = (TaskStatus.RUNNING, TaskStatus.BACKING_OFF)


@dataclass(slots=True)
class Kept:
    """A run with everything that belongs to it."""

    row: RunRow
    inputs: dict[str, bytes]
    is_current: bool = True
    tasks: dict[str, TaskRow] = field(default_factory=dict)
    events: dict[int, EventRow] = field(default_factory=dict)
    uses: set[tuple[str, str]] = field(default_factory=set)
    """Tasks ("" for the run) and blobs."""

    def find_event(self, key: str, event_id: str) -> int | None:
        for event in self.events.values():
            if (event.key, event.event_id) == (key, event_id):
                return event.sequence
        return None

    @property
    def is_idle_actor(self) -> bool:
        """Whether it is an actor that neither has nor expects anything to do."""
        has_calls = any(event.key == CALL_KEY for event in self.waiting())
        others = (task for task in self.tasks.values() if task.task_id != IDLE_TASK)
        has_timers = any(task.wake_ms is not None and task.status in TIMED for task in others)
        return self.row.kind == ACTOR and self.row.is_dormant and not has_calls and not has_timers

    def waiting(self) -> list[EventRow]:
        return [event for _, event in sorted(self.events.items()) if not event.consumed_by]


class Database:
    """The data that all stores over it share. `clock` returns milliseconds; leases end by it."""

    def __init__(self, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self.clock = clock
        self.runs: dict[str, Kept] = {}
        self.current: dict[tuple[str, str], Kept] = {}
        self.requests: dict[tuple[str, str], Kept] = {}
        self.specs: dict[str, bytes] = {}
        self.uses: Counter[str] = Counter()  # how many runs, tasks and graphs use a blob
        self.spec_uses: dict[str, set[str]] = {}  # the blobs that a graph uses
        self.marks: dict[str, int] = {}
        self.mail: dict[int, MailRow] = {}
        self.tombstones: dict[str, Tombstone] = {}
        self.functions: dict[tuple[str, str], FunctionRow] = {}
        self.engines: dict[str, EngineRow] = {}
        self.listeners: dict[Connected, Callable[[], None]] = {}
        self.change = 0
        self.sequence = 0
        self.mail_number = 0

    def is_alive(self, engine_id: str) -> bool:
        engine = self.engines.get(engine_id)
        return engine is not None and not engine.is_dead


def spec_keys(kept: Kept) -> set[str]:
    return {kept.row.spec_key, *(task.spec_key for task in kept.tasks.values() if task.spec_key)}


class Connected:
    """A store over its own database, or over a shared one."""

    def __init__(self, shared: Database | None = None) -> None:
        self.is_shared = shared is not None
        self._all = all_ = shared or Database()
        self._runs, self._current, self._requests = all_.runs, all_.current, all_.requests
        self._specs, self._uses, self._marks, self._mail = all_.specs, all_.uses, all_.marks, all_.mail
        self._tombstones = all_.tombstones
        self._engine_id = ""

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Stop calling the listener. The data stays."""
        self._all.listeners.pop(self, None)

    def _check_fence(self) -> None:
        if self._engine_id and not self._all.is_alive(self._engine_id):
            raise Fenced(f"engine {self._engine_id} is no member any more")

    def _is_mine(self, row: RunRow) -> bool:
        return not self._engine_id or row.owner == self._engine_id

    def _tell(self) -> None:
        for member, heard in self._all.listeners.items():
            if member is not self:
                asyncio.get_running_loop().call_soon(heard)
