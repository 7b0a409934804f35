"""Runs take turns in the queues of executors."""

from __future__ import annotations

import pytest

from perdure.service.executors.turns import Turns


def filled(*names: str) -> Turns[str]:
    """Each name is a run and a task of it."""
    turns: Turns[str] = Turns()
    for name in names:
        turns.add((name[0], name[1:], 1), name)
    return turns


def drained(turns: Turns[str]) -> list[str]:
    return [turns.take() for _ in range(len(turns))]


def test_runs_take_turns_and_keep_their_own_order() -> None:
    turns = filled("a1", "a2", "a3", "b1", "c1", "b2")
    assert len(turns) == 6
    assert turns.head() == "a1"
    assert drained(turns) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_run_that_comes_late_waits_for_one_turn_of_each_other() -> None:
    turns = filled(*(f"a{number}" for number in range(1_000)))
    assert turns.take() == "a0"
    turns.add(("b", "1", 1), "b1")
    assert [turns.take(), turns.take()] == ["a1", "b1"]


def test_what_comes_back_is_first() -> None:
    turns = filled("a1", "b1", "b2")
    turns.add(("b", "0", 1), "b0", first=True)
    assert drained(turns) == ["b0", "a1", "b1", "b2"]


def test_what_is_dropped_does_not_come() -> None:
    turns = filled("a1", "b1", "b2")
    assert turns.drop(("b", "1", 1)) == "b1"
    assert turns.drop(("b", "1", 1)) is None
    assert turns.drop(("a", "1", 1)) == "a1"
    assert list(turns) == ["b2"]
    assert drained(turns) == ["b2"]
    with pytest.raises(KeyError):
        turns.take()


def test_a_key_waits_once() -> None:
    turns = filled("a1", "a1", "a2")
    assert drained(turns) == ["a1", "a2"]
