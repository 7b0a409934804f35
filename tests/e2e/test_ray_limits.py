"""Time limits of attempts on real Ray, whatever user code does to its process."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
import ray

import perdure
from perdure.errors import TaskTimeoutError
from services import Service

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

pytestmark = [pytest.mark.ray]


def match() -> None:
    """Takes 2 ** 40 steps, in C: it holds the GIL."""
    re.match(r"(a+)+$", "a" * 40 + "b")


async def match_async() -> None:
    match()


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def well() -> str:
    return "well"


KILLS_STOPPED = pytest.mark.skipif(
    tuple(map(int, ray.__version__.split(".")[:2])) < (2, 56), reason="this Ray kills no stopped process"
)


@pytest.mark.parametrize("function", [match, match_async, pytest.param(stop, marks=KILLS_STOPPED)])
async def test_an_attempt_that_holds_up_its_process_ends_at_its_limit_and_makes_room(
    steady: Service, function: Callable[[], Any]
) -> None:
    """Each holds the whole cluster."""
    async with perdure.Client(steady.address) as client:
        handle = await client.start(perdure.task(num_cpus=2, timeout=0.5, max_retries=1)(function).bind())
        with pytest.raises(perdure.WorkflowExecutionError) as raised:
            await handle.output()
        assert isinstance(raised.value.__cause__, TaskTimeoutError)
        (task,) = [task async for task in handle.tasks()]
        assert task.attempts == 2
        assert await client.run(perdure.task(num_cpus=2)(well).bind()) == "well"
