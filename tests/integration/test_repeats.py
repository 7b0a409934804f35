"""Repeated calls whose first answer was lost: the caller gets the result of the first call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

import perdure
from integration.wire_calls import Stubs, event_node, graph, run_request, sum_of
from perdure import RunStatus, errors
from perdure.connection import AGE_KEY, REPEAT_KEY
from perdure.service.app import RunningServer
from perdure.v1 import payload_pb2, workflow_pb2
from perdure.v1 import workflow_service_pb2 as pb
from services import Service, running

AGAIN = ((REPEAT_KEY, "1"),)
LOST: Any = [1, 6]
"""Answers that are lost: gRPC itself makes five attempts, and the client others after them."""


class Once:
    """Fails when it is called first."""

    failed: threading.Event = threading.Event()


@perdure.task(retry_exceptions=False)
def fail_once() -> int:
    if not Once.failed.is_set():
        Once.failed.set()
        raise ValueError("the first time")
    return 7


@pytest.fixture
def lose(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has a command carried out, and its answer and those of its next repeats be lost. `meanwhile` is awaited when it
    was carried out."""

    def lose(name: str, count: int, meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        operations = server.kernel.submissions if name == "submit" else server.kernel.lifecycle
        real = getattr(operations, name)
        left = [count]

        async def losing(*args: Any, **how: Any) -> Any:
            result = await real(*args, **how) if left[0] in (count, 0) else None
            if left[0] == count and meanwhile is not None:
                await meanwhile()
            if left[0]:
                left[0] -= 1
                raise errors.DatabaseUnavailableError("the answer is lost")
            return result

        monkeypatch.setattr(operations, name, losing)

    return lose


@pytest.mark.storages("sqlite")
@pytest.mark.parametrize("lost", LOST)
async def test_a_deletion_whose_answer_is_lost(client: perdure.Client, lose: Any, lost: int) -> None:
    handle = await client.start(perdure.sleep(0), workflow_id="w")
    await handle.output()
    lose("delete", lost)
    client.patience = 30
    await client.delete("w")
    with pytest.raises(errors.WorkflowNotFoundError):
        await client.delete("w")


@pytest.mark.storages("sqlite")
@pytest.mark.parametrize("lost", LOST)
async def test_a_resumption_whose_answer_is_lost(
    server: RunningServer, client: perdure.Client, lose: Any, lost: int
) -> None:
    """The run has ended before it is asked again."""
    Once.failed.clear()
    handle = await client.start(fail_once.bind(), workflow_id="w")
    with pytest.raises(perdure.WorkflowExecutionError):
        await handle.output()
    lose("resume", lost)
    client.patience = 30
    await client.resume("w")
    assert await handle.output() == 7
    with pytest.raises(errors.WorkflowAlreadyFinalError):
        await client.resume("w")


async def test_repeats_say_so_in_metadata(client: perdure.Client, stubs: Stubs) -> None:
    Once.failed.clear()
    handle = await client.start(fail_once.bind(), workflow_id="w")
    with pytest.raises(perdure.WorkflowExecutionError):
        await handle.output()
    named = pb.GetStatusRequest(workflow_id="w")
    etag = (await stubs.workflows.GetStatus(named)).workflow.etag
    resume = pb.ResumeRequest(workflow_id="w", expected_etag=etag)
    assert (await stubs.workflows.Resume(resume)).resumed
    assert await handle.output() == 7
    for request in (resume, pb.ResumeRequest(workflow_id="w")):
        answer = await stubs.workflows.Resume(request, metadata=AGAIN)
        assert not answer.resumed
        assert answer.workflow.status == workflow_pb2.WORKFLOW_STATUS_SUCCESSFUL
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.workflows.Resume(request)

    etag = (await stubs.workflows.GetStatus(named)).workflow.etag
    delete = pb.DeleteWorkflowRequest(workflow_id="w", expected_etag=etag)
    await stubs.workflows.DeleteWorkflow(delete)
    await stubs.workflows.DeleteWorkflow(delete, metadata=AGAIN)
    with pytest.raises(grpc.aio.AioRpcError):
        await stubs.workflows.DeleteWorkflow(delete)
    with pytest.raises(grpc.aio.AioRpcError):
        await stubs.workflows.DeleteWorkflow(delete, metadata=((REPEAT_KEY, "0"),))


async def test_a_run_that_was_never_resumed_is_no_answer_to_a_repeat(client: perdure.Client, stubs: Stubs) -> None:
    await (await client.start(perdure.sleep(0), workflow_id="w")).output()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.workflows.Resume(pb.ResumeRequest(workflow_id="w"), metadata=AGAIN)
    assert isinstance(errors.from_rpc_error(caught.value), errors.WorkflowAlreadyFinalError)


async def test_repeats_of_runs_and_cancellations(stubs: Stubs) -> None:
    request = run_request(graph(event_node("wait", "k")))
    first = await stubs.workflows.Run(request)
    again = await stubs.workflows.Run(request, metadata=AGAIN)
    assert (again.workflow.run_id, again.started) == (first.workflow.run_id, False)
    for other in (request, run_request(sum_of(1, 2))):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.workflows.Run(other, metadata=AGAIN if other is not request else None)
        assert isinstance(errors.from_rpc_error(caught.value), errors.WorkflowAlreadyExistsError)
    cancel = pb.CancelRequest(workflow_id="w", expected_etag=first.workflow.etag)
    await stubs.workflows.Cancel(cancel)
    answer = await stubs.workflows.Cancel(cancel, metadata=AGAIN)
    assert answer.workflow.status == workflow_pb2.WORKFLOW_STATUS_CANCELED


async def attach(stubs: Stubs, request_id: str, **how: Any) -> pb.RunResponse:
    policy = pb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
    request = run_request(graph(event_node("wait", "k")), request_id=request_id, id_conflict_policy=policy)
    return await stubs.workflows.Run(request, **how)


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_an_attachment_is_remembered_by_its_request_id(
    client: perdure.Client, stubs: Stubs, is_deleted: bool
) -> None:
    first = await attach(stubs, "first")
    second = await attach(stubs, "second")
    assert (second.workflow.run_id, second.started) == (first.workflow.run_id, False)
    await client.cancel("w")
    if is_deleted:
        await client.delete("w")
    again = await attach(stubs, "second", metadata=AGAIN)
    assert (again.workflow.run_id, again.started) == (first.workflow.run_id, False)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.workflows.Run(run_request(sum_of(1, 2), request_id="second"))
    assert isinstance(errors.from_rpc_error(caught.value), errors.RequestIdReusedError)


@pytest.mark.parametrize(("asked_ms", "is_attached"), [(60_000, True), (0, False)])
async def test_an_attachment_that_another_engine_made_is_repeated(
    client: perdure.Client, stubs: Stubs, asked_ms: int, is_attached: bool
) -> None:
    """The run was at work when the first call was made, or was not."""
    first = await attach(stubs, "first")
    await client.cancel("w")
    metadata = (*AGAIN, (AGE_KEY, str(asked_ms)))
    if is_attached:
        again = await attach(stubs, "elsewhere", metadata=metadata)
        assert (again.workflow.run_id, again.started) == (first.workflow.run_id, False)
        with pytest.raises(grpc.aio.AioRpcError):
            await attach(stubs, "other")
    else:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attach(stubs, "elsewhere", metadata=metadata)
        assert isinstance(errors.from_rpc_error(caught.value), errors.WorkflowAlreadyExistsError)


@pytest.mark.storages("sqlite")
@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("is_batch", [False, True])
async def test_an_attachment_whose_answer_is_lost(client: perdure.Client, lose: Any, lost: int, is_batch: bool) -> None:
    """The run has ended before it is asked again."""
    handle = await client.start(perdure.event("end"), workflow_id="w")

    async def end() -> None:
        await handle.send_event("end")
        await handle.output()

    lose("submit", lost, end)
    client.patience = 30
    if is_batch:
        item = perdure.RunItem(perdure.event("end"), workflow_id="w", id_conflict="use_existing")
        (again,) = await client.start_many([item])
    else:
        again = await client.start(perdure.event("end"), workflow_id="w", id_conflict="use_existing")
    assert again.run_id == handle.run_id


async def test_calls_are_answered_though_their_run_was_deleted_before_the_repeat(
    client: perdure.Client, stubs: Stubs
) -> None:
    run = run_request(graph(event_node("wait", "k")), request_id="first")
    payload = payload_pb2.Payload(encoding="json/plain", data=b"1")
    send = pb.SendEventRequest(workflow_id="w", event_key="k", event_id="1", payload=payload)
    cancel, delete = pb.CancelRequest(workflow_id="w"), pb.DeleteWorkflowRequest(workflow_id="w")
    first = await stubs.workflows.Run(run)
    sent = await stubs.workflows.SendEvent(send)
    await client.handle("w").outcome()
    await stubs.workflows.DeleteWorkflow(delete)

    metadata = (*AGAIN, (AGE_KEY, "60000"))
    again = await stubs.workflows.Run(run, metadata=metadata)
    assert (again.workflow.run_id, again.started) == (first.workflow.run_id, False)
    run.wait.seconds = 5
    again = await stubs.workflows.Run(run, metadata=metadata)
    assert (again.workflow.run_id, again.HasField("outcome")) == (first.workflow.run_id, False)
    answer = await stubs.workflows.SendEvent(send, metadata=metadata)
    assert (answer.sequence, answer.duplicate) == (sent.sequence, True)
    batch = pb.BatchSendEventsRequest(
        items=[pb.EventItem(workflow_id="w", event_key="k", event_id="1", payload=payload)]
    )
    (item,) = (await stubs.workflows.BatchSendEvents(batch, metadata=metadata)).results
    assert (item.sequence, item.duplicate) == (sent.sequence, True)
    gone = await stubs.workflows.Cancel(cancel, metadata=metadata)
    assert gone.workflow.status == workflow_pb2.WORKFLOW_STATUS_SUCCESSFUL
    assert [info async for info in client.list()] == []
    for call, request in ((stubs.workflows.SendEvent, send), (stubs.workflows.Cancel, cancel)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request)
        assert isinstance(errors.from_rpc_error(caught.value), errors.WorkflowNotFoundError)

    run.ClearField("wait")
    later = await stubs.workflows.Run(run)
    assert later.started
    await stubs.workflows.DeleteWorkflow(delete, metadata=metadata)
    await stubs.workflows.Cancel(cancel, metadata=metadata)
    assert (await client.handle("w").status()).status is RunStatus.RUNNING


@pytest.mark.storages("sqlite")
async def test_a_start_whose_answer_is_lost_makes_no_second_run_after_a_deletion(
    server: RunningServer, client: perdure.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client deletes the run after gRPC's own attempts, which do not say when the call was made first."""
    submissions, lifecycle = server.kernel.submissions, server.kernel.lifecycle
    real, made = submissions.submit, []

    async def losing(*args: Any, **how: Any) -> Any:
        view, started = await real(*args, **how)
        made.append(view.row.run_id)
        if len(made) == LOST[-1] - 1:
            await lifecycle.cancel("default", "w")
            await lifecycle.delete("default", "w")
        if len(made) <= LOST[-1]:
            raise errors.DatabaseUnavailableError("the answer is lost")
        return view, started

    monkeypatch.setattr(submissions, "submit", losing)
    client.patience = 30
    handle = await client.start(perdure.event("k"), workflow_id="w")
    assert set(made) == {handle.run_id}
    assert len(made) == LOST[-1] + 1


MANY = 60
KILLS = 3


async def test_no_caller_hears_of_an_engine_that_is_killed(tmp_path: Path) -> None:
    """Deletions and cancellations, one call each, while their engine dies again and again."""
    service = Service(tmp_path, "--executor", "local")
    with running(service):
        await asyncio.to_thread(service.up)
        async with perdure.Client(service.address, patience=120) as client:
            items = [perdure.RunItem(perdure.event("k"), workflow_id=f"w{number}") for number in range(MANY)]
            await client.start_many(items)
            done = asyncio.Semaphore(0)
            turn = asyncio.Semaphore(4)

            async def give_up(name: str) -> None:
                async with turn:
                    assert await client.cancel(name) is RunStatus.CANCELED
                    await client.delete(name)
                    done.release()

            work = [asyncio.ensure_future(give_up(f"w{number}")) for number in range(MANY)]
            for _ in range(KILLS):
                for _ in range(MANY // (KILLS + 1)):
                    await done.acquire()
                service.kill()
                await asyncio.to_thread(service.up)
            await asyncio.gather(*work)
            assert [info async for info in client.list()] == []
