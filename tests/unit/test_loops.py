"""Loops that run as long as the engine does."""

from __future__ import annotations

import asyncio
import logging

import pytest

from perdure.service.journal.loops import Loop
from perdure.storage.ports import Fenced, StorageUnavailable


class Steps:
    """A step that counts, and gives or raises what it is told to."""

    def __init__(self, *outcomes: float | Exception | None) -> None:
        self.count = 0
        self._outcomes = list(outcomes)
        self.is_done = asyncio.Event()

    async def __call__(self) -> float | None:
        self.count += 1
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if not self._outcomes:
            self.is_done.set()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_steps_follow_after_the_pause_that_they_give() -> None:
    steps = Steps(0, 0, None)
    loop = Loop("l", steps, trouble="t")
    loop.start()
    await steps.is_done.wait()
    await loop.stop()
    assert steps.count == 3


async def test_a_wake_cuts_a_pause_short() -> None:
    steps = Steps(3600, None)
    loop = Loop("l", steps, trouble="t")
    loop.start()
    while not steps.count:
        await asyncio.sleep(0)
    loop.wake()
    await steps.is_done.wait()
    await loop.stop()
    assert steps.count == 2


@pytest.mark.parametrize(("error", "has_trace"), [(StorageUnavailable("away"), False), (KeyError("a bug"), True)])
async def test_a_step_that_raises_is_logged_and_repeated(
    error: Exception, has_trace: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    steps = Steps(error, None)
    loop = Loop("l", steps, trouble="not looked, trying again", failed=lambda: 0)
    loop.start()
    await steps.is_done.wait()
    await loop.stop()
    (record,) = caplog.records
    assert record.message == "not looked, trying again"
    assert bool(record.exc_info) is has_trace


async def test_a_fenced_engine_takes_no_more_steps() -> None:
    steps = Steps(Fenced("buried"), None)
    told: list[bool] = []
    loop = Loop("l", steps, trouble="t", failed=lambda: 0, fenced=lambda: told.append(True))
    loop.start()
    while not told:
        await asyncio.sleep(0)
    loop.wake()
    await loop.stop()
    assert (steps.count, told) == (1, [True])


async def test_a_loop_is_idle_only_without_a_step_to_take() -> None:
    steps = Steps(None, StorageUnavailable("away"), None)
    loop = Loop("l", steps, trouble="t", failed=lambda: 3600)
    loop.start()
    while not steps.count:
        await asyncio.sleep(0)
    while not loop.is_idle:
        await asyncio.sleep(0)
    loop.wake()
    assert not loop.is_idle
    while steps.count < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not loop.is_idle, "the step that failed has to be repeated"
    await loop.stop()
    await loop.stop()
