"""Cancelling on real Ray: whatever user code does, its process stops doing it, and nothing else begins."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import perdure
from patience import PATIENCE_S
from services import Service

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

pytestmark = [pytest.mark.ray]

HARNESS_S = PATIENCE_S


def enter(folder: str, name: str) -> None:
    """Leaves the process's id, whole from the first moment on."""
    part = Path(folder) / f".{name}"
    part.write_text(str(os.getpid()))
    part.rename(Path(folder) / name)


def sleep(folder: str) -> None:
    enter(folder, "sleep")
    time.sleep(600)


def hold_the_interpreter(folder: str) -> None:
    enter(folder, "hold")
    ctypes.PyDLL(None).sleep(600)  # this holds the GIL: no other Python thread runs


def wait_for_ray(folder: str) -> None:
    """And what it waits for waits for something itself."""
    import ray

    @ray.remote(num_cpus=0)
    def inner(depth: int) -> None:
        enter(folder, f"inner{depth}")
        if depth:
            ray.get(inner.remote(depth - 1))
        time.sleep(600)

    enter(folder, "outer")
    try:
        ray.get(inner.remote(1))
    finally:
        enter(folder, "outer ended")


def leave_tasks_of_ray(folder: str) -> None:
    """It can be interrupted at once, but what it started goes on."""
    import ray

    @ray.remote(num_cpus=0)
    def child() -> None:
        enter(folder, "child")
        time.sleep(600)

    kept = [child.remote()]
    enter(folder, "parent")
    while kept:
        time.sleep(0.005)


def leave_a_thread(folder: str) -> None:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    enter(folder, "threads")
    while True:
        time.sleep(0.005)


def swallow_everything(folder: str) -> None:
    enter(folder, "swallow")
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(0.005)


async def block_the_loop(folder: str) -> None:
    enter(folder, "block")
    time.sleep(600)  # noqa: ASYNC251


async def refuse_to_end(folder: str) -> None:
    enter(folder, "refuse")
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.005)


WAYS: list[tuple[Callable[..., Any], set[str]]] = [
    (sleep, {"sleep"}),
    (hold_the_interpreter, {"hold"}),
    (wait_for_ray, {"outer", "inner1", "inner0"}),
    (leave_tasks_of_ray, {"parent", "child"}),
    (leave_a_thread, {"threads"}),
    (swallow_everything, {"swallow"}),
    (block_the_loop, {"block"}),
    (refuse_to_end, {"refuse"}),
]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in ("Z", "X")  # a dead process stays a zombie until Ray notices


@pytest.mark.parametrize(("function", "names"), WAYS, ids=[function.__name__ for function, _ in WAYS])
async def test_work_that_was_cancelled_stops(
    function: Callable[..., Any],
    names: set[str],
    steady: Service,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    async with perdure.Client(steady.address) as client:
        handle = await client.start(perdure.task(num_cpus=0.5, max_retries=5)(function).bind(str(tmp_path)))
        async with asyncio.timeout(HARNESS_S):
            while not all((tmp_path / name).exists() for name in names):
                await asyncio.sleep(0.02)
        pids = {name: int((tmp_path / name).read_text()) for name in names}
        began = time.monotonic()
        assert await handle.cancel("enough") is perdure.RunStatus.CANCELED
        async with asyncio.timeout(HARNESS_S):
            while any(is_running(pid) and not (tmp_path / f"{name} ended").exists() for name, pid in pids.items()):
                await asyncio.sleep(0.01)
        record_property("stopped_after_s", round(time.monotonic() - began, 2))
        with pytest.raises(perdure.WorkflowCancellationError):
            await handle.output(timeout=PATIENCE_S)


@perdure.task(num_cpus=0.5)
def until_cancelled(folder: str) -> None:
    """Ends at once when it is interrupted, and says so."""
    enter(folder, "began")
    try:
        while True:
            time.sleep(0.005)
    finally:
        enter(folder, "ended")


@perdure.task(num_cpus=0.5)
def line(folder: str, *before: object) -> int:
    with open(Path(folder) / "lines", "a") as file:
        file.write("x\n")
    return os.getpid()


@perdure.task(num_cpus=0.5)
def last(*values: object) -> int:
    return len(values)


async def test_nothing_of_a_cancelled_run_begins_and_others_go_on(steady: Service, tmp_path: Path) -> None:
    """Four fit at a time: two sleepers, and of the others none."""
    async with perdure.Client(steady.address) as client:
        sleepers = [until_cancelled.bind(str(tmp_path)) for _ in range(4)]
        after = [line.bind(str(tmp_path), *sleepers) for _ in range(20)]
        behind = [until_cancelled.bind(str(tmp_path)) for _ in range(20)]
        handle = await client.start(last.bind(*after, *behind))
        async with asyncio.timeout(HARNESS_S):
            while not (tmp_path / "began").exists():
                await asyncio.sleep(0.02)
        await handle.cancel()
        (tmp_path / "began").unlink(missing_ok=True)
        other = tmp_path / "other"
        other.mkdir()
        assert await client.run(last.bind(*(line.bind(str(other)) for _ in range(50)))) == 50
        async with asyncio.timeout(HARNESS_S):
            while not (tmp_path / "ended").exists():
                await asyncio.sleep(0.02)
        assert not (tmp_path / "lines").exists()
        statuses = {task.status async for task in handle.tasks()}
        assert statuses <= {perdure.TaskStatus.CANCELED, perdure.TaskStatus.BLOCKED}


@perdure.task(num_cpus=0)
async def listen(folder: str, name: str) -> str:
    enter(folder, name)
    await asyncio.Event().wait()
    return name


async def test_cancelling_listeners_leaves_those_of_other_runs_alone(steady: Service, tmp_path: Path) -> None:
    async with perdure.Client(steady.address) as client:
        one = await client.start(last.bind(*(listen.bind(str(tmp_path), f"one{index}") for index in range(50))))
        two = await client.start(listen.bind(str(tmp_path), "two"))
        async with asyncio.timeout(HARNESS_S):
            while len(list(tmp_path.glob("[!.]*"))) < 51:
                await asyncio.sleep(0.02)
        await one.cancel()
        assert await client.run(listen_briefly.bind()) == "brief"
        (mine,) = [task async for task in two.tasks()]
        assert (mine.status, mine.attempts) == (perdure.TaskStatus.RUNNING, 1)
        assert is_running(int((tmp_path / "two").read_text()))
        await two.cancel()


@perdure.task(num_cpus=0)
async def listen_briefly() -> str:
    return "brief"
