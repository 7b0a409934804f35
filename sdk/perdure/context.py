"""The context of a task: its ids, and the number of its attempt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Context:
    """The attempt that runs the calling code. `engine` is host:port of the engine, "" if it is unknown.

    `attempt` is 1 if no attempt of this task began before. It grows with every attempt that began, or that may have
    begun when an engine died. A number above 1 means that the task may have had effects already.
    """

    namespace: str
    workflow_id: str
    run_id: str
    task_id: str
    attempt: int
    engine: str = ""

    @property
    def idempotency_token(self) -> str:
        """The same for all attempts of this task, and different for every other task. Send it to outside systems as an
        idempotency key, so that a repeated attempt has one effect."""
        return f"{self.run_id}/{self.task_id}"


_current: ContextVar[Context | None] = ContextVar("perdure_context", default=None)


def context() -> Context:
    """The context of the task that calls this. RuntimeError outside of one."""
    current = _current.get()
    if current is None:
        raise RuntimeError("perdure.context() tells about a task and can only be called inside one")
    return current


def is_bound() -> bool:
    """Whether the calling code runs in a task."""
    return _current.get() is not None


@contextmanager
def bind_context(context: Context) -> Iterator[None]:
    """Set the context for the code inside."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
