"""Promises of every executor: the threads of the engine, and leases in processes over real gRPC."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import psutil
import pytest

import perdure
from conformance.workbench import Bench, appears, lease_bench, local_bench
from patience import PATIENCE_S
from perdure import codec, functions, graphwire
from perdure.connection import MESSAGE_BYTES_MAX
from perdure.engine.messages import AttemptLost, AttemptStarted, TaskFailed, TaskSucceeded
from perdure.model import (
    INLINE_BYTES_MAX,
    NULL,
    FailureKind,
    Function,
    Index,
    Key,
    NodeRef,
    Payload,
    Resources,
    Shape,
)
from perdure.service.executors.pool import provisioning
from perdure.service.executors.port import ContinuationReturned, Report
from perdure.storage.rows import ValueKey

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests


@pytest.fixture(params=["local", "leases"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        if request.param == "local":
            yield await stack.enter_async_context(local_bench(tmp_path))
        else:
            bench, _ = await stack.enter_async_context(lease_bench(tmp_path))
            yield bench


def echo(*values: Any) -> Any:
    return values


def note(path: str, text: str) -> None:
    """One write of few bytes in append mode is whole."""
    with open(path, "a") as file:
        file.write(f"{text}\n")


def linger(path: str, name: str) -> str:
    """Until the file says "go"."""
    try:  # it may be interrupted as soon as the file says that it began
        note(path, f"{name} began")
        while "go\n" not in Path(path).read_text():
            time.sleep(0.005)
    finally:
        note(path, f"{name} ended")
    return name


def linger_if(path: str, name: str) -> str:
    """Or not at all."""
    return linger(path, name) if path else name


async def linger_async(path: str, name: str) -> str:
    try:
        note(path, f"{name} began")
        while "go\n" not in Path(path).read_text():
            await asyncio.sleep(0.005)
    finally:
        note(path, f"{name} ended")
    return name


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def is_system_failure(report: Report) -> bool:
    """The retry policy of lost workers applies."""
    return isinstance(report, AttemptLost) or (
        isinstance(report, TaskFailed) and report.failure.kind is FailureKind.SYSTEM
    )


def failure_of(report: Report, kind: FailureKind) -> Any:
    assert isinstance(report, TaskFailed)
    assert report.failure.kind is kind, report.failure
    return report.failure


# ------------------------------------------------------------------------------ values


async def test_a_value(bench: Bench) -> None:
    attempt = bench.submit(echo, 1, "two", [3])
    end = await bench.end(attempt)
    assert isinstance(end, TaskSucceeded)
    assert codec.decode(end.output) == (1, "two", [3])
    began, _ = bench.of(attempt)
    assert isinstance(began, AttemptStarted)
    assert end.started_ms is not None
    assert end.started_ms <= end.at_ms
    assert bench.executor.python_versions() == {functions.PYTHON_VERSION}


def measure() -> tuple[float, float]:
    began = time.time()
    time.sleep(0.05)
    return began, time.time()


async def measure_async() -> tuple[float, float]:
    began = time.time()
    await asyncio.sleep(0.05)
    return began, time.time()


@pytest.mark.parametrize("function", [measure, measure_async])
async def test_times_are_those_of_the_worker(bench: Bench, function: Any) -> None:
    """Not of when the engine heard of them: an attempt is never shorter than what it did."""
    attempt = bench.submit(function)
    end = await bench.end(attempt)
    assert isinstance(end, TaskSucceeded)
    began, ended = codec.decode(end.output)
    start = bench.of(attempt)[0]
    assert isinstance(start, AttemptStarted)
    assert start.started_ms is not None
    assert end.ended_ms is not None
    assert start.started_ms == end.started_ms
    assert start.started_ms <= began * 1000
    assert end.ended_ms - start.started_ms >= int((ended - began) * 1000)


def nothing() -> None: ...


def who() -> tuple[str, ...]:
    context = perdure.context()
    return (context.namespace, context.workflow_id, context.run_id, context.task_id, str(context.attempt))


async def test_nothing_and_where(bench: Bench) -> None:
    end = await bench.run(nothing, task="nothing")
    assert isinstance(end, TaskSucceeded)
    assert end.output == NULL
    end = await bench.run(who, task="who", attempt=3)
    assert isinstance(end, TaskSucceeded)
    assert codec.decode(end.output) == ("default", "wf", "run", "who", "3")


async def test_values_of_other_tasks(bench: Bench) -> None:
    """At hand, to be read, and as a blob; parts of them; wrapped as those that catch exceptions do."""
    values = bench.values
    large = codec.encode(bytes(INLINE_BYTES_MAX) + b"!")
    values.near[ValueKey("run", "near")] = codec.encode({"a": [1, 2]}).inline()
    values.far[ValueKey("run", "far")] = codec.encode("far").inline()
    values.far[ValueKey("run", "blob")] = Payload(large.encoding, blob=await bench.blobs.put(large.chunks))
    far, part = NodeRef("far"), NodeRef("near", (Key("a"), Index(-1)))
    end = await bench.run(echo, far, {"in": [far]}, part, NodeRef("near"))
    assert isinstance(end, TaskSucceeded)
    assert codec.decode(end.output) == ("far", {"in": ["far"]}, 2, {"a": [1, 2]})
    end = await bench.run(last_byte, NodeRef("blob"), task="blob")
    assert isinstance(end, TaskSucceeded)
    assert codec.decode(end.output) == ord("!")
    end = await bench.run(echo, far, task="wrapped", wraps=2)
    assert isinstance(end, TaskSucceeded)
    assert codec.decode(end.output) == ((("far", None), None),)


def last_byte(data: bytes) -> int:
    return data[-1]


def large(size: int) -> bytes:
    return bytes(size) + b"!"


async def test_large_values_become_blobs(bench: Bench) -> None:
    end = await bench.run(large, 3_000_000)
    assert isinstance(end, TaskSucceeded)
    assert end.output.blob is not None
    assert end.output.data == b""
    assert await bench.value(end.output) == large(3_000_000)
    small = await bench.run(large, 1000, task="small")
    assert isinstance(small, TaskSucceeded)
    assert small.output.blob is None


@perdure.task
def product(left: int, right: int) -> int:
    return left * right


def graph() -> Any:
    return product.bind(2, product.bind(3, 4))


async def test_a_graph(bench: Bench) -> None:
    end = await bench.run(graph)
    assert isinstance(end, ContinuationReturned)
    assert len(graphwire.decode_spec(end.continuation).nodes) == 2


async def double(value: int) -> int:
    await asyncio.sleep(0)
    return value * 2


async def test_async_functions(bench: Bench) -> None:
    end = await bench.run(double, 21)
    assert isinstance(end, TaskSucceeded)
    assert codec.decode(end.output) == 42


# ------------------------------------------------------------------------------ failures


class Refused(ValueError):
    def __init__(self, amount: int) -> None:
        super().__init__(amount)
        self.amount = amount


def refuse(amount: int) -> None:
    raise Refused(amount)


async def refuse_async(amount: int) -> None:
    raise Refused(amount)


class Harsh(BaseException):
    """No Exception, but no end of the process either."""


def be_harsh() -> None:
    raise Harsh("no")


async def be_harsh_async() -> None:
    raise Harsh("no")


async def cancel_inner() -> None:
    inner = asyncio.ensure_future(asyncio.sleep(60))
    inner.cancel()
    await inner


async def test_exceptions_of_the_user(bench: Bench) -> None:
    for function in (refuse, refuse_async):
        failure = failure_of(await bench.run(function, 7, task=function.__name__), FailureKind.APPLICATION)
        assert failure.type.endswith("Refused")
        assert failure.message == "7"
        assert "builtins.ValueError" in failure.base_types
        assert "raise Refused(amount)" in failure.stack_trace
        assert codec.decode(failure.error).amount == 7
    for harsh in (be_harsh, be_harsh_async, cancel_inner):
        failure = failure_of(await bench.run(harsh, task=harsh.__name__), FailureKind.APPLICATION)
        assert failure.type.endswith(("Harsh", "CancelledError"))
    assert isinstance(await bench.run(double, 1, task="after"), TaskSucceeded)


class Heavy(RuntimeError):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("heavy")
        self.lock = threading.Lock()


def raise_heavy() -> None:
    raise Heavy


async def test_an_exception_that_cannot_travel_is_told_of(bench: Bench) -> None:
    failure = failure_of(await bench.run(raise_heavy), FailureKind.APPLICATION)
    assert failure.message == "heavy"
    assert failure.type.endswith("Heavy")
    assert failure.error is None


def lock() -> object:
    return threading.Lock()


def numbers() -> Any:
    yield 1


async def numbers_async() -> Any:
    yield 1


class Explosive:
    def __reduce__(self) -> Any:
        raise RuntimeError("do not pack me")


def explosive() -> object:
    return Explosive()


async def test_values_that_cannot_travel(bench: Bench) -> None:
    for function in (lock, numbers, numbers_async, explosive):
        failure = failure_of(await bench.run(function, task=function.__name__), FailureKind.SERIALIZATION)
        assert f"task {function.__name__!r}: what it returned cannot travel" in failure.message
    assert isinstance(await bench.run(echo, task="after"), TaskSucceeded)


async def test_functions_and_arguments_that_cannot_be_loaded(bench: Bench) -> None:
    absent = Function("absent", "no.such.module:function", version="1")
    failure = failure_of(await bench.run(absent, task="absent"), FailureKind.FUNCTION_UNAVAILABLE)
    assert "no.such.module:function" in failure.message
    broken = Function("broken", "broken", Payload(codec.PICKLE, b"no pickle"), python_version=functions.PYTHON_VERSION)
    failure_of(await bench.run(broken, task="broken"), FailureKind.FUNCTION_UNAVAILABLE)
    bench.values.near[ValueKey("run", "bad")] = Payload(codec.PICKLE, b"no pickle either")
    failure = failure_of(await bench.run(echo, NodeRef("bad"), task="argument"), FailureKind.SERIALIZATION)
    assert "its arguments cannot travel" in failure.message
    failure = failure_of(await bench.run(echo, NodeRef("bad", (Key("x"),)), task="part"), FailureKind.SERIALIZATION)


async def test_an_input_that_cannot_be_read_costs_its_own_attempt_only(bench: Bench) -> None:
    before = await bench.run(os.getpid, task="before")
    assert is_system_failure(await bench.run(echo, NodeRef("gone"), task="lost"))
    gone = Payload(codec.PICKLE, blob=await bench.blobs.put([codec.encode(1).inline().data]))
    assert gone.blob is not None
    await bench.blobs.delete(gone.blob.sha256)
    bench.values.near[ValueKey("run", "blob")] = gone
    end = await bench.run(echo, NodeRef("blob"), task="no blob")
    assert is_system_failure(end)
    assert isinstance(end, TaskFailed)
    assert gone.blob.sha256 in end.failure.message
    after = await bench.run(os.getpid, task="after")
    assert isinstance(before, TaskSucceeded)
    assert isinstance(after, TaskSucceeded)
    assert codec.decode(before.output) == codec.decode(after.output), "the worker lives on"


def leave() -> None:
    sys.exit(3)


async def leave_async() -> None:
    sys.exit(3)


async def test_exiting_ends_no_more_than_the_attempt(bench: Bench) -> None:
    for function in (leave, leave_async):
        assert is_system_failure(await bench.run(function, task=function.__name__))
    for follower in (echo, double):
        assert isinstance(await bench.run(follower, 1, task=f"after {follower.__name__}"), TaskSucceeded)


# ------------------------------------------------------------------------------ many


async def test_many_short_ones_end_once_each(bench: Bench) -> None:
    attempts = [bench.submit(echo, index, task=f"t{index}") for index in range(300)]
    await bench.until(lambda: sum(not isinstance(report, AttemptStarted) for report in bench.reports) >= 300)
    for index, attempt in enumerate(attempts):
        (end,) = bench.ends(attempt)
        assert isinstance(end, TaskSucceeded)
        assert codec.decode(end.output) == (index,)
        kinds = [type(report) for report in bench.of(attempt)]
        assert kinds == [AttemptStarted, TaskSucceeded]


async def test_what_has_ended_is_told_while_others_run(bench: Bench, tmp_path: Path) -> None:
    """Of a batch that goes to one worker, too: an end does not wait for that of the next one."""
    path = tmp_path / "notes"
    for index in range(20):  # so that it is known to be short
        assert isinstance(await bench.run(linger_if, "", "", task=f"before{index}"), TaskSucceeded)
    short = [bench.submit(linger_if, "", "", task=f"s{index}") for index in range(20)]
    long = [bench.submit(linger_if, str(path), f"l{index}", task=f"l{index}") for index in range(4)]
    for attempt in short:
        assert isinstance(await bench.end(attempt), TaskSucceeded)
    for index in range(4):
        await appears(path, f"l{index} began")
    assert not any(bench.ends(attempt) for attempt in long)
    note(str(path), "go")
    for attempt in long:
        assert isinstance(await bench.end(attempt), TaskSucceeded)


@pytest.mark.parametrize("function", [linger, linger_async])
async def test_side_by_side(bench: Bench, tmp_path: Path, function: Any) -> None:
    path = tmp_path / "notes"
    count = 2 if function is linger else 20
    attempts = [bench.submit(function, str(path), f"t{index}", task=f"t{index}") for index in range(count)]
    for index in range(count):
        await appears(path, f"t{index} began")
    note(str(path), "go")
    for attempt in attempts:
        assert isinstance(await bench.end(attempt), TaskSucceeded)


async def test_submitting_again_is_no_second_attempt(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    attempt = bench.attempt(linger, str(path), "t")
    for _ in range(3):
        bench.executor.submit(attempt)
    await appears(path, "t began")
    bench.executor.submit(attempt)
    note(str(path), "go")
    assert isinstance(await bench.end(attempt), TaskSucceeded)
    assert isinstance(await bench.run(echo, task="after"), TaskSucceeded)
    assert lines(path) == ["t began", "go", "t ended"]


async def test_what_waits_says_why_and_what_runs_does_not(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    running = [bench.submit(linger, str(path), f"r{index}", task=f"r{index}") for index in range(4)]
    for index in range(4):
        await appears(path, f"r{index} began")
    waiting = bench.submit(echo, task="waiting")
    why = bench.executor.waiting(*waiting.key)
    assert why is not None
    assert why.text
    assert not any(bench.executor.waiting(*attempt.key) for attempt in running)
    assert bench.executor.waiting("run", "nobody", 1) is None
    note(str(path), "go")
    for attempt in (*running, waiting):
        assert isinstance(await bench.end(attempt), TaskSucceeded)
    assert bench.executor.waiting(*waiting.key) is None


# ------------------------------------------------------------------------------ cancelling


@pytest.mark.parametrize("function", [linger, linger_async])
async def test_a_cancelled_attempt_ends_before_its_successor_begins(
    bench: Bench, tmp_path: Path, function: Any
) -> None:
    path = tmp_path / "notes"
    first = bench.submit(function, str(path), "1")
    await appears(path, "1 began")
    bench.cancel(first)
    bench.cancel(first)
    second = bench.submit(function, str(path), "2", attempt=2)
    bench.executor.submit(second)
    await appears(path, "2 began")
    note(str(path), "go")
    assert isinstance(await bench.end(second), TaskSucceeded)
    assert lines(path) == ["1 began", "1 ended", "2 began", "go", "2 ended"]
    assert not any(isinstance(end, TaskSucceeded) for end in bench.ends(first))


@pytest.mark.parametrize("function", [linger, linger_async])
async def test_a_cancelled_attempt_ends_before_another_task_has_its_turn(
    bench: Bench, tmp_path: Path, function: Any
) -> None:
    path = tmp_path / "notes"
    first = bench.submit(function, str(path), "1", task="a", turn="t")
    await appears(path, "1 began")
    never = bench.submit(function, str(path), "never", task="b", turn="t")
    bench.cancel(never)
    bench.cancel(first)
    second = bench.submit(function, str(path), "2", task="c", turn="t")
    bench.executor.submit(second)
    await appears(path, "2 began")
    note(str(path), "go")
    assert isinstance(await bench.end(second), TaskSucceeded)
    third = bench.submit(function, str(path), "3", task="a", turn="t", attempt=2)
    assert isinstance(await bench.end(third), TaskSucceeded)
    order = ["1 began", "1 ended", "2 began", "go", "2 ended", "3 began", "3 ended"]
    assert lines(path) == order
    assert not bench.of(never)


@pytest.mark.parametrize("function", [linger, linger_async])
async def test_attempts_of_other_turns_do_not_wait(bench: Bench, tmp_path: Path, function: Any) -> None:
    path = tmp_path / "notes"
    attempts = [bench.submit(function, str(path), turn, task=turn, turn=turn) for turn in ("t", "u")]
    attempts.append(bench.submit(function, str(path), "plain", task="plain"))
    for name in ("t", "u", "plain"):
        await appears(path, f"{name} began")
    note(str(path), "go")
    for attempt in attempts:
        assert isinstance(await bench.end(attempt), TaskSucceeded)


async def test_what_waits_is_dropped(bench: Bench, tmp_path: Path) -> None:
    """Waiting for room, and waiting for an older attempt of its task."""
    path = tmp_path / "notes"
    blocking = [bench.submit(linger, str(path), f"b{index}", task=f"b{index}") for index in range(4)]
    for index in range(4):
        await appears(path, f"b{index} began")
    waiting = bench.submit(note, str(path), "never", task="w")
    held = bench.submit(note, str(path), "never", task="b0", attempt=2)
    kept = bench.submit(note, str(path), "kept", task="k")
    bench.cancel(waiting)
    bench.cancel(held)
    bench.executor.cancel("run", "nobody", 1)
    note(str(path), "go")
    for attempt in (*blocking, kept):
        assert isinstance(await bench.end(attempt), TaskSucceeded)
    assert isinstance(await bench.run(echo, task="b0", attempt=3), TaskSucceeded)
    assert "never" not in lines(path)
    assert "kept" in lines(path)
    for attempt in (waiting, held):
        assert not any(isinstance(report, (AttemptStarted, TaskSucceeded)) for report in bench.of(attempt))


class Hanging:
    """Unpickling it lingers, as the import of a module may."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return linger, (str(self._path), "loading")


