"""What a task may ask about its own attempt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Context:
    """Where the code that asks is running. `engine` is host:port of the engine, "" if that is not known.

    `attempt` is 1 if no attempt of this task began before. It grows with every one that began, or may have begun when
    an engine died: a number above 1 says that the task may have had effects already.
    """

    namespace: str
    workflow_id: str
    run_id: str
    task_id: str
    attempt: int
    engine: str = ""

    @property
    def idempotency_token(self) -> str:
        """The same for every attempt of this task, and no other task's: give it to outside systems
        so that an attempt that is made twice has one effect."""
        return f"{self.run_id}/{self.task_id}"


_current: ContextVar[Context | None] = ContextVar("perdure_context", default=None)


def context() -> Context:
    """The context of the task that calls this. RuntimeError outside of one."""
    current = _current.get()
    if current is None:
        raise RuntimeError("perdure.context() tells about a task and can only be called inside one")
    return current


def is_bound() -> bool:
    """Whether there is one: whether a task asks."""
    return _current.get() is not None


@contextmanager
def bind_context(context: Context) -> Iterator[None]:
    """Code inside is the task's."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
