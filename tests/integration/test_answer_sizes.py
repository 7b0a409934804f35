"""Answers that clients with default limits can read, whatever is in them, and that get on from page to page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

import perdure
from integration.wire_calls import END, Stubs, call_node, event_node, graph, public_methods, run_request, sum_of
from perdure import errors
from perdure.service.api import pages
from perdure.service.api.places import Place
from perdure.service.common import limits
from perdure.v1 import spec_pb2
from perdure.v1 import workflow_service_pb2 as pb

DEFAULT_BYTES_MAX = 4 * 1024 * 1024
FULL_LABELS = {f"{number:02d}" + "é" * 61: "v" * limits.LABEL_VALUE_BYTES_MAX for number in range(limits.LABELS_MAX)}
RUNS = 300

BOUNDED_BY = {
    # a page
    "ListWorkflowsResponse.workflows": "Page",
    "ListTasksResponse.tasks": "Page",
    "ListEnginesResponse.engines": "Page",
    "WatchResponse.events": "Filling",
    "ListActorsResponse.actors": "Page",
    "ListActorCallsResponse.calls": "Page",
    "CallActorsResponse.answers": "Page",
    "StreamRunsResponse.answers": "Page",
    # one for each item of the request
    "BatchRunResponse.results": "BATCH_ITEMS_MAX, and a bound of each",
    "BatchSendEventsResponse.results": "BATCH_ITEMS_MAX, and a bound of each",
    "BatchGetOutputResponse.results": "ANSWER_BYTES",
    "ItemError.metadata": "FIELDS_MAX, FIELD_BYTES_MAX",
    # parts of one thing
    "Actor.labels": "LABELS_MAX, LABEL_KEY_CHARS_MAX, LABEL_VALUE_BYTES_MAX",
    "Workflow.labels": "LABELS_MAX, LABEL_KEY_CHARS_MAX, LABEL_VALUE_BYTES_MAX",
    "Actor.readonly_methods": "READONLY_MAX, ID_CHARS_MAX",
    "Failure.base_types": "BASE_TYPES_MAX, TYPE_CHARS_MAX",
    "Metadata.upstream_task_ids": "shorten_metadata",
    "Struct.fields": "METADATA_BYTES_MAX, shorten_metadata",
    "ListValue.values": "METADATA_BYTES_MAX, shorten_metadata",
    "Payload.codecs": "MESSAGE_BYTES_MAX of the request",
    "Payload.attributes": "MESSAGE_BYTES_MAX of the request",
    "Payload.refs": "MESSAGE_BYTES_MAX of the request",
    # about functions
    "ListFunctionsResponse.functions": "page_size",
    "FunctionInfo.positional": "INFO_BYTES_MAX",
    "FunctionInfo.methods": "INFO_BYTES_MAX",
    "FunctionMethod.positional": "INFO_BYTES_MAX",
    "ActorClass.readonly_methods": "INFO_BYTES_MAX",
    "Resources.custom": "INFO_BYTES_MAX",
    "RetryPolicy.non_retryable_types": "INFO_BYTES_MAX",
    "RetryPolicy.retryable_types": "INFO_BYTES_MAX",
    # about the service
    "GetSystemInfoResponse.capabilities": "a list in the code",
    "GetSystemInfoResponse.python_versions": "the versions of Python on the workers",
}


def repeated_fields(message: Descriptor, seen: set[str]) -> Iterator[str]:
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    for field in message.fields:
        if field.is_repeated and not message.GetOptions().map_entry:
            yield f"{message.name}.{field.name}"
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from repeated_fields(field.message_type, seen)


def test_every_list_in_an_answer_has_a_bound() -> None:
    seen: set[str] = set()
    found = {name for method in public_methods() for name in repeated_fields(method.output_type, seen)}
    assert found == BOUNDED_BY.keys()


async def many_runs(stubs: Stubs, **fields: Any) -> list[str]:
    """Runs that wait, made by one commit, with labels of the largest size."""
    names = [f"run-{number:03d}" for number in range(RUNS)]
    request = pb.BatchRunRequest(sources=[spec_pb2.WorkflowSource(spec=graph(event_node("wait", "k")))])
    for name in names:
        request.items.add(workflow_id=name, labels=FULL_LABELS, **fields)
    answer = await stubs.workflows.BatchRun(request)
    assert not any(result.HasField("error") for result in answer.results)
    return names


async def test_runs_with_large_labels_are_listed_page_by_page(stubs: Stubs) -> None:
    names = await many_runs(stubs)
    for order in ("", "workflow_id"):
        listed: list[str] = []
        token, count = "", 0
        while token or not count:
            request = pb.ListWorkflowsRequest(page_size=1000, page_token=token, order_by=order)
            answer = await stubs.workflows.ListWorkflows(request)
            assert answer.ByteSize() < DEFAULT_BYTES_MAX
            listed += [workflow.workflow_id for workflow in answer.workflows]
            token, count = answer.next_page_token, count + 1
        assert sorted(listed) == names
        assert count > 1


async def test_pages_of_runs_keep_their_count(stubs: Stubs) -> None:
    for number in range(5):
        await stubs.workflows.Run(run_request(sum_of(1, 2), f"w{number}"))
    answer = await stubs.workflows.ListWorkflows(pb.ListWorkflowsRequest(page_size=2))
    assert [len(answer.workflows), bool(answer.next_page_token)] == [2, True]


@pytest.mark.parametrize("reconnects", [False, True])
async def test_a_reader_that_is_far_behind_catches_up(stubs: Stubs, reconnects: bool) -> None:
    """Also one that is cut off after each message, and inside of one large commit."""
    start = (await stubs.workflows.ListWorkflows(pb.ListWorkflowsRequest())).watch_token
    names = await many_runs(stubs)
    told: list[str] = []
    token, messages = start, 0
    watch = stubs.workflows.Watch(pb.WatchRequest(resume_token=token))
    while len(set(told)) < RUNS:
        answer = await watch.read()
        assert answer is not END
        assert answer.ByteSize() < DEFAULT_BYTES_MAX
        told += [event.workflow.workflow_id for event in answer.events]
        messages += 1
        if reconnects:
            watch.cancel()
            watch = stubs.workflows.Watch(pb.WatchRequest(resume_token=answer.resume_token))
    assert sorted(told) == names
    assert messages > 1
    watch.cancel()


async def test_live_changes_of_one_large_commit_come_in_several_messages(stubs: Stubs) -> None:
    watch = stubs.workflows.Watch(pb.WatchRequest())
    first = await watch.read()
    names = await many_runs(stubs)
    told: set[str] = set()
    tokens = [first.resume_token]
    while len(told) < RUNS:
        answer = await watch.read()
        assert answer.ByteSize() < DEFAULT_BYTES_MAX
        told |= {event.workflow.workflow_id for event in answer.events}
        tokens.append(answer.resume_token)
    watch.cancel()
    assert sorted(told) == names
    again = stubs.workflows.Watch(pb.WatchRequest(resume_token=tokens[-2]))  # inside of the commit
    last = {event.workflow.workflow_id for event in answer.events}
    seen: set[str] = set()
    while not last <= seen:
        seen |= {event.workflow.workflow_id for event in (await again.read()).events}
    again.cancel()


@perdure.task(catch_exceptions=True, retry_exceptions=False)
def fail_at_length(number: int) -> int:
    raise ValueError("🙂" * 10_000)


@perdure.task
def count(*values: Any) -> int:
    return len(values)


WIDE = 150


@pytest.mark.storages("sqlite")
async def test_tasks_with_long_failures_are_told_in_parts(client: perdure.Client, stubs: Stubs) -> None:
    tasks = [fail_at_length.options(task_id=f"t{number:03d}").bind(number) for number in range(WIDE)]
    handle = await client.start(count.options(task_id="all").bind(*tasks), workflow_id="w")
    assert await handle.output() == WIDE
    names = {f"t{number:03d}" for number in range(WIDE)} | {"all"}
    listed: list[str] = []
    token, messages = "", 0
    while token or not messages:
        answer = await stubs.workflows.ListTasks(pb.ListTasksRequest(workflow_id="w", page_size=1000, page_token=token))
        assert answer.ByteSize() < DEFAULT_BYTES_MAX
        listed += [task.task_id for task in answer.tasks]
        token, messages = answer.next_page_token, messages + 1
    assert sorted(listed) == sorted(names)
    assert messages > 1

    told: list[str] = []
    token, ended = "", False
    while not ended:  # a new stream for each message
        request = pb.WatchRequest(workflow_ids=["w"], include_tasks=True, until_final=True, resume_token=token)
        watch = stubs.workflows.Watch(request)
        answer = await watch.read()
        assert answer.ByteSize() < DEFAULT_BYTES_MAX
        told += [event.task.task.task_id for event in answer.events if event.WhichOneof("kind") == "task"]
        token = answer.resume_token
        ended = any(event.HasField("workflow") for event in answer.events)
        watch.cancel()
    assert sorted(told) == sorted(names)


@perdure.task(retry_exceptions=False)
def fail_in_a_chain() -> None:
    error: BaseException | None = None
    for _ in range(16):
        try:
            raise ValueError("🙂" * 100_000) from error
        except ValueError as raised:
            error = raised
    assert error is not None
    raise error


@pytest.mark.storages("sqlite")
async def test_failures_of_any_length_can_be_read(client: perdure.Client, stubs: Stubs) -> None:
    handle = await client.start(fail_in_a_chain.bind(), workflow_id="w")
    with pytest.raises(perdure.WorkflowExecutionError):
        await handle.output()
    for with_error in (False, True):
        one = await stubs.workflows.GetOutput(pb.GetOutputRequest(workflow_id="w", include_error_object=with_error))
        assert one.outcome.failure.type.endswith("ValueError")
        request = pb.BatchGetOutputRequest(include_error_object=with_error)
        for _ in range(20):
            request.items.add(workflow_id="w")
        many = await stubs.workflows.BatchGetOutput(request)
        assert many.results[0].done


@pytest.mark.storages("sqlite")
async def test_a_wrapped_failure_of_any_length_can_be_read(client: perdure.Client) -> None:
    caught = fail_in_a_chain.options(catch_exceptions=True).bind()
    value, error = await client.run(caught)
    assert value is None
    assert "ValueError" in str(error)  # its object is too large to be kept


@pytest.mark.storages("sqlite")
async def test_errors_of_a_batch_fit_into_its_answer(stubs: Stubs) -> None:
    runs, events = pb.BatchRunRequest(), pb.BatchSendEventsRequest()
    for _ in range(limits.BATCH_ITEMS_MAX):
        runs.items.add(workflow_id="é" * 3_000, request_id="r")
        events.items.add(workflow_id="🙂" * 256, event_key="k" * 256, event_id="e")
    for call, request in ((stubs.workflows.BatchRun, runs), (stubs.workflows.BatchSendEvents, events)):
        answer = await call(request)
        assert len(answer.results) == limits.BATCH_ITEMS_MAX
        assert all(result.HasField("error") for result in answer.results)


@pytest.mark.storages("sqlite")
async def test_metadata_of_a_task_with_many_others_can_be_read(stubs: Stubs) -> None:
    names = [f"{number:05d}" + "x" * 200 for number in range(15_000)]
    request = run_request(graph(*(event_node(name, "k") for name in names), call_node("all", "operator:not_", [])))
    request.source.spec.nodes[-1].after.extend(names)
    assert request.ByteSize() > DEFAULT_BYTES_MAX
    await stubs.workflows.Run(request)
    answer = await stubs.workflows.GetMetadata(pb.GetMetadataRequest(workflow_id="w", task_id="all"))
    upstream = list(answer.metadata.upstream_task_ids)
    assert upstream == names[: len(upstream)]
    assert len(upstream) > 1_000


def test_tokens_of_places_are_read_as_they_were_made() -> None:
    from perdure.service.api import places

    for place in (Place(0), Place(7), Place(7, "r"), Place(7, "r", None, 0), Place(7, "r", 3, 9)):
        assert places.read(place.token()) == place


async def test_a_token_of_a_snapshot_is_of_those_runs(stubs: Stubs) -> None:
    watch = stubs.workflows.Watch(pb.WatchRequest(resume_token=Place(0, "r", None, 1).token()))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    assert isinstance(errors.from_rpc_error(caught.value), errors.InvalidPageTokenError)


def test_the_first_item_of_a_page_is_always_taken() -> None:
    page = pages.Page(bytes_max=10)
    assert page.fits(pb.DeleteWorkflowRequest(workflow_id="x" * 100))
    assert not page.fits(pb.DeleteWorkflowRequest())