def needing(part: Any) -> Any:
    return lambda: part


def needing_async(part: Any) -> Any:
    async def call() -> Any:
        return part

    return call


@pytest.mark.parametrize("make", [needing, needing_async])
async def test_loading_a_function_belongs_to_the_attempt(bench: Bench, tmp_path: Path, make: Any) -> None:
    path = tmp_path / "notes"
    function = functions.encode_function(make(Hanging(path)))
    hanging = bench.submit(function, task="hanging")
    await bench.until(lambda: any(isinstance(report, AttemptStarted) for report in bench.of(hanging)))
    await appears(path, "loading began")
    assert bench.ends(hanging) == []
    bench.cancel(hanging)
    await appears(path, "loading ended")
    note(str(path), "go")
    again = bench.submit(function, task="hanging", attempt=2)
    end = await bench.end(again)
    assert isinstance(end, TaskSucceeded)
    assert codec.decode(end.output) == "loading"
    assert sum(isinstance(report, AttemptStarted) for report in bench.of(again)) == 1


async def test_loading_a_function_beside_asynchronous_attempts_can_be_cancelled(bench: Bench, tmp_path: Path) -> None:
    paths = tmp_path / "notes", tmp_path / "others"
    known = functions.encode_function(linger_async)
    first = bench.submit(known, str(paths[0]), "first", task="first")
    await appears(paths[0], "first began")
    hanging = bench.submit(functions.encode_function(needing_async(Hanging(paths[1]))), task="hanging")
    await bench.until(lambda: any(isinstance(report, AttemptStarted) for report in bench.of(hanging)))
    await appears(paths[1], "loading began")
    bench.cancel(hanging)
    await appears(paths[1], "loading ended")
    note(str(paths[0]), "go")
    assert isinstance(await bench.end(first), TaskSucceeded)


