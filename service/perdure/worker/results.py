"""The results of attempts, and how the faults of user code and of what it needs become failures."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import Final, TypeAlias

from perdure import codec, failures, functions, rayobjects
from perdure.model import Failure, FailureKind, Payload, frozen

SPEC_BYTES_MAX: Final = 6 * 1024 * 1024
"""A graph that a task returns travels in one message, without its large values."""
BLOBS_MAX: Final = 50_000
"""A value names the blobs that it refers to in one message."""


@frozen
class Returned:
    """The attempt returned a value. A large one is stored already."""

    output: Payload


@frozen
class Continued:
    """The attempt returned a graph, serialized. `method_outcome`: of a method of an actor, a serialized MethodOutcome
    with the state after it; None: it was of a function."""

    spec: bytes
    method_outcome: bytes | None = None


@frozen
class Failed:
    failure: Failure


Result: TypeAlias = Returned | Continued | Failed


class Bad(codec.Unresolved):
    """A failure outside user code, such as a value that cannot be read."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def leave_room(depth: int) -> None:
    """Restore the recursion limit if user code lowered it: the whole process shares it."""
    if sys.getrecursionlimit() < depth:
        sys.setrecursionlimit(depth)


def unforeseen(error: BaseException) -> Failed:
    """The result of an attempt that ended with an exception that nothing else handles."""
    failure = failures.from_exception(error)
    message = f"the attempt ended with {failure.type}: {failure.message}"
    return Failed(replace(failure, kind=FailureKind.SERIALIZATION, message=message, error=None))


def result_of(task: asyncio.Task[Result]) -> Result | None:
    """The result of a finished asyncio task of `run_async`; None: it was cancelled."""
    if task.cancelled():
        return None
    error = task.exception()
    return task.result() if error is None else unforeseen(error)


def exited(exit_: BaseException) -> Failed:
    """The result of an attempt that raised SystemExit or KeyboardInterrupt."""
    message = f"the task ended with {failures.described(exit_)}"
    return Failed(Failure(FailureKind.SYSTEM, "perdure.WorkerExited", message))


def returned(output: Payload, task_id: str) -> Returned:
    """The result that is this value. Raises Bad if it names too many blobs."""
    if len(output.refs) > BLOBS_MAX:
        message = f"task {task_id!r}: what it returned refers to {len(output.refs)} large objects, {BLOBS_MAX} at most"
        raise Bad(Failure(FailureKind.SERIALIZATION, "perdure.ValueTooLarge", message))
    return Returned(output)


def continued(spec: bytes, task_id: str) -> Continued:
    """The result that is this graph. Raises Bad if it is too large."""
    if len(spec) > SPEC_BYTES_MAX:
        message = (
            f"task {task_id!r}: the graph that it returned has {len(spec)} bytes without its large values, "
            f"{SPEC_BYTES_MAX} at most; return a graph of tasks that return its parts"
        )
        raise Bad(Failure(FailureKind.SERIALIZATION, "perdure.GraphTooLarge", message))
    return Continued(spec)


def is_end(error: BaseException) -> bool:
    """Whether the attempt's own coroutine was cancelled, and not one that it awaited."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return False


def kind_of(error: BaseException) -> FailureKind:
    try:
        return FailureKind.SYSTEM if rayobjects.is_loss(error) else FailureKind.APPLICATION
    except Exception:  # it may hide its class
        return FailureKind.APPLICATION


def bad_of(unresolved: codec.Unresolved) -> Bad:
    """As a failure: of the task if an object is an error, else of the system."""
    if isinstance(unresolved, Bad):
        return unresolved
    if isinstance(unresolved, rayobjects.ObjectFailed):
        failure = failures.from_exception(unresolved.error, kind_of(unresolved.error))
        return Bad(replace(failure, stack_trace=failure.stack_trace or unresolved.trace))
    kind = type(unresolved.__cause__ or unresolved)
    return Bad(Failure(FailureKind.SYSTEM, failures.type_name(kind), failures.text_of(unresolved)))


def serialization(error: BaseException, task_id: str, what: str) -> Failure:
    failure = failures.from_exception(error, FailureKind.SERIALIZATION)
    text = failure.message if isinstance(error, Exception) else failures.described(error)
    advice = functions.renamed(error)
    message = f"task {task_id!r}: {what} cannot travel: {text}" + (f". {advice}" if advice else "")
    return Failure(FailureKind.SERIALIZATION, failure.type, message, failure.stack_trace, failure.base_types)


def invalid_arguments(error: Exception, task_id: str) -> Failure:
    """The failure of a task with an argument that does not fit the type that its function declares. It is not
    retried."""
    message = f"task {task_id!r}: the arguments do not fit its function: {error}"
    return Failure(FailureKind.APPLICATION, "perdure.InvalidArguments", message, non_retryable=True)


def data_lost(what: str) -> Failure:
    """The failure of a task that needs damaged or missing data. It is not retried."""
    return Failure(FailureKind.SYSTEM, "perdure.CorruptData", f"data is lost: {what}", non_retryable=True)
