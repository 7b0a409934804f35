"""The lease pool: runs attempts on leases of Ray clusters.

`sessions` receives the messages of agents and leases, `placing` puts attempts onto leases, `provisioning` starts and
ends leases. They share `state`. This file implements the scheduler's port, and drives the three by passes and ticks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

from perdure.service.common.clocks import wall_clock_ms
from perdure.service.executors.pool import waits
from perdure.service.executors.pool.placing import Placing
from perdure.service.executors.pool.provisioning import Provisioning
from perdure.service.executors.pool.sessions import Sessions
from perdure.service.executors.pool.state import State
from perdure.service.executors.port import Attempt, Functions, Reports, ValueReader, Waiting, forever
from perdure.service.journal.loops import Loop

TICK_S: Final = 0.05


def loop_time_s() -> float:
    return asyncio.get_running_loop().time()


class LeasePool:
    """Implements Executor. Agents and leases dial in at `sessions`."""

    def __init__(
        self,
        *,
        engine_id: str,
        blob_url: str,
        idle_s: float,
        now_s: Callable[[], float] = loop_time_s,
        clock: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._state = State(self._pass_soon, now_s, clock)
        self._placing = Placing(self._state)
        self._provisioning = Provisioning(self._state, self._placing, idle_s)
        self.sessions = Sessions(self._state, self._placing, self._provisioning, engine_id=engine_id, blob_url=blob_url)
        self.engine_id = engine_id
        self.blob_url = blob_url
        self._is_passing = False
        self._ticking = Loop("lease-pool", self._tick_now, trouble="the lease pool stumbled", first_s=TICK_S)

    # -------------------------------------------------------------------------- the port

    async def start(
        self, report: Callable[[Reports], None], values: ValueReader, holds_for_s: Callable[[], float] = forever
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._state.report = report
        self._state.holds_for_s = holds_for_s
        self._placing.cached = values.cached
        self.sessions.started()
        self._ticking.start()

    def drain(self) -> None:
        """The engine is about to end, so agents that leave are not logged as warnings."""
        self._state.is_draining = True

    async def stop(self) -> None:
        self._state.report = None
        await self._ticking.stop()
        for lease in self._state.leases.values():
            lease.outbox.close()
        for agent in self._state.agents.values():
            agent.outbox.close()

    def submit(self, attempt: Attempt) -> None:
        self._placing.submit(attempt)

    def cancel(self, run_id: str, task_id: str, number: int) -> None:
        self._placing.cancel((run_id, task_id, number))

    def waiting(self, run_id: str, task_id: str, number: int) -> Waiting | None:
        if (found := self._placing.queued((run_id, task_id, number))) is None:
            return None
        attempt, queue = found
        if (missing := waits.without_function(attempt.call.function, queue.shape)) is not None:
            return missing
        return waits.why(queue, self._state.agents.values(), self._state.last_left, self._state.now_s())

    def loading(self, run_id: str, task_id: str, number: int) -> str:
        return self._placing.loading((run_id, task_id, number))

    def python_versions(self) -> frozenset[str]:
        return self._state.python_versions

    def functions(self) -> Functions:
        return self._state.functions

    # -------------------------------------------------------------------------- passes

    def _pass_soon(self) -> None:
        if not self._is_passing and self._state.report is not None:
            self._is_passing = True
            self._loop.call_soon(self._pass)

    def _pass(self) -> None:
        self._is_passing = False
        now_s = self._state.now_s()
        queues = list(self._state.shapes.values())
        for queue in queues:  # place everything first: a lease that is about to get work is not idle
            if queue.is_wanted:
                self._placing.place(queue)
        for queue in queues:
            if queue.is_wanted:
                queue.waiting_since_s = queue.waiting_since_s or now_s
                self._provisioning.ask_for_leases(queue, now_s)
                self._placing.look_ahead(queue, now_s)
            else:
                queue.waiting_since_s = None

    async def _tick_now(self) -> float:
        self._tick(self._state.now_s())
        return TICK_S

    def _tick(self, now_s: float) -> None:
        self._placing.kill_unyielding(now_s)
        self._placing.end_forsaken(now_s)
        self._provisioning.note_stalled(now_s)
        for queue in list(self._state.shapes.values()):
            self._placing.recall_stuck(queue, now_s)
            self._provisioning.end_idle(queue, now_s)
        self._provisioning.watch_demand(now_s)
        self._provisioning.tell_of_waits(now_s)
        if self._state.holds_for_s() < inf:
            self._provisioning.make_way(now_s)
        self._pass_soon()
