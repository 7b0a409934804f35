"""The runs in memory: applies events to them and carries out their commands.

Rule: write, then act. The records of an event become one journal entry. Only when that entry is durable are attempts
dispatched, timers set, and subscribers told. So `Live.row` is the durable state of a run, and `Live.run` may be ahead
of it by the entries that the journal still holds; `moments` reads both.

A cancellation is made durable before it is applied. Until it is committed or refused the run is *held*: all other
events for it wait.

A run that only time or an event moves on leaves memory, and is loaded again for its next event.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from perdure import graphwire, texts, wire
from perdure.bounded import Bounded
from perdure.engine.failures import record_refused
from perdure.engine.graph_run.run import Before, Run
from perdure.engine.graph_run.state import Task, tasks_named
from perdure.engine.messages import CancelRequested, Event, TaskContinued, TaskFailed, TaskSucceeded, TimerFired
from perdure.model import Failure, FailureKind, InvalidSpec, RunStatus, Spec, frozen
from perdure.service.common.aside import aside, is_large, is_large_spec
from perdure.service.common.uses import use
from perdure.service.executors.port import Executor, GraphReturned, Reports
from perdure.service.journal.journal import Journal
from perdure.service.runs.acting import Acting
from perdure.service.runs.changes import Change, Changes
from perdure.service.runs.live import Acts, Begun, Live, Plan, Step, sort_out
from perdure.service.runs.ownership import Ownership
from perdure.service.runs.restore import Specs, corrupt_data, restore_run
from perdure.service.runs.runlog import log_end, log_task
from perdure.service.runs.timers import Timers
from perdure.service.runs.values import Values
from perdure.service.runs.views import RunView, TaskView, view_task
from perdure.storage.ports import CorruptData, RecoveryStore, RunStore, SpecStore, StorageError, TimerStore
from perdure.storage.rows import EntryResult, MarkBlobs, PutSpec, RunRow, SetRun, Timer, ValueKey, Write

log = logging.getLogger(__name__)

STAY_MS: Final = 30_000
"""A dormant run that wakes within this time stays in memory."""
PAGE: Final = 500
LOAD_RETRY_S: Final = 1.0
EARLY_AT_ONCE = 1_000
"""Early writes of a run per journal entry. Entries of other runs come between."""
HELD_AT_ONCE = 50
"""Held calls of a run that are made in one turn of the loop."""
REFUSED_MAX: Final = 1_000
"""Runs whose records the store rejected, and whose attempt numbers are remembered."""

T = TypeVar("T")


class SchedulerStore(RecoveryStore, RunStore, SpecStore, TimerStore, Protocol):
    """The part of the store that the scheduler uses."""


class Scheduler:
    """Applies all events of runs, one at a time."""

    def __init__(
        self,
        store: SchedulerStore,
        journal: Journal,
        executor: Executor,
        values: Values,
        changes: Changes,
        clock: Callable[[], int],
        ownership: Ownership,
        *,
        on_end: Callable[[str], None],
    ) -> None:
        self._ownership = ownership
        self._on_end = on_end
        self._store = store
        self._journal = journal
        self._executor = executor
        self._values = values
        self._changes = changes
        self.clock = clock
        self.specs = Specs(store)
        self.timers = Timers(store, clock, self._timer_due)
        self._acting = Acting(executor, values, self.timers)
        self._live: dict[str, Live] = {}
        self._current: dict[tuple[str, str], Live] = {}  # the same by namespace and workflow id
        self._loading: dict[str, list[Callable[[Live | None], None]]] = {}
        self.moment = 0  # counts the changes that were noted for subscribers
        self._outdated: set[str] = set()  # loading runs whose read may be too old
        # Attempts that may have begun and were never recorded, by run.
        self._begun: Bounded[str, dict[str, int]] = Bounded(REFUSED_MAX)
        self._before: dict[str, Before] = {}  # the same runs, with their begun attempts if known
        self._tasks: set[asyncio.Task[None]] = set()
        self._releasing: set[Live] = set()

    # -------------------------------------------------------------------------- lifetime

    async def start(self) -> None:
        """Begin to take reports and timers. Recovery is a separate step."""
        await self._executor.start(self.report, self._values, self._ownership.holds_for_s)
        await self.timers.start()

    async def stop(self) -> None:
        """Stop. Running attempts are ended; they run again after a restart."""
        self._acting.stop()
        await self.timers.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._executor.stop()

    async def recover(self) -> int:
        """Load every active run. Returns their number. Dormant runs wake by themselves."""
        count, after = 0, ""
        while True:
            try:
                page = await self._store.unfinished_runs(after=after, limit=PAGE)
            except CorruptData:
                raise  # the database as a whole is damaged: trying again does not help
            except StorageError as error:
                log.warning("unfinished runs not read, trying again", extra={"error": str(error)})
                await asyncio.sleep(LOAD_RETRY_S)
                continue
            if not page:
                return count
            for row in page:
                if row.damage:
                    self.fail_corrupt(row)
                    continue
                await self.when_live(row.run_id, lambda _live: None)
            count += len(page)
            after = page[-1].run_id

    # -------------------------------------------------------------------------- what happens

    def report(self, reports: Reports) -> None:
        """Take reports of the executor, with one journal entry per run. Reports about runs that are not in memory are
        late."""
        gathered: dict[Live, Step] = {}
        for run_id, report in reports:
            live = self._live.get(run_id)
            if live is None:
                self._came_too_late(report)
            elif live.held is not None:
                live.held.append(partial(self.report, [(run_id, report)]))
            elif isinstance(report, GraphReturned) or self._is_long(live, report):
                if (before := gathered.pop(live, None)) is not None:
                    self._carry_out(live, before)
                if isinstance(report, GraphReturned):
                    self._graph_returned(live, report)
                else:
                    self.take(live, report)
            else:
                self._apply(live, report, gathered.setdefault(live, Step()))
        for live, step in gathered.items():
            self._carry_out(live, step)

    def deliver(self, run_id: str, event: Event) -> None:
        """Apply an event that is durable already. Loads the run if it is not in memory."""

        def then(live: Live | None) -> None:
            if live is not None:
                self.take(live, event)

        self._with_live(run_id, then)

    def roused(self, run_id: str) -> None:
        """Another part of the engine wrote the run's dormancy, or tried to. The next change of the run writes it
        again."""
        live = self._live.get(run_id)
        if live is not None and live.at_rest is not None:  # the thread will set `dormant`
            assert live.held is not None
            live.held.append(partial(self.roused, run_id))
        elif live is not None:
            live.dormant = None

    async def bring(self, run_id: str, event: Event) -> None:
        """Apply an event that is durable already; returns once it is applied."""
        await self.when_live(run_id, lambda live: None if live is None else self.take(live, event))

    async def cancel(self, run_id: str, reason: str) -> RunView | None:
        """Cancel an active run; returns once that is durable. None: there is no such run.

        Raises StorageError while the store fails. Then either nothing was changed, or the commit is still undecided,
        and the run is held until it is decided.
        """

        def then(live: Live | None) -> asyncio.Future[RunView] | None:
            return self._cancel(live, CancelRequested(reason, self.clock())) if live is not None else None

        canceled = await self.when_live(run_id, then)
        return await canceled if canceled is not None else None

    def _cancel(self, live: Live, event: CancelRequested) -> asyncio.Future[RunView]:
        """Record the end of a run, and apply it to memory when that is durable."""
        live.held = deque()
        live.pending += 1
        reach = live.run.reach(event)
        canceled: asyncio.Future[RunView] = asyncio.get_running_loop().create_future()

        def decide() -> Plan:
            commands = live.run.cancellation(event) if not live.is_refused else []  # a refused run fails anyway
            return sort_out(live, Step(commands), is_dormant=False)

        def decided(plan: Plan) -> None:
            if live.is_refused:
                plan = Plan()
            self._write_early(live, plan.early, lambda: self._journal_cancel(live, plan, ended, trouble), trouble)

        def ended(acts: Acts, change: int) -> None:
            self._changes.expect_late(change)  # a thread works on a large run first
            self._do(live, reach, lambda: live.run.apply(event), lambda _commands: told(acts, change))

        def told(acts: Acts, change: int) -> None:
            self._note_changes(live, acts.views)
            self._act(live, acts, change)
            self._changes.published_late(change)
            self._release(live)
            if not canceled.done():
                canceled.set_result(live.view())

        def trouble(error: Exception) -> None:
            if not canceled.done():
                canceled.set_exception(error)

        self._do(live, reach, decide, decided)
        return canceled

    def _journal_cancel(
        self, live: Live, plan: Plan, ended: Callable[[Acts, int], None], trouble: Callable[[Exception], None]
    ) -> None:
        def dropped() -> None:
            live.pending -= 1
            live.dormant = None  # its new value was not written
            self._release(live)
            self._evict_if_idle(live)

        self._journal.append(
            tuple(plan.writes),
            lambda _result, change: ended(plan.acts, change),
            trouble=trouble,
            droppable=True,
            dropped=dropped,
            of=live.row.run_id,
        )

    def _release(self, live: Live) -> None:
        """Make the held calls now; many of them take several turns of the loop."""
        held, live.held = live.held or deque(), None
        for _ in range(HELD_AT_ONCE):
            if not held:
                return
            held.popleft()()
            if live.held is not None:  # the call holds the run again: the rest waits
                live.held.extend(held)
                return
        if held:
            live.held = held
            self._set_to_work(live)
            self._releasing.add(live)
            asyncio.get_running_loop().call_soon(self._go_on_releasing, live)

    def _go_on_releasing(self, live: Live) -> None:
        self._releasing.discard(live)
        self._come_to_rest(live)
        self._release(live)
        self._evict_if_idle(live)

    def _timer_due(self, timer: Timer) -> None:
        self.deliver(timer.run_id, TimerFired(timer.task_id, timer.attempt, self.clock()))

    def _graph_returned(self, live: Live, report: GraphReturned) -> None:
        run_id = live.row.run_id
        if not is_large_spec(report.spec):
            self._take_graph(live, report, _read_graph(run_id, report.spec))
            return

        async def read() -> None:
            graph = await aside(partial(_read_graph, run_id, report.spec))
            # The run may have changed or left memory since.
            self._with_here(run_id, lambda live: self._take_graph(live, report, graph))

        self._spawn(read())

    def _take_graph(self, live: Live, report: GraphReturned, graph: _Graph | InvalidSpec) -> None:
        if isinstance(graph, _Graph):
            try:
                live.run.graph.check_named(graph.named, live.run.graph.tasks.get(report.task_id))
            except InvalidSpec as error:
                graph = error
        times = report.at_ms, report.started_ms, report.ended_ms
        if isinstance(graph, InvalidSpec):
            failure = Failure(FailureKind.SERIALIZATION, "perdure.InvalidSpec", f"the task returned a graph: {graph}")
            self.take(live, TaskFailed(report.task_id, report.attempt, failure, *times))
            return
        event = TaskContinued(report.task_id, report.attempt, graph.spec, graph.key, *times)
        self.take(live, event, PutSpec(graph.key, report.spec), *graph.uses)

    def _with_here(self, run_id: str, then: Callable[[Live], None]) -> None:
        """Call `then` with the run if it is in memory: now, or once it is no longer held."""
        live = self._live.get(run_id)
        if live is not None and live.held is not None:
            live.held.append(partial(self._with_here, run_id, then))
        elif live is not None:
            then(live)

    def _came_too_late(self, event: Event | GraphReturned) -> None:
        """Mark the blobs of a late report, so that they are removed unless a run uses them."""
        if isinstance(event, TaskSucceeded) and (blobs := event.output.blobs()):
            marked = MarkBlobs(tuple(blob.sha256 for blob in blobs))
            self._journal.append((marked,), lambda _result, _change: None, droppable=True)

    # -------------------------------------------------------------------------- applying

    def begin(self, begun: Begun) -> Callable[[int], RunView]:
        """Take a new run into memory before it is stored. Returns the function to call once its commit is durable."""
        live = begun.live
        run_id = live.row.run_id
        live.pending = 1

        def then(change: int) -> RunView:
            live.row = live.row.but(change=change)
            live.change = change
            if run_id in self._live or run_id in self._loading:
                # An earlier try of this commit had succeeded without an answer, and the run was loaded since.
                self._outdated.add(run_id)
                return live.view()
            self._admit(live)
            self.tell(live.row, change)
            self._act(live, begun.plan.acts, change)
            return live.view()

        return then

    def take(self, live: Live, event: Event, *also: Write) -> None:
        """Apply an event to a run in memory."""
        if live.held is not None:
            live.held.append(lambda: self.take(live, event, *also))
        elif self._is_long(live, event):
            self._take_aside(live, event, also)
        else:
            step = Step()
            self._apply(live, event, step)
            self._carry_out(live, step, *also)

    def _is_long(self, live: Live, event: Event) -> bool:
        """Whether the event is to be applied in a thread."""
        if isinstance(event, TaskContinued) or is_large(len(live.run.graph.tasks)):
            return is_large(live.run.reach(event))
        return False

    def _apply(self, live: Live, event: Event, step: Step) -> None:
        commands = live.run.apply(event) if not live.is_refused else []
        self._note_changes(live, step.views)
        step.commands += commands
        if not commands and isinstance(event, TaskSucceeded):
            self._came_too_late(event)

    def _take_aside(self, live: Live, event: Event, also: tuple[Write, ...]) -> None:
        live.held = deque()
        is_watched = self._changes.wants_tasks(live.row.run_id)

        def work() -> tuple[Plan, list[TaskView]]:
            if live.is_refused:
                return Plan(), []
            step = Step(live.run.apply(event))
            changed = live.run.take_changed()
            return sort_out(live, step), _views(changed) if is_watched else []

        def then(worked: tuple[Plan, list[TaskView]]) -> None:
            plan, views = worked
            self._add_views(plan.acts.views, views)
            if plan.is_empty and isinstance(event, TaskSucceeded):
                self._came_too_late(event)
            self._follow(live, plan, also)

        self._do(live, live.run.reach(event), work, then)

    def _note_changes(self, live: Live, views: list[tuple[int, TaskView]]) -> None:
        """Copy the changed tasks for subscribers. The copy is published once it is durable, and memory is ahead by
        then."""
        changed = live.run.take_changed()
        if changed and self._changes.wants_tasks(live.row.run_id):
            self._add_views(views, _views(changed))

    def _add_views(self, views: list[tuple[int, TaskView]], new: list[TaskView]) -> None:
        """Add views, all with the same new moment."""
        if new:
            self.moment += 1
            views += [(self.moment, view) for view in new]

    def tell_later(self, live: Live, stored: Run) -> None:
        """Publish the tasks whose state in memory differs from the `stored` run, which subscribers have seen. This
        happens once the state in memory is durable."""
        if not self._changes.wants_tasks(live.row.run_id) or live.is_refused:
            return
        if live.at_rest is not None:
            assert live.held is not None
            live.held.append(partial(self.tell_later, live, stored))
            return
        known = {task.id: (task.status, task.attempt) for task in stored.graph}
        ahead = [task for task in live.run.graph if known.get(task.id) != (task.status, task.attempt)]
        self.moment += 1
        step = Step(views=[(self.moment, view) for view in _views(ahead)])
        if step.views:
            self._append(live, sort_out(live, step), ())

    def _carry_out(self, live: Live, step: Step, *also: Write) -> None:
        if step.commands or step.views:
            self._follow(live, sort_out(live, step), also)

    def _follow(self, live: Live, plan: Plan, also: tuple[Write, ...] = ()) -> None:
        """Store the result of a step, and carry it out after that. A run that was held for the step is released once
        its last entry is in the journal."""

        def rest() -> None:
            self._append(live, plan, also)
            if live.held is not None:
                self._release(live)
                self._evict_if_idle(live)

        if not is_large(len(plan.early)):
            plan.writes[:0] = plan.early
            rest()
            return
        live.held = deque() if live.held is None else live.held
        self._write_early(live, plan.early, rest)

    def _append(self, live: Live, plan: Plan, also: tuple[Write, ...]) -> None:
        """Append one entry with all writes except those that were written early."""
        acts = plan.acts
        writes = [*also, *plan.writes] if plan.writes or plan.early or acts.kept or acts.commands else []
        live.pending += 1
        if writes or live.pending > 1 or not self._journal.is_sure:
            self._journal.append(
                tuple(writes),
                lambda _result, change: self._act(live, acts, change),
                of=live.row.run_id,
                refused=lambda error: self._refused(live, error),
            )
        else:  # neither this step nor an earlier one has anything to make durable
            self._act(live, acts, 0)

    def _write_early(
        self,
        live: Live,
        early: Sequence[Write],
        then: Callable[[], None],
        trouble: Callable[[Exception], None] | None = None,
        *,
        place: int = 0,
    ) -> None:
        """Store early writes of a run that is held, one entry after the other, and go on when all are durable."""
        if not place and early:
            self._set_to_work(live)
        if place < len(early):
            self._journal.append(
                tuple(early[place : place + EARLY_AT_ONCE]),
                lambda _result, _change: self._write_early(live, early, then, trouble, place=place + EARLY_AT_ONCE),
                trouble=trouble,
                of=live.row.run_id,
                refused=lambda error: self._refused(live, error),
                dropped=lambda: self._early_dropped(live),
            )
            return
        if early:
            self._come_to_rest(live)
        then()

    def _early_dropped(self, live: Live) -> None:
        """The store rejected a record of this run, so the run fails."""
        self._come_to_rest(live)
        self._release(live)

    # -------------------------------------------------------------------------- aside

    def _do(self, live: Live, reach: int, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Work on a run that is held, in a thread if that takes long, and pass the result to `then`."""
        if not is_large(reach):
            then(work())
            return
        self._set_to_work(live)
        self._spawn(self._do_aside(live, work, then))

    async def _do_aside(self, live: Live, work: Callable[[], T], then: Callable[[T], None]) -> None:
        try:
            result = await aside(work)
        except Exception:
            log.exception("a step of a run failed", extra={"run_id": live.row.run_id})
            self._come_to_rest(live)
            self._release(live)
            return
        self._come_to_rest(live)
        then(result)

    def _set_to_work(self, live: Live) -> None:
        """Make readers of the run wait until `_come_to_rest`."""
        live.at_rest = asyncio.Event()
        live.pending += 1

    def _come_to_rest(self, live: Live) -> None:
        """No thread works on the run any more. Waiting readers look at it in a later turn of the loop."""
        at_rest, live.at_rest = live.at_rest, None
        live.pending -= 1
        if at_rest is not None:
            at_rest.set()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -------------------------------------------------------------------------- acting

    def _act(self, live: Live, acts: Acts, change: int) -> None:
        """An entry is durable: carry out its acts, publish its changes."""
        row = live.row
        for task_id, payload in acts.values:
            self._values.keep(ValueKey(row.run_id, task_id=task_id), payload)
        self._acting.keep(row, acts.kept)
        self._acting.carry_out(row, acts.commands)
        for failure in acts.failures:
            log_task(row, failure)
        live.pending -= 1
        live.change = max(live.change, change)
        for moment, view in acts.views:
            live.told = moment
            told = Change(change, self.clock(), row.namespace, task=(row.workflow_id, row.run_id, view), moment=moment)
            self._changes.publish(row.run_id, told)
        if acts.end is not None:
            live.row = acts.end.applied_to(row, change)
            self.tell(live.row, change)
            self._on_end(row.run_id)
        elif acts.changes_tasks:
            self._changes.stir_tasks(row.run_id)
        self._evict_if_idle(live)

    def _evict_if_idle(self, live: Live) -> None:
        """Remove a run from memory if it has ended, or if only a later time or an event moves it on."""
        if live.pending or live.is_refused or not live.run.is_dormant:
            return
        if live.run.status.is_final:
            self._values.unpin_run(live.row.run_id)
            self._dismiss(live)
        elif not live.run.keeps_values:
            wake_ms = live.run.next_wake_ms
            if wake_ms is None or wake_ms > self.clock() + STAY_MS:
                self._dismiss(live)

    def tell(self, row: RunRow, change: int) -> None:
        """Publish and log the new, durable state of a run."""
        if row.status.is_final:
            log_end(row)
        self._publish(row, change)
        self._changes.stir(row.run_id)

    def _publish(self, row: RunRow, change: int) -> None:
        if self._changes.wants_run(row.run_id):
            self._changes.publish(row.run_id, Change(change, self.clock(), row.namespace, run=RunView(row)))

    # -------------------------------------------------------------------------- memory

    def find_live(self, run_id: str) -> Live | None:
        """The run, if it is in memory. Its state may not be durable yet: see `moments`."""
        return self._live.get(run_id)

    def find_current(self, namespace: str, workflow_id: str) -> Live | None:
        """The current run of a workflow id, if it is in memory."""
        return self._current.get((namespace, workflow_id))

    def _admit(self, live: Live) -> None:
        self._live[live.row.run_id] = live
        self._current[live.row.namespace, live.row.workflow_id] = live

    def _dismiss(self, live: Live) -> None:
        if self._live.get(live.row.run_id) is live:
            del self._live[live.row.run_id]
        if self._current.get((live.row.namespace, live.row.workflow_id)) is live:
            del self._current[live.row.namespace, live.row.workflow_id]

    def take_up(self, run_id: str, *, before: Before | None = None) -> None:
        """Load a run that was made RUNNING in the store, and go on with it. `before` says which attempts may have
        begun; None: as its row says."""
        if before is not None:
            self._before[run_id] = before
        if run_id in self._loading:
            self._outdated.add(run_id)
        self._with_live(run_id, lambda _live: None)

    @property
    def is_idle(self) -> bool:
        """Whether no run is being loaded or worked on, and all acts have been carried out."""
        return not (self._tasks or self._loading or self._releasing) and self._acting.is_idle

    def live_count(self) -> int:
        return len(self._live)

    async def when_live(self, run_id: str, then: Callable[[Live | None], T]) -> T:
        """Load the run, call `then` with it (None: there is no such active run), and return its result."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def call(live: Live | None) -> None:
            if answer.done():
                return
            try:
                answer.set_result(then(live))
            except Exception as error:
                answer.set_exception(error)

        self._with_live(run_id, call)
        return await answer

    def _with_live(self, run_id: str, then: Callable[[Live | None], None]) -> None:
        """Call `then` with the run: at once if it is in memory, otherwise once it is loaded, in the order of the
        calls. For a held run, once the cancellation is decided."""
        if (live := self._live.get(run_id)) is not None:
            if live.held is not None:
                live.held.append(lambda: self._with_live(run_id, then))
            else:
                then(live)
        elif (waiting := self._loading.get(run_id)) is not None:
            waiting.append(then)
        else:
            self._loading[run_id] = [then]
            self._spawn(self._load(run_id))

    async def _load(self, run_id: str) -> None:
        loaded: _Loaded | None = None
        while True:
            self._outdated.discard(run_id)
            try:
                loaded = await self._read(run_id)
                if run_id not in self._outdated:
                    break
            except CorruptData as error:
                self._fail_corrupt(run_id, await self._damaged(run_id), f"{error} ({error.subject})")
                loaded = None
                break
            except StorageError as error:
                log.warning("run not loaded, trying again", extra={"run_id": run_id, "error": str(error)})
                await asyncio.sleep(LOAD_RETRY_S)
            except Exception:
                log.exception("run cannot be loaded", extra={"run_id": run_id})
                loaded = None
                break
        waiting = self._loading.pop(run_id)
        live: Live | None = None
        if loaded is not None:
            live = loaded.live
            self._begun.drop(run_id)
            self._admit(live)
            if self._changes.may_miss(live.row.change):
                self._publish(live.row, live.row.change)
            self._add_views(loaded.plan.acts.views, loaded.views)
            if not loaded.plan.is_empty:
                self._follow(live, loaded.plan)
        self._before.pop(run_id, None)
        for then in waiting:
            if live is not None and live.held is not None:
                live.held.append(partial(self._with_live, run_id, then))
            else:
                then(live)
        if live is not None:
            self._evict_if_idle(live)

    async def _read(self, run_id: str) -> _Loaded | None:
        """Load a run that this engine owns, and take its next step. The run is not yet visible to other code."""
        stored = await self._store.load_run(run_id)
        if stored is None or (stored.run.status is not RunStatus.RUNNING and not stored.run.damage):
            return None
        if not self._ownership.is_ours(stored.run):
            return None
        run = await restore_run(stored, self.specs)
        run.number_from(self._begun.get(run_id) or {})
        live = Live(stored.run, run, change=stored.change)
        before = self._before.get(run_id, "told" if stored.run.is_dormant else "unknown")
        at_ms = self.clock()
        is_long = is_large(len(run.graph.tasks))

        def recover() -> tuple[Plan, list[Task]]:
            step = Step(run.recover(at_ms, before))
            changed = run.take_changed()
            known = set(changed)
            missed = [run.graph.tasks[task.task_id] for task in stored.tasks if self._changes.may_miss(task.change)]
            changed = [*(task for task in missed if task not in known), *changed]
            return (sort_out(live, step) if step.commands or changed else Plan()), changed

        plan, changed = await aside(recover) if is_long else recover()
        views: list[TaskView] = []
        if changed and self._changes.wants_tasks(run_id):
            views = await aside(partial(_views, changed)) if is_long else _views(changed)
        return _Loaded(live, plan, views)

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
                self.tell(end.applied_to(row, change), change)
            else:
                self._changes.stir(run_id)

        self._fail(run_id, corrupt_data(damage), ended)

    def _refused(self, live: Live, error: Exception) -> None:
        """The store rejects a record of a run for good. The run fails in its stored state, without that record and all
        later ones. Resuming it goes on from there."""
        run_id = live.row.run_id
        live.is_refused = True
        if live.at_rest is not None:  # first in line once the thread has finished the step
            assert live.held is not None
            live.held.appendleft(partial(self._refused, live, error))
            return
        self._begun.keep(run_id, live.run.begun())
        self._acting.forget(run_id)
        for task_id, attempt in live.run.in_flight():
            self._executor.cancel(run_id, task_id, attempt)

        def ended(end: SetRun, change: int) -> None:
            self._values.unpin_run(run_id)
            self._dismiss(live)
            live.row = end.applied_to(live.row, change)
            self.tell(live.row, change)

        self._fail(run_id, texts.mended(record_refused(str(error))), ended)

    def _fail(self, run_id: str, failure: Failure, ended: Callable[[SetRun, int], None]) -> None:
        """Fail a run in the store, whether it is in memory or not."""
        end = SetRun(run_id, RunStatus.FAILED, self.clock(), failure=wire.encode_failure(failure))

        def then(_result: EntryResult, change: int) -> None:
            ended(end, change)
            self._on_end(run_id)

        def refused(error: Exception) -> None:
            log.error("a run cannot even fail", extra={"run_id": run_id, "error": str(error)})
            if failure.message:  # its text may be the reason
                self._fail(run_id, record_refused(""), ended)

        self._journal.append((end,), then, of=run_id, refused=refused)


def spec_key(data: bytes) -> str:
    """Names a serialized graph by its content."""
    return hashlib.sha256(data).hexdigest()


@frozen
class _Graph:
    """A graph that a task returned: its key, the tasks of the run that it names, and the writes that note which blobs
    it mentions."""

    spec: Spec
    key: str
    named: list[tuple[str, str]]
    uses: tuple[Write, ...]


def _read_graph(run_id: str, data: bytes) -> _Graph | InvalidSpec:
    try:
        spec = graphwire.decode_spec(data)
        texts.check_spec(spec)
        if missing := spec.inputs():
            return InvalidSpec(f"a returned graph has no inputs of its own, but uses {sorted(missing)}")
        return _Graph(spec, spec_key(data), tasks_named(spec), tuple(use(run_id, graphwire.blobs_of_spec(spec))))
    except InvalidSpec as error:
        return error


@frozen
class _Loaded:
    """A rebuilt run, the plan that follows, and the tasks whose state changed in the rebuild."""

    live: Live
    plan: Plan
    views: list[TaskView]


def _views(tasks: Sequence[Task]) -> list[TaskView]:
    return [view_task(task) for task in tasks]
