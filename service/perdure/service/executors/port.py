"""The port between the scheduler and an executor, which runs attempts.

An executor does not know runs and their rules. It takes attempts and reports their results. It never retries on its
own.
tests/conformance checks `LocalExecutor` and `LeasePool` against this file.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from math import inf
from typing import Protocol, TypeAlias

from perdure.engine.messages import AttemptLost, AttemptStarted, Source, TaskFailed, TaskSucceeded
from perdure.model import Call, Payload, Shape, frozen
from perdure.storage.rows import ValueKey
from perdure.v1.function_service_pb2 import FunctionInfo


@frozen
class Attempt:
    """One attempt of one task. `inputs` are the places of the values of `call.refs`, in their order.

    `beside` names a task or a turn of the run, "" for none: if the worker that ran it last still exists, this attempt
    should run there too, whatever its shape. `is_limited`: the time of the attempt is limited from AttemptStarted on,
    so that report must be on its way before user code is called, which may never let the worker send anything.
    `turn`: attempts of a run with the same turn do not run beside each other, and each prefers the worker of the one
    before; "" for those that do neither. `callers`: the workflows and actors whose attempts wait for this one, as
    "NAMESPACE/ID".
    """

    namespace: str
    workflow_id: str
    run_id: str
    task_id: str
    number: int
    call: Call
    shape: Shape
    inputs: tuple[Source, ...]
    beside: str = ""
    is_limited: bool = False
    turn: str = ""
    callers: tuple[str, ...] = ()
    key: tuple[str, str, int] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.run_id, self.task_id, self.number))

    @property
    def is_awaited(self) -> bool:
        """Whether other attempts wait for this one. Those that wait for a constructor are not known."""
        return bool(self.callers) or (bool(self.turn) and not self.call.arguments.size)


@frozen
class ContinuationReturned:
    """An attempt returned a continuation, serialized and not yet checked. The kind of the run turns this into
    TaskContinued or TaskFailed. `method_outcome`: what a method of an actor made of the state, serialized; None for
    a function."""

    task_id: str
    attempt: int
    continuation: bytes
    at_ms: int
    started_ms: int | None = None
    ended_ms: int | None = None
    method_outcome: bytes | None = None


class WaitReason(enum.Enum):
    """Why an attempt has not begun, or what a wait is for, as a code."""

    RESOURCES = enum.auto()
    NO_AGENT = enum.auto()
    WORKER_START = enum.auto()
    EVENT = enum.auto()
    TIME = enum.auto()
    NO_FUNCTION = enum.auto()


@frozen
class Waiting:
    """Why an attempt has not begun, or what a wait is for. `text` says which resources it wants and which there are."""

    reason: WaitReason
    text: str


Functions: TypeAlias = Mapping[tuple[str, str], FunctionInfo]
"""Registered functions by name and version."""

Report: TypeAlias = AttemptStarted | TaskSucceeded | ContinuationReturned | TaskFailed | AttemptLost
Reports: TypeAlias = Sequence[tuple[str, Report]]
"""Pairs of run id and report, in the order in which they happened."""


class ValueReader(Protocol):
    """Reads the values that arguments refer to. A missing value raises CorruptData."""

    def cached(self, key: ValueKey) -> Payload | None:
        """The value if it is in the cache, without waiting. Small values mostly are."""
        ...

    async def read(self, keys: Sequence[ValueKey]) -> list[Payload]:
        """The values in the order of the keys. They are durable before an attempt that refers to them is submitted.
        Blobs come as references."""
        ...


def forever() -> float:
    """`holds_for_s` of the only engine over a store."""
    return inf


class Executor(Protocol):
    """Runs attempts."""

    async def start(
        self, report: Callable[[Reports], None], values: ValueReader, holds_for_s: Callable[[], float] = forever
    ) -> None:
        """Begin to work. `report` is called on the event loop and does not block. It is not called before `start` or
        after `stop` has returned.

        `holds_for_s` returns the seconds for which the engine's runs are certainly its own, inf if there are no other
        engines. It may be called from any thread. After that time another engine may have taken the runs over, so no
        waiting attempt begins until `holds_for_s` is positive again."""
        ...

    async def stop(self) -> None:
        """Stop all attempts and end. Attempts that did not end are not reported. Stopping twice is allowed."""
        ...

    def submit(self, attempt: Attempt) -> None:
        """Run an attempt when there is room for it. A key that is submitted again while its attempt is here makes no
        second attempt. An attempt begins only after older, cancelled attempts of its task have really ended. One with a
        turn begins only after older attempts of its run with the same turn have really ended, cancelled or lost ones
        included.

        Reports: AttemptStarted once user code may have begun, then exactly one of TaskSucceeded, ContinuationReturned,
        TaskFailed, AttemptLost, unless the attempt is cancelled. AttemptLost means that it may have begun. It is
        `is_free` only if AttemptStarted was not reported, and another attempt is the probable cause of the loss. An
        attempt that certainly has not begun is not reported as lost: it runs elsewhere, under the same number.
        """
        ...

    def cancel(self, run_id: str, task_id: str, number: int) -> None:
        """Stop an attempt: a waiting one is dropped, a running one is interrupted and soon killed. Reports about it may
        still come. An unknown key is ignored."""
        ...

    def waiting(self, run_id: str, task_id: str, number: int) -> Waiting | None:
        """Why a submitted attempt has not begun; None if it has begun, is not here, or the reason is unknown."""
        ...

    def loading(self, run_id: str, task_id: str, number: int) -> str:
        """Where an attempt with a time limit is that has begun and still imports the module of its function: a stack as
        text. "" if it does not, if it has not taken long, or if that is unknown."""
        ...

    def python_versions(self) -> frozenset[str]:
        """Versions ("3.11") of the Pythons that run attempts now; empty if there is none or they are unknown."""
        ...

    def functions(self) -> Functions:
        """The registered functions that workers have now. The same object as long as nothing has changed."""
        ...
