"""Loads runs into memory, each with its next step: at the start of the engine, for an event, or because the run was
made RUNNING in the store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, TypeVar

from perdure.engine.machine import Before, TaskState
from perdure.model import RunStatus, frozen
from perdure.service.common.answer import Answer
from perdure.service.common.aside import aside, is_large
from perdure.service.journal.loops import until_answered
from perdure.service.machines.definitions import Definitions
from perdure.service.runs.changes import Changes
from perdure.service.runs.holding import Holding
from perdure.service.runs.live import Live, Plan, Step, sort_out
from perdure.service.runs.memory import Memory
from perdure.service.runs.ownership import Ownership
from perdure.service.runs.publishing import Publishing, copies_of
from perdure.service.runs.recording import Recorder
from perdure.service.runs.restore import corrupt_data, restore_run
from perdure.service.runs.views import TaskView
from perdure.storage.ports import CorruptData, RecoveryStore, RunStore, StorageError
from perdure.storage.rows import RunRow
from perdure.storage.writes import SetRun

log = logging.getLogger(__name__)

PAGE: Final = 500

T = TypeVar("T")


class LoadingStore(RecoveryStore, RunStore, Protocol):
    """The part of the store that runs are loaded from."""


class Loading:
    """Finds runs in memory or loads them."""

    def __init__(
        self,
        store: LoadingStore,
        definitions: Definitions,
        changes: Changes,
        memory: Memory,
        holding: Holding,
        publishing: Publishing,
        recorder: Recorder,
        ownership: Ownership,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._definitions = definitions
        self._changes = changes
        self._memory = memory
        self._holding = holding
        self._publishing = publishing
        self._recorder = recorder
        self._ownership = ownership
        self._clock = clock
        self._loading: dict[str, list[Callable[[Live | None], None]]] = {}
        self._outdated: set[str] = set()  # loading runs whose read may be too old
        self._before: dict[str, Before] = {}  # loading runs, with their begun attempts if known

    @property
    def is_idle(self) -> bool:
        """Whether no run is being loaded."""
        return not self._loading

    async def recover(self) -> int:
        """Load every active run. Returns their number. Dormant runs wake by themselves."""
        count, after = 0, ""
        while True:
            read = partial(self._store.unfinished_runs, after=after, limit=PAGE)
            page = await until_answered(read, trouble="unfinished runs not read")
            if not page:
                return count
            for row in page:
                if row.damage:
                    self.fail_corrupt(row)
                    continue
                await self.when_live(row.run_id, lambda _live: None)
            count += len(page)
            after = page[-1].run_id

    def take_up(self, run_id: str, *, before: Before | None = None) -> None:
        """Load a run that was made RUNNING in the store, and go on with it. `before` says which attempts may have
        begun; None: as its row says."""
        if before is not None:
            self._before[run_id] = before
        self.outdate(run_id)
        self.with_live(run_id, lambda _live: None)

    def outdate(self, run_id: str) -> bool:
        """The run was changed in the store: if it is being loaded, it is read again. Returns whether it is."""
        is_loading = run_id in self._loading
        if is_loading:
            self._outdated.add(run_id)
        return is_loading

    async def when_live(self, run_id: str, then: Callable[[Live | None], T]) -> T:
        """Load the run, call `then` with it (None: there is no such active run), and return its result."""
        answer: Answer[T] = Answer()

        def call(live: Live | None) -> None:
            if answer.future.done():
                return
            try:
                answer.give(then(live))
            except Exception as error:
                answer.fail(error)

        self.with_live(run_id, call)
        return await answer.future

    def with_live(self, run_id: str, then: Callable[[Live | None], None]) -> None:
        """Call `then` with the run: at once if it is in memory, otherwise once it is loaded, in the order of the
        calls. For a held run, once it is released."""
        if (live := self._memory.find(run_id)) is not None:
            if live.held is not None:
                live.held.append(lambda: self.with_live(run_id, then))
            else:
                then(live)
        elif (waiting := self._loading.get(run_id)) is not None:
            waiting.append(then)
        else:
            self._loading[run_id] = [then]
            self._holding.spawn(self._load(run_id))

    async def _load(self, run_id: str) -> None:
        loaded: _Loaded | None = None
        while True:
            self._outdated.discard(run_id)
            try:
                read = partial(self._read, run_id)
                loaded = await until_answered(read, trouble="run not loaded", run_id=run_id)
                if run_id not in self._outdated:
                    break
            except CorruptData as error:
                self._fail_corrupt(run_id, await self._damaged(run_id), f"{error} ({error.subject})")
                loaded = None
                break
            except Exception:
                log.exception("run cannot be loaded", extra={"run_id": run_id})
                loaded = None
                break
        waiting = self._loading.pop(run_id)
        live: Live | None = None
        if loaded is not None:
            live = loaded.live
            self._memory.begun.drop(run_id)
            self._memory.admit(live)
            if self._changes.may_miss(live.row.change):
                self._publishing.tell_row(live.row, live.row.change)
            self._publishing.add_copies(loaded.plan.acts, loaded.copies)
            if not loaded.plan.is_empty:
                self._recorder.follow(live, loaded.plan)
        self._before.pop(run_id, None)
        for then in waiting:
            if live is not None and live.held is not None:
                live.held.append(partial(self.with_live, run_id, then))
            else:
                then(live)
        if live is not None:
            self._memory.evict_if_idle(live)

    async def _read(self, run_id: str) -> _Loaded | None:
        """Load a run that this engine owns, and take its next step. The run is not yet visible to other code."""
        stored = await self._store.load_run(run_id)
        if stored is None or (stored.run.status is not RunStatus.RUNNING and not stored.run.damage):
            return None
        if not self._ownership.is_ours(stored.run):
            return None
        run = await restore_run(stored, self._definitions)
        run.number_from(self._memory.begun.get(run_id) or {})
        live = Live(stored.run, run, change=stored.change)
        before = self._before.get(run_id, "told" if stored.run.is_dormant else "unknown")
        at_ms = self._clock()
        is_long = is_large(run.size)

        def recover() -> tuple[Plan, list[TaskState]]:
            step = Step(run.recover(at_ms, before))
            changed = run.pop_changed()
            known = {task.id for task in changed}
            missed = [task.task_id for task in stored.tasks if self._changes.may_miss(task.change)]
            earlier = [run.find_task(task_id) for task_id in missed if task_id not in known]
            changed = [*(task for task in earlier if task is not None), *changed]
            return (sort_out(live, step) if step.commands or changed else Plan()), changed

        try:
            plan, changed = await aside(recover) if is_long else recover()
        except Exception as error:  # as in `restore_run`
            log.exception("run cannot go on", extra={"run_id": run_id})
            message = f"run {run_id} cannot go on from its records ({type(error).__name__}: {error})"
            raise CorruptData(message, subject=run_id) from error
        copies: list[TaskView] | None = []
        if changed and self._changes.wants_tasks(run_id):
            copies = await aside(partial(copies_of, changed)) if is_long else copies_of(changed)
        return _Loaded(live, plan, copies)

    async def _damaged(self, run_id: str) -> RunRow | None:
        """The row of a run whose records are damaged, if it can be read."""
        try:
            return await self._store.get_run(run_id)
        except StorageError as error:
            log.warning("row not read", extra={"run_id": run_id, "error": str(error)})
            return None

    def fail_corrupt(self, row: RunRow) -> None:
        """Fail a run whose row is damaged in the store as well, if the store finds the row."""
        self._fail_corrupt(row.run_id, row, row.damage)

    def _fail_corrupt(self, run_id: str, row: RunRow | None, damage: str) -> None:
        """Fail a run whose records are damaged. Other runs are not affected."""
        log.error("run failed: its stored data is damaged", extra={"run_id": run_id, "error": damage})

        def ended(end: SetRun, change: int) -> None:
            if row is not None:
                self._publishing.tell(end.applied_to(row, change), change)
            else:
                self._changes.stir(run_id)

        self._recorder.fail(run_id, corrupt_data(damage), ended)


@frozen
class _Loaded:
    """A rebuilt run, the plan that follows, and copies of the tasks whose state changed in the rebuild (None: they are
    too many)."""

    live: Live
    plan: Plan
    copies: list[TaskView] | None
