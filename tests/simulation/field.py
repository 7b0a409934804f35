"""What workers of a simulated cluster do, and what the world knows of it: seen by no engine.

The name of its function says what a task does, as in `executor`.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from perdure import graphwire
from perdure.engine.messages import TaskFailed, TaskSucceeded
from perdure.model import Failure, FailureKind, Payload, Spec
from perdure.service.executors.port import Attempt, ContinuationReturned
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.worker.results import Continued, Failed, Result, Returned
from perdure.worker.values import AttemptInput
from simulation import methods
from simulation.clock import fail, note
from simulation.executor import Ledger
from simulation.process import Process

Key = tuple[str, str, int]


class Lease(Protocol):
    """The process that runs user code."""

    process: Process

    def is_sure(self) -> bool:
        """Whether the engine and this lease still have each other."""
        ...


@dataclass(eq=False)
class Running:
    """User code of one attempt under way."""

    key: Key
    engine_id: str
    lease: Lease


@dataclass(eq=False)
class Field:
    """Of one world. `engines`: the process of each engine by its id."""

    ledger: Ledger
    graphs: Mapping[str, Spec]
    blobs: MemoryBlobStore
    clock: Callable[[], int]
    on_begin: Callable[[Attempt], None]
    works: dict[Key, Attempt] = field(default_factory=dict)
    results: defaultdict[Key, list[Result]] = field(default_factory=lambda: defaultdict(list))
    running: dict[Running, None] = field(default_factory=dict)
    begun: set[Key] = field(default_factory=set)
    marks: Counter[str] = field(default_factory=Counter)
    engines: dict[str, Process] = field(default_factory=dict)

    def begin(self, running: Running) -> None:
        """User code of an attempt begins."""
        run_id, task_id, attempt = running.key
        note("begins", *running.key)
        self.on_begin(self.works[running.key])
        before = self.ledger.numbers.get((run_id, task_id), 0)
        if running.key in self.begun:
            fail(AssertionError(f"attempt {attempt} of {task_id} of {run_id} begins again"))
        if attempt < before and running.lease.is_sure() and not self.engines[running.engine_id].is_dead:
            fail(AssertionError(f"{task_id} begins as attempt {attempt} after attempt {before}"))
        for other in self.running:
            is_older = other.key[:2] == running.key[:2] and other.engine_id == running.engine_id
            if is_older and other.lease.is_sure():
                fail(AssertionError(f"attempt {attempt} of {task_id} begins while attempt {other.key[2]} runs"))
            if self._share_a_turn(running, other) and not other.lease.process.is_paused:
                fail(AssertionError(f"{running.key} begins while {other.key} has its turn"))
        self.begun.add(running.key)
        self.ledger.begun[run_id, task_id] += 1
        self.ledger.numbers[run_id, task_id] = max(before, attempt)
        self.running[running] = None

    def _share_a_turn(self, one: Running, other: Running) -> bool:
        """Whether one engine may not run both at a time, even if it has lost the connection to one."""
        turn = self.works[one.key].turn
        is_same = turn == self.works[other.key].turn and one.key[0] == other.key[0]
        return bool(turn) and is_same and one.engine_id == other.engine_id

    def end(self, running: Running) -> None:
        self.running.pop(running, None)

    def end_all(self, lease: Lease) -> None:
        """Its process is dead."""
        for running in [running for running in self.running if running.lease is lease]:
            self.end(running)

    def result_of(self, attempt_input: AttemptInput, dice: random.Random) -> Result | None:
        """What an attempt gives; None: it never ends."""
        context = attempt_input.context
        key = context.run_id, context.task_id, context.attempt
        result = self._result(attempt_input, dice)
        if result is not None:
            self.results[key].append(result)
        return result

    def _result(self, attempt_input: AttemptInput, dice: random.Random) -> Result | None:
        context = attempt_input.context
        task = context.run_id, context.task_id
        attempt = self.works[*task, context.attempt]
        if methods.is_method(attempt):
            values = [value.payload for value in attempt_input.values]
            return self._result_of_method(attempt, values, dice)
        program, _, argument = attempt_input.function.name.partition(":")
        match program:
            case "grow":
                return Continued(graphwire.encode_spec(self.graphs[argument]))
            case "broken":
                return Failed(_error("broken"))
            case "flaky" if context.attempt <= int(argument):
                return Failed(_error("flaky"))
            case "hang" if context.attempt <= int(argument):
                return None
            case "large":
                which = dice.choice((context.run_id, "common"))
                data = f"{which}/{context.task_id}".encode()
                self.ledger.returned[task].append(data)
                return Returned(Payload("binary/plain", blob=self.blobs.put_now(data)))
        # every execution gives another value, so a task that ran again after its end is seen
        data = f"{'/'.join(task)}/{self.ledger.begun[task]}/{dice.getrandbits(32)}".encode()
        self.ledger.returned[task].append(data)
        return Returned(Payload("binary/plain", data))

    def _result_of_method(self, attempt: Attempt, values: list[Payload], dice: random.Random) -> Result | None:
        if methods.hangs(attempt, values):
            return None
        report = methods.run_method(attempt, values, self.graphs, self.clock(), dice.getrandbits(32))
        match report:
            case TaskSucceeded():
                return Returned(report.output)
            case ContinuationReturned():
                return Continued(report.continuation, report.method_outcome)
            case TaskFailed():
                return Failed(report.failure)
            case _:
                return Failed(Failure(FailureKind.SYSTEM, "perdure.WorkerLost", "its worker died"))


def _error(name: str) -> Failure:
    return Failure(FailureKind.APPLICATION, f"world.{name.title()}", name)
