"""An event loop whose time is free: when nothing can happen now, it is later.

The loop never blocks. Where an ordinary one would wait for its next timer, this one moves its own
clock there, so an hour of the world takes as long as its events.

A promise that is found broken ends the world at once (`fail`), wherever it is found: in a callback, in a task that
nobody awaits, or inside of the service, which would take an assertion for a fault of its store and try again.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import itertools
import selectors
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from simulation.process import HERE, Held

T = TypeVar("T")

ASIDE_S = (0.0, 0.01, 0.0, 0.4, 0.001)
"""How long threads work, one after the other."""
EPOCH_MS = 1_700_000_000_000


class Stuck(AssertionError):
    """A task waits, but no event can ever happen again."""


class Trace:
    """A digest of the events of a world, and the lines themselves if they are to be kept."""

    def __init__(self, *, keeps: bool = False) -> None:
        self._hash = hashlib.sha256()
        self.mask: Callable[[str], str] = str
        """Takes from a line what is another one each time, and which nothing depends on."""
        self.lines: list[str] | None = [] if keeps else None

    def note(self, *what: object) -> None:
        line = self.mask(" ".join(map(str, what)))
        self._hash.update(line.encode())
        self._hash.update(b"\n")
        if self.lines is not None:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def clock_ms() -> int:
    """The time of the world that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.clock_ms()


class _FreeTime(selectors.SelectSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Poll nothing: no input comes from outside."""
        if self.loop.failure is not None:
            raise self.loop.failure
        if timeout is None:
            raise Stuck("every task waits, and nothing is scheduled")
        self.loop.skip(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Deterministic as long as what runs on it is."""

    def __init__(self, trace: Trace | None = None) -> None:
        selector = _FreeTime()
        super().__init__(selector)
        selector.loop = self
        self.trace = trace or Trace()
        self._now = 0.0
        self._births: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        self._born = 0
        self.failure: BaseException | None = None
        """Why the world is over before its time."""
        self._asides = itertools.cycle(ASIDE_S)

    def time(self) -> float:
        return self._now

    def skip(self, seconds: float) -> None:
        if seconds > 0:
            # a step of the loop's own resolution more, lest rounding leaves the timer a hair away
            self._now += seconds + self._clock_resolution

    def tasks(self) -> list[asyncio.Task[Any]]:
        """All that are under way, in the order in which they began."""
        return sorted(asyncio.all_tasks(self), key=lambda task: self._births[task])

    def fail(self, error: BaseException) -> None:
        """End the world before its next step. The first failure is the one that is told."""
        self.failure = self.failure or error

    # What belongs to a process goes through the process.

    def create_task(self, coro: Any, **how: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task = super().create_task(coro, **how)
        self._born += 1
        self._births[task] = self._born
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

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """There is one thread."""
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        self.trace.note(self._now, when, getattr(callback, "__qualname__", ""))
        process = HERE.get() if context is None else context.get(HERE)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        held = Held(process, callback, args, context or contextvars.copy_context(), is_timer=True)
        handle = super().call_at(when, held, context=held.context)
        held.handle = handle
        return handle

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """A thread needs a while for its work, which is not the same every time."""
        done: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            if done.done():
                return
            try:
                done.set_result(func(*args))
            except Exception as error:
                done.set_exception(error)

        self.call_later(next(self._asides), work)
        return done

    def clock_ms(self) -> int:
        return EPOCH_MS + int(self._now * 1000)

    _clock_resolution: float


def fail(error: BaseException) -> None:
    """End the world in which this is called."""
    cast(VirtualLoop, asyncio.get_running_loop()).fail(error)


def note(*what: object) -> None:
    """Have something in the trace of the world in which this is called."""
    loop = cast(VirtualLoop, asyncio.get_running_loop())
    loop.trace.note(loop.time(), *what)


def run_virtually(
    make: Callable[[VirtualLoop], Coroutine[Any, Any, T]],
    trace: Trace | None = None,
    within: Callable[[VirtualLoop], AbstractContextManager[None]] = nullcontext,
) -> T:
    """Run a coroutine to its end on a loop of its own. Raises what it raises, or the failure of the world.

    The context is left when the world has ended, even if the coroutine never ends.
    """
    loop = VirtualLoop(trace)
    try:
        asyncio.set_event_loop(loop)
        with within(loop):
            result = loop.run_until_complete(make(loop))
        if loop.failure is not None:
            raise loop.failure
        return result
    finally:
        loop.failure = None
        tasks = loop.tasks()
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Stuck):  # errors of cancelled tasks do not matter
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.set_exception_handler(lambda _loop, _context: None)  # nor do tasks that still run
        asyncio.set_event_loop(None)
        loop.close()
