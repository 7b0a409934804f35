"""The loop in a thread of its own, under the client that does not wait."""

from __future__ import annotations

import asyncio

import pytest

from perdure.loopthread import LoopThread


def test_closing_cancels_what_is_under_way() -> None:
    thread = LoopThread()
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("canceled")

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(endless())
        await asyncio.sleep(0)
        return task

    task = thread.wait(begin())
    thread.close()
    assert ended == ["canceled"]
    assert task.cancelled()


def test_a_closed_loop_takes_no_work() -> None:
    thread = LoopThread()
    thread.close()

    async def nothing() -> None:
        return None

    with pytest.raises(RuntimeError, match="closed"):
        thread.wait(nothing())
