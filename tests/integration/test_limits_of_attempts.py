"""Time limits of attempts in processes beside the engine, whatever user code does to its process."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import perdure
from perdure.errors import TaskTimeoutError
from services import Service, running

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the engine's processes cannot import tests


def match() -> None:
    """Takes 2 ** 40 steps, in C: it holds the GIL."""
    re.match(r"(a+)+$", "a" * 40 + "b")


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def well() -> str:
    return "well"


@pytest.mark.parametrize("function", [match, stop])
async def test_an_attempt_that_holds_up_its_process_ends_at_its_limit_and_makes_room(
    tmp_path: Path, function: Callable[[], Any]
) -> None:
    """There are as many as have room at a time, and each is tried twice."""
    service = Service(tmp_path, "--executor", "local")
    with running(service):
        service.up()
        async with perdure.Client(service.address) as client:
            limited = perdure.task(timeout=0.5, max_retries=1)(function)
            handles = [await client.start(limited.bind()) for _ in range(os.cpu_count() or 1)]
            for handle in handles:
                with pytest.raises(perdure.WorkflowExecutionError) as raised:
                    await handle.output()
                assert isinstance(raised.value.__cause__, TaskTimeoutError)
                assert "the attempt took longer than 500 ms" in str(raised.value.__cause__)
                (task,) = [task async for task in handle.tasks()]
                assert task.attempts == 2
            assert await client.run(perdure.task(well).bind()) == "well"
