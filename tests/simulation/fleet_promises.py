"""What holds in every world of several engines, seen from outside: by what is submitted and begun, by what is in the
database after a death, and by what is there when everything is over.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure import wire
from perdure.model import RunStatus
from perdure.service.executors.port import Attempt
from perdure.storage.queries import RunQuery
from simulation.actors import REQUEST
from simulation.clock import fail
from simulation.executor import VOLATILE
from simulation.graphs import POOL_SHAPES

if TYPE_CHECKING:
    from simulation.fleet_world import FleetWorld, Seat

LEASE_S = 6.0
TAKEOVER_S = LEASE_S + 2.0
LOADING_S = 2.0
"""Loading a run takes some calls of the store, whose answers may take a third of a second each."""


class Promises:
    """Looks at one world."""

    def __init__(self, world: FleetWorld) -> None:
        self._world = world

    def on_delete(self, run_id: str, end_ms: int | None) -> None:
        name = self._world.watch.requests[run_id].removeprefix("request of ")
        if name.startswith(REQUEST):  # its client looks at that
            return
        self._world.history.removed(name, run_id, self._world.loop.time())
        if not any(call.kind == "delete" and call.workflow_id == name for call in self._world.history.calls):
            is_old = (
                end_ms is not None
                and self._world.keep_ms is not None
                and end_ms + self._world.keep_ms <= self._world.loop.clock_ms()
            )
            assert is_old, f"{run_id} of {name} was deleted before its time"

    def on_submit(self, attempt: Attempt) -> None:
        def look() -> None:
            done = self._world.watch.is_done(attempt.run_id, attempt.task_id)
            assert not done, f"finished task {attempt.task_id} of {attempt.run_id} is dispatched again"
            for source in attempt.inputs:
                if source.task_id and not source.task_id.startswith(VOLATILE):
                    ready = self._world.watch.is_done(attempt.run_id, source.task_id)
                    assert ready, f"{attempt.task_id} starts before {source.task_id}"

        self._world.watch.guard(look)

    def on_begin(self, attempt: Attempt) -> None:
        done = self._world.watch.is_done(attempt.run_id, attempt.task_id)
        if done:
            fail(AssertionError(f"finished task {attempt.task_id} of {attempt.run_id} runs again"))
        for source in attempt.inputs:
            self._look_at_blob(attempt.run_id, source.task_id)

    def _look_at_blob(self, run_id: str, task_id: str) -> None:
        output = self._world.watch.outputs.get((run_id, task_id))
        blob = wire.decode_payload(output).blob if output is not None else None
        if blob is not None and not self._world.blobs.has(blob.sha256):
            fail(AssertionError(f"the value of {task_id} of {run_id} was removed"))

    async def expect_takeover(self, engine_id: str, dead: Seat, left: set[str]) -> None:
        """If another engine was healthy all the time, the dead one owns nothing soon after its lease, and the runs it
        `left` are at work elsewhere."""
        killed_s = self._world.loop.time()
        await asyncio.sleep(TAKEOVER_S + LOADING_S)
        witnesses = [
            seat
            for seat in self._world.seats
            if seat.kernel is not None and seat.well_s is not None and seat.well_s <= killed_s and seat is not dead
        ]
        was_up = not self._world.database.is_down and self._world.database.up_s <= killed_s
        if not witnesses or not was_up or self._world.trouble:
            return
        self._world.seen.marks["taken over"] += 1
        self._world.seen.marks["runs taken over"] += len(left)
        unfinished = (RunStatus.RUNNING, RunStatus.PENDING)
        for run_id, kept in self._world.database.shared.runs.items():
            if kept.row.status in unfinished and kept.row.owner == engine_id:
                fail(AssertionError(f"{run_id} is still {engine_id}'s, which died {TAKEOVER_S} s ago"))
        kernels = {seat.process.name: seat.kernel for seat in witnesses if seat.process is not None}
        for run_id in left:
            kept = self._world.database.shared.runs.get(run_id)
            if kept is None or kept.row.status is not RunStatus.RUNNING or kept.row.is_dormant:
                continue
            heir = kernels.get(kept.row.owner)
            if heir is not None and heir.scheduler.memory.find(run_id) is None:
                fail(AssertionError(f"{run_id} is {kept.row.owner}'s, which does not work on it"))

    async def check(self) -> None:
        """Answers match the store, and every event went to at most one task."""
        self._world.history.check()
        told = {call.run_id for call in self._world.history.calls}
        deleted = {call.workflow_id.partition("/")[0] for call in self._world.history.calls if call.kind == "delete"}
        for run_id, task_id in self._world.watch.outputs:
            if run_id in self._world.database.shared.runs:
                self._look_at_blob(run_id, task_id)
        for row in await self._world.database.view.list_runs(RunQuery("default", 1_000)):
            if row.workflow_id in deleted and row.run_id not in told:
                continue  # an unanswered request, carried out when its id was free again
            assert row.status.is_final, f"{row.workflow_id} is {row.status}"
            assert row.end_ms is not None
            shape = row.workflow_id.partition("-")[0]
            consumed = {sequence for run_id, sequence in self._world.watch.consumed if run_id == row.run_id}
            known = self._world.history.events(row.run_id)
            if row.status is RunStatus.SUCCESSFUL:
                assert len(consumed) == POOL_SHAPES[shape][1], f"{row.workflow_id} took {len(consumed)} events"
            assert consumed <= known.keys(), f"{row.workflow_id} took events that nobody sent"
