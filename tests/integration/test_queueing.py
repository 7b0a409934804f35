"""Queueing limits: what users see of slots and of the queue before them."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

import perdure
from integration.engine_settings import settings_on
from perdure import RunStatus, errors
from perdure.handle import Handle
from perdure.service.app import RunningServer, running_server
from perdure.service.common import aside
from perdure.v1 import workflow_service_pb2

PENDING, RUNNING, CANCELED = RunStatus.PENDING, RunStatus.RUNNING, RunStatus.CANCELED


@perdure.task
def first(value: Any, *_: Any) -> Any:
    return value


@perdure.task(max_retries=0)
def unless(path: str) -> str:
    return Path(path).read_text()


@dataclass
class Service:
    server: RunningServer
    client: perdure.Client

    async def waiting(self, *ids: str) -> list[Handle]:
        """Runs that go on when they get the event "go"."""
        return [await self.client.start(first.bind(name, perdure.event("go")), workflow_id=name) for name in ids]

    async def statuses(self) -> dict[str, RunStatus]:
        return {run.workflow_id: run.status async for run in self.client.list(order_by="workflow_id")}

    async def becomes(self, handle: Handle, status: RunStatus) -> None:
        """Wait for a state as a client does."""
        request = workflow_service_pb2.GetStatusRequest(
            namespace=self.client.namespace,
            workflow_id=handle.workflow_id,
            wait=Duration(seconds=20),
            wait_for=[f"WORKFLOW_STATUS_{status}"],
        )
        answer = await self.client._transport.workflows.GetStatus(request)
        assert answer.workflow.status == request.wait_for[0]


Start = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def serve(storage: str) -> Start:
    @asynccontextmanager
    async def serve(max_running: int = 1, max_pending: int = -1, **more: Any) -> AsyncIterator[Service]:
        settings = settings_on(storage, max_running_workflows=max_running, max_pending_workflows=max_pending, **more)
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(running_server(settings))
            yield Service(server, await stack.enter_async_context(perdure.Client(server.address, patience=2.0)))

    return serve


async def test_runs_start_in_the_order_in_which_they_came(serve: Start) -> None:
    async with serve(max_running=2) as service:
        runs = await service.waiting(*"abcdef")
        assert await service.statuses() == dict(zip("abcdef", [RUNNING] * 2 + [PENDING] * 4, strict=True))
        assert [run.workflow_id async for run in service.client.list("status = PENDING", order_by="workflow_id")] == [
            *"cdef"
        ]
        for number, run in enumerate(runs):
            assert await run.send_event("go", number)
            assert await run.output() == run.workflow_id
            for started in runs[number + 1 : number + 3]:
                await service.becomes(started, RUNNING)
            for waits in runs[number + 3 :]:
                assert (await waits.status()).status is PENDING


async def test_a_pending_run_has_only_a_row(serve: Start) -> None:
    async with serve() as service:
        holder, *others = await service.waiting(*[f"{number:03}" for number in range(50)])
        kernel = service.server.kernel
        assert all(kernel.scheduler.memory.find(run.run_id) is None for run in others)
        assert await kernel.store.count_pending() == {"default": 49}
        info = await others[0].status()
        assert (info.status, info.started, info.ended, info.tasks) == (PENDING, None, None, 2)
        metadata = await others[0].metadata()
        assert metadata.status == "PENDING"
        assert not metadata.stats.HasField("start_time")
        assert [task.status async for task in others[0].tasks()] == [perdure.TaskStatus.BLOCKED] * 2
        with pytest.raises(TimeoutError):
            await others[0].output(timeout=0)
        with pytest.raises(errors.WorkflowStillActiveError):
            await service.client.delete(others[0].workflow_id)
        assert (await holder.status()).status is RUNNING


async def test_a_large_graph_waits_for_its_slot(serve: Start) -> None:
    """It is made before it is known that there is no slot."""
    async with serve() as service:
        (holder,) = await service.waiting("holder")
        parts = [first.bind(number) for number in range(aside.NODES_AT_ONCE + 1)]
        large = await service.client.start(first.bind("large", *parts), workflow_id="large")
        assert (await large.status()).status is PENDING
        assert service.server.kernel.scheduler.memory.find(large.run_id) is None
        await holder.cancel()
        assert await large.output() == "large"


async def test_a_full_queue_refuses_and_stores_nothing(serve: Start) -> None:
    async with serve(max_running=1, max_pending=1) as service:
        holder, waits = await service.waiting("a", "b")
        with pytest.raises(queue.Full) as caught:
            await service.waiting("c")
        assert isinstance(caught.value, errors.QueueFullError)
        assert caught.value.fields == {"namespace": "default", "max_running": "1", "max_pending": "1"}
        with pytest.raises(errors.WorkflowNotFoundError):
            await service.client.handle("c").status()
        assert await service.statuses() == {"a": RUNNING, "b": PENDING}
        await holder.send_event("go")
        await holder.output()
        if service.server.kernel.store.is_shared:
            await service.becomes(waits, RUNNING)  # until then it counts as waiting, though there is a slot for it
        await service.waiting("c")
        await service.becomes(waits, RUNNING)
        with pytest.raises(queue.Full):
            await service.waiting("d")


async def test_a_queue_of_length_zero_refuses_runs(serve: Start) -> None:
    async with serve(max_running=1, max_pending=0) as service:
        (holder,) = await service.waiting("a")
        with pytest.raises(queue.Full):
            await service.waiting("b")
        await holder.cancel()
        (next_,) = await service.waiting("b")
        assert (await next_.status()).status is RUNNING


async def test_a_full_queue_still_answers_for_existing_runs(serve: Start) -> None:
    async with serve(max_running=1, max_pending=0) as service:
        graph = first.bind(1, perdure.event("go"))
        once = await service.client.start(graph, workflow_id="a", request_id="r")
        again = await service.client.start(graph, workflow_id="a", request_id="r")
        joined = await service.client.start(graph, workflow_id="a", id_conflict="use_existing")
        assert once.run_id == again.run_id == joined.run_id
        with pytest.raises(errors.WorkflowAlreadyExistsError):
            await service.client.start(graph, workflow_id="a")
        instead = await service.client.start(graph, workflow_id="a", id_reuse="allow", id_conflict="cancel_existing")
        assert instead.run_id != once.run_id
        assert (await instead.status()).status is RUNNING


async def test_a_refused_run_gives_its_slot_back(serve: Start) -> None:
    async with serve(max_running=2, max_pending=0) as service:
        await service.waiting("a")
        for _ in range(3):
            with pytest.raises(errors.WorkflowAlreadyExistsError):
                await service.waiting("a")
        await service.waiting("b")
        assert len(await service.server.kernel.store.running_runs()) == 2


async def test_a_pending_run_is_canceled_at_once(serve: Start) -> None:
    async with serve(max_running=1, max_pending=2) as service:
        holder, canceled, after = await service.waiting(*"abc")
        assert await canceled.cancel("changed my mind") is CANCELED
        info = await canceled.status()
        assert (info.status, info.started) == (CANCELED, None)
        assert info.ended is not None
        with pytest.raises(errors.WorkflowCancellationError, match="changed my mind"):
            await canceled.output()
        assert await canceled.cancel() is CANCELED
        with pytest.raises(errors.WorkflowAlreadyFinalError):
            await canceled.resume()
        await service.waiting("d")  # its place is free
        await holder.send_event("go")
        await service.becomes(after, RUNNING)
        assert (await canceled.status()).status is CANCELED
        await service.client.delete("b")


async def test_events_for_a_pending_run_are_kept(serve: Start) -> None:
    async with serve() as service:
        holder, waits = await service.waiting("a", "b")
        assert await waits.send_event("go", event_id="e")
        assert not await waits.send_event("go", event_id="e")
        assert (await waits.status()).status is PENDING
        await holder.send_event("go")
        assert await waits.output() == "b"


async def test_a_failed_run_takes_a_slot_again_or_waits_for_one(serve: Start, tmp_path: Path) -> None:
    path = tmp_path / "file"
    async with serve(max_running=1, max_pending=1) as service:
        failed = await service.client.start(unless.bind(str(path)), workflow_id="f")
        with pytest.raises(perdure.WorkflowExecutionError):
            await failed.output()
        path.write_text("there")
        (holder,) = await service.waiting("a")
        assert await failed.resume()
        info = await failed.status()
        assert (info.status, info.resumes, info.ended) == (PENDING, 1, None)
        assert not await failed.resume()
        with pytest.raises(queue.Full):
            await service.waiting("b")
        await holder.send_event("go")
        assert await failed.output() == "there"
        assert (await failed.status()).resumes == 1


async def test_a_full_queue_refuses_to_resume(serve: Start, tmp_path: Path) -> None:
    async with serve(max_running=1, max_pending=0) as service:
        failed = await service.client.start(unless.bind(str(tmp_path / "file")), workflow_id="f")
        with pytest.raises(perdure.WorkflowExecutionError):
            await failed.output()
        await service.waiting("a")
        with pytest.raises(queue.Full):
            await failed.resume()
        info = await failed.status()
        assert (info.status, info.resumes) == (RunStatus.FAILED, 0)


async def test_a_watch_sees_a_pending_run_start(serve: Start) -> None:
    async with serve() as service:
        holder, waits = await service.waiting("a", "b")
        seen = []
        async for update in waits.watch(include_tasks=False):
            assert update.run is not None
            if not seen or seen[-1] is not update.run.status:
                seen.append(update.run.status)
            if update.run.status is PENDING:
                await holder.send_event("go")
            elif update.run.status is RUNNING:
                await waits.send_event("go")
        assert seen == [PENDING, RUNNING, RunStatus.SUCCESSFUL]


async def test_a_failure_and_a_cancellation_free_their_slots(serve: Start, tmp_path: Path) -> None:
    async with serve() as service:
        holder, second, third = await service.waiting(*"abc")
        failing = await service.client.start(unless.bind(str(tmp_path / "none")), workflow_id="d")
        await holder.cancel()
        await service.becomes(second, RUNNING)
        await second.cancel()
        await service.becomes(third, RUNNING)
        await third.cancel()
        with pytest.raises(perdure.WorkflowExecutionError):
            await failing.output()
        (last,) = await service.waiting("e")
        assert (await last.status()).status is RUNNING


async def test_every_namespace_has_slots_of_its_own(serve: Start) -> None:
    async with serve() as service, perdure.Client(service.server.address, namespace="other") as client:
        other = Service(service.server, client)
        await service.waiting("a", "b")
        await other.waiting("a", "b")
        assert await service.statuses() == await other.statuses() == {"a": RUNNING, "b": PENDING}


async def test_the_limits_are_told(serve: Start) -> None:
    async with serve(max_running=3, max_pending=0) as service:
        limits = (await service.client.info()).limits
        assert (limits.max_running_workflows, limits.max_pending_workflows) == (3, 0)
    async with serve(max_running=-1) as service:
        limits = (await service.client.info()).limits
        assert (limits.max_running_workflows, limits.max_pending_workflows) == (-1, -1)


# ------------------------------------------------------------------------------ over restarts


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
async def test_slots_and_the_queue_survive_a_restart(serve: Start) -> None:
    async with serve(max_running=2) as service:
        await service.waiting(*"dcba")
    async with serve(max_running=2) as service:
        handles = [service.client.handle(name) for name in "dcba"]
        assert await service.statuses() == {"d": RUNNING, "c": RUNNING, "b": PENDING, "a": PENDING}
        await handles[1].send_event("go")
        await service.becomes(handles[2], RUNNING)
        assert (await handles[3].status()).status is PENDING
        (late,) = await service.waiting("late")
        assert (await late.status()).status is PENDING


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
async def test_limits_may_be_changed_between_lives(serve: Start) -> None:
    async with serve(max_running=3) as service:
        await service.waiting(*"abcde")
    async with serve(max_running=1, max_pending=3) as service:
        assert sorted((await service.statuses()).values()) == [PENDING] * 2 + [RUNNING] * 3
        for name in "ab":
            await service.client.cancel(name)
        assert (await service.client.handle("d").status()).status is PENDING
        await service.client.cancel("c")
        await service.becomes(service.client.handle("d"), RUNNING)
        assert (await service.client.handle("e").status()).status is PENDING
    async with serve(max_running=-1) as service:
        await service.becomes(service.client.handle("e"), RUNNING)


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
async def test_manual_recovery_gives_slots_to_resumed_runs(serve: Start) -> None:
    async with serve(max_running=1) as service:
        await service.waiting(*"abc")
    async with serve(max_running=1, recovery="manual") as service:
        assert set((await service.statuses()).values()) == {RunStatus.RESUMABLE}
        handles = [service.client.handle(name) for name in "abc"]
        assert [(await handle.status()).started is not None for handle in handles] == [True, False, False]
        for handle in reversed(handles):
            assert await handle.resume()
        assert await service.statuses() == {"a": PENDING, "b": PENDING, "c": RUNNING}
        for handle in (handles[2], handles[1], handles[0]):
            await service.becomes(handle, RUNNING)
            await handle.send_event("go")
            assert await handle.output() == handle.workflow_id
