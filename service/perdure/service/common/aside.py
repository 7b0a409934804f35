"""Long work on large graphs, in threads instead of on the event loop.

The threads share the GIL with the loop. However long the work is, the loop waits no longer than one switch interval
(1 ms in `perdure serve`) for each of them whenever it wants the GIL back. More threads would make that wait longer and
nothing faster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

NODES_AT_ONCE = 500
"""Work on more nodes than this is done in a thread. With fewer, changing threads takes longer than the work."""
BYTES_OF_A_NODE: Final = 128
"""In a serialized graph, roughly."""
THREADS: Final = 2

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
    return await asyncio.get_running_loop().run_in_executor(_threads, work)