async def test_cancelling_right_away(bench: Bench) -> None:
    """Whenever the cancellation comes, the worker goes on, and the successor runs."""
    for index in range(60):
        attempt = bench.submit(echo, task=f"t{index}")
        for _ in range(index % 5):
            await asyncio.sleep(0.001)
        bench.cancel(attempt)
        bench.submit(echo, index, task=f"t{index}", attempt=2)
    for index in range(60):
        end = await bench.end(bench.attempt(echo, index, task=f"t{index}", attempt=2))
        assert isinstance(end, TaskSucceeded)
        assert codec.decode(end.output) == (index,)


# ------------------------------------------------------------------------------ very many arguments


def total(*numbers: int) -> int:
    return sum(numbers)


@pytest.mark.parametrize("is_near", [True, False])
async def test_a_call_with_more_arguments_than_fit_into_a_message(bench: Bench, is_near: bool) -> None:
    """Their names alone have more bytes than a message of gRPC."""
    names = [f"{number}-{'x' * 240}" for number in range(36_000)]
    assert sum(map(len, names)) > MESSAGE_BYTES_MAX
    values = bench.values.near if is_near else bench.values.far
    values.update((ValueKey("run", name), codec.encode(number).inline()) for number, name in enumerate(names))
    end = await bench.run(total, *map(NodeRef, names))
    assert isinstance(end, TaskSucceeded), end
    assert codec.decode(end.output) == sum(range(len(names)))


