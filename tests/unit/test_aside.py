"""Threads for long work: what they do to the switch interval of the GIL."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from perdure.service.common.aside import SWITCH_S, THREADS, aside


async def test_the_switch_interval_is_short_while_a_thread_works() -> None:
    usual_s = sys.getswitchinterval()
    begun, may_end = threading.Barrier(THREADS + 1), threading.Barrier(THREADS + 1)

    def work() -> None:
        begun.wait()
        may_end.wait()

    works = [asyncio.ensure_future(aside(work)) for _ in range(THREADS)]
    await asyncio.to_thread(begun.wait)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
    await asyncio.to_thread(may_end.wait)
    await asyncio.gather(*works)
    assert sys.getswitchinterval() == pytest.approx(usual_s)


async def test_work_that_fails_leaves_the_switch_interval_as_it_was() -> None:
    usual_s = sys.getswitchinterval()

    def work() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await aside(work)
    assert sys.getswitchinterval() == pytest.approx(usual_s)
