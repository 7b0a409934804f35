"""Writes the steps of runs, then acts on them.

The records of a step become one journal entry. A step with very many records stores its early ones first, in entries of
their own. Once the last entry is durable, the acts of the step are carried out and its changes are published.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from perdure import texts, wire
from perdure.engine.failures import record_refused, step_failed
from perdure.engine.machine import Machine
from perdure.engine.messages import CancelAttempt
from perdure.model import Failure, RunStatus
from perdure.service.common.aside import is_large
from perdure.service.journal.journal import Journal
from perdure.service.runs.acting import Acting
from perdure.service.runs.changes import Changes
from perdure.service.runs.holding import Holding
from perdure.service.runs.live import Acts, Live, Plan, Step, sort_out
from perdure.service.runs.memory import Memory
from perdure.service.runs.publishing import Publishing
from perdure.service.runs.runlog import log_task
from perdure.service.runs.values import Values
from perdure.storage.rows import ValueKey
from perdure.storage.writes import EntryResult, SetRun, Write

log = logging.getLogger(__name__)

EARLY_AT_ONCE = 1_000
"""Early writes of a run per journal entry. Entries of other runs come between."""


class Recorder:
    """Records steps, and acts on them once they are durable."""

    def __init__(
        self,
        journal: Journal,
        values: Values,
        changes: Changes,
        acting: Acting,
        memory: Memory,
        holding: Holding,
        publishing: Publishing,
        clock: Callable[[], int],
        on_end: Callable[[str], None],
        on_forget: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._values = values
        self._changes = changes
        self._acting = acting
        self._memory = memory
        self._holding = holding
        self._publishing = publishing
        self._clock = clock
        self._on_end = on_end
        self._on_forget = on_forget

    # -------------------------------------------------------------------------- writing

    def record(self, live: Live, step: Step, *also: Write) -> None:
        """Store the result of a step, together with other writes, and act on it after that."""
        if step.commands or step.views:
            try:
                plan = sort_out(live, step)
            except Exception as error:
                self.failed(live, error)
                return
            if plan.early or live.held is not None:
                self.follow(live, plan, also)
            else:
                self._append(live, plan, also)

    def follow(self, live: Live, plan: Plan, also: tuple[Write, ...] = ()) -> None:
        """The same for a step that is sorted out. A run that was held for the step is released once its last entry is
        in the journal."""

        def rest() -> None:
            self._append(live, plan, also)
            if live.held is not None:
                self._holding.release(live)
                self._memory.evict_if_idle(live)

        if not is_large(len(plan.early)):
            plan.writes[:0] = plan.early
            rest()
            return
        live.held = deque() if live.held is None else live.held
        self.write_early(live, plan.early, rest)

    def _append(self, live: Live, plan: Plan, also: tuple[Write, ...]) -> None:
        """Append one entry with all writes except those that were written early."""
        acts = plan.acts
        writes = (*also, *plan.writes) if plan.writes or plan.early or acts.kept or acts.commands else ()
        live.pending += 1
        if writes or live.pending > 1 or not self._journal.is_sure:
            self._journal.append(
                writes,
                lambda _result, change: self.act(live, acts, change),
                of=live.row.run_id,
                refused=lambda error: self.refused(live, error),
            )
        else:  # neither this step nor an earlier one has anything to make durable
            self.act(live, acts, 0)

    def write_early(
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
            self._holding.set_to_work(live)
        if place < len(early):
            self._journal.append(
                tuple(early[place : place + EARLY_AT_ONCE]),
                lambda _result, _change: self.write_early(live, early, then, trouble, place=place + EARLY_AT_ONCE),
                trouble=trouble,
                of=live.row.run_id,
                refused=lambda error: self.refused(live, error),
                dropped=lambda: self._early_dropped(live),
            )
            return
        if early:
            self._holding.come_to_rest(live)
        then()

    def _early_dropped(self, live: Live) -> None:
        """The store rejected a record of this run, so the run fails."""
        self._holding.come_to_rest(live)
        self._holding.release(live)

    def tell_later(self, live: Live, stored: Machine) -> None:
        """Publish the tasks whose state in memory differs from the `stored` run, which subscribers have seen. This
        happens once the state in memory is durable."""
        if not self._changes.wants_tasks(live.row.run_id) or live.is_refused:
            return
        if live.at_rest is not None:
            assert live.held is not None
            live.held.append(partial(self.tell_later, live, stored))
            return
        if views := self._publishing.ahead_of(live, stored):
            self._append(live, sort_out(live, Step(views=views)), ())

    # -------------------------------------------------------------------------- acting

    def act(self, live: Live, acts: Acts, change: int) -> None:
        """An entry is durable: carry out its acts, publish its changes."""
        row = live.row
        for key in acts.forgotten:
            self._values.forget(key)
        for task_id, payload in acts.values:
            self._values.keep(ValueKey(row.run_id, task_id=task_id), payload)
        if acts.kept:
            self._acting.keep(row, acts.kept)
        if acts.commands:
            self._acting.carry_out(row, acts.commands)
        for failure in acts.failures:
            log_task(row, failure)
        if acts.forgotten:
            self._on_forget()
        live.pending -= 1
        if change > live.change:
            live.change = change
        if acts.cuts_off:
            self._changes.cut_off(row.run_id)
        elif acts.views:
            self._publishing.tell_tasks(live, acts.views, change)
        if acts.end is not None:
            live.row = acts.end.applied_to(row, change)
            self._publishing.tell(live.row, change)
            self._on_end(row.run_id)
        elif acts.changes_tasks:
            self._changes.stir_tasks(row.run_id)
        if acts.consumers:
            self._changes.consumed(row.run_id, acts.consumers)
        self._memory.evict_if_idle(live)

    # -------------------------------------------------------------------------- failing

    def refused(self, live: Live, error: Exception) -> None:
        """The store rejects a record of a run for good. The run fails in its stored state, without that record and all
        later ones. Resuming it goes on from there."""
        self._fail_live(live, texts.mended(record_refused(str(error))))

    def failed(self, live: Live, error: Exception) -> None:
        """A step of a run raised an unexpected error, so its memory may be between two states. The run fails in its
        stored state, with all records before that step. Resuming it goes on from there."""
        log.error("a step of a run failed", exc_info=error, extra={"run_id": live.row.run_id})
        if live.is_refused:
            return
        live.is_refused = True
        failure = step_failed(type(error).__name__)
        # After the acts of earlier steps: the attempts that those begin are stopped as well.
        self._journal.append((), lambda _result, _change: self._fail_live(live, failure), of=live.row.run_id)

    def ended_in_store(self, live: Live, acts: Acts, change: int, error: Exception) -> None:
        """The end of a run is durable, but applying it raised an unexpected error. The run leaves memory. Subscribers
        are cut off, because only the store has its tasks."""
        log.error("a step of a run failed", exc_info=error, extra={"run_id": live.row.run_id})
        live.is_refused = True
        self._changes.cut_off(live.row.run_id)
        self.act(live, acts, change)
        self._values.unpin_run(live.row.run_id)
        self._memory.dismiss(live)

    def _fail_live(self, live: Live, failure: Failure) -> None:
        run_id = live.row.run_id
        live.is_refused = True
        if live.at_rest is not None:  # first in line once the thread has finished the step
            assert live.held is not None
            live.held.appendleft(partial(self._fail_live, live, failure))
            return
        self._memory.begun.keep(run_id, live.run.begun())
        self._acting.forget(run_id)
        self._acting.carry_out(live.row, [CancelAttempt(*attempt) for attempt in live.run.in_flight()])

        def ended(end: SetRun, change: int) -> None:
            self._values.unpin_run(run_id)
            self._memory.dismiss(live)
            live.row = end.applied_to(live.row, change)
            self._publishing.tell(live.row, change)

        self.fail(run_id, failure, ended)

    def fail(self, run_id: str, failure: Failure, ended: Callable[[SetRun, int], None]) -> None:
        """Fail a run in the store, whether it is in memory or not."""
        end = SetRun(run_id, RunStatus.FAILED, self._clock(), failure=wire.encode_failure(failure))

        def then(_result: EntryResult, change: int) -> None:
            ended(end, change)
            self._on_end(run_id)

        def refused(error: Exception) -> None:
            log.error("a run cannot even fail", extra={"run_id": run_id, "error": str(error)})
            if failure.message:  # its text may be the reason
                self.fail(run_id, record_refused(""), ended)

        self._journal.append((end,), then, of=run_id, refused=refused)
