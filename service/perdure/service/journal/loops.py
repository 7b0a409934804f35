"""Background loops that run as long as the engine, whatever a step raises; and steps that wait for the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from perdure.storage.ports import CorruptData, Fenced, StorageError

T = TypeVar("T")

log = logging.getLogger(__name__)

TROUBLE_S: Final = 1.0


class Loop:
    """Repeats a step in an asyncio task, from `start` to `stop`.

    `step` returns the seconds until the next step, or None to wait for `wake`, which also ends a pause. If it raises,
    the error is logged as `trouble` (with its traceback unless it is a StorageError), and the next step comes after
    the seconds that `failed` returns. Fenced ends the loop, after a call of `fenced`.

    The first step comes after `first_s`. A pause lasts `gather_s` longer, so that several calls of `wake` become one
    step. Setting the event `wake` has the effect of calling `wake`.
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
        """Cancel the current step. Stopping a loop twice, or one that was not started, is allowed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        """Take a step soon."""
        self._wake.set()

    @property
    def is_idle(self) -> bool:
        """Whether no step runs, was asked for, or is to be repeated because it failed."""
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


async def until_answered(step: Callable[[], Awaitable[T]], *, trouble: str, **extra: Any) -> T:
    """The result of a step that needs the store, repeated while the store does not answer. Each failure is logged as
    `trouble`, with `extra`. Raises Fenced and CorruptData, because trying again does not help then."""
    while True:
        try:
            return await step()
        except (Fenced, CorruptData):
            raise
        except StorageError as error:
            log.warning(f"{trouble}, trying again", extra={**extra, "error": str(error)})
            await asyncio.sleep(TROUBLE_S)
