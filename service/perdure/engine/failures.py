"""Failures that the engine itself reports, as opposed to those that user code raises."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from perdure.model import Failure, FailureKind

CALL_DROPPED: Final = "perdure.CallDropped"


def worker_lost(reason: str) -> Failure:
    return Failure(FailureKind.SYSTEM, "perdure.WorkerLost", reason)


def attempt_timed_out(limit_ms: int | None, loading: str = "") -> Failure:
    """`loading`: the stack of an attempt that still imported the module of its function."""
    message = f"the attempt took longer than {limit_ms} ms"
    if loading:
        places = [line.strip() for line in loading.splitlines() if line.startswith("  File ")]
        message += "; it was still importing the module of its function" + (f", at {places[-1]}" if places else "")
    return Failure(FailureKind.TIMEOUT, "perdure.AttemptTimeout", message, stack_trace=loading)


def event_timed_out(key: str) -> Failure:
    return Failure(FailureKind.TIMEOUT, "perdure.EventTimeout", f"no event {key!r} came in time")


def run_canceled(reason: str) -> Failure:
    return Failure(FailureKind.CANCELED, "perdure.Canceled", reason or "the run was canceled")


def record_refused(why: str) -> Failure:
    """The store rejects a record of the run for good. `why` may be "": then the failure has no text."""
    message = f"a record of the run cannot be stored: {why}" if why else ""
    return Failure(FailureKind.SYSTEM, "perdure.RecordRefused", message, non_retryable=True)


def step_failed(error: str) -> Failure:
    """The engine raised an unexpected error, of this type, in a step of the run."""
    message = f"the engine failed in a step of the run ({error}); its log says more. Resume the run to try again"
    return Failure(FailureKind.SYSTEM, "perdure.StepFailed", message, non_retryable=True)


def call_dropped(call_id: str) -> Failure:
    return Failure(FailureKind.CANCELED, CALL_DROPPED, f"the call {call_id!r} of the actor was dropped")


def call_refused(why: str) -> Failure:
    """A call of an actor, or what a method of it made, cannot be read."""
    return Failure(FailureKind.SERIALIZATION, "perdure.InvalidCall", why, non_retryable=True)


def revision_mismatch(expected: int, actual: int) -> Failure:
    message = f"the call expected the actor at revision {expected}, and it was at {actual}; read it again"
    return Failure(FailureKind.APPLICATION, "perdure.ActorRevisionMismatch", message, non_retryable=True)


def leaving(task_id: str, failure: Failure, attempts: int) -> Failure:
    """The failure of a task as others see it, with the task's id and number of attempts (at least one)."""
    return replace(failure, task_id=task_id, attempts=max(attempts, 1))
