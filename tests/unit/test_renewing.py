"""Values that attempts stored long before they reported: they are renewed, or the attempt is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from perdure import actorwire, graphwire
from perdure.engine.messages import AttemptLost, AttemptStarted, TaskFailed, TaskSucceeded
from perdure.model import NULL, Call, Failure, FailureKind, Function, MethodOutcome, Payload, Shape, Spec, SpecNode
from perdure.service.executors import renewing as renewing_module
from perdure.service.executors.port import (
    Attempt,
    ContinuationReturned,
    Report,
    Reports,
    ValueReader,
    Waiting,
    WaitReason,
)
from perdure.service.executors.renewing import RenewingExecutor
from perdure.service.machines.actors import blobs_of_returned
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.ports import StorageUnavailable

LATE_S = 10.0
CALL = Call(Function("f", "f"), NULL)


class Inner:
    """Reports what it is told to."""

    def __init__(self) -> None:
        self.holds_for_s: Callable[[], float] = lambda: 1.0
        self.report: Callable[[Reports], None] = lambda _reports: None
        self.submitted: list[Attempt] = []

    async def start(
        self, report: Callable[[Reports], None], values: ValueReader, holds_for_s: Callable[[], float]
    ) -> None:
        self.report = report
        self.holds_for_s = holds_for_s

    async def stop(self) -> None: ...

    def submit(self, attempt: Attempt) -> None:
        self.submitted.append(attempt)

    def cancel(self, run_id: str, task_id: str, attempt: int) -> None: ...

    def loading(self, _run_id: str, _task_id: str, _number: int) -> str:
        return ""

    def waiting(self, run_id: str, task_id: str, attempt: int) -> Waiting:
        return Waiting(WaitReason.RESOURCES, f"{run_id} {task_id} {attempt}")

    def python_versions(self) -> frozenset[str]:
        return frozenset({"3.11"})


class Stage:
    """An executor, a clock, and what is heard."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.blobs = MemoryBlobStore(lambda: self.now_s)
        self.inner = Inner()
        self.executor = RenewingExecutor(
            cast(Any, self.inner),
            self.blobs,
            late_s=LATE_S,
            elapsed_s=lambda: self.now_s,
            named_by=blobs_of_returned,
        )
        self.heard: list[tuple[str, Report]] = []
        self.told = asyncio.Event()

    def hear(self, reports: Reports) -> None:
        self.heard += reports
        self.told.set()

    async def until(self, count: int) -> None:
        while len(self.heard) < count:
            self.told.clear()
            await self.told.wait()

    def submit(self, task_id: str, attempt: int = 1) -> None:
        self.executor.submit(Attempt("default", "w", "r", task_id, attempt, CALL, Shape(), ()))

    def age_of(self, payload: Payload) -> float:
        assert payload.blob is not None
        return self.now_s - self.blobs._puts[payload.blob.sha256]


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.executor.start(stage.hear, cast(ValueReader, None))
    return stage


def blob_of(stage: Stage, data: bytes) -> Payload:
    return Payload("binary/plain", blob=stage.blobs.put_now(data))


async def test_what_comes_in_time_passes_as_it_is(stage: Stage) -> None:
    stage.submit("a")
    large = blob_of(stage, b"large")
    stage.now_s = LATE_S
    reports = [("r", AttemptStarted("a", 1, 5)), ("r", TaskSucceeded("a", 1, large, 6))]
    stage.inner.report(reports)
    assert stage.heard == reports
    assert stage.age_of(large) == LATE_S
    stage.submit("b")
    stage.now_s *= 9
    small = ("r", TaskSucceeded("b", 1, Payload("binary/plain", b"small"), 7))
    stage.inner.report([small])
    assert stage.heard[2:] == [small]


