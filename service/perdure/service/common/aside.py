"""Long work on large graphs, in threads instead of on the event loop.

The threads share the GIL with the loop. Whenever the loop wants the GIL back, it waits at most one switch interval per
thread, however long the work takes. More threads would lengthen that wait without speeding up the work. While they
work, the switch interval is shorter than Python's. At other times that would only cost CPU: commits and the loop would
take the GIL from each other more often.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

NODES_AT_ONCE = 500
"""Work on more nodes than this is done in a thread. With fewer, changing threads takes longer than the work."""
BYTES_OF_A_NODE: Final = 128
"""In a serialized graph, roughly."""
THREADS: Final = 2
SWITCH_S: Final = 0.001
"""The switch interval of the GIL while the threads work."""

T = TypeVar("T")

_threads: Final = ThreadPoolExecutor(THREADS, thread_name_prefix="perdure-aside")


def is_large(nodes: int) -> bool:
    """Whether work on this number of nodes or tasks is to be done in a thread."""
    return nodes > NODES_AT_ONCE


def is_large_spec(data: bytes) -> bool:
    """The same of a serialized graph."""
    return is_large(len(data) // BYTES_OF_A_NODE)


async def aside(work: Callable[[], T]) -> T:
    """Do work in a thread. Until it returns, no other code may use the objects it works on."""
    return await asyncio.get_running_loop().run_in_executor(_threads, _work, work)


class _Switching:
    """Shortens the switch interval while any thread works."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._working = 0
        self._usual_s = 0.0

    def __enter__(self) -> None:
        with self._lock:
            self._working += 1
            if self._working == 1:
                self._usual_s = sys.getswitchinterval()
                sys.setswitchinterval(min(SWITCH_S, self._usual_s))

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._working -= 1
            if not self._working:
                sys.setswitchinterval(self._usual_s)


_switching: Final = _Switching()


def _work(work: Callable[[], T]) -> T:
    with _switching:
        return work()
