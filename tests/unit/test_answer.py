"""Answers to callers who may have gone away."""

from __future__ import annotations

import pytest

from perdure.service.common.answer import Answer


async def test_the_first_answer_counts() -> None:
    answer: Answer[int] = Answer()
    answer.give(1)
    answer.give(2)
    answer.fail(ValueError("late"))
    assert await answer.future == 1
    failed: Answer[int] = Answer()
    failed.fail(ValueError("first"))
    failed.give(1)
    with pytest.raises(ValueError, match="first"):
        await failed.future


async def test_a_caller_that_has_gone_gets_none() -> None:
    answer: Answer[int] = Answer()
    answer.future.cancel()
    answer.give(1)
    answer.fail(ValueError("late"))
    assert answer.future.cancelled()
