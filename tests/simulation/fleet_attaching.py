"""Clients of a fleet that start a run under an id in use, and so attach to the run that has it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from perdure import errors
from perdure.service.common.repeat import Repeat
from perdure.service.kernel import Kernel
from perdure.service.operations.asked import Conflict, NewRun
from simulation.clock import fail
from simulation.fleet_asking import insist
from simulation.history import Call

if TYPE_CHECKING:
    from simulation.fleet_world import FleetWorld


class Attaching:
    """Makes one request again and again. Every answer names the run of the first one, whatever became of that run, and
    whichever engine is asked."""

    def __init__(self, world: FleetWorld, name: str, new: NewRun, dice: random.Random) -> None:
        self._world = world
        self._name = name
        self._new = replace(new, request_id=f"attachment to {name}", conflict=Conflict.USE_EXISTING)
        self._dice = dice
        self._first_s: float | None = None
        self._run_id = ""
        self._is_refused = False

    async def ask(self) -> None:
        if self._is_refused:
            return
        try:
            run_id = await insist(self._world, self._dice, [("attach", self._name, "")], self._submit)
        except errors.WorkflowAlreadyExistsError:  # the run had ended before the first answer
            if self._run_id:
                fail(AssertionError(f"{self._name} was attached to {self._run_id}, and is refused now"))
            self._is_refused = True
            return
        self._world.seen.marks["attached again" if self._run_id else "attached"] += 1
        if self._run_id not in ("", run_id):
            fail(AssertionError(f"{self._name} was attached to {self._run_id}, and is told {run_id} now"))
        self._run_id = run_id

    async def _submit(self, kernel: Kernel, calls: list[Call]) -> str:
        now_s = self._world.loop.time()
        repeat = None
        if self._first_s is not None:
            ago_ms = round((now_s - self._first_s) * 1000)
            repeat = Repeat(since_ms=ago_ms + 1, surely_since_ms=ago_ms)
        else:
            self._first_s = now_s
        view, _ = await kernel.submissions.submit(replace(self._new, repeat=repeat))
        return view.row.run_id
