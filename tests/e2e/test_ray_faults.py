"""Real Ray, real processes, SIGKILL: what was finished is never lost and never runs again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]
import pytest

import perdure
from patience import PATIENCE_S
from services import Process, Service

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

pytestmark = [pytest.mark.ray]

RETRY = perdure.RetryPolicy(initial_interval=0.1)


@perdure.task(max_retries=10, retry_policy=RETRY)
def step(path: str, name: str, before: int = 0) -> int:
    """Appends a line; one write of few bytes in append mode is whole."""
    with open(path, "a") as file:
        file.write(f"{name}\n")
    return before + 1


@perdure.task
def gather(*values: int) -> int:
    return sum(values)


def chain(path: Path, name: str, length: int) -> int:
    value = step.bind(str(path), f"{name}.0")
    for index in range(1, length):
        value = step.bind(str(path), f"{name}.{index}", value)
    return value


def lines(path: Path) -> Counter[str]:
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


async def until(path: Path, count: int) -> None:
    """Wait until this many lines were written."""
    async with asyncio.timeout(PATIENCE_S):
        while sum(lines(path).values()) < count:
            await asyncio.sleep(0.01)


async def finished(client: perdure.Client, workflow_id: str) -> set[str]:
    """Tasks whose output is durable."""
    done = perdure.TaskStatus.SUCCESSFUL
    return {task.task_id async for task in client.handle(workflow_id).tasks(done)}


async def test_the_engine_dies_in_a_chain_and_nothing_finished_runs_again(
    service: Service, agent: Process, tmp_path: Path
) -> None:
    path = tmp_path / "lines"
    async with perdure.Client(service.address) as client:
        handle = await client.start(chain(path, "c", 200), workflow_id="chain")
        await until(path, 80)
        service.kill()
        at_death = lines(path)
        service.up()
        assert await handle.output(timeout=PATIENCE_S) == 200
    again = {name: count for name, count in lines(path).items() if count > 1}
    assert len(lines(path)) == 200
    assert len(again) <= 1, f"only the attempt in flight may repeat, not {again}"
    assert set(again) <= {list(at_death)[-1], f"c.{len(at_death)}"}


async def test_the_engine_dies_under_a_hundred_workflows(service: Service, agent: Process, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    async with perdure.Client(service.address) as client:
        graphs = [chain(path, f"w{index}", 10) for index in range(100)]
        handles = [await client.start(graph, workflow_id=f"w{index}") for index, graph in enumerate(graphs)]
        await until(path, 500)
        service.kill()
        service.up()
        outputs = await asyncio.gather(*(handle.output(timeout=PATIENCE_S) for handle in handles))
        assert outputs == [10] * 100
    again = sum(count - 1 for count in lines(path).values())
    assert len(lines(path)) == 1000
    # two leases, each with at most one batch whose receipts the engine had not committed
    assert again <= 2 * 64, f"{again} steps ran again"


@perdure.task
def hold(path: str) -> int:
    """Sleeps where no interrupt reaches it; gives how many others were at it when it began."""
    with open(path) as file:
        pids = [int(line) for line in file]
    others = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                others += stat.read().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            continue
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(5)
    return others


async def test_an_agent_that_outlives_its_engine_starts_nothing_beside_what_still_runs(
    service: Service, agent: Process, tmp_path: Path
) -> None:
    path = tmp_path / "lines"
    path.touch()
    async with perdure.Client(service.address) as client:
        handle = await client.start(hold.bind(str(path)))
        await until(path, 1)
        service.kill()
        service.up()
        assert await handle.output(timeout=PATIENCE_S) == 0
    assert len(lines(path)) == 2  # in another process


@perdure.task(max_retries=3, retry_policy=RETRY)
def die_once(path: str) -> int:
    """Kills its own worker process the first time."""
    with open(path, "a") as file:
        file.write(f"{perdure.context().attempt}\n")
    if perdure.context().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return perdure.context().attempt


async def test_a_worker_dies_and_its_attempt_is_tried_again(service: Service, agent: Process, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    async with perdure.Client(service.address) as client:
        assert await client.run(die_once.bind(str(path))) == 2
    assert lines(path) == Counter({"1": 1, "2": 1})


@perdure.task(max_retries=1, retry_policy=RETRY)
def die_always() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def test_a_worker_that_always_dies_fails_its_run_only(service: Service, agent: Process) -> None:
    async with perdure.Client(service.address) as client:
        with pytest.raises(perdure.WorkflowExecutionError, match="WorkerLost"):
            await client.run(die_always.bind())
        assert await client.run(gather.bind(1, 2)) == 3


async def test_the_agent_dies_and_another_one_goes_on(service: Service, agent: Process, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    async with perdure.Client(service.address) as client:
        handle = await client.start(chain(path, "c", 150), workflow_id="chain")
        await until(path, 50)
        agent.kill()
        since = agent.said()
        agent.start()
        agent.wait_for("agent serves", since=since)
        assert await handle.output(timeout=PATIENCE_S) == 150
    assert len(lines(path)) == 150
    assert sum(lines(path).values()) <= 151


@perdure.task
def nested(depth: int) -> int:
    import ray

    @ray.remote
    def inner(value: int) -> int:
        return value + 1

    return int(ray.get(inner.remote(depth)))


async def test_tasks_that_call_ray_on_every_cpu_do_not_deadlock(service: Service, agent: Process) -> None:
    async with perdure.Client(service.address) as client:
        value = await asyncio.wait_for(client.run(gather.bind(*[nested.bind(i) for i in range(6)])), 90)
    assert value == sum(range(6)) + 6


@perdure.task
def sleeper(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_cancelling_really_stops_the_work(service: Service, agent: Process, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    async with perdure.Client(service.address) as client:
        handle = await client.start(sleeper.bind(str(path)))
        await until(path, 1)
        await handle.cancel("enough")
        with pytest.raises(perdure.WorkflowCancellationError):
            await handle.output(timeout=PATIENCE_S)
        pid = int(path.read_text())
        async with asyncio.timeout(PATIENCE_S):
            while is_running(pid):
                await asyncio.sleep(0.02)


@perdure.task
def make_array() -> object:
    import numpy

    return numpy.arange(8 * 1024 * 1024, dtype=numpy.int64)  # 64 MiB


@perdure.task
def add_one(array: object) -> object:
    return array + 1  # type: ignore[operator]


@perdure.task
def last(array: object) -> int:
    return int(array[-1])  # type: ignore[index]


async def test_a_large_array_does_not_travel_through_the_engine(
    service: Service, agent: Process, tmp_path: Path
) -> None:
    async with perdure.Client(service.address) as client:
        assert await client.run(last.bind(add_one.bind(make_array.bind()))) == 8 * 1024 * 1024
    database = sum(file.stat().st_size for file in (tmp_path / "storage").glob("perdure.db*"))
    blobs = sorted(file.stat().st_size for file in (tmp_path / "storage" / "blobs").glob("??/??/*"))
    assert database < 4 * 1024 * 1024
    assert len(blobs) == 2
    assert all(size >= 64 * 1024 * 1024 for size in blobs)


@perdure.task(runtime_env={"env_vars": {"GREETING": "hello"}}, num_cpus=0.5)
def greeting() -> str:
    return os.environ["GREETING"]


async def test_a_shape_has_its_own_environment_and_gets_the_resources_of_idle_ones(
    service: Service, agent: Process
) -> None:
    async with perdure.Client(service.address) as client:
        assert await client.run(gather.bind(*[step.bind("/dev/null", "x") for _ in range(4)])) == 4
        assert await client.run(greeting.bind()) == "hello"


@perdure.task(runtime_env={"working_dir": "local:///nowhere/at/all"}, max_retries=0)
def nowhere() -> None: ...


async def test_an_environment_that_cannot_be_made_fails_the_task_with_the_reason(
    service: Service, agent: Process
) -> None:
    async with perdure.Client(service.address) as client:
        with pytest.raises(perdure.WorkflowExecutionError, match="no worker could be started"):
            await client.run(nowhere.bind())
        assert await client.run(gather.bind(1)) == 1


async def test_rays_own_functions_run_as_they_are(service: Service, agent: Process) -> None:
    import ray

    @ray.remote(num_cpus=0.5, max_retries=1)
    def plus(left: int, right: int) -> int:
        return left + right

    async with perdure.Client(service.address) as client:
        assert await client.run(plus.bind(plus.bind(1, 2), 3)) == 6
