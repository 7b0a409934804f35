"""Listeners: classes of the user's that wait for events of the outside world.

Listeners run on workers as coroutines, many in one process, and hold no CPU while they wait. A listener that blocks
(with `time.sleep`, or a synchronous client) holds up the others of its process; it should await `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeAlias


class EventListener:
    """A source of events. A new object is made, without arguments, for each call of a method, so attributes are not
    kept between calls."""

    def __init__(self) -> None:
        """Takes no arguments."""

    async def poll_for_event(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the event and return it; it must be picklable. Gets the arguments of `workflow.wait_for_event`. It
        is called again if its worker is lost."""
        raise NotImplementedError(f"{type(self).__name__} has no poll_for_event")

    async def event_checkpointed(self, event: Any) -> None:
        """The event is stored and will not be polled for again: acknowledge it. May be called more than once
        for one event."""


EventListenerType: TypeAlias = Callable[[], EventListener]
"""A listener class."""


class TimerListener(EventListener):
    """Waits for a moment, in seconds since the epoch. The engine itself keeps the time: no worker is used."""

    async def poll_for_event(self, timestamp: float) -> None:
        await asyncio.sleep(max(timestamp - time.time(), 0))
