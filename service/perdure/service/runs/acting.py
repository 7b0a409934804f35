"""Carries out the commands of runs, once their records are durable.

A few acts are carried out immediately. Very many of them (a graph of 100,000 nodes begins, say) wait here, and each
turn of the event loop takes a bounded number. Runs take turns. An attempt that is cancelled while it waits here is not
submitted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from perdure import snapshots
from perdure.engine.messages import CancelAttempt, DeleteUnused, DropOutput, KeepOutput, SetTimer, StartAttempt
from perdure.service.executors.port import Attempt, Executor
from perdure.service.runs.timers import Timers
from perdure.service.runs.values import Values
from perdure.storage.rows import RunRow, Timer, ValueKey

ACTS_AT_ONCE = 200
"""Acts per turn of the event loop. Each takes some ten microseconds."""

Attempting: TypeAlias = StartAttempt | CancelAttempt | SetTimer | DeleteUnused


class _Waiting:
    """The waiting acts of one run: one iterator per step, in the order of the steps."""

    def __init__(self, row: RunRow) -> None:
        self.row = row
        self._commanded: deque[Iterator[Attempting]] = deque()
        self._cancelled: set[tuple[str, int]] = set()

    def add(self, acts: Sequence[Attempting]) -> None:
        """Add the acts of a step. A step that begins with cancellations goes first, because it may make earlier acts
        unnecessary."""
        if acts and isinstance(acts[0], CancelAttempt):
            self._commanded.appendleft(iter(acts))
        else:
            self._commanded.append(iter(acts))

    def next_act(self) -> Attempting | None:
        """The next act; None if all are done. Dispatches of cancelled attempts are skipped."""
        while self._commanded:
            for act in self._commanded[0]:
                if isinstance(act, CancelAttempt):
                    self._cancelled.add((act.task_id, act.attempt))
                elif isinstance(act, StartAttempt) and (act.task_id, act.attempt) in self._cancelled:
                    continue
                return act
            self._commanded.popleft()
        return None


class Acting:
    """Submits and cancels attempts, sets timers, pins values that are not stored, lets idle actors be deleted."""

    def __init__(
        self, executor: Executor, values: Values, timers: Timers, expire: Callable[[str, DeleteUnused], None]
    ) -> None:
        """`expire` deletes a run that nobody uses."""
        self._executor = executor
        self._values = values
        self._timers = timers
        self._expire = expire
        self._waiting: dict[str, _Waiting] = {}  # by run; the next one to have a turn first
        self._handle: asyncio.Handle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether everything that was commanded has been carried out."""
        return not self._waiting

    def carry_out(self, row: RunRow, acts: Sequence[Attempting]) -> None:
        """Carry out acts of a run: now, or in the next turns of the loop if they are many or earlier ones wait."""
        if not acts:
            return
        waiting = self._waiting.get(row.run_id) if self._waiting else None
        if waiting is None:
            if len(acts) <= ACTS_AT_ONCE:
                for act in acts:
                    self._do(row, act)
                return
            waiting = self._waiting[row.run_id] = _Waiting(row)
        waiting.row = row
        waiting.add(acts)
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._turn)

    def keep(self, row: RunRow, acts: Iterable[KeepOutput | DropOutput]) -> None:
        """Pin or unpin values that are not stored. This is never delayed: submitted attempts may need the values, and
        the end of the run drops all of them."""
        for act in acts:
            key = ValueKey(row.run_id, task_id=act.task_id)
            if isinstance(act, KeepOutput):
                self._values.pin(key, act.output)
            else:
                self._values.unpin(key)

    def forget(self, run_id: str) -> None:
        """Drop the waiting acts of a run that failed."""
        self._waiting.pop(run_id, None)

    def stop(self) -> None:
        """Carry out nothing more."""
        self._waiting.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _turn(self) -> None:
        """A bounded number of acts of the run whose turn it is."""
        self._handle = None
        if not self._waiting:
            return
        run_id = next(iter(self._waiting))
        waiting = self._waiting.pop(run_id)
        for _ in range(ACTS_AT_ONCE):
            if (act := waiting.next_act()) is None:
                break
            self._do(waiting.row, act)
        else:
            self._waiting[run_id] = waiting
        if self._waiting:
            self._handle = asyncio.get_running_loop().call_soon(self._turn)

    def _do(self, row: RunRow, act: Attempting) -> None:
        match act:
            case StartAttempt():
                self._executor.submit(attempt_of(row, act))
            case CancelAttempt():
                self._executor.cancel(row.run_id, act.task_id, act.attempt)
            case SetTimer():
                timer = Timer(row.run_id, act.task_id, act.attempt, act.due_ms)
                self._timers.set(timer, is_recorded=act.is_recorded)
            case DeleteUnused():
                self._expire(row.run_id, act)


def attempt_of(row: RunRow, command: StartAttempt) -> Attempt:
    """An attempt of a run as the executor takes it."""
    shape = command.shape
    if row.code_version:
        shape = replace(shape, runtime_env=snapshots.with_modules(shape.runtime_env, row.code_version))
    return Attempt(
        namespace=row.namespace,
        workflow_id=row.workflow_id,
        run_id=row.run_id,
        task_id=command.task_id,
        number=command.attempt,
        call=command.call,
        shape=shape,
        inputs=command.inputs,
        beside=command.beside,
        is_limited=command.is_limited,
        turn=command.turn,
        callers=command.callers,
    )
