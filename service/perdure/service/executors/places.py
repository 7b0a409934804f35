"""The threads of the local executor. An attempt that waits for others leaves its place to another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

WAITING_MAX: Final = 1_000
"""While so many attempts wait, further places are given only to attempts that others wait for."""


class Places:
    """So many threads that `most` of them do not wait. `work` is what each does, `stir` wakes those that are idle."""

    def __init__(self, most: int, work: Callable[[], None], stir: Callable[[], None]) -> None:
        self._most = most
        self._work = work
        self._stir = stir
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._waiting = 0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._threads)

    def open(self) -> None:
        with self._lock:
            self._fill()

    def close(self) -> None:
        """No further thread begins."""
        with self._lock:
            self._is_closed = True

    def join(self, until_s: float) -> None:
        """Wait for the end of the threads, until a moment of the monotonic clock."""
        for thread in list(self._threads):
            thread.join(timeout=max(until_s - time.monotonic(), 0))

    def _fill(self) -> None:
        while len(self._threads) - self._waiting < self._most and not self._is_closed:
            thread = threading.Thread(target=self._work, name=f"perdure-{len(self._threads)}", daemon=True)
            self._threads.add(thread)
            thread.start()

    def is_surplus(self) -> bool:
        """Whether this thread is one too many. It has no place any more then."""
        with self._lock:
            if len(self._threads) - self._waiting <= self._most:
                return False
            self._threads.discard(threading.current_thread())
            return True

    def takes_any(self) -> bool:
        """Whether a thread may begin an attempt that no other one waits for. Otherwise those that wait themselves could
        have any number of threads."""
        return self._waiting < WAITING_MAX

    def waits(self, begins: bool) -> None:
        """The attempt of a thread begins to wait for others, or goes on."""
        with self._lock:
            self._waiting += 1 if begins else -1
            self._fill()
        if not begins:
            self._stir()
