"""Watch: every state that lasts is told, in order, once the change is durable, and nothing is missed between
one stream and the next.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from integration import wire_calls
from integration.wire_calls import END, Stubs, call_node, event_node, graph, json_value, refused, run_request, sum_of
from perdure.service.api.requests import make_token
from perdure.service.app import RunningServer
from perdure.v1 import workflow_pb2
from perdure.v1 import workflow_service_pb2 as pb

RUNNING, SUCCESSFUL = workflow_pb2.WORKFLOW_STATUS_RUNNING, workflow_pb2.WORKFLOW_STATUS_SUCCESSFUL
CANCELED = workflow_pb2.WORKFLOW_STATUS_CANCELED


def waiting(key: str = "go") -> Any:
    """add(event, 40)"""
    return graph(event_node("wait", key), call_node("sum", "operator:add", {"node": "wait"}, 40))


def go(workflow_id: str = "w", key: str = "go") -> pb.SendEventRequest:
    return pb.SendEventRequest(workflow_id=workflow_id, event_key=key, event_id="1", payload=json_value(2))


def to_the_end(*workflow_ids: str, **fields: Any) -> pb.WatchRequest:
    return pb.WatchRequest(workflow_ids=workflow_ids or ("w",), until_final=True, include_tasks=True, **fields)


class Reader:
    """A watch that is read event by event."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.token = ""
        self._events: list[pb.WatchEvent] = []

    async def opened(self) -> Reader:
        """The first message has come: from here on nothing is missed."""
        await self._read()
        return self

    async def _read(self) -> None:
        answer = await self.call.read()
        assert answer is not END
        self.token = answer.resume_token
        self._events += answer.events

    async def next(self) -> pb.WatchEvent:
        while not self._events:
            await self._read()
        return self._events.pop(0)

    async def until(self, status: int) -> list[pb.WatchEvent]:
        """All events up to the run's reaching of a state."""
        events = [await self.next()]
        while events[-1].workflow.status != status:
            events.append(await self.next())
        return events


async def reader(stubs: Stubs, request: pb.WatchRequest) -> Reader:
    return await Reader(stubs.workflows.Watch(request)).opened()


def told(events: list[pb.WatchEvent]) -> list[tuple[str, int]]:
    """The task ids and states of the events; "" is the run itself. Repetitions of a state are left out."""
    seen: dict[str, int] = {}
    result = []
    for event in events:
        is_task = event.WhichOneof("kind") == "task"
        name = event.task.task.task_id if is_task else ""
        status = event.task.task.status if is_task else event.workflow.status
        if seen.get(name) != status:
            seen[name] = status
            result.append((name, status))
    return result


async def test_changes_come_in_order(stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(waiting()))
    watch = await reader(stubs, to_the_end())
    await stubs.workflows.SendEvent(go())
    events = await watch.until(SUCCESSFUL)
    sequences = [event.sequence for event in events if event.sequence]
    assert sequences == sorted(sequences)
    done = [item for item in told(events) if item[1] in (SUCCESSFUL, workflow_pb2.TASK_STATUS_SUCCESSFUL)]
    assert [name for name, _ in done] == ["wait", "sum", ""]
    assert told(events).index(("", RUNNING)) < told(events).index(("", SUCCESSFUL))
    assert await watch.call.read() is END
    assert await watch.call.code() is grpc.StatusCode.OK


async def test_a_finished_run_is_told_and_that_is_all(stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(sum_of(1, 2)))
    await wire_calls.output_of(stubs, "w")
    events = await wire_calls.events_of(stubs.workflows.Watch(to_the_end()))
    assert told(events) == [("sum", workflow_pb2.TASK_STATUS_SUCCESSFUL), ("", SUCCESSFUL)]


async def test_a_resume_token_goes_on_where_it_stopped(stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(waiting()))
    first = await reader(stubs, to_the_end())
    first.call.cancel()
    await stubs.workflows.SendEvent(go())
    await wire_calls.output_of(stubs, "w")
    events = await wire_calls.events_of(stubs.workflows.Watch(to_the_end(resume_token=first.token)))
    assert dict(told(events)) == {
        "wait": workflow_pb2.TASK_STATUS_SUCCESSFUL,
        "sum": workflow_pb2.TASK_STATUS_SUCCESSFUL,
        "": SUCCESSFUL,
    }
    last = Reader(stubs.workflows.Watch(to_the_end(resume_token=first.token)))
    await last.until(SUCCESSFUL)
    again = await wire_calls.events_of(stubs.workflows.Watch(to_the_end(resume_token=last.token)))
    assert again == []  # nothing new, and the run is final: the stream ends


