"""Clients of a fleet that only look: each time at whatever engine there is, and nothing that they were told is taken
back, by that engine or another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf.duration_pb2 import Duration

from perdure import errors, wire
from perdure.model import RunStatus, TaskStatus
from perdure.service.api import places
from perdure.service.api.watch import Watcher
from perdure.service.kernel import Kernel
from perdure.service.runs.changes import Closed, Overflowed
from perdure.storage.rows import ACTOR
from perdure.v1 import workflow_service_pb2
from simulation.curious import Curious
from simulation.executor import VOLATILE
from simulation.fleet_asking import NO_ANSWER
from simulation.told import ENDS, Rising

if TYPE_CHECKING:
    from simulation.fleet_world import FleetWorld, Seat

T = TypeVar("T")

NAMESPACE: Final = "default"
PATIENCE_S: Final = (2.0, 10.0)
CONNECTED_MAX_S: Final = 40.0
CATCH_UP_S: Final = 120.0
"""The time after the end of all runs within which a watch must have told of it."""
NO_MORE: Final = (*NO_ANSWER, Closed, Overflowed)


class NoAnswer(Exception):
    """The engine is gone, or slow."""


async def ask_once(seat: Seat, question: Callable[[], Awaitable[T]], timeout_s: float) -> T:
    """Have an engine answer, if it is there to the end of its answer."""
    process, gone = seat.process, seat.gone
    assert process is not None

    async def answering() -> T:
        return await question()

    asked, fear = process.spawn(answering()), asyncio.ensure_future(gone.wait())
    try:
        await asyncio.wait({asked, fear}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        fear.cancel()
        if not asked.done() or process.is_dead:
            asked.cancel()
    if not asked.done() or process.is_dead:
        await asyncio.gather(asked, return_exceptions=True)
        raise NoAnswer
    try:
        return asked.result()
    except NO_MORE as error:
        raise NoAnswer from error


async def somebody(world: FleetWorld, dice: random.Random) -> Seat:
    """An engine that is up."""
    await world.somebody_up.wait()
    return dice.choice([seat for seat in world.seats if seat.kernel is not None])


class Looking:
    """Asks and watches for one workflow."""

    def __init__(self, world: FleetWorld, workflow_id: str, dice: random.Random) -> None:
        self._world = world
        self._dice = dice
        self._curious = Curious(workflow_id, world.told, dice, self._insist)
        self._watching = Watching(world, dice, workflow_id)

    async def look_around(self) -> None:
        """Until it is cancelled, or something is wrong."""
        await asyncio.gather(self._curious.look_around(), self._watching.watch())

    async def look(self) -> None:
        """Everything is over."""
        for _ in range(3):
            await self._curious.look()

    async def _insist(self, ask: Callable[[Kernel], Awaitable[Callable[[], None]]]) -> Callable[[], None]:
        while True:
            seat = await somebody(self._world, self._dice)
            assert seat.kernel is not None
            with contextlib.suppress(NoAnswer):
                return await ask_once(seat, partial(ask, seat.kernel), self._dice.choice(PATIENCE_S))
            await asyncio.sleep(self._dice.random())


class Watching:
    """Watches one workflow and its tasks, or ("") all workflows, at one engine after the other. What it is told of a
    run or task is never older than what it was told before, and in the end it has been told of the last state."""

    def __init__(self, world: FleetWorld, dice: random.Random, workflow_id: str = "") -> None:
        self._world = world
        self._dice = dice
        self._workflow_id = workflow_id
        self._token = ""
        self._since: int | None = None
        """The commit after which it was told of all, which its first answer says."""
        self._runs: dict[str, Rising] = {}
        self._tasks: dict[tuple[str, str], tuple[TaskStatus, int]] = {}
        self.states: dict[str, tuple[RunStatus, int]] = {}
        """The last that was told of each run, and as of which commit."""

    async def watch(self) -> None:
        """To the end of the workflow; without one for ever."""
        while True:
            with contextlib.suppress(NoAnswer):
                try:
                    await self._connect(await somebody(self._world, self._dice))
                    return
                except errors.WorkflowNotFoundError:
                    return
            await asyncio.sleep(self._dice.choice((0.0, self._dice.random())))

    async def _connect(self, seat: Seat) -> None:
        """Read from one engine. Raises NoAnswer; returns when the stream ends."""
        kernel = seat.kernel
        assert kernel is not None
        loop = self._world.loop
        request = workflow_service_pb2.WatchRequest(
            workflow_ids=[self._workflow_id] if self._workflow_id else [],
            include_tasks=bool(self._workflow_id),
            until_final=bool(self._workflow_id),
            resume_token=self._token,
            progress_interval=Duration(seconds=15),
        )
        opened_s = loop.time()
        until_s = opened_s + self._dice.random() * CONNECTED_MAX_S
        answers = Watcher(kernel.store, kernel.queries, kernel.changes, kernel.scheduler.clock).watch(request)
        try:
            while (left_s := until_s - loop.time()) > 0:
                answer = await ask_once(seat, partial(_next, answers), left_s)
                if answer is None:
                    self._world.watch.guard(self._check_last)
                    return
                for event in answer.events:
                    self._take(opened_s, event)
                self._token = answer.resume_token
                if self._since is None and (place := places.read(self._token)) is not None:
                    self._since = place.change
        finally:
            await asyncio.gather(answers.aclose(), return_exceptions=True)  # type: ignore[attr-defined]
        raise NoAnswer

    def _take(self, opened_s: float, event: workflow_service_pb2.WatchEvent) -> None:
        guard = self._world.watch.guard
        self._world.seen.marks["watched"] += 1
        match event.WhichOneof("kind"):
            case "workflow":
                run = event.workflow
                status, change = wire.RUN_STATUS_BACK[run.status], int(run.etag)
                guard(lambda: self._see_run(run.run_id, status, change))
                self._world.told.state(opened_s, run.run_id, status, change)
            case "task":
                task = event.task.task
                status_of_task = wire.TASK_STATUS_BACK[task.status]
                guard(lambda: self._see_task(event.task.run_id, task.task_id, status_of_task, task.attempts))
                self._world.told.task(opened_s, event.task.run_id, task.task_id, status_of_task, task.attempts)
            case _:
                pass

    def _see_run(self, run_id: str, status: RunStatus, change: int) -> None:
        before, newest = self.states.get(run_id, (status, -1))
        self.states[run_id] = status, change
        assert change >= newest, f"a watch told {run_id} as {before} of commit {newest}, then as {status} of {change}"

    def _see_task(self, run_id: str, task_id: str, status: TaskStatus, attempts: int) -> None:
        if task_id.startswith(VOLATILE):
            return
        before, tried = self._tasks.get((run_id, task_id), (status, 0))
        self._tasks[run_id, task_id] = status, attempts
        if before is TaskStatus.SUCCESSFUL:
            assert status is before, f"a watch told {task_id} of {run_id} as {before}, then as {status}"
        if before in ENDS and status in ENDS:
            assert attempts >= tried, f"a watch told {task_id} of {run_id} as of attempt {tried}, then of {attempts}"

    def _check_last(self) -> None:
        """The workflow is over, and so is the watch: all that is stored of its tasks was told."""
        for run_id, (status, change) in self.states.items():
            kept = self._world.database.shared.runs.get(run_id)
            if kept is None or kept.row.change != change or not status.is_final:
                continue
            self._world.seen.marks["watched to the end"] += 1
            for task_id, task in kept.tasks.items():
                if task.status in ENDS and not task_id.startswith(VOLATILE):
                    told = self._tasks.get((run_id, task_id), (None, 0))[0]
                    assert told is task.status, f"a watch of {run_id} ended with {task_id} as {told}: {task.status}"

    async def check_all(self, watch: asyncio.Task[None]) -> None:
        """Everything is over: the last state of each workflow was told, or is told soon, unless it came before there
        was a first answer."""
        deadline_s = self._world.loop.time() + CATCH_UP_S
        while True:
            since = self._since if self._since is not None else -1
            stored = {
                run_id: (kept.row.status, kept.row.change)
                for run_id, kept in self._world.database.shared.runs.items()
                if kept.row.change > since and kept.row.kind != ACTOR
            }
            missing = {run_id: (self.states.get(run_id), now) for run_id, now in stored.items()}
            missing = {run_id: both for run_id, both in missing.items() if both[0] != both[1]}
            if watch.done():
                watch.result()
            if not missing:
                return
            assert self._world.loop.time() < deadline_s, f"a watch of everything told what is not so: {missing}"
            await asyncio.sleep(1.0)


async def _next(
    answers: AsyncIterator[workflow_service_pb2.WatchResponse],
) -> workflow_service_pb2.WatchResponse | None:
    """None: that was the end."""
    return await anext(answers, None)