# ------------------------------------------------------------------------------ stopping


def linger_here(path: str, name: str) -> str:
    Path(f"{path}.{name}").write_text(str(os.getpid()))
    return linger(path, name)


async def linger_here_async(path: str, name: str) -> str:
    Path(f"{path}.{name}").write_text(str(os.getpid()))
    return await linger_async(path, name)


def is_over(path: Path, name: str) -> bool:
    """The code has ended by itself, or with its process."""
    return f"{name} ended" in lines(path) or not psutil.pid_exists(int(Path(f"{path}.{name}").read_text()))


async def test_stopping_with_work_in_flight(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    for function in (linger_here, linger_here_async):
        bench.submit(function, str(path), function.__name__, task=function.__name__)
        await appears(path, f"{function.__name__} began")
    bench.submit(linger, str(path), "held", task="linger_here", attempt=2)
    before = len(bench.reports)
    await bench.executor.stop()
    await bench.executor.stop()
    bench.executor.cancel("run", "linger_here", 1)
    async with asyncio.timeout(PATIENCE_S):
        for function in (linger_here, linger_here_async):
            while not is_over(path, function.__name__):
                await asyncio.sleep(0.01)
    assert len(bench.reports) == before
    assert "held began" not in lines(path)


# ------------------------------------------------------------------------------ leases alone


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def test_a_lost_worker_costs_what_had_begun_and_nothing_else(tmp_path: Path) -> None:
    async with lease_bench(tmp_path, CPU=1.0) as (bench, agent):
        path = tmp_path / "notes"
        dying = bench.submit(die, task="dying")
        others = [bench.submit(note, str(path), f"t{index}", task=f"t{index}") for index in range(20)]
        assert isinstance(await bench.end(dying), AttemptLost)
        for attempt in others:
            assert isinstance(await bench.end(attempt), TaskSucceeded)
        assert sorted(lines(path)) == sorted(f"t{index}" for index in range(20))
        assert agent.started == 2


async def test_a_lease_that_cannot_be_started_costs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provisioning, "BACKOFF_S", 0.01)
    async with lease_bench(tmp_path, CPU=1.0) as (bench, agent):
        agent.failures_left = 6
        attempts = [bench.submit(double, index, task=f"t{index}") for index in range(3)]
        for attempt in attempts:
            assert isinstance(await bench.end(attempt), TaskSucceeded)
            assert [type(report) for report in bench.of(attempt)] == [AttemptStarted, TaskSucceeded]
        assert agent.started == 7


