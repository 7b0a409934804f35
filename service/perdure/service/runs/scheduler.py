"""The runs that are at work: applies what happens to them and carries out what they command.

One rule: write, then act. The records of an event become one journal entry, and only when that is
durable are attempts dispatched, timers set, and anybody told. `Live.row` is therefore the durable
state of a run, while `Live.run` may be ahead of it by what the journal still holds: `moments` reads both.

A cancellation is made durable first. Until that is decided the run is *held*: what happens to it waits.

A run that only time or an event moves on leaves memory, and is loaded again when its time comes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol, TypeVar, assert_never

from perdure import graphwire, texts, wire
from perdure.bounded import Bounded
from perdure.engine.failures import record_refused
from perdure.engine.graph_run.run import Before, Run
from perdure.engine.messages import (
    Act,
    CancelAttempt,
    CancelRequested,
    Command,
    ConsumeEvent,
    Dispatch,
    DropOutput,
    Event,
    KeepOutput,
    RecordRun,
    RecordTask,
    SetTimer,
    TaskContinued,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
)
from perdure.model import Call, Failure, FailureKind, InvalidSpec, Payload, RunStatus, Spec
from perdure.service.common.uses import of_record, use
from perdure.service.executors.port import Executor, GraphReturned, Reports, Work
from perdure.service.journal.journal import Journal
from perdure.service.runs.changes import Change, Changes
from perdure.service.runs.ownership import Ownership
from perdure.service.runs.restore import Specs, corrupt_data, output_of, restore_run, write_of
from perdure.service.runs.runlog import log_end, log_task
from perdure.service.runs.timers import Timers
from perdure.service.runs.values import Values
from perdure.service.runs.views import RunView, TaskView, count_tasks, view_task
from perdure.storage.ports import CorruptData, RecoveryStore, RunStore, SpecStore, StorageError, TimerStore
from perdure.storage.rows import EntryResult, MarkBlobs, PutSpec, RunRow, SetDormant, SetRun, Timer, ValueKey, Write

log = logging.getLogger(__name__)

STAY_MS: Final = 30_000
"""A dormant run that wakes within this time stays in memory."""
PAGE: Final = 500
LOAD_RETRY_S: Final = 1.0
REFUSED_MAX: Final = 1_000
"""Runs that failed since the store does not take a record of theirs, whose attempts are remembered."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Live:
    """A run in memory. `pending` counts its journal entries that are not durable yet; `dormant` is what the
    store says of its dormancy once all of them are, None if nobody knows. `held` is what waits until it is
    decided whether the run was canceled; None if nothing is to be decided. One that `is_refused` is ahead of the
    store for ever, since the store does not take a record of it: nothing more is applied to it, and it fails.
    `change` is the last commit of it that is known to be durable, `told` the last moment of which subscribers heard."""

    row: RunRow
    run: Run
    pending: int = 0
    dormant: bool | None = None
    held: list[Callable[[], None]] | None = None
    is_refused: bool = False
    change: int = 0
    told: int = 0

    @property
    def is_ending(self) -> bool:
        """Its end is on its way into the store, or may be: `row` may be behind what others see there."""
        return self.held is not None or self.is_refused or self.run.status is not self.row.status

    def view(self) -> RunView:
        return RunView(self.row, count_tasks(self.run))


@dataclass(slots=True)
class _Step:
    """What one or more events have brought: commands, and for subscribers the tasks that are in another state, each
    with the moment of that."""

    commands: list[Command] = field(default_factory=list)
    views: list[tuple[int, TaskView]] = field(default_factory=list)


@dataclass(slots=True)
class _Acts:
    """What is to be done once an entry is durable."""

    commands: list[Act] = field(default_factory=list)
    values: list[tuple[str, Payload]] = field(default_factory=list)
    views: list[tuple[int, TaskView]] = field(default_factory=list)
    changes_tasks: bool = False
    failures: list[RecordTask] = field(default_factory=list)
    end: SetRun | None = None


class SchedulerStore(RecoveryStore, RunStore, SpecStore, TimerStore, Protocol):
    """What runs in memory ask of the store."""


