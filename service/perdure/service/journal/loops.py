"""Loops that run as long as the engine does, whatever one step of them raises."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from perdure.storage.ports import Fenced, StorageError

log = logging.getLogger(__name__)

TROUBLE_S: Final = 1.0


class Loop:
    """Takes a step again and again, in a task of its own, from `start` to `stop`.

    `step` gives the seconds until the next one, None for "when somebody calls `wake`", which also cuts a pause short.
    An exception is logged as `trouble`, with its traceback unless it is a StorageError, and the next step comes after
    the seconds that `failed` gives. Fenced ends the loop, after `fenced` was called: the engine may write no more.

    The first step comes after `first_s`. A pause lasts `gather_s` longer, so that several calls of `wake` become one
    step. `wake` is an event that others set instead of calling `wake`.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], Awaitable[float | None]],
        *,
        trouble: str,
        first_s: float = 0,
        gather_s: float = 0,
        failed: Callable[[], float] = lambda: TROUBLE_S,
        fenced: Callable[[], None] = lambda: None,
        wake: asyncio.Event | None = None,
    ) -> None:
        self._name = name
        self._step = step
        self._trouble = trouble
        self._first_s = first_s
        self._gather_s = gather_s
        self._failed = failed
        self._fenced = fenced
        self._wake = wake or asyncio.Event()
        self._is_busy = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """Cancel the step under way. Stopping what was not started, or twice, is no error."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    @property
    def is_idle(self) -> bool:
        """Whether no step is under way, asked for, or to be repeated because it failed."""
        return not self._is_busy and not self._wake.is_set()

    async def _run(self) -> None:
        if self._first_s:
            await self._pause(self._first_s)
        while True:
            self._is_busy = True
            self._wake.clear()
            try:
                pause_s = await self._step()
                self._is_busy = False
            except Fenced:
                self._fenced()
                return
            except Exception as error:
                is_expected = isinstance(error, StorageError)
                log.warning(self._trouble, extra={"error": str(error)}, exc_info=not is_expected)
                pause_s = self._failed()
            await self._pause(pause_s)

    async def _pause(self, pause_s: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        if self._gather_s:
            await asyncio.sleep(self._gather_s)
