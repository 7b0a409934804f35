"""Metadata, times and pages: what is told of runs and tasks however they ended."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

import perdure
from perdure import RunStatus, TaskStatus, errors, graphwire
from perdure.model import Spec, SpecNode, WaitEvent
from perdure.v1 import spec_pb2, workflow_service_pb2

QUICK = perdure.RetryPolicy(initial_interval=0.01)


@perdure.task
def echo(value: Any, *_: Any) -> Any:
    return value


@perdure.task(
    max_retries=3, retry_exceptions=True, retry_policy=QUICK, metadata={"owner": "ann", "sizes": [1, 2.5, None]}
)
def third_time(_: object = None) -> int:
    attempt = perdure.context().attempt
    if attempt < 3:
        raise ValueError(attempt)
    return attempt


@perdure.task(max_retries=1, retry_exceptions=True, retry_policy=QUICK)
def broken(*_: Any) -> None:
    raise ValueError("broken")


@perdure.task(max_retries=0)
def unless(path: str) -> str:
    return Path(path).read_text()


@perdure.task
def grow(*_: Any) -> Any:
    return echo.bind(1, perdure.event("never"))


async def tasks(handle: perdure.Handle) -> dict[str, perdure.TaskInfo]:
    return {task.task_id: task async for task in handle.tasks()}


def in_order(*moments: datetime | None) -> bool:
    known = [moment for moment in moments if moment is not None]
    return len(known) == len(moments) and known == sorted(known)


async def test_of_a_run_that_succeeds(client: perdure.Client) -> None:
    about = {"team": "pay", "nested": {"list": [1, "two", None, True, 2.5]}, "large": 2**53, "": ""}
    handle = await client.start(echo.bind(third_time.bind()), metadata=about)
    await handle.output()
    metadata = await handle.metadata()
    assert metadata.status == "SUCCESSFUL"
    assert MessageToDict(metadata.user_metadata) == about
    assert metadata.stats.attempts == 1
    assert metadata.stats.HasField("start_time")
    assert metadata.stats.HasField("end_time")
    info = await handle.status()
    assert in_order(info.created, info.started, info.ended)
    assert (info.tasks, info.tasks_successful, info.tasks_failed, info.tasks_running) == (2, 2, 0, 0)


async def test_of_a_task_that_is_tried_again(client: perdure.Client) -> None:
    handle = await client.start(third_time.options(task_id="t").bind())
    await handle.output()
    metadata = await handle.metadata("t")
    assert (metadata.status, metadata.stats.attempts) == ("SUCCESSFUL", 3)
    assert MessageToDict(metadata.user_metadata) == {"owner": "ann", "sizes": [1, 2.5, None]}
    options = MessageToDict(metadata.task_options)
    assert options["max_retries"] == 3
    assert options["catch_exceptions"] is False
    task = (await tasks(handle))["t"]
    assert in_order(task.started, task.ended)
    with pytest.raises(errors.TaskNotFoundError):
        await handle.metadata("nobody")


async def test_a_failed_run_and_its_tasks_have_ends(client: perdure.Client) -> None:
    graph = echo.options(task_id="z").bind(
        broken.options(task_id="b").bind(),
        perdure.event("never"),
        perdure.sleep(3600),
    )
    handle = await client.start(graph)
    with pytest.raises(perdure.WorkflowExecutionError):
        await handle.output()
    info = await handle.status()
    assert in_order(info.started, info.ended)
    assert (info.status, info.tasks_failed, info.tasks_running) == (RunStatus.FAILED, 1, 0)
    by_status: dict[TaskStatus, list[perdure.TaskInfo]] = {}
    for task in (await tasks(handle)).values():
        by_status.setdefault(task.status, []).append(task)
    assert {status: len(found) for status, found in by_status.items()} == {
        TaskStatus.FAILED: 1,
        TaskStatus.CANCELED: 2,
        TaskStatus.BLOCKED: 1,
    }
    for task in (*by_status[TaskStatus.FAILED], *by_status[TaskStatus.CANCELED]):
        assert in_order(task.started, task.ended), task
    (failed,) = by_status[TaskStatus.FAILED]
    assert failed.attempts == 2
    assert "broken" in failed.error
    (blocked,) = by_status[TaskStatus.BLOCKED]
    assert (blocked.started, blocked.ended) == (None, None)


async def test_a_canceled_run_and_what_waited_in_it_have_ends(client: perdure.Client) -> None:
    handle = await client.start(echo.bind(grow.options(task_id="g").bind(), perdure.event("other")))
    async for update in handle.watch():
        if update.task is not None and update.task.task_id == "g" and update.task.status is TaskStatus.SUCCESSFUL:
            break
    await handle.cancel()
    info = await handle.status()
    assert in_order(info.started, info.ended)
    assert (info.status, info.tasks, info.tasks_running) == (RunStatus.CANCELED, 5, 0)
    found = await tasks(handle)
    assert sum(task.status is TaskStatus.CANCELED for task in found.values()) == 2
    assert sum(task.parent_task_id == "g" for task in found.values()) == 2
    for task in found.values():
        if task.status is not TaskStatus.BLOCKED:
            assert in_order(task.started, task.ended), task


async def test_resumes_are_counted_and_clear_the_end(client: perdure.Client, tmp_path: Path) -> None:
    path = tmp_path / "file"
    handle = await client.start(unless.options(task_id="u").bind(str(path)))
    with pytest.raises(perdure.WorkflowExecutionError):
        await handle.output()
    first = await handle.status()
    path.write_text("there")
    assert await handle.resume()
    assert await handle.output() == "there"
    again = await handle.status()
    assert again.started == first.started
    assert in_order(first.ended, again.ended)
    assert (await handle.metadata()).stats.attempts == 2
    task = await handle.metadata("u")
    assert (task.status, task.stats.attempts) == ("SUCCESSFUL", 2)


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("about", "kind"),
    [
        pytest.param({"a": object()}, ValueError, id="object"),
        ({"a": float("nan")}, ValueError),
        ({"a": {1, 2}}, ValueError),
        ({"a": b"bytes"}, ValueError),
        ({"a": 2**53 + 1}, ValueError),
        ({1: "a"}, TypeError),
        (["a"], TypeError),
        ("text", TypeError),
    ],
    ids=repr,
)
async def test_metadata_must_be_json(client: perdure.Client, about: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"metadata|2\*\*53"):
        await client.start(echo.bind(1), workflow_id="w", metadata=about)
    with pytest.raises(errors.WorkflowNotFoundError):
        await client.handle("w").status()


async def test_the_service_checks_too(client: perdure.Client) -> None:
    graph = graphwire.spec_to_proto(Spec((SpecNode("s", WaitEvent("k")),), "s"))
    request = workflow_service_pb2.RunRequest(
        workflow_id="w", request_id="r", source=spec_pb2.WorkflowSource(spec=graph)
    )
    request.metadata.fields["a"].number_value = float("nan")
    with pytest.raises(grpc.RpcError) as caught:
        await client._transport.workflows.Run(request)
    error = errors.from_rpc_error(caught.value)
    assert isinstance(error, errors.InvalidFieldError)
    assert error.fields["field"] == "metadata"


# ------------------------------------------------------------------------------ pages


async def test_tasks_come_in_pages_and_by_state(client: perdure.Client) -> None:
    handle = await client.start(echo.bind(0, *(echo.bind(number) for number in range(30))), workflow_id="w")
    await handle.output()

    async def pages(size: int, **more: Any) -> list[list[str]]:
        found, token = [], ""
        while True:
            request = workflow_service_pb2.ListTasksRequest(workflow_id="w", page_size=size, page_token=token, **more)
            answer = await client._transport.workflows.ListTasks(request)
            found.append([task.task_id for task in answer.tasks])
            token = answer.next_page_token
            if not token:
                return found

    (everything,) = await pages(1000)
    assert len(everything) == 31
    small = await pages(7)
    assert [len(page) for page in small] == [7, 7, 7, 7, 3]
    assert [task for page in small for task in page] == everything
    assert await pages(7, statuses=["TASK_STATUS_FAILED"]) == [[]]
    assert sum(len(page) for page in await pages(10, statuses=["TASK_STATUS_SUCCESSFUL"])) == 31


async def test_pages_of_tasks_are_of_one_run(client: perdure.Client) -> None:
    graph = echo.bind(0, *(echo.bind(number) for number in range(5)))
    await (await client.start(graph, workflow_id="w")).output()
    first = await client._transport.workflows.ListTasks(
        workflow_service_pb2.ListTasksRequest(workflow_id="w", page_size=2)
    )
    await (await client.start(graph, workflow_id="w", id_reuse="allow")).output()
    with pytest.raises(grpc.RpcError) as caught:
        await client._transport.workflows.ListTasks(
            workflow_service_pb2.ListTasksRequest(workflow_id="w", page_size=2, page_token=first.next_page_token)
        )
    assert isinstance(errors.from_rpc_error(caught.value), errors.InvalidPageTokenError)


async def test_runs_come_by_state_label_name_and_time(client: perdure.Client) -> None:
    for number in range(6):
        handle = await client.start(
            echo.bind(number) if number % 2 else perdure.event("never"),
            workflow_id=f"order-{number}",
            name="odd" if number % 2 else "even",
            labels={"number": str(number), "team": "pay"},
        )
        if number % 2:
            await handle.output()
    await client.cancel("order-0")
    moments = {run.workflow_id: run.created async for run in client.list()}

    async def found(text: str, order_by: str = "workflow_id") -> list[str]:
        return [
            run.workflow_id.removeprefix("order-") async for run in client.list(text, order_by=order_by, page_size=2)
        ]

    assert await found("") == ["0", "1", "2", "3", "4", "5"]
    assert await found("", "create_time desc") == ["5", "4", "3", "2", "1", "0"]
    assert await found("status = SUCCESSFUL") == ["1", "3", "5"]
    assert await found("status = RUNNING OR status = CANCELED") == ["0", "2", "4"]
    assert await found("status != SUCCESSFUL AND status != RUNNING") == ["0"]
    assert await found('labels.team = "pay" AND labels.number >= "3"') == ["3", "4", "5"]
    assert await found("name = even AND workflow_id : order-") == ["0", "2", "4"]
    third = moments["order-3"]
    assert third is not None
    assert set(await found(f'create_time >= "{third.isoformat()}"')) >= {"3", "4", "5"}
    assert await found('end_time > "2000-01-01T00:00:00Z"') == ["0", "1", "3", "5"]
    assert await found('end_time < "2000-01-01T00:00:00Z"') == []