async def test_many_async_attempts_are_lost_together(tmp_path: Path) -> None:
    async with lease_bench(tmp_path, CPU=1.0) as (bench, agent):
        path = tmp_path / "notes"
        attempts = [bench.submit(linger_async, str(path), f"t{index}", task=f"t{index}") for index in range(10)]
        for index in range(10):
            await appears(path, f"t{index} began")
        await bench.until(lambda: sum(isinstance(report, AttemptStarted) for report in bench.reports) == 10)
        os.kill(agent.pids[0], signal.SIGKILL)
        for attempt in attempts:
            assert isinstance(await bench.end(attempt), AttemptLost)


async def test_a_lost_agent_loses_its_leases_and_the_next_one_goes_on(tmp_path: Path) -> None:
    async with lease_bench(tmp_path, CPU=1.0) as (bench, agent):
        path = tmp_path / "notes"
        attempt = bench.submit(linger, str(path), "1")
        behind = bench.submit(echo, task="behind")
        await appears(path, "1 began")
        await agent.hang_up()
        assert isinstance(await bench.end(attempt), AttemptLost)
        await appears(path, "1 ended")
        assert not bench.of(behind)
        await agent.start()
        assert isinstance(await bench.end(behind), TaskSucceeded)


def hang_on(path: str) -> None:
    """Does not let itself be interrupted."""
    note(path, f"{perdure.context().attempt} began")
    while True:
        try:
            while True:
                time.sleep(0.005)
        except BaseException:
            note(path, "asked to end")


@pytest.mark.parametrize("gpus", [None, 1.0], ids=["cpu", "gpu"])
async def test_code_that_does_not_end_is_killed(tmp_path: Path, gpus: float | None) -> None:
    """Also in a lease that was told to finish after this attempt, as those with GPUs are."""
    shape = Shape(Resources(num_gpus=gpus))
    async with lease_bench(tmp_path, CPU=1.0, GPU=1.0) as (bench, agent):
        path = tmp_path / "notes"
        attempt = bench.submit(hang_on, str(path), shape=shape)
        await appears(path, "1 began")
        bench.cancel(attempt)
        successor = bench.submit(note, str(path), "successor", attempt=2, shape=shape)
        assert isinstance(await bench.end(successor), TaskSucceeded)
        assert lines(path) == ["1 began", "asked to end", "successor"]
        assert agent.started == 2
