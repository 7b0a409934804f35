"""Write, then act: nothing is published or started before the commit that it depends on. The store commits when the
test lets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest

from integration import wire_calls
from integration.engine_settings import settings_on
from integration.wire_calls import SYSTEM_INFO, Stubs, call_node, event_node, graph, json_value, refused, run_request
from perdure.service.app import RunningServer, running_server
from perdure.storage.ports import Entry, MetadataStore, StorageUnavailable
from perdure.storage.urls import metadata_store
from perdure.storage.writes import AddEvent, AddRun, Committed, PutTask, SetRun, Write
from perdure.v1 import workflow_pb2
from perdure.v1 import workflow_service_pb2 as pb

HERE = __name__
RUNNING, SUCCESSFUL = workflow_pb2.WORKFLOW_STATUS_RUNNING, workflow_pb2.WORKFLOW_STATUS_SUCCESSFUL
BEGUN: list[str] = []
"""Tasks that began, in the order in which they did."""


def first() -> int:
    BEGUN.append("first")
    return 20


def second(value: int) -> int:
    BEGUN.append("second")
    return value + 22


class Held:
    """A commit that waits for the test."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.go = asyncio.Event()


class HoldingStore:
    """A store before another one; it holds the next commit with a write of a kind back, and all behind it."""

    def __init__(self, inner: MetadataStore) -> None:
        self._inner = inner
        self._wanted: tuple[Callable[[Write], bool], Held] | None = None
        self.lost_answers = 0

    def hold(self, wanted: Callable[[Write], bool]) -> Held:
        held = Held()
        self._wanted = wanted, held
        return held

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        if self._wanted is not None:
            wanted, held = self._wanted
            if any(wanted(write) for entry in entries for write in entry):
                self._wanted = None
                held.came.set()
                await held.go.wait()
        committed = await self._inner.commit(entries)
        if self.lost_answers:
            self.lost_answers -= 1
            raise StorageUnavailable("the answer was lost")
        return committed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture
async def store(storage: str) -> Any:
    return HoldingStore(metadata_store(storage))


@pytest.fixture
async def server(storage: str, store: Any) -> AsyncIterator[RunningServer]:
    BEGUN.clear()
    async with running_server(settings_on(storage), store=store) as server:
        yield server


async def goes_by(stubs: Stubs) -> None:
    """The engine has had every opportunity: it has served a row of calls."""
    for _ in range(20):
        await stubs.system.GetSystemInfo(SYSTEM_INFO)


async def not_yet(stubs: Stubs, *calls: asyncio.Future[Any]) -> None:
    await goes_by(stubs)
    assert not any(call.done() for call in calls)


def adds_run(write: Write) -> bool:
    return isinstance(write, AddRun)


def ends_run(write: Write) -> bool:
    return isinstance(write, SetRun)


def has_output(task_id: str) -> Callable[[Write], bool]:
    return lambda write: isinstance(write, PutTask) and write.row.task_id == task_id and write.row.output is not None


TWO = graph(call_node("first", f"{HERE}:first"), call_node("second", f"{HERE}:second", {"node": "first"}))


async def test_a_run_is_acknowledged_after_its_commit(store: HoldingStore, stubs: Stubs) -> None:
    held = store.hold(adds_run)
    run = asyncio.ensure_future(stubs.workflows.Run(run_request(TWO)))
    await held.came.wait()
    await not_yet(stubs, run)
    assert BEGUN == []
    ask = stubs.workflows
    for call in (
        ask.GetStatus(pb.GetStatusRequest(workflow_id="w")),
        ask.GetOutput(pb.GetOutputRequest(workflow_id="w")),
        ask.Cancel(pb.CancelRequest(workflow_id="w")),
    ):
        await refused(call, grpc.StatusCode.NOT_FOUND, "WORKFLOW_NOT_FOUND")
    assert not (await ask.ListWorkflows(pb.ListWorkflowsRequest())).workflows
    held.go.set()
    assert (await run).started
    assert (await wire_calls.output_of(stubs, "w")).HasField("output")
    assert BEGUN == ["first", "second"]


