"""An event loop whose time is free: when nothing can happen now, it is later.

The loop never blocks. Where an ordinary one would wait for its next timer, this one moves its own
clock there, so an hour of the world takes as long as its events.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from simulation.process import HERE, Held

T = TypeVar("T")

EPOCH_MS = 1_700_000_000_000


class Stuck(AssertionError):
    """Nothing will ever happen again, though somebody waits."""


class _FreeTime(selectors.SelectSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing comes from outside, so there is nobody to ask."""
        if timeout is None:
            raise Stuck("every task waits, and nothing is scheduled")
        self.loop.skip(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Deterministic as long as what runs on it is."""

    def __init__(self) -> None:
        selector = _FreeTime()
        super().__init__(selector)
        selector.loop = self
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def skip(self, seconds: float) -> None:
        if seconds > 0:
            # a step of the loop's own resolution more, lest rounding leaves the timer a hair away
            self._now += seconds + self._clock_resolution

    # What belongs to a process goes through the process.

    def create_task(self, coro: Any, **how: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task = super().create_task(coro, **how)
        context = how.get("context")
        process = HERE.get() if context is None else context.get(HERE)
        if process is not None:
            process.adopt(task)
        return task

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        process = HERE.get() if context is None else context.get(HERE)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        held = Held(process, callback, args, context or contextvars.copy_context(), is_timer=False)
        held.handle = super().call_soon(held, context=held.context)
        return held.handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        process = HERE.get() if context is None else context.get(HERE)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        held = Held(process, callback, args, context or contextvars.copy_context(), is_timer=True)
        handle = super().call_at(when, held, context=held.context)
        held.handle = handle
        return handle

    def clock_ms(self) -> int:
        return EPOCH_MS + int(self._now * 1000)

    _clock_resolution: float


def run_virtually(make: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end on a loop of its own."""
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(make(loop))
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
