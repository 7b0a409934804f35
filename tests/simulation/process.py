"""Processes of a world: what belongs to one stops with it, or stands still while it is paused.

Tasks, callbacks and timers belong to the process in whose context they were made; what was made outside
of any belongs to the world (clients, the database, fate) and never stands still.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

HERE: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Crash(BaseException):
    """The process died here."""


class Process:
    """One life of an engine."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.is_paused = False
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order in which they began
        self._held: list[Held] = []
        self._context = contextvars.copy_context()
        self._context.run(HERE.set, self)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something in the process: what the tasks it makes are is the process's, too."""
        return asyncio.get_running_loop().create_task(work, context=self._context)

    def call_later(self, delay_s: float, step: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(delay_s, step, context=self._context)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks[task] = None
        task.add_done_callback(lambda _task: self._tasks.pop(task, None))

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        """Make all calls that were held during the pause, in their order."""
        self.is_paused = False
        held, self._held = self._held, []
        for item in held:
            asyncio.get_running_loop().call_soon(item.late, context=item.context)

    def kill(self) -> None:
        """SIGKILL. The tasks unwind so that nothing is left of them. This has no effect outside: the world's store and
        executor ignore calls of a dead process."""
        self.is_dead = True
        self.resume()
        for task in list(self._tasks):
            task.cancel()

    def check(self) -> None:
        """Raises Crash if there is no process any more."""
        if self.is_dead:
            raise Crash(self.name)


class Held:
    """A callback of a process, which waits while the process is paused. A timer of a dead one never fires."""

    __slots__ = ("args", "callback", "context", "handle", "is_timer", "process")

    def __init__(
        self,
        process: Process,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
        is_timer: bool,
    ) -> None:
        self.process = process
        self.callback = callback
        self.args = args
        self.context = context
        self.is_timer = is_timer
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        if self.process.is_paused:
            self.process._held.append(self)
        elif not (self.is_timer and self.process.is_dead):
            self.callback(*self.args)

    def late(self) -> None:
        """After the pause, unless it was called off by something that happened after the pause."""
        if self.handle is None or not self.handle.cancelled():
            self()
