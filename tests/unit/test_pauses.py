"""Pauses in long work: other tasks run after some time of it, however many parts that is."""

from __future__ import annotations

import asyncio
import time

import pytest

from perdure.service.common.pauses import TURN_S, Pauses


@pytest.mark.parametrize(("part_s", "turns"), [(TURN_S / 100, 2), (TURN_S, 200), (3 * TURN_S, 200)])
async def test_other_tasks_get_turns_by_time(monkeypatch: pytest.MonkeyPatch, part_s: float, turns: int) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    counted = 0

    async def count() -> None:
        nonlocal counted
        while True:
            counted += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    pauses = Pauses()
    for _ in range(200):
        now_s += part_s
        await pauses.pause()
    monkeypatch.undo()
    other.cancel()

    assert turns - 1 <= counted <= turns
