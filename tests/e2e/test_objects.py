"""Objects of Ray in workflows: their contents are stored once, shared by tasks, and there on the next cluster."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import psutil
import pytest
import pytest_asyncio
import ray

import perdure
from patience import PATIENCE_S
from perdure import codec, rayobjects
from perdure.model import Payload
from rays import start_cluster
from services import Process, Service, running

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

pytestmark = [pytest.mark.ray]

LARGE = 20 * 1024 * 1024
CPU = 0.5


@pytest.fixture(scope="module", autouse=True)
def driver(ray_address: str) -> Iterator[None]:
    """This process is part of the session's cluster."""
    ray.init(address=ray_address, logging_level=logging.WARNING, log_to_driver=False)
    yield
    ray.shutdown()


def agent_of(engine: Service, ray_address: str, log: Path) -> Process:
    return Process("-m", "perdure.worker.agent", "--address", engine.address, "--ray-address", ray_address, log=log)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def engine(folder: Path, ray_address: str) -> Iterator[Service]:
    """One engine with an agent for the tests of this file that kill neither."""
    engine = Service(folder, "--executor", "agents", "--lease-idle-s", "5")
    agent = agent_of(engine, ray_address, folder / "agent.log")
    with running(engine), running(agent):
        engine.up()
        agent.start()
        agent.wait_for("agent serves")
        yield engine


@pytest_asyncio.fixture
async def client(engine: Service) -> AsyncIterator[perdure.Client]:
    async with perdure.Client(engine.address) as client:
        yield client


def large_blobs(folder: Path) -> set[str]:
    """Names of the stored blobs of a MiB and more."""
    files = (folder / "storage" / "blobs").rglob("*")
    return {path.name for path in files if path.is_file() and path.stat().st_size > 1024 * 1024}


remote: Any = ray.remote  # its types know nothing of graphs, nor of lists of objects
get: Any = ray.get


# ------------------------------------------------------------------------------ what the manual of Ray Workflows shows


@remote(num_cpus=CPU)
def hello() -> str:
    return "hello"


@remote(num_cpus=CPU)
def words() -> list[Any]:
    return [hello.remote(), ray.put("world")]


@remote(num_cpus=CPU)
def concat(words: list[Any]) -> str:
    assert all(isinstance(word, ray.ObjectRef) for word in words)
    return " ".join(get(word) for word in words)


@remote(num_cpus=CPU)
def do_add(a: int, b: int) -> int:
    return a + b


@remote(num_cpus=CPU)
def add(a: int, b: int) -> Any:
    return do_add.remote(a, b)


@remote(num_cpus=CPU)
def get_val() -> int:
    return 10


@remote(num_cpus=CPU)
def add_all(values: list[Any], more: dict[str, Any]) -> int:
    assert all(isinstance(value, ray.ObjectRef) for value in [*values, *more.values()])
    return sum(get([*values, *more.values()]))


@perdure.task(num_cpus=CPU)
def plain_sum(values: list[int]) -> int:
    return sum(values)


async def test_the_examples_of_the_manual(client: perdure.Client) -> None:
    assert await client.run(concat.bind(words.bind())) == "hello world"
    assert await client.run(add.bind(ray.put(10), ray.put(20))) == 30
    assert await client.run(add_all.bind([get_val.bind() for _ in range(3)], {"x": get_val.bind()})) == 40
    assert await client.run(plain_sum.bind([get_val.bind() for _ in range(3)])) == 30
    assert await client.run(do_add.bind(perdure.input("a"), 1), inputs={"a": ray.put(4)}) == 5


# ------------------------------------------------------------------------------ values


@remote(num_cpus=0)
def ref_of_ref(depth: int) -> Any:
    return ray.put(7) if depth == 0 else ref_of_ref.remote(depth - 1)


@remote(num_cpus=CPU)
def chain_of_refs() -> Any:
    return ref_of_ref.remote(3)


