"""Stopping user code that runs in another thread of this process."""

from __future__ import annotations

import ctypes


class Interrupted(BaseException):
    """Raised inside user code to end it. Not an Exception, so that ordinary handlers let it pass."""


def interrupt_thread(thread_id: int) -> None:
    """Raise Interrupted in a thread at its next bytecode. Code that blocks in C is not interrupted before it
    returns."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(Interrupted))


def spare_thread(thread_id: int) -> None:
    """Take back an interrupt that was not raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), None)
