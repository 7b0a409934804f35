"""Applies events to the runs in memory.

Rule: write, then act. The records of an event become one journal entry (`recording`). Only when that entry is durable
are attempts dispatched, timers set, and subscribers told. So `Live.row` is the durable state of a run, and `Live.run`
may be ahead of it by the entries that the journal still holds; `moments` reads both.

A cancellation is made durable before it is applied. Until it is committed or refused the run is *held*: all other
events for it wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from perdure.engine.machine import Before, Machine
from perdure.engine.messages import (
    AttemptLost,
    AttemptStarted,
    CancelRequested,
    Command,
    Event,
    TaskContinued,
    TaskSucceeded,
    TimerFired,
)
from perdure.service.common.answer import Answer
from perdure.service.common.aside import aside, is_large, is_large_spec
from perdure.service.executors.port import ContinuationReturned, Executor, Reports
from perdure.service.journal.journal import Journal
from perdure.service.machines.definitions import Definitions
from perdure.service.machines.kinds import Returned
from perdure.service.runs.acting import Acting
from perdure.service.runs.changes import Changes
from perdure.service.runs.expiring import Expiring, Remove
from perdure.service.runs.holding import Holding
from perdure.service.runs.live import Acts, Begun, Live, Plan, Step, sort_out
from perdure.service.runs.loading import Loading, LoadingStore
from perdure.service.runs.memory import Memory
from perdure.service.runs.ownership import Ownership
from perdure.service.runs.publishing import Publishing, copies_of
from perdure.service.runs.recording import Recorder
from perdure.service.runs.timers import Timers
from perdure.service.runs.values import Values
from perdure.service.runs.views import RunView, TaskView
from perdure.storage.ports import TimerStore
from perdure.storage.rows import RunRow, Timer
from perdure.storage.writes import MarkBlobs, Write

T = TypeVar("T")


class SchedulerStore(LoadingStore, TimerStore, Protocol):
    """The part of the store that the scheduler uses."""


class Scheduler:
    """Applies all events of runs, one at a time. It is the front of this room: the others use it, and the runs in
    `memory`."""

    def __init__(
        self,
        store: SchedulerStore,
        definitions: Definitions,
        journal: Journal,
        executor: Executor,
        values: Values,
        changes: Changes,
        clock: Callable[[], int],
        ownership: Ownership,
        *,
        on_end: Callable[[str], None],
        on_forget: Callable[[], None],
        remove: Remove,
    ) -> None:
        """`on_end` is called with a run that has ended, `on_forget` when the records of tasks were removed. `remove`
        deletes a run in the store."""
        self._ownership = ownership
        self._journal = journal
        self._executor = executor
        self._values = values
        self._changes = changes
        self.clock = clock
        self.definitions = definitions
        self.timers = Timers(store, clock, self._timer_due)
        self.memory = memory = Memory(values, clock)
        self.publishing = publishing = Publishing(changes, clock)
        self._holding = holding = Holding(memory)
        expiring = Expiring(memory, holding, values, self.timers, clock, remove, on_end)
        self._acting = acting = Acting(executor, values, self.timers, expiring.expire)
        self._recorder = recorder = Recorder(
            journal, values, changes, acting, memory, holding, publishing, clock, on_end, on_forget
        )
        self._loading = Loading(store, definitions, changes, memory, holding, publishing, recorder, ownership, clock)

    # -------------------------------------------------------------------------- lifetime

    async def start(self) -> None:
        """Begin to take reports and timers. Recovery is a separate step."""
        await self._executor.start(self.report, self._values, self._ownership.holds_for_s)
        await self.timers.start()

    async def stop(self) -> None:
        """Stop. Running attempts are ended; they run again after a restart."""
        self._acting.stop()
        await self.timers.stop()
        await self._holding.stop()
        await self._executor.stop()

    @property
    def is_idle(self) -> bool:
        """Whether no run is being loaded or worked on, and all acts have been carried out."""
        return self._holding.is_idle and self._loading.is_idle and self._acting.is_idle

    # -------------------------------------------------------------------------- loading

    async def recover(self) -> int:
        """Load every active run. Returns their number. Dormant runs wake by themselves."""
        return await self._loading.recover()

    def take_up(self, run_id: str, *, before: Before | None = None) -> None:
        """Load a run that was made RUNNING in the store, and go on with it. `before` says which attempts may have
        begun; None: as its row says."""
        self._loading.take_up(run_id, before=before)

    async def when_live(self, run_id: str, then: Callable[[Live | None], T]) -> T:
        """Load the run, call `then` with it (None: there is no such active run), and return its result."""
        return await self._loading.when_live(run_id, then)

    def fail_corrupt(self, row: RunRow) -> None:
        """Fail a run whose row is damaged in the store as well, if the store finds the row."""
        self._loading.fail_corrupt(row)

    def tell_later(self, live: Live, stored: Machine) -> None:
        """Publish the tasks whose state in memory differs from the `stored` run, which subscribers have seen. This
        happens once the state in memory is durable."""
        self._recorder.tell_later(live, stored)

    # -------------------------------------------------------------------------- what happens

    def report(self, reports: Reports) -> None:
        """Take reports of the executor, with one journal entry per run. Reports about runs that are not in memory are
        late. The beginning of a brief attempt often comes together with its end, which says it too. Then it is left
        out, unless somebody watches."""
        gathered: dict[Live, Step] = {}
        ended = _ended(reports) if len(reports) > 1 else ()
        for run_id, report in reports:
            if (
                isinstance(report, AttemptStarted)
                and (run_id, report.task_id, report.attempt) in ended
                and not self._changes.wants_tasks(run_id)
            ):
                continue
            live = self.memory.find(run_id)
            if live is None:
                self._came_too_late(report)
            elif live.held is not None:
                live.held.append(partial(self.report, [(run_id, report)]))
            elif isinstance(report, ContinuationReturned) or self._is_long(live, report):
                if (before := gathered.pop(live, None)) is not None:
                    self._recorder.record(live, before)
                if isinstance(report, ContinuationReturned):
                    self._continuation_returned(live, report)
                else:
                    self.apply(live, report)
            else:
                self._apply_here(live, report, gathered.setdefault(live, Step([], [])))
        for live, step in gathered.items():
            self._recorder.record(live, step)

    def deliver(self, run_id: str, event: Event, note: Write | None = None) -> None:
        """Apply an event that is durable already, with `note` if that made the run active in the same commit. Loads the
        run if it is not in memory."""

        def then(live: Live | None) -> None:
            if live is not None:
                if note is not None and live.roused_by is note and live.held is None:  # it is as the event left it
                    live.dormant, live.roused_by = False, None
                self.apply(live, event)

        self._loading.with_live(run_id, then)

    def roused(self, run_id: str, note: Write) -> None:
        """An event on its way to the store makes the run active there by this write, unless the store refuses it. The
        next change of the run writes the dormancy again, unless the event is delivered before."""
        live = self.memory.find(run_id)
        if live is not None and live.at_rest is not None:  # the thread will set `dormant`
            assert live.held is not None
            live.held.append(partial(self.roused, run_id, note))
        elif live is not None:
            live.dormant = None
            live.roused_by = note if live.held is None else None

    async def bring(self, run_id: str, event: Event) -> None:
        """Apply an event that is durable already; returns once it is applied."""
        await self._loading.when_live(run_id, lambda live: None if live is None else self.apply(live, event))

    async def cancel(self, run_id: str, reason: str) -> RunView | None:
        """Cancel an active run; returns once that is durable. None: there is no such run.

        Raises StorageError while the store fails. Then either nothing was changed, or the commit is still undecided,
        and the run is held until it is decided.
        """

        def then(live: Live | None) -> asyncio.Future[RunView] | None:
            return self._cancel(live, CancelRequested(reason, self.clock())) if live is not None else None

        canceled = await self._loading.when_live(run_id, then)
        return await canceled if canceled is not None else None

    def _cancel(self, live: Live, event: CancelRequested) -> asyncio.Future[RunView]:
        """Record the end of a run, and apply it to memory when that is durable."""
        reach = live.run.reach(event)
        live.held = deque()
        live.pending += 1
        canceled: Answer[RunView] = Answer()

        def decide() -> Plan:
            commands = live.run.cancellation(event) if not live.is_refused else []  # a refused run fails anyway
            return sort_out(live, Step(commands), is_dormant=False)

        def decided(plan: Plan) -> None:
            if live.is_refused:
                plan = Plan()
            self._recorder.write_early(
                live, plan.early, lambda: self._journal_cancel(live, plan, ended, canceled.fail), canceled.fail
            )

        def ended(acts: Acts, change: int) -> None:
            self._changes.expect_late(change)  # a thread works on a large run first
            if acts.end is None:  # it fails, which the journal has after this entry, or has ended in memory already
                self._journal.append((), lambda _result, _change: told(acts, change))
                return

            def lost(error: Exception) -> None:
                self._recorder.ended_in_store(live, acts, change, error)
                answer(RunView(live.row), change)

            is_watched = self._changes.wants_tasks(live.row.run_id)

            def end() -> list[TaskView] | None:
                live.run.apply(event)
                changed = live.run.pop_changed()
                return copies_of(changed) if is_watched else []

            def applied(copies: list[TaskView] | None) -> None:
                self.publishing.add_copies(acts, copies)
                told(acts, change)

            self._holding.do(live, reach, end, applied, lost)

        def told(acts: Acts, change: int) -> None:
            self._recorder.act(live, acts, change)
            answer(live.view() if not live.is_refused else RunView(live.row), change)

        def answer(view: RunView, change: int) -> None:
            self._changes.published_late(change)
            self._holding.release(live)
            canceled.give(view)

        def undecided(error: Exception) -> None:  # nothing was changed: the run goes on
            self._end_cancel(live)
            canceled.fail(error)

        self._holding.do(live, reach, decide, decided, undecided)
        return canceled.future

    def _end_cancel(self, live: Live) -> None:
        """A cancellation did not happen."""
        live.pending -= 1
        live.dormant, live.roused_by = None, None  # its new value was not written
        self._holding.release(live)
        self.memory.evict_if_idle(live)

    def _journal_cancel(
        self, live: Live, plan: Plan, ended: Callable[[Acts, int], None], trouble: Callable[[Exception], None]
    ) -> None:
        self._journal.append(
            tuple(plan.writes),
            lambda _result, change: ended(plan.acts, change),
            trouble=trouble,
            droppable=True,
            dropped=partial(self._end_cancel, live),
            of=live.row.run_id,
        )

    def _timer_due(self, timer: Timer) -> None:
        loading = self._executor.loading(timer.run_id, timer.task_id, timer.attempt)
        self.deliver(timer.run_id, TimerFired(timer.task_id, timer.attempt, self.clock(), loading))

    def _continuation_returned(self, live: Live, report: ContinuationReturned) -> None:
        run_id = live.row.run_id
        read = partial(self.definitions.kinds.of(live.row).read_returned, run_id, report)
        if not is_large_spec(report.continuation):
            try:
                self._apply_returned(live, read())
            except Exception as error:
                self._recorder.failed(live, error)
            return

        async def read_aside() -> None:
            try:
                returned = await aside(read)
            except Exception as error:
                failed = partial(self._recorder.failed, error=error)
                self._with_here(run_id, failed)
                return
            # The run may have changed or left memory since.
            self._with_here(run_id, lambda live: self._apply_returned(live, returned))

        self._holding.spawn(read_aside())

    def _apply_returned(self, live: Live, returned: Returned) -> None:
        event, writes = returned(live.run)
        self.apply(live, event, *writes)

    def _with_here(self, run_id: str, then: Callable[[Live], None]) -> None:
        """Call `then` with the run if it is in memory: now, or once it is no longer held."""
        live = self.memory.find(run_id)
        if live is not None and live.held is not None:
            live.held.append(partial(self._with_here, run_id, then))
        elif live is not None:
            then(live)

    def _came_too_late(self, event: Event | ContinuationReturned) -> None:
        """Mark the blobs of a late report, so that they are removed unless a run uses them."""
        if isinstance(event, TaskSucceeded) and (blobs := event.output.blobs()):
            marked = MarkBlobs(tuple(blob.sha256 for blob in blobs))
            self._journal.append((marked,), lambda _result, _change: None, droppable=True)

    # -------------------------------------------------------------------------- reading

    def read(self, live: Live, read: Callable[[Machine], T]) -> asyncio.Future[T]:
        """Read all tasks of a run that is not held, in a thread if they are many. Meanwhile the run is held."""
        answer: Answer[T] = Answer()
        live.held = deque()

        def done(result: T) -> None:
            answer.give(result)
            go_on()

        def failed(error: Exception) -> None:
            answer.fail(error)
            go_on()

        def go_on() -> None:
            self._holding.release(live)
            self.memory.evict_if_idle(live)

        self._holding.do(live, live.run.size, lambda: read(live.run), done, failed)
        return answer.future

    # -------------------------------------------------------------------------- applying

    def begin(self, begun: Begun, change: int) -> Live:
        """Take a new run into memory: its first entry is durable."""
        live = begun.live
        live.row = live.row.but(change=change)
        live.change = change
        if self.memory.find(live.row.run_id) is not None or self._loading.outdate(live.row.run_id):
            # An earlier try of this commit had succeeded without an answer, and the run was loaded since.
            return live
        self.memory.admit(live)
        self.publishing.tell(live.row, change)
        self._recorder.act(live, begun.plan.acts, change)
        return live

    def apply(self, live: Live, event: Event, *also: Write) -> None:
        """Apply an event to a run in memory."""
        if live.held is not None:
            live.held.append(lambda: self.apply(live, event, *also))
        elif self._is_long(live, event):
            self._apply_aside(live, event, also)
        else:
            step = Step([], [])
            self._apply_here(live, event, step)
            self._recorder.record(live, step, *also)

    def _is_long(self, live: Live, event: Event) -> bool:
        """Whether the event is to be applied in a thread."""
        if isinstance(event, TaskContinued) or is_large(live.run.size):
            return is_large(live.run.reach(event))
        return False

    def _apply_here(self, live: Live, event: Event, step: Step) -> None:
        commands: list[Command] = []
        if not live.is_refused:
            try:
                commands = live.run.apply(event)
                self.publishing.copy_changed(live, step.views)
            except Exception as error:
                self._recorder.record(live, step)  # what came before
                step.commands, step.views = [], []
                self._recorder.failed(live, error)
        step.commands += commands
        if not commands and isinstance(event, TaskSucceeded):
            self._came_too_late(event)

    def _apply_aside(self, live: Live, event: Event, also: tuple[Write, ...]) -> None:
        live.held = deque()
        is_watched = self._changes.wants_tasks(live.row.run_id)

        def work() -> tuple[Plan, list[TaskView] | None]:
            if live.is_refused:
                return Plan(), []
            step = Step(live.run.apply(event))
            changed = live.run.pop_changed()
            return sort_out(live, step), copies_of(changed) if is_watched else []

        def then(worked: tuple[Plan, list[TaskView] | None]) -> None:
            plan, copies = worked
            self.publishing.add_copies(plan.acts, copies)
            if plan.is_empty and isinstance(event, TaskSucceeded):
                self._came_too_late(event)
            self._recorder.follow(live, plan, also)

        def failed(error: Exception) -> None:
            if isinstance(event, TaskSucceeded):
                self._came_too_late(event)
            self._recorder.failed(live, error)
            self._holding.release(live)

        self._holding.do(live, live.run.reach(event), work, then, failed)


def _ended(reports: Reports) -> set[tuple[str, str, int]]:
    """The attempts whose ends say when they began."""
    return {
        (run_id, report.task_id, report.attempt)
        for run_id, report in reports
        if not isinstance(report, AttemptStarted | AttemptLost) and report.started_ms is not None
    }
