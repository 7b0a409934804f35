"""Event loops shared by the coroutines of many tasks: a task must not end the others by stopping the loop.

In asyncio, SystemExit and KeyboardInterrupt of any task leave the loop, and any task may stop it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from perdure import failures

log = logging.getLogger(__name__)

T = TypeVar("T")


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
