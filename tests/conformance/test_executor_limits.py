"""Promises of executors whose attempts have processes of their own, about attempts whose time is limited.

The engine counts that time from AttemptStarted on. User code may hold the GIL from its first moment on, so that nothing
else of its process runs. (Threads of the engine cannot keep this promise: such code holds up the engine itself.)
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

from conformance.workbench import WAIT_S, Bench, lease_bench
from perdure import functions
from perdure.engine.messages import AttemptStarted, TaskSucceeded

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

ENDLESS = r"(a+)+$", "a" * 40 + "b"
"""Matching takes 2 ** 40 steps, in C."""


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with lease_bench(tmp_path, CPU=1.0) as (bench, _):
        yield bench


def match(pattern: str, text: str) -> bool:
    return bool(re.match(pattern, text))


async def match_async(pattern: str, text: str) -> bool:
    return bool(re.match(pattern, text))


def send_itself(number: int) -> None:
    os.kill(os.getpid(), number)


class Matching:
    """Unpickling it matches."""

    def __reduce__(self) -> Any:
        return re.match, ENDLESS


def echo(value: Any) -> Any:
    return value


def holding(part: Any) -> Any:
    return lambda: part


Works = Callable[[], tuple[Any, tuple[Any, ...], tuple[Any, ...]]]
"""Gives a function, arguments with which it holds the GIL, and arguments with which it ends."""
WORKS: dict[str, Works] = {
    "function": lambda: (match, ENDLESS, ("a", "a")),
    "asynchronous function": lambda: (match_async, ENDLESS, ("a", "a")),
    "argument": lambda: (echo, (Matching(),), (1,)),
    "stopped": lambda: (send_itself, (signal.SIGSTOP,), (signal.SIGCONT,)),
}


@pytest.mark.parametrize("is_loaded", [False, True], ids=["unknown", "known"])
@pytest.mark.parametrize("work", WORKS)
async def test_a_limited_attempt_is_reported_before_it_holds_up_its_process(
    bench: Bench, work: str, is_loaded: bool
) -> None:
    make, arguments, harmless = WORKS[work]()
    function = functions.encode_function(make)
    if is_loaded:
        assert isinstance(await bench.run(function, *harmless, task="first"), TaskSucceeded)
    await check_told_and_killed(bench, function, *arguments)


async def test_a_limited_attempt_is_reported_before_its_function_is_loaded(bench: Bench) -> None:
    await check_told_and_killed(bench, functions.encode_function(holding(Matching())))


async def check_told_and_killed(bench: Bench, function: Any, *arguments: Any) -> None:
    attempt = bench.submit(function, *arguments, is_limited=True)
    await bench.until(lambda: any(isinstance(report, AttemptStarted) for report in bench.of(attempt)))
    assert bench.ends(attempt) == []
    bench.cancel(attempt)
    for task in ("t", "other"):
        assert isinstance(await bench.run(echo, 1, task=task, attempt=2), TaskSucceeded)


def import_from(folder: str, name: str) -> Any:
    sys.path.insert(0, folder)
    return importlib.import_module(name)


class Importing:
    """Unpickling it imports a module."""

    def __init__(self, folder: Path, name: str) -> None:
        self._how = str(folder), name

    def __reduce__(self) -> Any:
        return import_from, self._how


async def test_an_executor_knows_where_an_import_hangs(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "outer_steps.py").write_text("import inner_steps\n")
    (tmp_path / "inner_steps.py").write_text("import time\n\ntime.sleep(3600)\n")
    function = functions.encode_function(holding(Importing(tmp_path, "outer_steps")))
    attempt = bench.submit(function, is_limited=True)
    async with asyncio.timeout(WAIT_S):
        while "time.sleep(3600)" not in bench.executor.loading(*attempt.key):
            await asyncio.sleep(0.02)
    places = re.findall(r'File "([^"]+)", line (\d+)', bench.executor.loading(*attempt.key))
    assert [(Path(file).name, line) for file, line in places] == [("outer_steps.py", "1"), ("inner_steps.py", "3")]
    bench.cancel(attempt)
    known = bench.submit(functions.encode_function(echo), 1, task="known", is_limited=True)
    await bench.until(lambda: bool(bench.ends(known)))
    assert bench.executor.loading(*known.key) == ""
