"""Held runs. A run is held while a thread works on it, and until a step is decided that must be durable before it is
applied. Calls for a held run wait in `Live.held`, in their order, and are made on its release.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TypeVar

from perdure.service.common.aside import aside, is_large
from perdure.service.runs.live import Live
from perdure.service.runs.memory import Memory

HELD_AT_ONCE = 50
"""Held calls of a run that are made in one turn of the loop."""

T = TypeVar("T")


class Holding:
    """Works on held runs, and releases them."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._tasks: set[asyncio.Task[None]] = set()
        self._releasing: set[Live] = set()

    @property
    def is_idle(self) -> bool:
        """Whether no work is under way, and no run is being released."""
        return not (self._tasks or self._releasing)

    async def stop(self) -> None:
        """Cancel the work that is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Begin work that `stop` cancels."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def do(
        self,
        live: Live,
        reach: int,
        work: Callable[[], T],
        then: Callable[[T], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Work on a held run, in a thread if that takes long, and pass the result to `then`. An error that the work
        raises goes to `failed`. Both release the run."""
        if is_large(reach):
            self.set_to_work(live)
            self.spawn(self._do_aside(live, work, then, failed))
            return
        try:
            result = work()
        except Exception as error:
            failed(error)
            return
        then(result)

    async def _do_aside(
        self, live: Live, work: Callable[[], T], then: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        try:
            result = await aside(work)
        except Exception as error:
            self.come_to_rest(live)
            failed(error)
            return
        self.come_to_rest(live)
        then(result)

    def set_to_work(self, live: Live) -> None:
        """Make readers of the run wait until `come_to_rest`."""
        live.at_rest = asyncio.Event()
        live.pending += 1

    def come_to_rest(self, live: Live) -> None:
        """No thread works on the run any more. Waiting readers look at it in a later turn of the loop."""
        at_rest, live.at_rest = live.at_rest, None
        live.pending -= 1
        if at_rest is not None:
            at_rest.set()

    def release(self, live: Live) -> None:
        """Make the held calls now; many of them take several turns of the loop."""
        held, live.held = live.held or deque(), None
        for _ in range(HELD_AT_ONCE):
            if not held:
                return
            held.popleft()()
            if live.held is not None:  # the call holds the run again: the rest waits
                live.held.extend(held)
                return
        if held:
            live.held = held
            self.set_to_work(live)
            self._releasing.add(live)
            asyncio.get_running_loop().call_soon(self._go_on_releasing, live)

    def _go_on_releasing(self, live: Live) -> None:
        self._releasing.discard(live)
        self.come_to_rest(live)
        self.release(live)
        self._memory.evict_if_idle(live)
