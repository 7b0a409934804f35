"""Loops on which a thread runs one coroutine at a time, when a thread is interrupted or has no loop."""

from __future__ import annotations

import asyncio
import gc
from typing import Never

import pytest

from actors import Actor
from perdure.worker import interruptible
from perdure.worker.loops import ThreadLoop
from perdure.worker.results import Returned


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def incr(self) -> int:
        self.count += 1
        return self.count

    async def wait(self) -> int:
        return self.count


def test_a_coroutine_that_did_not_begin_is_closed() -> None:
    def interrupt() -> Never:
        raise KeyboardInterrupt

    async def leave_an_interrupt() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, interrupt)  # when the loop runs again, it calls this first

    async def never_begins() -> None:
        raise AssertionError

    thread_loop = ThreadLoop()
    assert thread_loop.run(leave_an_interrupt()) == (None, None)
    with pytest.raises(KeyboardInterrupt):
        thread_loop.run(never_begins())
    assert not thread_loop.tasks
    gc.collect()  # a coroutine that nobody awaited would warn, and warnings are errors


def test_a_loop_is_made_before_a_thread_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    new_event_loop = asyncio.new_event_loop

    def noted() -> asyncio.AbstractEventLoop:
        steps.append("loop")
        return new_event_loop()

    def enter() -> bool:
        steps.append("enter")
        return True

    actor = Actor(Counter)
    actor.move()
    monkeypatch.setattr(asyncio, "new_event_loop", noted)
    result = interruptible.run(actor.runner, actor.input("wait"), enter, lambda: None)
    assert isinstance(result, Returned)
    assert actor.take(result) == 0
    assert steps == ["loop", "enter"]


def test_methods_that_need_no_loop_run_when_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_many() -> Never:
        raise OSError("too many open files")

    actor = Actor(Counter)
    monkeypatch.setattr(asyncio, "new_event_loop", too_many)
    result = interruptible.run(actor.runner, actor.input("incr"), lambda: True, lambda: None)
    assert isinstance(result, Returned)
    assert actor.take(result) == 1
