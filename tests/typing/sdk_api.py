"""Checked by mypy and pyright, never run: what the API gives, and the calls that it refuses."""

from typing import Any, assert_type

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


@perdure.actor
class Counter(perdure.Actor):
    def __init__(self, start: int, *, step: int = 1) -> None:
        self.value = start

    @perdure.method
    def incr(self, by: int = 1) -> int:
        self.value += by
        return self.value

    @perdure.method
    def graph(self, by: int) -> int:
        return self.incr.bind(double.bind(by))

    @perdure.readonly
    def read(self) -> int:
        return self.value

    @perdure.method
    async def fetch(self, url: str) -> bytes:
        return url.encode()

    @perdure.readonly
    async def describe(self) -> str:
        return str(self.value)

    async def plain(self, text: str) -> float:
        return float(text)


@perdure.actor(num_gpus=1, max_retries=5, max_pending_calls=10)
class Model(perdure.Actor):
    @perdure.readonly
    def predict(self, rows: list[float]) -> list[float]:
        return rows


async def check_actors(client: Client, sync: SyncClient) -> None:
    counter = Counter.get("id", 5, step=2)
    assert_type(await counter.incr(10), int)
    assert_type(await counter.incr(), int)
    assert_type(await counter.graph(1), int)
    assert_type(await counter.read(), int)
    assert_type(await counter.fetch("url"), bytes)
    assert_type(await counter.describe(), str)
    assert_type(await counter.plain("1"), float)
    assert_type(counter.incr.run(by=10), int)
    assert_type(counter.fetch.run("url"), bytes)
    assert_type(await counter.incr.options(request_id="a", expected_revision=3, timeout=5)(10), int)
    assert_type(await counter.read.options(min_revision=3)(), int)
    assert_type(counter.read.options(timeout=1.5).run(), int)
    call = await counter.incr.start(10)
    assert_type(call, perdure.StartedCall[int])
    assert_type(await call.output(timeout=5), int)
    assert_type(await call.drop(), bool)
    assert_type(await (await counter.fetch.start("url")).output(), bytes)

    assert_type(await client.actor(Counter, "id", 5).incr(1), int)
    assert_type(await client.actor(Model, "id").predict([1.0]), list[float])
    assert_type(sync.actor(Counter, "id", start=5).incr.run(1), int)
    assert_type(Model.options(num_gpus=2).get("id").predict.run([1.0]), list[float])
    assert_type(Counter(5).value, int)
    assert_type(await client.actors.call("id", "incr"), Any)
    assert_type(sync.actors.info("id"), perdure.ActorInfo)
    assert_type([call.status for call in sync.actors.calls("id")], list[str])

    await counter.incr("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await counter.incr(1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await counter.fetch()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await counter.decr(1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    counter.incr.run("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await counter.incr.start("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await counter.incr.options(name="x")(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    counter.incr.options(request_id="x").run("y")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Counter.get("id")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Counter.get("id", "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Counter.get("id", 1, step="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Model.get("id", 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.actor(Counter, "id")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.actor(Counter, "id", "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sync.actor(Counter, "id")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
