"""What the scheduler asks of whatever runs attempts.

An executor knows nothing of runs and their rules. It takes work, reports what became of it, and
never decides whether to try again. tests/conformance holds every implementation to this page.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from perdure.engine.messages import AttemptLost, AttemptStarted, Source, TaskFailed, TaskSucceeded
from perdure.model import Call, Payload, Shape, frozen
from perdure.storage.rows import ValueKey


@frozen
class Work:
    """One attempt of one task. `inputs` are where the values of `call.refs` are, in their order.

    `beside` names a task of the run, "" for none: if the worker that ran it is still there, this attempt
    should run there too, whatever shape it has.
    """

    namespace: str
    workflow_id: str
    run_id: str
    task_id: str
    attempt: int
    call: Call
    shape: Shape
    inputs: tuple[Source, ...]
    beside: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.run_id, self.task_id, self.attempt)


@frozen
class GraphReturned:
    """An attempt returned a graph, serialized and not yet checked: the scheduler makes TaskContinued
    or TaskFailed of it."""

    task_id: str
    attempt: int
    spec: bytes
    at_ms: int
    started_ms: int | None = None
    ended_ms: int | None = None


class WaitReason(enum.Enum):
    """Why an attempt has not begun, for programs."""

    RESOURCES = enum.auto()
    NO_AGENT = enum.auto()
    WORKER_START = enum.auto()


@frozen
class Waiting:
    """Why an attempt has not begun. `text` says for people what is wanted and what there is."""

    reason: WaitReason
    text: str


Report: TypeAlias = AttemptStarted | TaskSucceeded | GraphReturned | TaskFailed | AttemptLost
Reports: TypeAlias = Sequence[tuple[str, Report]]
"""Pairs of run id and report, in the order in which they happened."""


class ValueReader(Protocol):
    """How an executor gets at the values that arguments refer to; a missing one raises CorruptData."""

    def cached(self, key: ValueKey) -> Payload | None:
        """The value if it is at hand, without waiting. Small ones mostly are."""
        ...

    async def read(self, keys: Sequence[ValueKey]) -> list[Payload]:
        """The values in the order asked for. All of them are durable before an attempt that refers to
        them is submitted. Blobs come as references."""
        ...


class Executor(Protocol):
    """Runs attempts.

    `holds_for_s` says, from any thread, for how long the engine's runs are certainly its own; for ever if there
    are no others. Later others may be going on with them: nothing that waits begins then, until it says so again.
    """

    holds_for_s: Callable[[], float]

    async def start(self, report: Callable[[Reports], None], values: ValueReader) -> None:
        """Begin to work. `report` is called on the event loop and does not block; nothing is reported
        before `start` was called or after `stop` returned."""
        ...

    async def stop(self) -> None:
        """Stop all attempts and end. Whatever did not end is not reported. Stopping twice is no error."""
        ...

    def submit(self, work: Work) -> None:
        """Run an attempt when there is room for it. Submitting the same key again while it is here is no
        second attempt. An attempt of a task does not begin before an older one that was cancelled
        has really ended.

        Reported: AttemptStarted once user code may have begun; then exactly one of TaskSucceeded,
        GraphReturned, TaskFailed, AttemptLost, unless it is cancelled. AttemptLost means it may have
        begun: work that certainly has not is kept and run elsewhere, at no cost.
        """
        ...

    def cancel(self, run_id: str, task_id: str, attempt: int) -> None:
        """Stop an attempt: one that waits is dropped, one that runs is interrupted and soon killed.
        Reports about it may still come. An unknown one is no error."""
        ...

    def waiting(self, run_id: str, task_id: str, attempt: int) -> Waiting | None:
        """Why an attempt that was submitted has not begun; None if it has, if it is not here, or if nobody knows."""
        ...

    def python_versions(self) -> frozenset[str]:
        """Versions ("3.11") of the Pythons that run attempts now; empty if there is none or nobody knows."""
        ...
