"""Checked by mypy and pyright, never run: what the API gives, and the calls that it refuses."""

from typing import assert_type

import perdure
from perdure import Client, SyncClient, workflow


@perdure.task
def length(text: str) -> int:
    return len(text)


@perdure.task(num_cpus=2, max_retries=5)
def double(number: int) -> int:
    return 2 * number


@perdure.task
async def fetch(url: str) -> bytes:
    return url.encode()


@perdure.task(timeout=5)
async def fetch_in_time(url: str) -> bytes:
    return url.encode()


@workflow.step
def increment(number: int) -> int:
    return number + 1


@workflow.step(max_retries=5)
async def name_of(number: int) -> str:
    return str(number)


def check_steps() -> None:
    assert_type(increment(1), int)
    assert_type(increment.step(increment.step(1)).run("id", metadata={"k": 1}), int)
    assert_type(increment.options(name="x").step(1).run(), int)
    assert_type(name_of.step(increment.step(1)).run(), str)
    assert_type(increment.bind(increment.bind(1)), int)
    increment.step(1).run(workflow=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def check(client: Client, sync: SyncClient) -> None:
    assert_type(length("called it is the function"), int)
    assert_type(length.bind("x"), int)
    assert_type(double.bind(length.bind("x")), int)
    assert_type(double.options(num_gpus=1).bind(1), int)
    assert_type(await fetch("called it is the function"), bytes)
    assert_type(fetch.bind("url"), bytes)
    assert_type(fetch_in_time.options(max_retries=1).bind("url"), bytes)
    assert_type(await client.run(fetch.bind("url")), bytes)
    assert_type(await client.run(double.bind(1)), int)
    assert_type(sync.run(length.bind("x")), int)
    assert_type(await client.cancel("id"), perdure.RunStatus)

    length.bind(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    length.bind()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    fetch.bind(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    length.bind(fetch.bind("url"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    double.bind(number="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.start(length.bind("x"), workflow=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await client.start(length.bind("x"), id_reuse="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@workflow.options(checkpoint=False, task_id="half")
@perdure.task
def half(number: int) -> float:
    return number / 2


@perdure.task
def quarter(number: int) -> float:
    return workflow.continuation(half.bind(number // 2))


def check_workflow() -> None:
    assert_type(workflow.run(half.bind(1), workflow_id="id", metadata={"a": 1}), float)
    assert_type(workflow.create(quarter.bind(1)).run(), float)
    assert_type(workflow.get_status("id"), workflow.WorkflowStatus)
    assert_type(workflow.list_all("FAILED", {workflow.RUNNING}), list[tuple[str, perdure.RunStatus]])

    half.bind("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    workflow.run(half.bind(1), workflow_id=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    workflow.init(max_running_workflows="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    workflow.get_output("id", "task")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    workflow.wait_for_event(object)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