class Scheduler:
    """Everything that happens to a run comes through here, one event at a time."""

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
        self._live: dict[str, Live] = {}
        self._current: dict[tuple[str, str], Live] = {}  # the same by namespace and workflow id
        self._loading: dict[str, list[Callable[[Live | None], None]]] = {}
        self.moment = 0  # counts what was noted for subscribers
        self._outdated: set[str] = set()  # of those, what is read of them now may be too old
        # Attempts that may have begun and were never recorded, by run.
        self._begun: Bounded[str, dict[str, int]] = Bounded(REFUSED_MAX)
        self._before: dict[str, Before] = {}  # of those, what began of them, if that is known
        self._untold: dict[str, set[str]] = {}  # and tasks of which subscribers may not have heard
        self._tasks: set[asyncio.Task[None]] = set()

    # -------------------------------------------------------------------------- lifetime

    async def start(self) -> None:
        """Begin to take reports and timers. Recovery is a step of its own."""
        await self._executor.start(self.report, self._values, self._ownership.holds_for_s)
        await self.timers.start()

    async def stop(self) -> None:
        """Take nothing more. Attempts still running are stopped; they run again after a restart."""
        await self.timers.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._executor.stop()

    async def recover(self) -> int:
        """Take up every run that was at work; gives their number. Dormant ones wake by themselves."""
        count, after = 0, ""
        while True:
            try:
                page = await self._store.unfinished_runs(after=after, limit=PAGE)
            except CorruptData:
                raise  # of the database as a whole: to look again does not help
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
        """What the executor has to say, of each run in one entry. Reports about runs that are not in memory are
        too late."""
        gathered: dict[Live, _Step] = {}
        for run_id, report in reports:
            live = self._live.get(run_id)
            if live is None:
                self._came_too_late(report)
            elif live.held is not None:
                live.held.append(partial(self.report, [(run_id, report)]))
            elif isinstance(report, GraphReturned):
                if (before := gathered.pop(live, None)) is not None:
                    self._carry_out(live, before)
                self._graph_returned(live, report)
            else:
                self._apply(live, report, gathered.setdefault(live, _Step()))
        for live, step in gathered.items():
            self._carry_out(live, step)

    def deliver(self, run_id: str, event: Event) -> None:
        """Apply an event that is durable already, loading the run if need be."""

        def then(live: Live | None) -> None:
            if live is not None:
                self.take(live, event)

        self._with_live(run_id, then)

    def roused(self, run_id: str) -> None:
        """Somebody else writes of the run's dormancy, or has tried to: what it is gets written anew with the
        next change of the run."""
        if (live := self._live.get(run_id)) is not None:
            live.dormant = None

    async def bring(self, run_id: str, event: Event) -> None:
        """Apply an event that is durable already; returns once it is applied."""
        await self.when_live(run_id, lambda live: None if live is None else self.take(live, event))

    async def cancel(self, run_id: str, reason: str) -> RunView | None:
        """End a run that is at work; returns once that is durable. None: there is no such run.

        Raises StorageError while the store fails. Either nothing has happened then, or the end is still on its
        way into the store, and nothing else happens to the run before that is decided.
        """

        def then(live: Live | None) -> asyncio.Future[RunView] | None:
            return self._cancel(live, CancelRequested(reason, self.clock())) if live is not None else None

        canceled = await self.when_live(run_id, then)
        return await canceled if canceled is not None else None

    def _cancel(self, live: Live, event: CancelRequested) -> asyncio.Future[RunView]:
        """Record the end of a run, and apply it to memory when that is durable."""
        commands = live.run.cancellation(event) if not live.is_refused else []  # that one fails in a moment
        writes, acts = self._sort_out(live, _Step(commands), is_dormant=False)
        live.held = []
        live.pending += 1

        def then(_result: EntryResult, change: int) -> RunView:
            live.run.apply(event)
            self._note_changes(live, acts.views)
            self._act(live, acts, change)
            self._release(live)
            return live.view()

        def dropped() -> None:
            live.pending -= 1
            live.dormant = None  # what was to be written of it was not
            self._release(live)
            self._evict_if_idle(live)

        return self._journal.commit(tuple(writes), then, droppable=True, dropped=dropped, of=live.row.run_id)

    def _release(self, live: Live) -> None:
        """It is decided whether the run was canceled: what has happened meanwhile is applied, or comes too late."""
        held, live.held = live.held or [], None
        for step in held:
            step()

    def _timer_due(self, timer: Timer) -> None:
        self.deliver(timer.run_id, TimerFired(timer.task_id, timer.attempt, self.clock()))

    def _graph_returned(self, live: Live, report: GraphReturned) -> None:
        key = spec_key(report.spec)
        try:
            spec = graphwire.decode_spec(report.spec)
            texts.check_spec(spec)
            if missing := spec.inputs():
                raise InvalidSpec(f"a returned graph has no inputs of its own, but uses {sorted(missing)}")
            live.run.graph.check(spec, live.run.graph.tasks.get(report.task_id))
            uses = use(live.row.run_id, graphwire.blobs_of_spec(spec))
        except InvalidSpec as error:
            failure = Failure(FailureKind.SERIALIZATION, "perdure.InvalidSpec", f"the task returned a graph: {error}")
            times = report.at_ms, report.started_ms, report.ended_ms
            self.take(live, TaskFailed(report.task_id, report.attempt, failure, *times))
            return
        times = report.at_ms, report.started_ms, report.ended_ms
        event = TaskContinued(report.task_id, report.attempt, spec, key, *times)
        self.take(live, event, PutSpec(key, report.spec), *uses)

    def _came_too_late(self, event: Event | GraphReturned) -> None:
        """What an attempt made for nobody is to be removed, unless somebody has it from another attempt."""
        if isinstance(event, TaskSucceeded) and (blobs := event.output.blobs()):
            marked = MarkBlobs(tuple(blob.sha256 for blob in blobs))
            self._journal.append((marked,), lambda _result, _change: None, droppable=True)

    # -------------------------------------------------------------------------- applying

    def begin(self, row: RunRow, spec: Spec) -> tuple[RunRow, list[Write], Callable[[int], RunView]]:
        """A new run: its row, what its entry stores besides it, and what to do once that is durable in a commit."""
        run = Run(spec)
        commands = run.start(row.create_ms)
        run.take_changed()  # nobody knows of the run yet
        if run.is_dormant and not run.status.is_final:
            row = row.but(is_dormant=True)
        live = Live(row, run, dormant=row.is_dormant)
        writes, acts = self._sort_out(live, _Step(commands))
        live.pending += 1

        def then(change: int) -> RunView:
            live.row = live.row.but(change=change)
            live.change = change
            if row.run_id in self._live or row.run_id in self._loading:
                # It had been stored before, without an answer, and somebody has asked for it since.
                self._outdated.add(row.run_id)
                return live.view()
            self._admit(live)
            self.tell(live.row, change)
            self._act(live, acts, change)
            return live.view()

        return row, writes, then

    def take(self, live: Live, event: Event, *also: Write) -> None:
        """Apply an event to a run in memory."""
        if live.held is not None:
            live.held.append(lambda: self.take(live, event, *also))
            return
        step = _Step()
        self._apply(live, event, step)
        self._carry_out(live, step, *also)

    def _apply(self, live: Live, event: Event, step: _Step) -> None:
        commands = live.run.apply(event) if not live.is_refused else []
        self._note_changes(live, step.views)
        step.commands += commands
        if not commands and isinstance(event, TaskSucceeded):
            self._came_too_late(event)

    def _note_changes(self, live: Live, views: list[tuple[int, TaskView]], untold: Collection[str] = ()) -> None:
        """Keep for subscribers what has become of tasks (and of those that are `untold`), as it is now: when it may be
        told, memory has gone on."""
        changed = live.run.take_changed()
        if untold and self._changes.wants_tasks(live.row.run_id):
            known = {task.id for task in changed}
            changed = [*(task for task in live.run.graph if task.id in untold and task.id not in known), *changed]
        if changed and self._changes.wants_tasks(live.row.run_id):
            self.moment += 1
            views += [(self.moment, view_task(task)) for task in changed]

    def tell_later(self, live: Live, task_ids: Collection[str]) -> None:
        """Subscribers who saw a run as it is stored hear of these tasks, as they are now, once that is durable."""
        if self._changes.wants_tasks(live.row.run_id) and not live.is_refused:
            self.moment += 1
            wanted = set(task_ids)
            views = [(self.moment, view_task(task)) for task in live.run.graph if task.id in wanted]
            self._carry_out(live, _Step(views=views))

    def _carry_out(self, live: Live, step: _Step, *also: Write) -> None:
        if not step.commands and not step.views:
            return
        writes, acts = self._sort_out(live, step)
        if step.commands:
            writes = [*also, *writes]
        live.pending += 1
        if writes or live.pending > 1 or not self._journal.is_sure:
            self._journal.append(
                writes,
                lambda _result, change: self._act(live, acts, change),
                of=live.row.run_id,
                refused=lambda error: self._refused(live, error),
            )
        else:  # nothing of it has to be durable, nor has anything before it
            self._act(live, acts, 0)

    def _sort_out(self, live: Live, step: _Step, *, is_dormant: bool | None = None) -> tuple[list[Write], _Acts]:
        """Records become writes, the rest waits for them. `is_dormant`: what the run will be, if not what it is."""
        run_id = live.row.run_id
        writes: list[Write] = []
        acts = _Acts(views=step.views)
        for command in step.commands:
            match command:
                case RecordTask():
                    output = output_of(command)
                    writes.append(write_of(run_id, command, output))
                    if blobs := of_record(command, output):
                        writes += use(run_id, blobs)
                    acts.changes_tasks = True
                    if command.failure is not None:
                        acts.failures.append(command)
                    if output is not None:
                        acts.values.append((command.task_id, output))
                case RecordRun():
                    end = write_of(run_id, command, None)
                    assert isinstance(end, SetRun)
                    writes.append(end)
                    acts.end = end
                case ConsumeEvent():
                    writes.append(write_of(run_id, command, None))
                case KeepOutput():
                    writes += use(run_id, command.output.blobs())
                    acts.commands.append(command)
                    acts.changes_tasks = True
                case Dispatch() | DropOutput() | CancelAttempt() | SetTimer():
                    acts.commands.append(command)
                case _:
                    assert_never(command)
        if is_dormant is None:
            is_dormant = live.run.is_dormant and not live.run.status.is_final
        if is_dormant is not live.dormant:
            writes.append(SetDormant(run_id, is_dormant))
            live.dormant = is_dormant
        return writes, acts

    # -------------------------------------------------------------------------- acting

    def _act(self, live: Live, acts: _Acts, change: int) -> None:
        """The entry is durable: now the world may know."""
        row = live.row
        for task_id, payload in acts.values:
            self._values.keep(ValueKey(row.run_id, task_id=task_id), payload)
        for command in acts.commands:
            match command:
                case Dispatch():
                    self._executor.submit(_work(row, command))
                case KeepOutput():
                    self._values.pin(ValueKey(row.run_id, task_id=command.task_id), command.output)
                case DropOutput():
                    self._values.unpin(ValueKey(row.run_id, task_id=command.task_id))
                case CancelAttempt():
                    self._executor.cancel(row.run_id, command.task_id, command.attempt)
                case SetTimer():
                    timer = Timer(row.run_id, command.task_id, command.attempt, command.due_ms)
                    self.timers.set(timer, is_recorded=command.is_recorded)
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
        """Drop a run that is over, or that nothing but a later moment or an event moves on."""
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
        """The state of a run is durably another one."""
        if row.status.is_final:
            log_end(row)
        self._publish(row, change)
        self._changes.stir(row.run_id)

    def _publish(self, row: RunRow, change: int) -> None:
        if self._changes.wants_run(row.run_id):
            self._changes.publish(row.run_id, Change(change, self.clock(), row.namespace, run=RunView(row)))

    # -------------------------------------------------------------------------- memory

    def find_live(self, run_id: str) -> Live | None:
        """The run if it is in memory. What it holds may not be durable yet: see `moments`."""
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
        """A run was made RUNNING in the store: it comes into memory and goes on. `before` says what began of it; its
        row says so otherwise."""
        if before is not None:
            self._before[run_id] = before
        if run_id in self._loading:
            self._outdated.add(run_id)
        self._with_live(run_id, lambda _live: None)

    @property
    def is_loading(self) -> bool:
        """Whether a run is on its way from the store into memory."""
        return bool(self._loading)

    def live_count(self) -> int:
        return len(self._live)

    async def when_live(self, run_id: str, then: Callable[[Live | None], T]) -> T:
        """Call `then` with the run in memory (None: there is none that could be at work) and give its answer."""
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
        """At once if the run is in memory; otherwise once it is loaded, in the order of the calls. With one that is
        held, once that is over."""
        if (live := self._live.get(run_id)) is not None:
            if live.held is not None:
                live.held.append(lambda: self._with_live(run_id, then))
            else:
                then(live)
        elif (waiting := self._loading.get(run_id)) is not None:
            waiting.append(then)
        else:
            self._loading[run_id] = [then]
            task = asyncio.create_task(self._load(run_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _load(self, run_id: str) -> None:
        live: Live | None = None
        while True:
            self._outdated.discard(run_id)
            try:
                live = await self._read(run_id)
                if run_id not in self._outdated:
                    break
            except CorruptData as error:
                self._fail_corrupt(run_id, await self._damaged(run_id), f"{error} ({error.subject})")
                break
            except StorageError as error:
                log.warning("run not loaded, trying again", extra={"run_id": run_id, "error": str(error)})
                await asyncio.sleep(LOAD_RETRY_S)
            except Exception:
                log.exception("run cannot be loaded", extra={"run_id": run_id})
                break
        waiting = self._loading.pop(run_id)
        if live is not None:
            self._begun.drop(run_id)
            self._admit(live)
            if self._changes.may_miss(live.row.change):
                self._publish(live.row, live.row.change)
            if live.run.status is RunStatus.RUNNING:
                before = self._before.get(run_id, "told" if live.row.is_dormant else "unknown")
                step = _Step(live.run.recover(self.clock(), before))
                self._note_changes(live, step.views, self._untold.pop(run_id, ()))
                self._carry_out(live, step)
        self._untold.pop(run_id, None)
        self._before.pop(run_id, None)
        for then in waiting:
            if live is not None and live.held is not None:
                live.held.append(partial(self._with_live, run_id, then))
            else:
                then(live)
        if live is not None:
            self._evict_if_idle(live)

    async def _read(self, run_id: str) -> Live | None:
        stored = await self._store.load_run(run_id)
        if stored is None or (stored.run.status is not RunStatus.RUNNING and not stored.run.damage):
            return None
        if not self._ownership.is_ours(stored.run):
            return None
        run = await restore_run(stored, self.specs)
        run.number_from(self._begun.get(run_id) or {})
        self._untold[run_id] = {task.task_id for task in stored.tasks if self._changes.may_miss(task.change)}
        return Live(stored.run, run, change=stored.change)

    async def _damaged(self, run_id: str) -> RunRow | None:
        """The row of a run whose records are broken, if that can be read."""
        try:
            return await self._store.get_run(run_id)
        except StorageError as error:
            log.warning("row not read", extra={"run_id": run_id, "error": str(error)})
            return None

    def fail_corrupt(self, row: RunRow) -> None:
        """A run whose row is damaged ends in the store as well, as far as that finds it."""
        self._fail_corrupt(row.run_id, row, row.damage)

    def _fail_corrupt(self, run_id: str, row: RunRow | None, damage: str) -> None:
        """A run whose records are broken ends; the others are not touched."""
        log.error("run failed: what is stored of it is damaged", extra={"run_id": run_id, "error": damage})

        def ended(end: SetRun, change: int) -> None:
            if row is not None:
                self.tell(end.applied_to(row, change), change)
            else:
                self._changes.stir(run_id)

        self._fail(run_id, corrupt_data(damage), ended)

    def _refused(self, live: Live, error: Exception) -> None:
        """The store never takes a record of a run. The run ends as it is in the store, without that record and all
        that came after it; to resume it is to go on from there."""
        run_id = live.row.run_id
        live.is_refused = True
        self._begun.keep(run_id, live.run.begun())
        for task_id, attempt in live.run.in_flight():
            self._executor.cancel(run_id, task_id, attempt)

        def ended(end: SetRun, change: int) -> None:
            self._values.unpin_run(run_id)
            self._dismiss(live)
            live.row = end.applied_to(live.row, change)
            self.tell(live.row, change)

        self._fail(run_id, texts.mended(record_refused(str(error))), ended)

    def _fail(self, run_id: str, failure: Failure, ended: Callable[[SetRun, int], None]) -> None:
        """Let a run fail in the store, whatever there is of it in memory."""
        end = SetRun(run_id, RunStatus.FAILED, self.clock(), failure=wire.encode_failure(failure))

        def then(_result: EntryResult, change: int) -> None:
            ended(end, change)
            self._on_end(run_id)

        def refused(error: Exception) -> None:
            log.error("a run cannot even fail", extra={"run_id": run_id, "error": str(error)})
            if failure.message:  # whatever it says, it may be to blame
                self._fail(run_id, record_refused(""), ended)

        self._journal.append((end,), then, of=run_id, refused=refused)


def spec_key(data: bytes) -> str:
    """Names a serialized graph by its content."""
    return hashlib.sha256(data).hexdigest()


def _work(row: RunRow, command: Dispatch) -> Work:
    call = command.node.action
    assert isinstance(call, Call)
    shape = command.node.options.shape
    if row.code_version:
        shape = replace(shape, runtime_env=graphwire.with_modules(shape.runtime_env, row.code_version))
    return Work(
        namespace=row.namespace,
        workflow_id=row.workflow_id,
        run_id=row.run_id,
        task_id=command.task_id,
        attempt=command.attempt,
        call=call,
        shape=shape,
        inputs=command.inputs,
        beside=command.beside,
    )
