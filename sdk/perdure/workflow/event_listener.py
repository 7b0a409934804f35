"""What a program implements to wait for events of the outside world.

Listeners run on workers as coroutines, many in one process, and hold no CPU while they wait. One that blocks (with
`time.sleep`, or a client that is not asynchronous) keeps the others of its process waiting: let it await
`asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeAlias


class EventListener:
    """A source of events. One object is made for each call of its methods, without arguments, so nothing
    may be kept in attributes from one to the other."""

    def __init__(self) -> None:
        """Takes no arguments."""

    async def poll_for_event(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the event and return it; it must be possible to pickle it. Takes what
        `workflow.wait_for_event` was given. Cancelled and called again if the worker is lost meanwhile."""
        raise NotImplementedError(f"{type(self).__name__} has no poll_for_event")

    async def event_checkpointed(self, event: Any) -> None:
        """The event is stored and will not be polled for again: acknowledge it. May be called more than once
        for one event."""


EventListenerType: TypeAlias = Callable[[], EventListener]
"""What makes a listener: its class."""


class TimerListener(EventListener):
    """Waits for a moment, in seconds since the epoch. The engine itself keeps the time: no worker is used."""

    async def poll_for_event(self, timestamp: float) -> None:
        await asyncio.sleep(max(timestamp - time.time(), 0))
