"""Answers the queries of clients. No answer has state that is not durable: `moments` reads memory and the store so that
each answer is of one durable moment. Raises errors of `perdure.errors`, also while the store fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import aclosing
from itertools import islice
from typing import Final

from perdure import errors, wire
from perdure.engine.machine import Machine, TaskState
from perdure.model import Failure, Payload, RunStatus, TaskStatus, frozen
from perdure.service.common.trouble import refusing
from perdure.service.executors.port import Executor, Waiting
from perdure.service.operations.current import check_kind
from perdure.service.runs.changes import Changes
from perdure.service.runs.moments import Moment, Moments, not_found
from perdure.service.runs.restore import failure_of
from perdure.service.runs.scheduler import Scheduler
from perdure.service.runs.values import Values
from perdure.service.runs.views import OutcomeView, RunView, TaskCounts, TaskView, count_tasks, view_task, waits_for
from perdure.storage.ports import CorruptData, ListingStore
from perdure.storage.queries import RunQuery
from perdure.storage.rows import ACTOR, RunRow, ValueKey

FINAL: Final = frozenset(status for status in RunStatus if status.is_final)


@frozen
class _Finding:
    """The state of a task's value, and where it is stored once the task is done."""

    is_done: bool
    source: str
    wraps: int
    failure: Failure | None
    is_volatile: bool


def first_ready(run: Machine) -> TaskState | None:
    """The first task of a run that is ready."""
    if not run.counts[TaskStatus.READY]:
        return None
    return next((task for task in run.tasks() if task.status is TaskStatus.READY), None)


