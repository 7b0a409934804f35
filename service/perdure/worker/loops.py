"""Event loops shared by the coroutines of many tasks: a task must not end the others by stopping the loop. And loops
on which a thread runs one coroutine at a time.

In asyncio, SystemExit and KeyboardInterrupt of any task leave the loop, and any task may stop it.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Final, TypeVar

from perdure import failures
from perdure.worker.interrupt import Interrupted

log = logging.getLogger(__name__)

T = TypeVar("T")

TICK_S: Final = 0.1
"""A waiting loop wakes up this often, because a thread can be interrupted only while it runs bytecode."""
ENDS_S: Final = 1.0
"""How long tasks that a coroutine has left behind may take to end."""


def serve(loop: asyncio.AbstractEventLoop, is_over: Callable[[], bool]) -> None:
    """Run the loop in this thread until it is stopped and `is_over` says so."""
    while not is_over():
        try:
            loop.run_forever()
        except BaseException as error:
            if loop.is_closed():
                raise
            log.warning("user code raised through its loop", extra={"error": failures.described(error)})


def run(main: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, but other tasks cannot end the loop before `main` has its result."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = asyncio.Task(main, loop=loop)
        task.add_done_callback(lambda _: loop.stop())
        serve(loop, task.done)
        loop.set_task_factory(None)  # user code may have set one; the runner ends what is left by tasks of its own
        return task.result()


class ThreadLoop:
    """A loop on which a thread runs coroutines, one at a time and each to its end. What a coroutine has made on the
    loop can be used by later ones, such as a connection."""

    def __init__(self) -> None:
        self._loop = loop = asyncio.new_event_loop()
        # No __del__: it may be called after that of the loop, which warns that nobody has closed it.
        weakref.finalize(self, _close, loop).atexit = False

    def run(self, main: Coroutine[Any, Any, T], *, keeps_tasks: bool = False) -> tuple[T | None, BaseException | None]:
        """Run a coroutine to its end. Returns its value and None, or None and its error. Tasks that it leaves behind
        are cancelled, unless `keeps_tasks` and it returned.
        Raises Interrupted and KeyboardInterrupt."""
        loop = self._loop
        before = self.tasks
        task = asyncio.Task(_settled(main), loop=loop)
        task.add_done_callback(lambda _: loop.stop())
        is_over = keeps = False

        def tick() -> None:
            if not is_over:
                loop.call_later(TICK_S, tick)

        loop.call_later(TICK_S, tick)
        try:
            _run_until(loop, task)
            value, error = task.result()
            keeps = keeps_tasks and error is None
            return value, error
        finally:
            is_over = True
            if not keeps:
                _end(loop, self.tasks - before)
            if task.done():
                main.close()  # it may not have begun

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """The tasks on the loop that have not ended."""
        return asyncio.all_tasks(self._loop)

    def cancel(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Let tasks end, while the loop runs."""
        if not self._loop.is_closed():
            _cancel(tasks)


async def _settled(main: Coroutine[Any, Any, T]) -> tuple[T | None, BaseException | None]:
    try:
        return await main, None
    except BaseException as error:  # raised in a task, SystemExit would leave the loop
        return None, error


def _run_until(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    while not task.done():
        try:
            loop.run_forever()
        except (Interrupted, KeyboardInterrupt):
            raise
        except BaseException as error:
            if loop.is_closed():
                raise
            log.warning("user code raised through its loop", extra={"error": failures.described(error)})


def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()


def _end(loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]]) -> None:
    if not tasks or loop.is_closed():
        return
    _cancel(tasks)
    end = asyncio.Task(asyncio.wait(tasks, timeout=ENDS_S), loop=loop)
    end.add_done_callback(lambda _: loop.stop())
    _run_until(loop, end)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    with suppress(Exception):
        _end(loop, asyncio.all_tasks(loop))
    loop.close()
