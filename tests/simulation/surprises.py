"""An unexpected error of the service ends the world, even if the service only logs it or leaves it to the event loop.

A fault of the store is expected, and so is what clients are refused with. Anything else that is raised somewhere
inside would stop one task or one callback, and all the others would wait for it to the end of the world.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from perdure import errors
from perdure.storage.ports import StorageError
from simulation.clock import VirtualLoop
from simulation.process import Crash

EXPECTED = (StorageError, errors.PerdureError, Crash, asyncio.CancelledError)


@contextmanager
def noticed(loop: VirtualLoop) -> Iterator[None]:
    """End the world of this loop when one comes up."""
    handler = _Logged(loop)
    log = logging.getLogger("perdure")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING)
    loop.set_exception_handler(_left_to_the_loop)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def is_surprise(error: object) -> bool:
    return isinstance(error, BaseException) and not isinstance(error, EXPECTED)


class _Logged(logging.Handler):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(logging.WARNING)
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and is_surprise(error):
            self._loop.fail(error)


def _left_to_the_loop(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Ignore unread errors of a dead engine's tasks; every other surprise ends the world."""
    error = context.get("exception")
    if error is None:
        loop.default_exception_handler(context)
    elif is_surprise(error):
        assert isinstance(loop, VirtualLoop)
        loop.fail(error)
