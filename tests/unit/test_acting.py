"""Commands of runs are carried out in bounded turns of the event loop."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from perdure.engine.messages import CancelAttempt, SetTimer, StartAttempt
from perdure.model import NULL, Call, RunStatus, Shape
from perdure.service.executors.port import Attempt
from perdure.service.runs.acting import ACTS_AT_ONCE, Acting
from perdure.storage.rows import RunRow
from unit.driver import FUNCTION

CALL = Call(FUNCTION, NULL)
MANY = 10 * ACTS_AT_ONCE


class Turns:
    """An executor and timers that note what each turn of the loop did."""

    def __init__(self) -> None:
        self.turns: list[list[tuple[str, str, int]]] = []
        self._is_same = False

    def _note(self, what: str, name: str, attempt: int) -> None:
        if not self._is_same:
            self.turns.append([])
            self._is_same = True
            asyncio.get_running_loop().call_soon(self._end_turn)
        self.turns[-1].append((what, name, attempt))

    def _end_turn(self) -> None:
        self._is_same = False

    def submit(self, attempt: Attempt) -> None:
        self._note("submit", f"{attempt.run_id}/{attempt.task_id}", attempt.number)

    def cancel(self, run_id: str, task_id: str, attempt: int) -> None:
        self._note("cancel", f"{run_id}/{task_id}", attempt)

    def set(self, timer: Any, *, is_recorded: bool) -> None:
        self._note("timer", f"{timer.run_id}/{timer.task_id}", timer.attempt)

    @property
    def done(self) -> list[tuple[str, str, int]]:
        return [act for turn in self.turns for act in turn]


def acting_on(turns: Turns) -> Acting:
    return Acting(cast(Any, turns), cast(Any, None), cast(Any, turns), cast(Any, None))


def row(run_id: str) -> RunRow:
    times = {"create_ms": 0, "update_ms": 0, "start_ms": 0}
    return RunRow(run_id, "default", run_id, RunStatus.RUNNING, "key", **times)


def dispatches(count: int, attempt: int = 1) -> list[StartAttempt | CancelAttempt | SetTimer]:
    return [StartAttempt(f"t{number}", attempt, CALL, Shape(), ()) for number in range(count)]


async def idle(acting: Acting) -> None:
    while not acting.is_idle:
        await asyncio.sleep(0)


async def test_no_turn_carries_out_more_than_its_share() -> None:
    turns = Turns()
    acting = acting_on(turns)
    acting.carry_out(row("large"), dispatches(MANY))
    await idle(acting)
    assert max(map(len, turns.turns)) <= ACTS_AT_ONCE
    assert turns.done == [("submit", f"large/t{number}", 1) for number in range(MANY)]


async def test_another_run_acts_between_two_shares_of_a_large_one() -> None:
    turns = Turns()
    acting = acting_on(turns)
    acting.carry_out(row("large"), dispatches(MANY))
    await asyncio.sleep(0)
    acting.carry_out(row("small"), dispatches(1))
    assert turns.done[-1] == ("submit", "small/t0", 1)
    assert len(turns.done) < MANY


async def test_large_runs_take_turns() -> None:
    turns = Turns()
    acting = acting_on(turns)
    for name in ("one", "two"):
        acting.carry_out(row(name), dispatches(MANY))
    await idle(acting)
    shares = [{name.partition("/")[0] for _, name, _ in turn} for turn in turns.turns]
    assert shares[:4] == [{"one"}, {"two"}, {"one"}, {"two"}]


async def test_attempts_that_are_cancelled_while_they_wait_are_not_submitted() -> None:
    turns = Turns()
    acting = acting_on(turns)
    acting.carry_out(row("large"), dispatches(MANY))
    await asyncio.sleep(0)
    submitted = {(name, attempt) for _, name, attempt in turns.done}
    assert len(submitted) == ACTS_AT_ONCE
    acting.carry_out(row("large"), [CancelAttempt(f"t{number}", 1) for number in range(MANY)])
    await idle(acting)
    assert {(name, attempt) for what, name, attempt in turns.done if what == "submit"} == submitted
    assert submitted <= {(name, attempt) for what, name, attempt in turns.done if what == "cancel"}


async def test_the_attempt_after_a_cancelled_one_is_submitted() -> None:
    turns = Turns()
    acting = acting_on(turns)
    acting.carry_out(row("large"), dispatches(MANY))
    last = f"t{MANY - 1}"
    acting.carry_out(row("large"), [CancelAttempt(last, 1), StartAttempt(last, 2, CALL, Shape(), ())])
    await idle(acting)
    assert [act for act in turns.done if act[1] == f"large/{last}"] == [
        ("cancel", f"large/{last}", 1),
        ("submit", f"large/{last}", 2),
    ]


async def test_nothing_more_is_carried_out_of_a_forgotten_run_or_after_the_stop() -> None:
    turns = Turns()
    acting = acting_on(turns)
    for name in ("gone", "there"):
        acting.carry_out(row(name), dispatches(MANY))
    acting.forget("gone")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert {name.partition("/")[0] for _, name, _ in turns.done} == {"there"}
    count = len(turns.done)
    acting.stop()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(turns.done) == count
    assert acting.is_idle