async def test_the_token_of_run_and_of_a_list(stubs: Stubs) -> None:
    before = await stubs.workflows.ListWorkflows(pb.ListWorkflowsRequest())
    started = await stubs.workflows.Run(run_request(waiting()))
    await stubs.workflows.SendEvent(go())
    await wire_calls.output_of(stubs, "w")
    since_run = await wire_calls.events_of(stubs.workflows.Watch(to_the_end(resume_token=started.watch_token)))
    assert told(since_run)[-1] == ("", SUCCESSFUL)
    everything = await reader(stubs, pb.WatchRequest(resume_token=before.watch_token))
    assert (await everything.next()).workflow.workflow_id == "w"


async def test_a_token_from_the_future_is_of_another_storage(stubs: Stubs) -> None:
    """No token is too old, since the store knows the last change of everything; but one may be too new."""
    await stubs.workflows.Run(run_request(sum_of(1, 2)))
    await wire_calls.output_of(stubs, "w")
    oldest = await wire_calls.events_of(stubs.workflows.Watch(to_the_end(resume_token=make_token(("watch",), 0))))
    assert told(oldest)[-1] == ("", SUCCESSFUL)
    request = to_the_end(resume_token=make_token(("watch",), 1_000_000))
    call = wire_calls.events_of(stubs.workflows.Watch(request))
    await refused(call, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_several_watchers_see_the_same(stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(waiting()))
    watches = [await reader(stubs, to_the_end()) for _ in range(5)]
    everyone = await reader(stubs, pb.WatchRequest())
    watches[0].call.cancel()  # one that leaves does not disturb the others
    await stubs.workflows.SendEvent(go())
    seen = await asyncio.gather(*(watch.until(SUCCESSFUL) for watch in watches[1:]))
    assert all(told(events) == told(seen[0]) for events in seen)
    assert told(await everyone.until(SUCCESSFUL)) == [("", SUCCESSFUL)]


async def test_several_runs_and_only_those(stubs: Stubs) -> None:
    for name in ("a", "b", "c"):
        await stubs.workflows.Run(run_request(waiting(), name))
    watch = await reader(stubs, to_the_end("a", "b"))
    for name in ("c", "b", "a"):
        await stubs.workflows.SendEvent(go(name))
    ids, final = set(), set()
    while final != {"a", "b"}:
        event = await watch.next()
        ids.add(event.workflow.workflow_id or event.task.workflow_id)
        if event.workflow.status == SUCCESSFUL:
            final.add(event.workflow.workflow_id)
    assert ids == {"a", "b"}
    assert await watch.call.read() is END


@pytest.mark.parametrize("text", ["labels.team = pay", "workflow_id : pay"])
async def test_a_filter_chooses(stubs: Stubs, text: str) -> None:
    watch = await reader(stubs, pb.WatchRequest(filter=text))
    await stubs.workflows.Run(run_request(sum_of(1, 1), "other", labels={"team": "other"}))
    await stubs.workflows.Run(run_request(sum_of(1, 1), "pay-1", labels={"team": "pay"}))
    events = await watch.until(SUCCESSFUL)
    assert {event.workflow.workflow_id for event in events} == {"pay-1"}
    past = await reader(stubs, pb.WatchRequest(filter=text, resume_token=make_token(("watch",), 0)))
    assert (await past.next()).workflow.workflow_id == "pay-1"


async def test_resumes_and_deletions_are_told(stubs: Stubs) -> None:
    everyone = await reader(stubs, pb.WatchRequest())
    await stubs.workflows.Run(run_request(waiting()))
    assert (await everyone.next()).workflow.status == RUNNING
    await stubs.workflows.Cancel(pb.CancelRequest(workflow_id="w"))
    assert (await everyone.next()).workflow.status == CANCELED
    await stubs.workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(workflow_id="w"))
    assert (await everyone.next()).deleted_workflow_id == "w"


async def test_a_watcher_that_leaves_is_forgotten(stubs: Stubs, server: RunningServer) -> None:
    await stubs.workflows.Run(run_request(waiting()))
    run_id = (await stubs.workflows.GetStatus(pb.GetStatusRequest(workflow_id="w"))).workflow.run_id
    watch = await reader(stubs, to_the_end())
    assert server.kernel.changes.wants_tasks(run_id)
    watch.call.cancel()
    second = await reader(stubs, to_the_end())
    await stubs.workflows.SendEvent(go())
    await second.until(SUCCESSFUL)
    assert await second.call.read() is END
    await second.call.code()
    await stubs.workflows.GetStatus(pb.GetStatusRequest(workflow_id="w"))
    assert not server.kernel.changes.wants_tasks(run_id)
