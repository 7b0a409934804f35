"""A whole cluster and its engine die at once; another cluster and engine on the same storage go on."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import psutil
import pytest

import perdure
from patience import PATIENCE_S
from services import Service, running

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

pytestmark = [pytest.mark.ray]

HARNESS_S = PATIENCE_S
RETRY = perdure.RetryPolicy(initial_interval=0.1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Service]:
    """An engine with a cluster of its own, both started and ended with it."""
    service = Service(tmp_path, "--executor", "ray", "--ray-address", "local", "--ray-cpus", "2", "--lease-idle-s", "2")
    with running(service):
        service.up()
        yield service


def kill_all(service: Service) -> None:
    """The engine, the agent, every process of Ray's: by id, none gets to say goodbye."""
    processes = [psutil.Process(service.pid), *psutil.Process(service.pid).children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)  # so that no process reacts to the end of another
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=PATIENCE_S)
    service.kill()


def write(folder: str, name: str) -> None:
    """One write of few bytes in append mode is whole."""
    with open(Path(folder) / "lines", "a") as file:
        file.write(f"{name}\n")


@perdure.task(num_cpus=0.25, max_retries=5, retry_policy=RETRY)
def step(folder: str, name: str, *before: Any) -> str:
    write(folder, name)
    return name


@perdure.task(num_cpus=0.25, max_retries=5, retry_policy=RETRY)
def gate(folder: str, name: str, *before: Any) -> str:
    """Does not end before the first cluster did."""
    (Path(folder) / f"at.{name}").touch()
    while not (Path(folder) / "open").exists():
        time.sleep(0.02)
    write(folder, name)
    return name


@perdure.task(num_cpus=0.25, max_retries=5, retry_policy=RETRY)
def unfold(folder: str, name: str, depth: int, before: Any = None) -> Any:
    """A graph that makes a graph: the gate is in the middle."""
    write(folder, f"{name}.unfold{depth}")
    if depth == 0:
        return step.options(task_id=f"{name}.end").bind(folder, f"{name}.end")
    kind = gate if depth == 2 else step
    inner = kind.options(task_id=f"{name}.inner{depth}").bind(folder, f"{name}.inner{depth}")
    return unfold.options(task_id=f"{name}.unfold{depth - 1}").bind(folder, name, depth - 1, inner)


@perdure.task(num_cpus=0.25, catch_exceptions=True)
def fail(folder: str, name: str) -> None:
    write(folder, name)
    raise ValueError(name)


@perdure.task(num_cpus=0.25, max_retries=5)
def tell(folder: str, name: str, outcome: Any, *before: Any) -> str:
    write(folder, name)
    value, error = outcome
    return f"{value} {error!r}"


@perdure.task(num_cpus=0.25, max_retries=5)
def version(before: Any) -> str:
    return str(__import__("code_of_the_run").VERSION)


def named(task: Any, folder: Path, name: str, *args: Any, **options: Any) -> Any:
    return task.options(task_id=name, **options).bind(str(folder), name, *args)


def graphs(folder: Path, code: Path) -> dict[str, Any]:
    """One of each sort, all stopped in the middle."""
    one = named(step, folder, "static.1")
    two = named(gate, folder, "static.2", one)
    static = named(step, folder, "static.4", two, named(step, folder, "static.3", one))
    waits = perdure.event("go", task_id="event.wait")
    event = named(step, folder, "event.2", waits, named(step, folder, "event.1"))
    nap = perdure.sleep(12, after=named(step, folder, "asleep.1"), task_id="asleep.nap")
    asleep = named(step, folder, "asleep.2", nap)
    caught = named(fail, folder, "caught.1")
    mixed: Any = named(step, folder, "mixed.0")
    for index in range(1, 8):
        kind = gate if index == 5 else step
        mixed = named(kind, folder, f"mixed.{index}", mixed, checkpoint=index % 2 == 0)
    here = {"working_dir": str(code)}
    packed = version.options(runtime_env=here).bind(named(gate, folder, "packed.1", runtime_env=here))
    return {
        "static": static,
        "dynamic": named(unfold, folder, "dynamic", 3),
        "event": event,
        "asleep": asleep,
        "caught": named(tell, folder, "caught.3", caught, named(gate, folder, "caught.2", caught)),
        "mixed": mixed,
        "packed": packed,
    }


GATES = ("static.2", "dynamic.inner2", "caught.2", "mixed.5", "packed.1")


async def finished(client: perdure.Client, workflows: dict[str, Any]) -> set[str]:
    """Tasks whose output is durable."""
    done = perdure.TaskStatus.SUCCESSFUL
    found: set[str] = set()
    for name in workflows:
        found |= {task.task_id async for task in client.handle(name).tasks(done) if task.checkpointed}
    return found


async def test_a_cluster_dies_and_another_one_ends_what_it_began(world: Service, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "code_of_the_run.py").write_text("VERSION = 'first'\n")
    workflows = graphs(tmp_path, code)
    async with perdure.Client(world.address, patience=60) as client:
        handles = {name: await client.start(graph, workflow_id=name) for name, graph in workflows.items()}
        async with asyncio.timeout(HARNESS_S):
            while not all((tmp_path / f"at.{name}").exists() for name in GATES):
                await asyncio.sleep(0.05)
            for name in ("static.3", "event.1", "asleep.1"):
                workflow = client.handle(name.partition(".")[0])
                await workflow.output(name)
        before = await finished(client, workflows)
        kill_all(world)
        lines = Counter((tmp_path / "lines").read_text().splitlines())
        assert not {name for name in GATES if lines[name]}
        (code / "code_of_the_run.py").write_text("VERSION = 'second'\n")
        (tmp_path / "open").touch()
        world.up()
        await handles["event"].send_event("go", "payload")
        async with asyncio.timeout(HARNESS_S):
            outputs = {name: await handle.output() for name, handle in handles.items()}
        assert outputs == {
            "static": "static.4",
            "dynamic": "dynamic.end",
            "event": "event.2",
            "asleep": "asleep.2",
            "caught": "None ValueError('caught.1')",
            "mixed": "mixed.7",
            "packed": "first",
        }
    after = Counter((tmp_path / "lines").read_text().splitlines())
    assert {"static.1", "static.3", "event.1", "asleep.1", "caught.1", "mixed.4", "dynamic.inner3"} <= before
    ran_twice = {name for name in before if after[name] > 1}
    assert not ran_twice
    volatile = {f"mixed.{index}" for index in (1, 3, 5, 7)}
    assert {name for name, count in after.items() if count > 1} <= volatile
    assert set(GATES) <= set(after)