@remote(num_cpus=CPU)
def is_ref_of_ref(refs: list[Any]) -> int:
    inner = get(refs[0])
    assert isinstance(inner, ray.ObjectRef)
    return get(inner)


async def test_a_ref_of_a_ref_is_its_innermost_value_as_a_result_and_stays_one_inside_of_a_container(
    client: perdure.Client,
) -> None:
    assert await client.run(chain_of_refs.bind()) == 7
    assert await client.run(is_ref_of_ref.bind([ref_of_ref.remote(0)])) == 7


@remote(num_cpus=CPU)
def nested_result() -> dict[str, Any]:
    return {"large": ray.put(np.arange(LARGE // 8)), "small": ray.put([ray.put("deep")])}


@remote(num_cpus=CPU)
def pass_on(value: dict[str, Any]) -> dict[str, Any]:
    return value


async def test_refs_in_results_are_refs_for_later_tasks_and_for_the_driver(client: perdure.Client) -> None:
    value: Any = await client.run(pass_on.bind(nested_result.bind()))
    assert get(value["large"])[-1] == LARGE // 8 - 1
    assert get(get(value["small"])[0]) == "deep"


@remote(num_cpus=CPU)
def total_of(array: Any, refs: list[Any]) -> Any:
    return int(array.sum()) + sum(int(get(ref).sum()) for ref in refs)


@remote(num_cpus=CPU)
def grows() -> Any:
    return total_of.bind(ray.put(np.ones(2000)), [ray.put(np.ones(3000)), nested_array.bind()])


@remote(num_cpus=CPU)
def nested_array() -> Any:
    return np.ones(100_000)  # too large to travel inline


async def test_a_returned_graph_carries_objects(client: perdure.Client) -> None:
    assert await client.run(grows.bind()) == 105_000


async def test_a_function_brings_the_objects_it_closes_over(client: perdure.Client) -> None:
    ref = ray.put(np.ones(1000))

    @remote(num_cpus=CPU)
    def closure() -> int:
        return int(get(ref).sum())

    assert await client.run(closure.bind()) == 1000


@perdure.task(num_cpus=CPU, catch_exceptions=True)
def fails() -> int:
    raise ValueError("caught")


@remote(num_cpus=CPU)
def outcome_of(refs: list[Any]) -> str:
    value, error = get(refs[0])
    return f"{value} {error}"


async def test_a_caught_failure_inside_of_a_container_is_an_object_too(client: perdure.Client) -> None:
    assert await client.run(outcome_of.bind([fails.bind()])) == "None caught"


async def test_many_nested_nodes(client: perdure.Client) -> None:
    assert await client.run(add_all.bind([get_val.bind() for _ in range(200)], {})) == 2000


async def test_events_and_inputs_carry_objects(client: perdure.Client) -> None:
    graph = do_add.bind(perdure.input("all")[0], do_add.bind(perdure.event("go"), 1))
    handle = await client.start(graph, inputs={"all": [ray.put(5)]})
    await handle.send_event("go", ray.put(6))
    assert await handle.output(timeout=PATIENCE_S) == 12


# ------------------------------------------------------------------------------ once


@remote(num_cpus=CPU)
def id_and_last(index: int, refs: list[Any]) -> tuple[str, int]:
    return refs[0].hex(), int(get(refs[0])[-1])


@remote(num_cpus=CPU)
def last_of(index: int, array: Any) -> int:
    return int(array[-1])


@remote(num_cpus=CPU)
def gather(*values: Any) -> list[Any]:
    return list(values)


async def test_an_object_is_stored_once_and_shared_by_all_tasks(client: perdure.Client, folder: Path) -> None:
    before = large_blobs(folder)
    ref = ray.put(np.arange(7, LARGE // 8 + 7))
    nested = [id_and_last.bind(index, [ref]) for index in range(10)]
    seen: Any = await client.run(gather.bind(*nested, *[last_of.bind(index, ref) for index in range(10)]))
    assert len(set(seen[:10])) == 1, "one object for all"
    assert seen[0][1] == LARGE // 8 + 6
    assert seen[10:] == [LARGE // 8 + 6] * 10
    assert len(large_blobs(folder) - before) == 1


@remote(num_cpus=CPU)
def make() -> list[Any]:
    return [ray.put(np.full(LARGE // 8, 3))]


@remote(num_cpus=CPU)
def nested_id(index: int, refs: list[Any]) -> tuple[str, int]:
    return refs[0].hex(), int(get(refs[0])[-1])


async def test_an_object_of_a_result_is_stored_once_and_named_by_what_refers_to_it(
    client: perdure.Client, folder: Path
) -> None:
    before = large_blobs(folder)
    made = make.bind()
    handle = await client.start(gather.bind(made, *[nested_id.bind(index, made) for index in range(10)]))
    _, *seen = await handle.output(timeout=PATIENCE_S)
    assert len({tuple(pair) for pair in seen}) == 1
    (stored,) = large_blobs(folder) - before
    outcome = await handle.outcome()
    assert isinstance(outcome, Payload)
    assert [ref.sha256 for ref in outcome.refs] == [stored]


async def test_a_stored_object_that_was_deleted_is_stored_again(client: perdure.Client, folder: Path) -> None:
    before = large_blobs(folder)
    ref = ray.put(np.arange(11, LARGE // 8 + 11))
    handle = await client.start(last_of.bind(0, ref))
    await handle.output(timeout=PATIENCE_S)
    (stored,) = large_blobs(folder) - before
    await client.delete(handle.workflow_id)
    for path in (folder / "storage" / "blobs").rglob("*"):  # as the collection of unused blobs does, later
        if path.name == stored:
            path.unlink()
    assert await client.run(last_of.bind(1, ref)) == LARGE // 8 + 10


# ------------------------------------------------------------------------------ loss


def kill_keeper() -> None:
    keeper = ray.get_actor(rayobjects.KEEPER, namespace=rayobjects.NAMESPACE)

    def pid(keeper: Any) -> int:
        return os.getpid()

    number: Any = get(keeper.__ray_call__.remote(pid))
    psutil.Process(number).kill()


async def test_when_the_keeper_is_killed_objects_are_put_again(client: perdure.Client) -> None:
    made: Any = nested_result.bind()
    handle = await client.start(pass_on.bind(pass_on.bind(made)))
    value = await handle.output(timeout=PATIENCE_S)
    assert get(value["large"])[5] == 5
    kill_keeper()
    value = await handle.output()
    assert get(value["large"])[5] == 5
    ray.kill(ray.get_actor(rayobjects.KEEPER, namespace=rayobjects.NAMESPACE))  # for good
    value = await handle.output()
    assert get(value["large"])[5] == 5


@remote(num_cpus=CPU)
def count_run(path: str) -> dict[str, Any]:
    with open(path, "a") as file:
        file.write("made\n")
    return {"large": ray.put(np.arange(LARGE // 8)), "small": ray.put("small")}


@remote(num_cpus=CPU)
def after_the_event(event: str, value: dict[str, Any], nested: list[Any], array: Any) -> tuple[Any, ...]:
    (again,) = get(nested)
    same = get(again["small"])
    return event, int(get(value["large"])[-1]), get(value["small"]), same, int(array.sum())


def whole_cluster() -> Any:
    return start_cluster(num_cpus=2)


def kill_cluster(cluster: Any) -> None:
    """SIGKILL to every process of it, by id."""
    roots = [info.process.pid for infos in cluster.head_node.all_processes.values() for info in infos]
    found = [
        process for pid in roots for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    ]
    for process in found:
        process.kill()
    psutil.wait_procs(found, timeout=PATIENCE_S)


async def test_a_run_goes_on_with_its_objects_on_another_cluster(tmp_path: Path) -> None:
    engine = Service(tmp_path, "--executor", "agents", "--lease-idle-s", "2")
    path = tmp_path / "made"
    with running(engine):
        engine.up()
        first = whole_cluster()
        made = count_run.bind(str(path))
        graph = after_the_event.bind(perdure.event("go"), made, [made], ray.put(np.ones(5000)))
        async with perdure.Client(engine.address) as client:
            agent = agent_of(engine, first.address, tmp_path / "first.log")
            with running(agent):
                agent.start()
                handle = await client.start(graph)
                while not [task async for task in handle.tasks(perdure.TaskStatus.SUCCESSFUL)]:
                    await asyncio.sleep(0.05)
                kill_cluster(first)
                agent.kill()
            second = whole_cluster()
            try:
                agent = agent_of(engine, second.address, tmp_path / "second.log")
                with running(agent):
                    agent.start()
                    await handle.send_event("go", "gone on")
                    expected = ("gone on", LARGE // 8 - 1, "small", "small", 5000)
                    assert await handle.output(timeout=PATIENCE_S) == expected
            finally:
                second.shutdown()
    assert path.read_text() == "made\n"


# ------------------------------------------------------------------------------ errors


@remote(num_cpus=0, max_retries=0)
def broken() -> int:
    raise ValueError("broken")


@remote(num_cpus=CPU, max_retries=0)
def returns_broken() -> Any:
    return [broken.remote()]


@remote(num_cpus=0)
class Actor:
    pass


@remote(num_cpus=CPU, max_retries=0)
def returns_an_actor() -> list[Any]:
    return [Actor.remote()]


async def test_an_object_that_is_an_error_fails_the_task_that_returns_it(client: perdure.Client) -> None:
    with pytest.raises(perdure.WorkflowExecutionError) as caught:
        await client.run(returns_broken.bind())
    assert isinstance(caught.value.__cause__, ValueError)
    assert str(caught.value.__cause__) == "broken"


async def test_an_object_that_is_an_error_is_raised_where_it_is_submitted(client: perdure.Client) -> None:
    with pytest.raises(ValueError, match="broken"):
        await client.run(do_add.bind(broken.remote(), 1))


async def test_actor_handles_cannot_travel(client: perdure.Client) -> None:
    with pytest.raises(perdure.WorkflowExecutionError, match="actor handles cannot be passed between tasks"):
        await client.run(returns_an_actor.bind())
    with pytest.raises(codec.CodecError, match="actor handles cannot be passed between tasks"):
        await client.run(do_add.bind(Actor.remote(), 1))


# ------------------------------------------------------------------------------ Ray Workflows, datasets


def test_workflow_run_and_run_async(engine: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from perdure import workflow

    monkeypatch.setenv("PERDURE_ADDRESS", engine.address)
    graph = do_add.bind(ray.put(1), do_add.bind(perdure.input("0"), 1))
    for _ in range(2):
        assert workflow.run(graph, ray.put(3), workflow_id="with-objects") == 5
    value: Any = get(workflow.run_async(words.bind()))
    assert [get(word) for word in value] == ["hello", "world"]
    large: Any = get(workflow.run_async(nested_result.bind()))
    assert get(large["large"])[3] == 3
    with pytest.raises(ValueError, match="broken"):
        workflow.run(do_add.bind(broken.remote(), 1))


@remote(num_cpus=CPU)
def make_dataset() -> Any:
    import ray.data

    return ray.data.range(100).materialize()


@remote(num_cpus=CPU)
def double_all(dataset: Any) -> Any:
    return dataset.map(lambda row: {"id": row["id"] * 2}).materialize()


@remote(num_cpus=CPU)
def total_of_ids(dataset: Any) -> int:
    return int(dataset.sum("id"))


@pytest.mark.skipif(find_spec("pandas") is None or find_spec("pyarrow") is None, reason="ray.data needs them")
async def test_datasets_travel(client: perdure.Client) -> None:
    handle = await client.start(total_of_ids.bind(double_all.bind(make_dataset.bind())))
    assert await handle.output(timeout=PATIENCE_S) == 9900
