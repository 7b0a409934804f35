"""Common uses of the client, over real gRPC."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

import perdure
from perdure import errors
from perdure.service.app import RunningServer

RETRY = perdure.RetryPolicy(initial_interval=0.01)


@perdure.task
def add(left: int, right: int) -> int:
    return left + right


@perdure.task
def total(values: list[int], extra: int = 0) -> int:
    return sum(values) + extra


@perdure.task
def factorial(number: int) -> int:
    return 1 if number < 2 else multiply.bind(number, factorial.bind(number - 1))


@perdure.task
def multiply(left: int, right: int) -> int:
    return left * right


@perdure.task
def countdown(number: int) -> str:
    return "lift off" if number == 0 else countdown.bind(number - 1)


class Refused(ValueError):
    """Has a field that must survive the trip."""

    def __init__(self, amount: int) -> None:
        super().__init__(amount)
        self.amount = amount


@perdure.task
def refuse(amount: int) -> Any:
    raise Refused(amount)


@perdure.task(max_retries=5, retry_exceptions=[Refused], retry_policy=RETRY)
def third_time(_: object = None) -> int:
    attempt = perdure.context().attempt
    if attempt < 3:
        raise Refused(attempt)
    return attempt


@perdure.task
def count(path: str) -> int:
    with open(path, "a") as file:
        file.write("x")
    return len(Path(path).read_text())


@perdure.task(retry_exceptions=False)
def fail_unless(path: str, counted: int) -> int:
    return int(Path(path).read_text()) + counted


@perdure.task
async def slow(value: int) -> Any:
    await asyncio.sleep(0.01)
    return value


async def test_values_flow_through_a_graph(client: perdure.Client) -> None:
    assert await client.run(add.bind(1, add.bind(2, 3))) == 6
    assert await client.run(total.bind([add.bind(1, 1), add.bind(2, 2)], extra=10)) == 16


async def test_a_node_used_twice_is_one_task(client: perdure.Client) -> None:
    node = add.bind(1, 1)
    for _ in range(30):  # 2 ** 30 paths, 31 tasks
        node = add.bind(node, node)
    handle = await client.start(node)
    assert await handle.output() == 2 * 2**30
    assert (await handle.status()).tasks == 31


async def test_tasks_return_graphs(client: perdure.Client) -> None:
    assert await client.run(factorial.bind(8)) == 40320
    assert await client.run(countdown.bind(50)) == "lift off"


async def test_async_tasks_run_side_by_side(client: perdure.Client) -> None:
    values: list[Any] = [slow.bind(index) for index in range(50)]
    assert await client.run(total.bind(values)) == sum(range(50))


async def test_a_failure_carries_the_users_exception(client: perdure.Client) -> None:
    handle = await client.start(add.bind(refuse.bind(7), 1))
    with pytest.raises(perdure.WorkflowExecutionError, match="refuse") as caught:
        await handle.output()
    cause = caught.value.__cause__
    assert isinstance(cause, Refused)
    assert cause.amount == 7
    assert "raise Refused(amount)" in "".join(cause.__notes__)
    assert (await handle.status()).status is perdure.RunStatus.FAILED


async def test_retries_and_caught_failures(client: perdure.Client) -> None:
    assert await client.run(third_time.bind()) == 3
    value, error = await client.run(refuse.options(catch_exceptions=True).bind(3))
    assert value is None
    assert isinstance(error, Refused)
    assert await client.run(add.options(catch_exceptions=True).bind(1, 2)) == (3, None)


async def test_events_early_late_and_twice(client: perdure.Client) -> None:
    handle = await client.start(total.bind([perdure.event("a"), perdure.event("b")]))
    assert await handle.send_event("a", 1, event_id="first")
    assert not await handle.send_event("a", 100, event_id="first")
    assert await handle.send_event("b", 2)
    assert await handle.output() == 3
    with pytest.raises(errors.WorkflowAlreadyFinalError):
        await handle.send_event("b", 3)


async def test_an_event_that_does_not_come(client: perdure.Client) -> None:
    with pytest.raises(perdure.WorkflowExecutionError) as caught:
        await client.run(add.bind(perdure.event("never", timeout=0.05), 1))
    assert isinstance(caught.value.__cause__, errors.TaskTimeoutError)


async def test_sleeping(client: perdure.Client) -> None:
    assert await client.run(perdure.sleep(0.05)) is None


async def test_inputs(client: perdure.Client) -> None:
    order = perdure.input("order")
    graph = add.bind(order["price"], order["items"][1])
    assert await client.run(graph, inputs={"order": {"price": 5, "items": [1, 2]}}) == 7
    with pytest.raises(errors.InvalidSpecError, match="order") as missing:
        await client.run(graph)
    assert missing.value.fields == {"input": "order"}
    with pytest.raises(errors.InvalidFieldError, match="uses no input 'ordre'; it uses 'order'"):
        await client.run(graph, inputs={"order": {}, "ordre": {}})
    with pytest.raises(errors.InvalidFieldError, match="uses no input 'ordre'; it uses 'order'"):
        await client.run(graph, inputs={"ordre": {}})
    with pytest.raises(errors.InvalidFieldError, match="uses no input 'order'; it uses none"):
        await client.run(add.bind(1, 1), inputs={"order": {}})
    assert len([run async for run in client.list()]) == 1


async def test_cancelling(client: perdure.Client) -> None:
    handle = await client.start(add.bind(perdure.event("never"), 1))
    assert await handle.cancel("enough") is perdure.RunStatus.CANCELED
    with pytest.raises(perdure.WorkflowCancellationError, match="enough"):
        await handle.output()
    assert await handle.cancel() is perdure.RunStatus.CANCELED
    with pytest.raises(errors.WorkflowAlreadyFinalError):
        await handle.resume()


async def test_resuming_runs_only_what_failed(client: perdure.Client, tmp_path: Path) -> None:
    counted, switch = tmp_path / "counted", tmp_path / "switch"
    handle = await client.start(fail_unless.bind(str(switch), count.bind(str(counted))))
    with pytest.raises(perdure.WorkflowExecutionError) as caught:
        await handle.output()
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert await handle.resume()
    with pytest.raises(perdure.WorkflowExecutionError):
        await handle.output()
    switch.write_text("40")
    assert await handle.resume()
    assert await handle.output() == 41
    assert (await handle.status()).resumes == 2
    with pytest.raises(errors.WorkflowAlreadyFinalError):
        await handle.resume()


async def test_ids(client: perdure.Client) -> None:
    first = await client.start(add.bind(1, 1), workflow_id="it's ünïque/..", request_id="r")
    again = await client.start(add.bind(1, 1), workflow_id="it's ünïque/..", request_id="r")
    assert first.run_id == again.run_id
    with pytest.raises(errors.RequestIdReusedError):
        await client.start(add.bind(1, 2), workflow_id="it's ünïque/..", request_id="r")
    await first.output()
    with pytest.raises(errors.WorkflowAlreadyExistsError):
        await client.start(add.bind(1, 1), workflow_id=first.workflow_id)
    new = await client.start(add.bind(2, 2), workflow_id=first.workflow_id, id_reuse="allow")
    assert await new.output() == 4
    assert await first.output() == 2
    await client.delete(first.workflow_id)


async def test_an_empty_id_is_refused(client: perdure.Client) -> None:
    """It is the value of a variable that was never set. Without an id one is made."""
    handle = await client.start(add.bind(perdure.event("k"), 1), workflow_id="w")
    event = perdure.EventItem("w", "k", event_id="")
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "workflow_id": lambda: client.start(add.bind(1, 1), workflow_id=""),
        "workflow_id ": lambda: client.run(add.bind(1, 1), workflow_id=""),
        "workflow_id  ": lambda: client.start_many([perdure.RunItem(add.bind(1, 1), workflow_id="")]),
        "request_id": lambda: client.start(add.bind(1, 1), request_id=""),
        "request_id ": lambda: client.start_many([perdure.RunItem(add.bind(1, 1), request_id="")]),
        "event_id": lambda: handle.send_event("k", 1, event_id=""),
        "event_id ": lambda: client.send_events([event]),
        "task_id": lambda: handle.output(""),
        "task_id ": lambda: handle.metadata(""),
    }
    for name, call in calls.items():
        with pytest.raises(errors.InvalidFieldError, match=f"{name.strip()}: is empty; leave it out") as caught:
            await call()
        assert caught.value.fields == {"field": name.strip()}
    await handle.send_event("k", 1)
    assert await handle.output() == 2
    assert len([run async for run in client.list()]) == 1


async def test_conflicts(client: perdure.Client) -> None:
    waiting = await client.start(add.bind(perdure.event("k"), 1), workflow_id="w")
    with pytest.raises(errors.WorkflowAlreadyExistsError):
        await client.start(add.bind(1, 1), workflow_id="w")
    same = await client.start(add.bind(1, 1), workflow_id="w", id_conflict="use_existing")
    assert same.run_id == waiting.run_id
    with pytest.raises(errors.WorkflowStillActiveError):
        await client.delete("w")
    other = await client.start(add.bind(1, 1), workflow_id="w", id_conflict="cancel_existing", id_reuse="allow")
    assert await other.output() == 2
    with pytest.raises(perdure.WorkflowCancellationError):
        await waiting.output()


async def test_listing_with_filters_and_pages(client: perdure.Client) -> None:
    for index in range(7):
        await client.run(add.bind(index, 0), workflow_id=f"w{index}", labels={"even": str(index % 2 == 0)})
    assert [info.workflow_id async for info in client.list(page_size=2)] == [f"w{index}" for index in range(6, -1, -1)]
    even = [info.workflow_id async for info in client.list('labels.even = "True" AND status = SUCCESSFUL')]
    assert even == ["w6", "w4", "w2", "w0"]
    assert [info async for info in client.list("status = FAILED")] == []


async def test_watching_to_the_end(client: perdure.Client) -> None:
    handle = await client.start(add.bind(perdure.event("go"), add.bind(1, 1)))
    seen: dict[str, perdure.TaskStatus] = {}
    statuses = []
    async for update in handle.watch():
        if update.task is not None:
            seen[update.task.task_id.rpartition(".")[2]] = update.task.status
        if update.run is not None:
            statuses.append(update.run.status)
            if len(statuses) == 1:
                await handle.send_event("go", 1)
    assert statuses[-1] is perdure.RunStatus.SUCCESSFUL
    assert set(seen.values()) == {perdure.TaskStatus.SUCCESSFUL}
    assert set(seen) == {"add", "add_1", "event"}


async def test_metadata_and_tasks(client: perdure.Client) -> None:
    handle = await client.start(third_time.options(metadata={"a": [1]}).bind(), metadata={"owner": "me"})
    await handle.output()
    run = await handle.metadata()
    assert dict(run.user_metadata) == {"owner": "me"}
    assert run.stats.HasField("end_time")
    (task,) = [task async for task in handle.tasks()]
    assert task.attempts == 3
    described = await handle.metadata(task.task_id)
    assert described.stats.attempts == 3
    assert MessageToDict(described.user_metadata) == {"a": [1]}
    with pytest.raises(errors.TaskNotFoundError):
        await handle.metadata("none")


async def test_what_waits_for_an_event_runs_whether_it_is_in_memory_or_not(client: perdure.Client) -> None:
    """A run that only waits leaves memory, and returns with the event; callers see no difference."""
    handle = await client.start(add.bind(add.bind(1, 1), perdure.event("go", task_id="e")), workflow_id="waits")
    (inner,) = [task.task_id async for task in handle.tasks() if task.task_id.endswith(".add")]
    assert await handle.output(inner) == 2
    (waiting,) = [task async for task in handle.tasks(perdure.TaskStatus.RUNNING)]
    assert (waiting.task_id, waiting.attempts, waiting.waiting) == ("e", 1, "waits for the event 'go'")
    begun = (await handle.metadata("e")).stats.start_time
    await handle.send_event("go", 5)
    assert await handle.output() == 7
    stats = (await handle.metadata("e")).stats
    assert stats.start_time == begun
    assert stats.end_time.ToNanoseconds() >= begun.ToNanoseconds()


async def test_outputs_of_tasks(client: perdure.Client) -> None:
    handle = await client.start(add.bind(add.bind(1, 1), perdure.event("go")))
    (inner,) = [task.task_id async for task in handle.tasks() if task.task_id.endswith(".add")]
    assert await handle.output(inner) == 2
    with pytest.raises(TimeoutError):
        await handle.output(f"{inner}_1", timeout=0.05)
    await handle.send_event("go", 5)
    assert await handle.output(f"{inner}_1") == 7
    with pytest.raises(errors.TaskNotFoundError):
        await handle.output("none")


async def test_large_values_travel_as_blobs(client: perdure.Client) -> None:
    large = bytes(range(256)) * 8192  # 2 MiB
    echo = perdure.task(lambda value: value)
    assert await client.run(echo.bind(perdure.input("x")), inputs={"x": large}) == large


async def test_a_chain_of_ten_thousand(client: perdure.Client, storage: str) -> None:
    if storage != "memory:":
        pytest.skip("ten thousand flushes of a disk say nothing more")
    node = add.bind(0, 0)
    for _ in range(9_999):
        node = add.bind(node, 1)
    assert await client.run(node) == 9_999


async def test_a_fan_out_of_three_thousand(client: perdure.Client, storage: str) -> None:
    if storage == "memory:":
        pytest.skip("once is enough, and a disk is the harder case")
    assert await client.run(total.bind([add.bind(index, 0) for index in range(3_000)])) == sum(range(3_000))


async def test_a_thousand_nested_continuations(client: perdure.Client) -> None:
    assert await client.run(countdown.bind(1_000)) == "lift off"


async def test_the_sync_client_in_a_thread(server: RunningServer) -> None:
    def work() -> tuple[int, list[str]]:
        with perdure.SyncClient(server.address) as client:
            value = client.run(add.bind(20, 22), workflow_id="s")
            return value, [info.workflow_id for info in client.list()]

    assert await asyncio.to_thread(work) == (42, ["s"])


async def test_dataclasses_hold_nodes(client: perdure.Client) -> None:
    assert await client.run(spend.bind(Purse(add.bind(1, 2), {"a": (add.bind(3, 4),)}))) == 10


@dataclasses.dataclass
class Purse:
    coins: int
    more: dict[str, tuple[int, ...]]


@perdure.task
def spend(purse: Purse) -> int:
    return purse.coins + sum(purse.more["a"])
