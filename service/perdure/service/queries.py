"""What clients ask to be told. Nobody is told what is not durable: answers that come from memory wait
for the journal first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from contextlib import aclosing
from typing import Final

from perdure import errors, wire
from perdure.engine.run import Run
from perdure.model import Failure, Payload, RunStatus, TaskStatus
from perdure.service.changes import Changes
from perdure.service.journal import Journal
from perdure.service.restore import restore_run
from perdure.service.scheduler import Live, Scheduler
from perdure.service.values import Values
from perdure.service.views import OutcomeView, RunView, TaskView, count_tasks, view_task
from perdure.storage.ports import CorruptData, MetadataStore, StorageFull
from perdure.storage.rows import RunQuery, RunRow, ValueKey

_FINAL: Final = frozenset(status for status in RunStatus if status.is_final)
FINAL_TASKS_MAX: Final = 20_000
"""Tasks of final runs that stay rebuilt for the next page of the same question."""


class Queries:
    """Reads runs."""

    def __init__(
        self, store: MetadataStore, journal: Journal, scheduler: Scheduler, values: Values, changes: Changes
    ) -> None:
        self._changes = changes
        self._store = store
        self._journal = journal
        self._scheduler = scheduler
        self._values = values
        self._rebuilt: OrderedDict[tuple[str, int], Run] = OrderedDict()
        self._rebuilt_tasks = 0

    async def run(
        self,
        namespace: str,
        workflow_id: str,
        run_id: str = "",
        *,
        wait_s: float = 0,
        wait_for: Collection[RunStatus] = _FINAL,
    ) -> RunView:
        """A run with its tasks counted, after waiting for so long for one of these states."""
        row = await self.row(namespace, workflow_id, run_id)
        if wait_s and row.status not in wait_for:
            async with aclosing(self._changes.stirs(row.run_id, wait_s)) as stirs:
                async for _ in stirs:
                    row = await self.row(namespace, workflow_id, row.run_id)
                    if row.status in wait_for:
                        break
        if (live := await self._durable(row)) is not None:
            return live.view()
        try:
            return RunView(row, count_tasks((await self._rebuild(row)).graph))
        except CorruptData:
            if row.status.is_final:  # perhaps because of that: its state can be told, but not its tasks
                return RunView(row)
            raise

    async def row(self, namespace: str, workflow_id: str, run_id: str = "") -> RunRow:
        """The current run of a workflow id, or a certain one."""
        row: RunRow | None
        if not self._journal.is_sure:  # memory may be behind the store
            await self._journal.assure()
        if run_id:
            live = self._scheduler.find_live(run_id)
            row = live.row if live is not None else await self._store.get_run(run_id)
            if row is not None and (row.namespace, row.workflow_id) != (namespace, workflow_id):
                row = None
        else:
            row = self._scheduler.find_row(namespace, workflow_id)
            if row is None:
                row = await self._store.find_run(namespace, workflow_id)
        if row is None:
            raise errors.WorkflowNotFoundError(
                f"there is no workflow {workflow_id!r}", namespace=namespace, workflow_id=workflow_id
            )
        return row

    async def rows(self, run_ids: Collection[str]) -> dict[str, RunRow]:
        """Those of these runs that there are, by their ids."""
        if not self._journal.is_sure:
            await self._journal.assure()
        found: dict[str, RunRow] = {}
        away: list[str] = []
        for run_id in run_ids:
            live = self._scheduler.find_live(run_id)
            if live is not None:
                found[run_id] = live.row
            else:
                away.append(run_id)
        if away:
            found.update((row.run_id, row) for row in await self._store.get_runs(away))
        return found

    async def rows_by_now(self, run_ids: Collection[str]) -> dict[str, RunRow]:
        """As `rows`, with all that others can have seen of them: an end may be stored before it is known here."""
        if self._store.is_shared and any(map(self.is_live, run_ids)):
            await self._is_settled()  # without room nothing was stored that is not known
        return await self.rows(run_ids)

    def is_live(self, run_id: str) -> bool:
        """Whether the run is in memory, so that its end will be told."""
        return self._scheduler.find_live(run_id) is not None

    async def list_runs(self, query: RunQuery) -> list[RunView]:
        return [RunView(row) for row in await self._store.list_runs(query)]

    async def tasks(self, namespace: str, workflow_id: str, run_id: str = "") -> list[TaskView]:
        """The tasks of a run, in the order in which they became known."""
        row = await self.row(namespace, workflow_id, run_id)
        live = await self._durable(row)
        run = live.run if live is not None else await self._rebuild(row)
        return [view_task(task) for task in run.graph]

    async def outcome(
        self, namespace: str, workflow_id: str, *, task_id: str = "", run_id: str = "", wait_s: float = 0
    ) -> OutcomeView:
        """What a run or one of its tasks came to, after waiting for it for so long.

        A task that does not exist is "not yet" while the run may still make it, and
        TaskNotFoundError afterwards.
        """
        row = await self.row(namespace, workflow_id, run_id)
        if not task_id:
            return await self.outcome_of(await self.ended(row, wait_s))
        async with aclosing(self._changes.stirs(row.run_id, wait_s)) as stirs:
            async for _ in stirs:
                row = await self.row(namespace, workflow_id, row.run_id)
                value = await self._task_value(row, task_id)
                if value is not None:
                    return OutcomeView(row.run_id, row.status, value)
        return OutcomeView(row.run_id, row.status, None)

    async def ended(self, row: RunRow, wait_s: float) -> RunRow:
        """The row of a run as it is after waiting for its end for so long."""
        deadline = asyncio.get_running_loop().time() + wait_s
        with self._changes.gather((row.run_id,)) as told:
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
        if self._store.is_shared and not row.status.is_final:
            row = (await self.rows_by_now((row.run_id,))).get(row.run_id, row)
        return row

    async def outcome_of(self, row: RunRow) -> OutcomeView:
        """What a run came to, as its row says."""
        return OutcomeView(row.run_id, row.status, await self._run_value(row))

    async def _run_value(self, row: RunRow) -> Payload | Failure | None:
        if row.status is RunStatus.SUCCESSFUL:
            return await self._read(row.run_id, row.output_task, row.output_wraps)
        if row.failure is not None:
            return wire.decode_failure(row.failure)
        return None

    async def _task_value(self, row: RunRow, task_id: str) -> Payload | Failure | None:
        live = await self._durable(row)
        run = live.run if live is not None else await self._rebuild(row)
        task = run.graph.tasks.get(task_id)
        if task is not None and task.done:
            return await self._read(row.run_id, task.source, task.wraps)
        if task is not None and task.status is TaskStatus.FAILED and task.failure is not None:
            return task.failure
        if not row.status.is_final:
            return None
        if task is not None and row.failure is not None:
            return wire.decode_failure(row.failure)
        if task is not None and task.is_volatile:
            raise _not_stored(task_id)
        raise errors.TaskNotFoundError(
            f"workflow {row.workflow_id!r} ended without a task {task_id!r}",
            workflow_id=row.workflow_id,
            task_id=task_id,
        )

    async def _read(self, run_id: str, task_id: str, wraps: int) -> Payload:
        payload = await self._values.find(ValueKey(run_id, task_id=task_id))
        if payload is None:
            raise _not_stored(task_id)
        return wire.outcome_payload(payload, wraps) if wraps else payload

    async def _durable(self, row: RunRow) -> Live | None:
        """The run in memory, once all it holds is durable; None if that cannot be: what is stored stays readable."""
        live = self._scheduler.find_live(row.run_id)
        return live if live is not None and await self._is_settled() else None

    async def _is_settled(self) -> bool:
        """Wait until all that memory holds is durable. False: there is no room for it."""
        try:
            await self._journal.barrier()
        except StorageFull:
            return False
        return True

    async def _rebuild(self, row: RunRow) -> Run:
        """A run that is not in memory, from its records."""
        key = (row.run_id, row.change)
        if (run := self._rebuilt.get(key)) is not None:
            return run
        stored = await self._store.load_run(row.run_id)
        if stored is None:
            raise errors.WorkflowNotFoundError(
                f"there is no workflow {row.workflow_id!r}", namespace=row.namespace, workflow_id=row.workflow_id
            )
        run = await restore_run(stored, self._scheduler.specs)
        if row.status.is_final:
            self._keep(key, run)
        return run

    def _keep(self, key: tuple[str, int], run: Run) -> None:
        self._rebuilt[key] = run
        self._rebuilt_tasks += len(run.graph.tasks)
        while self._rebuilt_tasks > FINAL_TASKS_MAX and len(self._rebuilt) > 1:
            _, oldest = self._rebuilt.popitem(last=False)
            self._rebuilt_tasks -= len(oldest.graph.tasks)


def _has_outcome(row: RunRow) -> bool:
    return row.status is RunStatus.SUCCESSFUL or row.failure is not None


def _not_stored(task_id: str) -> errors.OutputNotStoredError:
    return errors.OutputNotStoredError(
        f"the output of task {task_id!r} was not to be stored (checkpoint=False)", task_id=task_id
    )