async def test_what_comes_late_is_put_anew_first(stage: Stage) -> None:
    stage.submit("a")
    stage.submit("b")
    large = blob_of(stage, b"large")
    stage.now_s = LATE_S + 1
    in_time = ("r", TaskSucceeded("b", 1, Payload("binary/plain", b"x"), 6))
    late = ("r", TaskSucceeded("a", 1, large, 6))
    stage.inner.report([late, in_time])
    assert stage.heard == [in_time]
    await stage.until(2)
    assert stage.heard[1] == late
    assert stage.age_of(large) == 0


async def test_an_attempt_whose_value_is_gone_was_in_vain(stage: Stage) -> None:
    function = Function("f", "f", code=blob_of(stage, b"code"))
    graph = graphwire.encode_spec(Spec((SpecNode("n", Call(function, NULL)),), "n"))
    small = graphwire.encode_spec(Spec((SpecNode("n", Call(Function("f", "f"), NULL)),), "n"))
    outcome = actorwire.encode_outcome(MethodOutcome(state=NULL, parts=(("weights", blob_of(stage, b"part")),)))
    error = Failure(FailureKind.APPLICATION, "E", "large", error=blob_of(stage, b"error"))
    reports: list[Report] = [
        TaskSucceeded("a", 1, blob_of(stage, b"value"), 6),
        ContinuationReturned("b", 1, graph, 6),
        TaskFailed("c", 2, error, 6),
        ContinuationReturned("d", 1, small, 6, method_outcome=outcome),
    ]
    stage.submit("a")
    stage.submit("b")
    stage.submit("c", 2)
    stage.submit("d")
    async for blob in stage.blobs.list():
        await stage.blobs.delete(blob.sha256)
    stage.now_s = LATE_S + 1
    stage.inner.report([("r", report) for report in reports])
    await stage.until(4)
    lost = [report for _, report in stage.heard]
    assert all(isinstance(report, AttemptLost) for report in lost)
    assert {(report.task_id, report.attempt) for report in lost} == {("a", 1), ("b", 1), ("c", 2), ("d", 1)}


async def test_values_of_attempts_with_unknown_begin_are_renewed(stage: Stage) -> None:
    """It was cancelled, or reports for the second time."""
    stage.submit("a")
    large = blob_of(stage, b"large")
    stage.executor.cancel("r", "a", 1)
    stage.now_s = 3.0
    stage.inner.report([("r", TaskSucceeded("a", 1, large, 6))])
    assert stage.heard == []
    await stage.until(1)
    assert stage.age_of(large) == 0


async def test_renewing_waits_for_a_store_that_is_away(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewing_module, "PAUSE_FIRST_S", 0.001)
    refusals = iter([True, True, False])
    real = stage.blobs.renew

    async def renew(sha256: str) -> int | None:
        if next(refusals):
            raise StorageUnavailable("away")
        return await real(sha256)

    stage.blobs.renew = renew  # type: ignore[method-assign]
    late = ("r", TaskSucceeded("a", 1, blob_of(stage, b"large"), 6))
    stage.inner.report([late])
    await stage.until(1)
    assert stage.heard == [late]


async def test_stopping_ends_what_waits(stage: Stage) -> None:
    async def renew(sha256: str) -> int | None:
        raise StorageUnavailable("away")

    stage.blobs.renew = renew  # type: ignore[method-assign]
    stage.inner.report([("r", TaskSucceeded("a", 1, blob_of(stage, b"large"), 6))])
    await stage.executor.stop()
    assert stage.heard == []
    assert not stage.executor._tasks


async def test_the_rest_is_the_inner_ones(stage: Stage) -> None:
    await stage.executor.start(stage.hear, cast(ValueReader, None), lambda: 2.0)
    assert stage.inner.holds_for_s() == 2.0
    assert stage.executor.python_versions() == {"3.11"}
    assert stage.executor.waiting("run", "task", 2) == Waiting(WaitReason.RESOURCES, "run task 2")
    stage.submit("a")
    assert [attempt.task_id for attempt in stage.inner.submitted] == ["a"]
