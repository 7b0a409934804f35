"""The calls of `api` without gRPC: requests that came as JSON, and a caller that is a plain value."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf import json_format

from catalogues import naming_of
from perdure import errors, graphwire
from perdure.service.api.batch import BatchCalls
from perdure.service.api.events import EventCalls
from perdure.service.api.listing import ListCalls
from perdure.service.api.runs import RunCalls
from perdure.service.api.sources import Sources
from perdure.service.api.watch import Watcher
from perdure.service.common import limits
from perdure.service.common.repeat import Repeat
from perdure.service.operations.batches import Batches
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.v1 import spec_pb2
from perdure.v1 import workflow_service_pb2 as pb
from unit.driver import call, graph
from unit.engine_by_hand import Engine, running_engine

SPEC = json_format.MessageToDict(spec_pb2.WorkflowSpec.FromString(graphwire.encode_spec(graph(call("a")))))


@dataclass(frozen=True)
class Plain:
    """A caller as a transport without gRPC would know it."""

    left_s: float | None = None
    repeat: Repeat | None = None


class Api:
    def __init__(self, engine: Engine) -> None:
        kernel, blobs = engine.kernel, MemoryBlobStore()
        sources = Sources(blobs, naming_of(allowed=("module",)))
        batches = Batches(kernel.submissions, kernel.events, kernel.queries, kernel.changes)
        self.engine = engine
        self.runs = RunCalls(kernel.submissions, kernel.lifecycle, kernel.queries, sources, blobs)
        self.events = EventCalls(kernel.events, sources)
        self.lists = ListCalls(kernel.queries, engine.store)
        self.batches = BatchCalls(batches, kernel.queries, sources, blobs)
        self.watcher = Watcher(engine.store, kernel.queries, kernel.changes, lambda: engine.now_ms)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_engine() as engine:
        yield Api(engine)


def parsed(message: Any, **fields: Any) -> Any:
    return json_format.ParseDict(fields, message)


def one_task() -> Any:
    return parsed(pb.RunRequest(), workflowId="w", requestId="1", source={"spec": SPEC})


async def test_a_run_is_started_awaited_and_listed_by_json(api: Api) -> None:
    answer = await api.runs.run(one_task(), Plain())
    assert answer.started
    assert answer.workflow.workflow_id == "w"
    outcome = asyncio.ensure_future(api.runs.output(parsed(pb.GetOutputRequest(), workflowId="w", wait="60s"), Plain()))
    attempt = await api.engine.executor.submitted.get()
    api.engine.succeed(await api.engine.kernel.queries.run("default", "w"), attempt.task_id)
    assert json_format.MessageToDict(await outcome)["done"] is True
    listed = await api.lists.workflows(parsed(pb.ListWorkflowsRequest(), filter="status = SUCCESSFUL"))
    assert [run.workflow_id for run in listed.workflows] == ["w"]
    tasks = await api.lists.tasks(parsed(pb.ListTasksRequest(), workflowId="w"))
    assert [task.task_id for task in tasks.tasks] == [attempt.task_id]


async def test_a_wait_ends_before_the_deadline_of_the_caller(api: Api) -> None:
    await api.runs.run(one_task(), Plain())
    left_s = limits.DEADLINE_MARGIN_S / 2
    request = parsed(pb.GetOutputRequest(), workflowId="w", wait="300s")
    async with asyncio.timeout(60):
        assert not (await api.runs.output(request, Plain(left_s))).done
        state = parsed(pb.GetStatusRequest(), workflowId="w", wait="300s")
        assert not (await api.runs.status(state, Plain(left_s))).workflow.HasField("end_time")
        several = parsed(pb.BatchGetOutputRequest(), items=[{"workflowId": "w"}], wait="300s")
        assert not (await api.batches.get_output(several, Plain(left_s))).results[0].done


async def test_a_repeated_deletion_finds_the_run_gone(api: Api) -> None:
    request = parsed(pb.DeleteWorkflowRequest(), workflowId="w")
    with pytest.raises(errors.WorkflowNotFoundError):
        await api.runs.delete(request, Plain())
    await api.runs.delete(request, Plain(repeat=Repeat(5)))


async def test_an_event_is_sent_by_json_once(api: Api) -> None:
    await api.runs.run(one_task(), Plain())
    request = parsed(
        pb.SendEventRequest(), workflowId="w", eventKey="k", eventId="e", payload={"encoding": "json/plain"}
    )
    first, again = await api.events.send(request, Plain()), await api.events.send(request, Plain())
    assert (first.duplicate, again.duplicate, first.sequence) == (False, True, again.sequence)


async def test_refusals_are_errors_of_perdure(api: Api) -> None:
    for refused, error in (
        (api.runs.run(pb.RunRequest(), Plain()), errors.InvalidFieldError),
        (api.runs.output(parsed(pb.GetOutputRequest(), workflowId="none"), Plain()), errors.WorkflowNotFoundError),
        (api.lists.workflows(parsed(pb.ListWorkflowsRequest(), filter="(")), errors.InvalidFilterError),
        (api.events.send(parsed(pb.SendEventRequest(), workflowId="w"), Plain()), errors.InvalidFieldError),
        (anext(api.watcher.watch(pb.WatchRequest(workflow_ids=["none"]))), errors.WorkflowNotFoundError),
    ):
        with pytest.raises(error):
            await refused