class Queries:
    """Reads runs."""

    def __init__(
        self,
        store: ListingStore,
        moments: Moments,
        scheduler: Scheduler,
        executor: Executor,
        values: Values,
        changes: Changes,
    ) -> None:
        self._executor = executor
        self._changes = changes
        self._store = store
        self._moments = moments
        self._scheduler = scheduler
        self._values = values

    @refusing
    async def run(
        self,
        namespace: str,
        workflow_id: str,
        run_id: str = "",
        *,
        wait_s: float = 0,
        wait_for: Collection[RunStatus] = FINAL,
    ) -> RunView:
        """A run with its tasks counted, after waiting up to `wait_s` for one of the states `wait_for`."""
        row = await self.row(namespace, workflow_id, run_id)
        if wait_s and row.status not in wait_for:
            async with aclosing(self._changes.stirs(row.run_id, wait_s)) as stirs:
                async for _ in stirs:
                    row = await self.row(namespace, workflow_id, row.run_id)
                    if row.status in wait_for:
                        break
        try:
            now = await self._moments.look(row, lambda run: (count_tasks(run), self._first_waiting(row.run_id, run)))
            return RunView(now.row, *now.taken)
        except CorruptData:
            if row.status.is_final:  # perhaps because of that: its state can be told, but not its tasks
                return RunView(row)
            self._scheduler.take_up(row.run_id)  # which fails it
            raise

    @refusing
    async def row(self, namespace: str, workflow_id: str, run_id: str = "") -> RunRow:
        """The current run of a workflow id, or a certain one."""
        if run_id:
            row = await self._moments.find_row(run_id)
            if row is not None and not row.damage and (row.namespace, row.workflow_id) != (namespace, workflow_id):
                row = None
        else:
            row = await self._moments.find_current(namespace, workflow_id)
        if row is None:
            raise not_found(namespace, workflow_id)
        return row

    @refusing
    async def rows(self, run_ids: Collection[str]) -> dict[str, RunRow]:
        """The existing runs of these ids, by id."""
        return await self._moments.find_rows(run_ids)

    def is_live(self, run_id: str) -> bool:
        """Whether the run is in memory, so that its end will be told."""
        return self._scheduler.memory.find(run_id) is not None

    @refusing
    async def list_runs(self, query: RunQuery) -> list[RunView]:
        return [RunView(row) for row in await self._store.list_runs(query)]

    @refusing
    async def tasks(
        self,
        namespace: str,
        workflow_id: str,
        run_id: str = "",
        *,
        statuses: Collection[TaskStatus] = (),
        start: int = 0,
        limit: int | None = None,
    ) -> list[tuple[int, TaskView]]:
        """Tasks of a run with one of these states (none: all), in the order in which they became known, at most so
        many, each with its place in that order; from the place `start` on. A place stays the same."""

        row = await self.row(namespace, workflow_id, run_id)

        def read(run: Machine) -> list[tuple[int, TaskView]]:
            places = enumerate(run.tasks(start), start)
            found = ((place, task) for place, task in places if not statuses or task.status in statuses)
            return [(place, view_task(task, self.waiting(row.run_id, task))) for place, task in islice(found, limit)]

        return (await self._moments.look(row, read)).taken

    def waiting(self, run_id: str, task: TaskState) -> Waiting | None:
        """Why a ready task has not begun, if the executor knows; or what a running wait waits for."""
        if task.status is TaskStatus.RUNNING:
            return waits_for(task)
        return self._executor.waiting(run_id, task.id, task.attempt) if task.status is TaskStatus.READY else None

    def _first_waiting(self, run_id: str, run: Machine) -> Waiting | None:
        """The same of the first task that is ready, with its name."""
        ready = first_ready(run)
        waiting = self.waiting(run_id, ready) if ready is not None else None
        return Waiting(waiting.reason, f"task {ready.id!r} {waiting.text}") if ready and waiting else None

    @refusing
    async def task(self, namespace: str, workflow_id: str, task_id: str) -> TaskView:
        """One task of the current run. Raises TaskNotFoundError."""

        def read(run: Machine) -> TaskView | None:
            task = run.find_task(task_id)
            return view_task(task) if task is not None else None

        found = (await self._moments.look(await self.row(namespace, workflow_id), read)).taken
        if found is None:
            raise errors.TaskNotFoundError(
                f"workflow {workflow_id!r} has no task {task_id!r}", workflow_id=workflow_id, task_id=task_id
            )
        return found

    @refusing
    async def look(self, row: RunRow, task_ids: Collection[str] | None) -> Moment[tuple[TaskCounts, list[TaskView]]]:
        """A run and these of its tasks (None: all), at one moment."""

        def read(run: Machine) -> tuple[TaskCounts, list[TaskView]]:
            tasks = run.tasks() if task_ids is None else (task for task in run.tasks() if task.id in task_ids)
            return count_tasks(run), [view_task(task) for task in tasks]

        return await self._moments.look(row, read, is_whole=True)

    @refusing
    async def outcome(
        self, namespace: str, workflow_id: str, *, task_id: str = "", run_id: str = "", wait_s: float = 0
    ) -> OutcomeView:
        """The outcome of a run or one of its tasks, after waiting up to `wait_s` for it.

        A task that does not exist is "not yet" while the run may still make it, and
        TaskNotFoundError afterwards. An actor has no outcome of its own: WrongKindError.
        """
        row = await self.row(namespace, workflow_id, run_id)
        if not task_id:
            check_kind(row, "")
            return await self.outcome_of(await self.ended(row, wait_s))
        async with aclosing(self._changes.stirs(row.run_id, wait_s)) as stirs:
            async for _ in stirs:
                row = await self.row(namespace, workflow_id, row.run_id)
                row, value = await self._task_value(row, task_id)
                if value is not None:
                    return OutcomeView(row.run_id, row.status, value)
        return OutcomeView(row.run_id, row.status, None)

    @refusing
    async def ended(self, row: RunRow, wait_s: float) -> RunRow:
        """The row of a run after waiting up to `wait_s` for its end."""
        deadline = asyncio.get_running_loop().time() + wait_s
        with self._changes.gather({row.run_id: row.change}) as told:
            has_come = True
            while has_come and not _has_outcome(row):
                if (ended := told.ended.pop(row.run_id, None)) is not None:
                    row = ended
                elif not self.is_live(row.run_id):  # otherwise its end will be told
                    row = await self.row(row.namespace, row.workflow_id, row.run_id)
                left_s = deadline - asyncio.get_running_loop().time()
                if _has_outcome(row) or left_s <= 0 or self._changes.is_closed:
                    break
                has_come = await told.wait(left_s)
        if wait_s > 0 and not row.status.is_final:  # its end may be stored before it is told
            row = (await self.rows((row.run_id,))).get(row.run_id, row)
        return row

    @refusing
    async def outcome_of(self, row: RunRow) -> OutcomeView:
        """The outcome of a run according to its row."""
        return OutcomeView(row.run_id, row.status, await self._run_value(row))

    async def _run_value(self, row: RunRow) -> Payload | Failure | None:
        if row.status is RunStatus.SUCCESSFUL:
            return await self._read(row, row.output_task, row.output_wraps)
        return failure_of(row)

    async def _task_value(self, row: RunRow, task_id: str) -> tuple[RunRow, Payload | Failure | None]:
        """The value of a task, None if it has none yet, and the run's row of that moment."""

        def read(run: Machine) -> _Finding | None:
            task = run.find_task(task_id)
            if task is None:
                return None
            failure = task.failure if task.status is TaskStatus.FAILED else None
            return _Finding(task.done, task.source, task.wraps, failure, task.is_volatile)

        now = await self._moments.look(row, read)
        row, found = now.row, now.taken
        if found is not None and found.is_done:
            return row, await self._read(row, found.source, found.wraps)
        if found is not None and found.failure is not None:
            return row, found.failure
        if not row.status.is_final:
            return row, None
        if found is not None and (failure := failure_of(row)) is not None:
            return row, failure
        if found is not None and found.is_volatile:
            raise _not_stored(task_id)
        what = f"a task {task_id!r}" if found is None else f"a value of its task {task_id!r}, which it did not need"
        raise errors.TaskNotFoundError(
            f"workflow {row.workflow_id!r} ended without {what}", workflow_id=row.workflow_id, task_id=task_id
        )

    async def _read(self, row: RunRow, task_id: str, wraps: int) -> Payload:
        key = ValueKey(row.run_id, task_id=task_id)
        if row.kind == ACTOR and not self.is_live(row.run_id):  # its engine may have forgotten a call and made it anew
            payload = await self._values.find_stored(key)
        else:
            payload = self._values.cached(key) or await self._values.find(key)
        if payload is None:
            await self.row(row.namespace, row.workflow_id, row.run_id)  # the run may have been deleted since
            if not await self._is_volatile(row, task_id):
                message = f"table tasks: there is no row of run {row.run_id} with the value of task {task_id!r}"
                raise CorruptData(message, subject=row.run_id)
            raise _not_stored(task_id)
        return wire.outcome_payload(payload, wraps) if wraps else payload

    async def _is_volatile(self, row: RunRow, task_id: str) -> bool:
        def read(run: Machine) -> bool:
            task = run.find_task(task_id)
            return task is not None and task.is_volatile

        return (await self._moments.look(row, read)).taken


def _has_outcome(row: RunRow) -> bool:
    return row.status is RunStatus.SUCCESSFUL or row.failure is not None or row.damage != ""


def _not_stored(task_id: str) -> errors.OutputNotStoredError:
    return errors.OutputNotStoredError(
        f"the output of task {task_id!r} was not to be stored (checkpoint=False)", task_id=task_id
    )
