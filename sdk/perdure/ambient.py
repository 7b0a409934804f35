"""The connection of code that was given no client: in a task that of the task's engine, elsewhere that of
PERDURE_ADDRESS.

Each event loop has one channel per engine and namespace, because a channel belongs to a loop. Synchronous code shares
one loop thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from perdure.context import context, is_bound
from perdure.loopthread import LoopThread
from perdure.transport import transport_to
from perdure.values import Values

T = TypeVar("T")

Place: TypeAlias = tuple[str, str]
"""The address of an engine, "" for the default one, and a namespace."""

_known: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Place, Values]]] = WeakKeyDictionary()
_lock: Final = threading.Lock()
_thread: LoopThread | None = None


def values() -> Values:
    """The connection of the running loop."""
    return _values(_place())


def blocking(work: Callable[[Values], Coroutine[Any, Any, T]]) -> T:
    """Do something with the connection of the loop thread, and wait for the result. RuntimeError in a thread whose loop
    runs, because the loop would stand still meanwhile."""
    global _thread
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("this blocks the running event loop; await the call instead")
    with _lock:
        if _thread is None:
            _thread = LoopThread("perdure-ambient")
    place = _place()

    async def do() -> T:
        return await work(_values(place))

    return _thread.wait(do())


def _place() -> Place:
    if is_bound():
        here = context()
        return here.engine, here.namespace
    return "", ""


def _values(place: Place) -> Values:
    known = _known.setdefault(asyncio.get_running_loop(), {})
    if place not in known:
        known[place] = Values(transport_to(*place))
    return known[place]
