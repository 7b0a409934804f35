"""The context of a task: its ids, and the number of its attempt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Context:
    """The attempt that runs the calling code. `engine` is host:port of the engine, "" if it is unknown.

    `attempt` is 1 if no attempt of this task began before. It grows with every attempt that began, or that may have
    begun when an engine died. A number above 1 means that the task may have had effects already.

    `callers`: the workflows and actors whose tasks and methods wait for this attempt, as "NAMESPACE/ID", the outermost
    one first. It is () for a workflow, and for a call of an actor, that no task or method waits for.

    `is_query`: the attempt is a query of an actor, which runs beside the calls that change the actor.
    """

    namespace: str
    workflow_id: str
    run_id: str
    task_id: str
    attempt: int
    engine: str = ""
    callers: tuple[str, ...] = ()
    is_query: bool = False

    @property
    def chain(self) -> tuple[str, ...]:
        """The callers, and then the workflow or the actor of this attempt, unless it is a query. A call of an actor in
        the chain could never have its turn: it raises ActorCycleError."""
        return self.callers if self.is_query else (*self.callers, f"{self.namespace}/{self.workflow_id}")

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


def chain() -> tuple[str, ...]:
    """The workflows and actors that wait for what the calling code waits for. () outside of a task."""
    current = _current.get()
    return () if current is None else current.chain


class Waits:
    """The waits of one attempt for Perdure's answers, of which several may go on at a time. `change` is told when the
    first one begins (True), and when the last one has ended (False), in any thread."""

    def __init__(self, change: Callable[[bool], None]) -> None:
        self._change = change
        self._count = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._change(True)

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._change(False)

    def close(self) -> None:
        """The attempt has ended. What it has left behind is not told of."""
        with self._lock:
            if self._count > 0:
                self._change(False)
            self._change = _ignore


def _ignore(_begins: bool) -> None:
    pass


_waits: ContextVar[Waits | None] = ContextVar("perdure_waits", default=None)


@contextmanager
def tells_waits(change: Callable[[bool], None]) -> Iterator[None]:
    """Inside, an attempt runs, and `change` is told whether it waits for Perdure. See Waits."""
    waits = Waits(change)
    token = _waits.set(waits)
    try:
        yield
    finally:
        _waits.reset(token)
        waits.close()


class Waiting:
    """Inside, the calling code waits for an answer of Perdure, which may need the place of its attempt in the worker:
    the answer may come from another attempt."""

    __slots__ = ("_waits",)

    def __enter__(self) -> None:
        self._waits = _waits.get()
        if self._waits is not None:
            self._waits.begin()

    def __exit__(self, *_error: object) -> None:
        if self._waits is not None:
            self._waits.end()


@contextmanager
def bind_context(context: Context) -> Iterator[None]:
    """Set the context for the code inside."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
