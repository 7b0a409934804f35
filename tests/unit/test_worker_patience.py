"""How long workers wait for a store or a database that is away."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from perdure.storage.ports import StorageUnavailable
from perdure.v1 import worker_service_pb2 as pb
from perdure.worker import blobs, intake


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, delay: float) -> None:
        self.now_s += delay


def test_a_store_that_fails_after_a_long_upload_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience is for the time in which it fails, not for the time that the upload took."""
    clock = Clock()
    monkeypatch.setattr(blobs, "time", clock)
    stored = blobs.BlockingBlobs.__new__(blobs.BlockingBlobs)
    tries: list[float] = []

    def wait(work: object) -> None:
        tries.append(clock.now_s)
        if len(tries) == 1:
            clock.now_s += 10 * blobs.PATIENCE_S
        raise StorageUnavailable("away")

    monkeypatch.setattr(stored, "_wait", wait)
    with pytest.raises(StorageUnavailable):
        stored._patiently(lambda: None)  # type: ignore[arg-type, return-value]
    assert len(tries) > 2
    assert clock.now_s >= 11 * blobs.PATIENCE_S


class Away(grpc.aio.AioRpcError):
    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())


async def test_waiting_for_values_ends_by_the_time_and_not_by_the_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.monotonic)

    async def sleep(delay: float) -> None:
        clock.sleep(delay)

    monkeypatch.setattr(intake.asyncio, "sleep", sleep)
    tries: list[float] = []

    class Stub:
        async def FetchValues(self, _request: object) -> object:
            tries.append(clock.now_s)
            clock.now_s += intake.PATIENCE_S / 3  # it takes its time to fail
            raise Away

    failed: list[Exception] = []
    attempts = intake.Intake(Stub(), lambda *_given: None, lambda _token, error: failed.append(error))
    attempt = pb.Attempt(token=1, function="f", refs=[pb.Value(key=pb.ValueKey(run_id="run", task_id="task"))])
    await attempts.take(attempt)
    done = asyncio.Event()
    attempts.after_all(done.set)
    await done.wait()
    assert [type(error) for error in failed] == [Away]
    assert len(tries) == 4