async def test_an_output_is_durable_before_it_is_published(store: HoldingStore, stubs: Stubs) -> None:
    ask = stubs.workflows
    held = store.hold(has_output("first"))
    await ask.Run(run_request(TWO))
    await held.came.wait()
    assert BEGUN == ["first"]
    watch = ask.Watch(pb.WatchRequest(workflow_ids=["w"], include_tasks=True, until_final=True))
    calls: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(call)
        for call in (
            ask.GetOutput(pb.GetOutputRequest(workflow_id="w", task_id="first")),
            ask.GetOutput(pb.GetOutputRequest(workflow_id="w", task_id="first", wait={"seconds": 20})),
            ask.GetOutput(pb.GetOutputRequest(workflow_id="w", wait={"seconds": 20})),
            ask.GetStatus(pb.GetStatusRequest(workflow_id="w")),
            ask.ListTasks(pb.ListTasksRequest(workflow_id="w")),
            ask.GetMetadata(pb.GetMetadataRequest(workflow_id="w", task_id="first")),
            wire_calls.events_of(watch),
        )
    ]
    await not_yet(stubs, *calls)
    assert BEGUN == ["first"]  # the dependent waits
    held.go.set()
    output, waited, final, status, tasks, metadata, events = await asyncio.gather(*calls)
    assert output.done
    assert waited.outcome == output.outcome
    assert final.done
    assert status.workflow.tasks.successful >= 1
    assert tasks.tasks[0].status == workflow_pb2.TASK_STATUS_SUCCESSFUL
    assert metadata.metadata.stats.attempts == 1
    assert events[-1].workflow.status == SUCCESSFUL
    assert BEGUN == ["first", "second"]


async def test_an_end_is_durable_before_it_is_published(store: HoldingStore, stubs: Stubs) -> None:
    ask = stubs.workflows
    held = store.hold(ends_run)
    await ask.Run(run_request(graph(event_node("wait", "k"), call_node("first", f"{HERE}:first", after=("wait",)))))
    watch = ask.Watch(pb.WatchRequest(workflow_ids=["w"], until_final=True))
    opened = await watch.read()
    assert opened.events[-1].workflow.status == RUNNING
    await ask.SendEvent(pb.SendEventRequest(workflow_id="w", event_key="k", event_id="1"))
    await held.came.wait()
    waited = asyncio.ensure_future(ask.GetOutput(pb.GetOutputRequest(workflow_id="w", wait={"seconds": 20})))
    status = asyncio.ensure_future(
        ask.GetStatus(pb.GetStatusRequest(workflow_id="w", wait={"seconds": 20}, wait_for=[SUCCESSFUL]))
    )
    told = asyncio.ensure_future(watch.read())
    await not_yet(stubs, waited, status, told)
    (listed,) = (await ask.ListWorkflows(pb.ListWorkflowsRequest())).workflows
    assert listed.status == RUNNING
    asked = asyncio.ensure_future(ask.GetOutput(pb.GetOutputRequest(workflow_id="w")))
    await not_yet(stubs, asked)  # lists and other engines may show the end before this engine knows of it
    held.go.set()
    assert (await asked).done
    assert (await waited).done
    assert (await status).workflow.status == SUCCESSFUL
    assert (await told).events[-1].workflow.status == SUCCESSFUL


async def test_an_event_is_acknowledged_after_its_commit(store: HoldingStore, stubs: Stubs) -> None:
    await stubs.workflows.Run(
        run_request(graph(event_node("wait", "k"), call_node("s", f"{HERE}:second", {"node": "wait"})))
    )
    held = store.hold(lambda write: isinstance(write, AddEvent))
    event = pb.SendEventRequest(workflow_id="w", event_key="k", event_id="1", payload=json_value(20))
    sent = asyncio.ensure_future(stubs.workflows.SendEvent(event))
    await held.came.wait()
    await not_yet(stubs, sent)
    assert BEGUN == []
    held.go.set()
    assert not (await sent).duplicate
    await wire_calls.output_of(stubs, "w")
    assert BEGUN == ["second"]


async def test_a_cancellation_is_acknowledged_after_its_commit(store: HoldingStore, stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(graph(event_node("wait", "k"))))
    held = store.hold(ends_run)
    cancel = asyncio.ensure_future(stubs.workflows.Cancel(pb.CancelRequest(workflow_id="w")))
    output = asyncio.ensure_future(
        stubs.workflows.GetOutput(pb.GetOutputRequest(workflow_id="w", wait={"seconds": 20}))
    )
    await held.came.wait()
    await not_yet(stubs, cancel, output)
    held.go.set()
    assert (await cancel).workflow.status == workflow_pb2.WORKFLOW_STATUS_CANCELED
    assert (await output).done


async def test_an_acknowledgement_that_was_lost(store: HoldingStore, stubs: Stubs) -> None:
    """The commit happened and the store could not say so: asking again gives the same run, and it runs once."""
    store.lost_answers = 1
    request = run_request(TWO, "", "the-request")
    seen: set[str] = set()
    await refused(stubs.workflows.Run(request), grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    again = None
    while again is None:  # until the journal has got through
        try:
            again = await stubs.workflows.Run(request)
        except grpc.aio.AioRpcError as error:
            seen.add(wire_calls.refusal_of(error).reason)
    assert seen <= {"DATABASE_UNAVAILABLE"}
    workflow_id = again.workflow.workflow_id
    assert (await wire_calls.output_of(stubs, workflow_id)).HasField("output")
    assert BEGUN == ["first", "second"]
    (listed,) = (await stubs.workflows.ListWorkflows(pb.ListWorkflowsRequest())).workflows
    assert listed.run_id == again.workflow.run_id
