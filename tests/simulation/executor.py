"""A cluster that exists only in the simulation: runs attempts by their program, and misbehaves.

What a task does follows from the name of its function, so that a reader of a failing seed sees it:

    value        returns a value                        flaky:N      fails N times, then returns
    broken       always fails                           lost:N       its worker dies N times
    grow:NAME    returns the graph NAME of the world    hang:N       never ends, N times
    large        returns a blob, perhaps long after it has stored it

Methods of actors are in `methods`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from perdure import graphwire
from perdure.engine.messages import AttemptLost, AttemptStarted, TaskFailed, TaskSucceeded
from perdure.model import Failure, FailureKind, Payload, Spec
from perdure.service.executors.lanes import Lanes
from perdure.service.executors.port import Attempt, ContinuationReturned, Report, Reports, ValueReader, forever
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.ports import CorruptData, StorageUnavailable
from perdure.storage.rows import ValueKey
from simulation import methods
from simulation.clock import note

VOLATILE = "v_"
"""How the ids of tasks without checkpoints begin."""
DELAY_MAX_S = 2.0
STILL_SHARE = 0.1
"""Of the workers that have stored a blob, so many stand still before they say so."""
STILL_MAX_S = 150.0
REPEAT_SHARE = 0.1
STRAY_LOSS_SHARE = 0.03


class Ledger:
    """The true state of the cluster, over all engines: kept by the world, seen by no engine."""

    def __init__(self) -> None:
        self.begun: Counter[tuple[str, str]] = Counter()
        self.numbers: dict[tuple[str, str], int] = {}
        self.returned: defaultdict[tuple[str, str], list[bytes]] = defaultdict(list)


class FakeExecutor:
    """Implements the executor port for one life of one engine."""

    def __init__(
        self,
        dice: random.Random,
        ledger: Ledger,
        graphs: Mapping[str, Spec],
        clock: Callable[[], int],
        on_submit: Callable[[Attempt], None],
        on_begin: Callable[[Attempt], None] = lambda _work: None,
        blobs: MemoryBlobStore | None = None,
        forgets: Callable[[Attempt], bool] = lambda _work: False,
    ) -> None:
        """`forgets`: the store does not take all records of this run, so attempts are numbered in one life only."""
        self._dice = dice
        self._blobs = blobs
        self._ledger = ledger
        self._graphs = graphs
        self._clock = clock
        self._on_submit = on_submit
        self._on_begin = on_begin
        self._holds_for_s: Callable[[], float] = forever
        self._forgets = forgets
        self._numbers: dict[tuple[str, str], int] = {}
        self._here: dict[tuple[str, str, int], Attempt] = {}
        self._cancelled: set[tuple[str, str, int]] = set()
        self._lanes = Lanes()  # of attempts with turns
        self._hanging: dict[tuple[str, str, int], Attempt] = {}
        self._report: Callable[[Reports], None] | None = None
        self._handles: list[asyncio.TimerHandle] = []
        self._tasks: list[asyncio.Future[None]] = []

    async def start(
        self, report: Callable[[Reports], None], values: ValueReader, holds_for_s: Callable[[], float] = forever
    ) -> None:
        self._report = report
        self._values = values
        self._holds_for_s = holds_for_s

    async def stop(self) -> None:
        self.die()

    def die(self) -> None:
        """The engine is gone: no more reports are delivered."""
        self._report = None
        for handle in self._handles:
            handle.cancel()
        for task in self._tasks:
            task.cancel()

    def loading(self, _run_id: str, _task_id: str, _number: int) -> str:
        return ""

    def waiting(self, run_id: str, task_id: str, attempt: int) -> None:
        return None

    def python_versions(self) -> frozenset[str]:
        return frozenset()

    def submit(self, attempt: Attempt) -> None:
        self._on_submit(attempt)
        for source in attempt.inputs:
            if source.task_id.startswith(VOLATILE):
                at_hand = self._values.cached(ValueKey(attempt.run_id, task_id=source.task_id))
                assert at_hand is not None, f"{attempt.task_id} starts and the value of {source.task_id} is gone"
        self._take(attempt)

    def _take(self, attempt: Attempt) -> None:
        if attempt.key in self._here:
            return
        if attempt.turn:
            if self._lanes.waits(attempt):
                return
            self._lanes.enter(attempt)
        self._here[attempt.key] = attempt
        self._later(lambda: self._begin(attempt))

    def cancel(self, run_id: str, task_id: str, attempt: int) -> None:
        key = run_id, task_id, attempt
        self._cancelled.add(key)
        self._lanes.drop(key)
        if (hanging := self._hanging.pop(key, None)) is not None:
            self._later(lambda: self._over(hanging))

    def _over(self, attempt: Attempt) -> None:
        """The attempt has really ended."""
        if attempt.turn:
            for waiting in self._lanes.leave(attempt):
                self._take(waiting)

    def _later(self, step: Callable[[], None], still_s: float = 0.0) -> None:
        delay_s = still_s + self._dice.choice((0.0, 0.001, self._dice.random() * DELAY_MAX_S))
        self._handles.append(asyncio.get_running_loop().call_later(delay_s, step))

    def _begin(self, attempt: Attempt) -> None:
        if attempt.key in self._cancelled:
            self._over(attempt)
            return
        if self._holds_for_s() <= 0:
            self._later(lambda: self._begin(attempt))
            return
        self._on_begin(attempt)
        note("begins", *attempt.key)
        self._ledger.begun[attempt.run_id, attempt.task_id] += 1
        numbers = self._numbers if self._forgets(attempt) else self._ledger.numbers
        before = numbers.get((attempt.run_id, attempt.task_id), 0)
        assert attempt.number > before, f"{attempt.task_id} begins as attempt {attempt.number} after attempt {before}"
        numbers[attempt.run_id, attempt.task_id] = attempt.number
        if self._dice.random() < STRAY_LOSS_SHARE:
            self._later(lambda: self._lose(attempt))
            return
        hangs = attempt.call.function.name.startswith("hang")
        if (
            hangs or attempt.is_limited or self._dice.random() < 0.8
        ):  # the message that it began may be overtaken by the result
            self._tell(attempt, AttemptStarted(attempt.task_id, attempt.number, self._clock()))
        self._later(lambda: self._end(attempt))

    def _lose(self, attempt: Attempt) -> None:
        self._tell(attempt, AttemptLost(attempt.task_id, attempt.number, "stray", self._clock()))
        self._later(lambda: self._over(attempt))

    def _end(self, attempt: Attempt) -> None:
        if methods.is_method(attempt):
            self._tasks.append(asyncio.ensure_future(self._run_method(attempt)))
            return
        # a cancelled attempt may have ended before it was told
        if attempt.key in self._cancelled and self._dice.random() < 0.5:
            return
        if attempt.call.function.name == "large:":
            self._end_large(attempt)
            return
        for report in self._outcome(attempt):
            self._tell(attempt, report)

    async def _run_method(self, attempt: Attempt) -> None:
        keys = [ValueKey(attempt.run_id, source.task_id, source.input) for source in attempt.inputs]
        while True:
            try:
                values = await self._values.read(keys)
                break
            except StorageUnavailable:
                await asyncio.sleep(self._dice.random())
            except CorruptData as error:
                failure = Failure(FailureKind.SYSTEM, "perdure.CorruptData", str(error), non_retryable=True)
                self._tell(attempt, TaskFailed(attempt.task_id, attempt.number, failure, self._clock()))
                self._over(attempt)
                return
        if methods.hangs(attempt, values) and attempt.key not in self._cancelled:
            self._hanging[attempt.key] = attempt
            return
        if attempt.key not in self._cancelled or self._dice.random() < 0.5:
            nonce = self._dice.getrandbits(32)
            self._tell(attempt, methods.run_method(attempt, values, self._graphs, self._clock(), nonce))
        self._over(attempt)

    def _end_large(self, attempt: Attempt) -> None:
        """The blob is there at once; who stored it says so later."""
        assert self._blobs is not None
        # Some make the same again, and some make what another run has made, too.
        which = self._dice.choice((attempt.run_id, "common"))
        data = f"{which}/{attempt.task_id}".encode()
        blob = self._blobs.put_now(data)
        self._ledger.returned[attempt.run_id, attempt.task_id].append(data)
        output = Payload("binary/plain", blob=blob)
        still_s = self._dice.random() * STILL_MAX_S if self._dice.random() < STILL_SHARE else 0.0
        self._later(
            lambda: self._tell(attempt, TaskSucceeded(attempt.task_id, attempt.number, output, self._clock())), still_s
        )

    def _outcome(self, attempt: Attempt) -> Sequence[Report]:
        program, _, argument = attempt.call.function.name.partition(":")
        task_id, number, now_ms = attempt.task_id, attempt.number, self._clock()
        match program:
            case "grow":
                return [ContinuationReturned(task_id, number, graphwire.encode_spec(self._graphs[argument]), now_ms)]
            case "broken":
                return [TaskFailed(task_id, number, _error("broken"), now_ms)]
            case "flaky" if number <= int(argument):
                return [TaskFailed(task_id, number, _error("flaky"), now_ms)]
            case "lost" if number <= int(argument):
                return [AttemptLost(task_id, number, "worker died", now_ms)]
            case "hang" if number <= int(argument):
                return []
        # every execution gives another value, so a task that ran again after its end is seen
        count = self._ledger.begun[attempt.run_id, task_id]
        data = f"{attempt.run_id}/{task_id}/{count}/{self._dice.getrandbits(32)}".encode()
        self._ledger.returned[attempt.run_id, task_id].append(data)
        return [TaskSucceeded(task_id, number, Payload("binary/plain", data), now_ms)]

    def _tell(self, attempt: Attempt, report: Report) -> None:
        if self._report is None:
            return
        note("reports", attempt.run_id, report)
        self._report([(attempt.run_id, report)])
        if self._dice.random() < REPEAT_SHARE:
            self._later(lambda: self._report and self._report([(attempt.run_id, report)]))


def _error(name: str) -> Failure:
    return Failure(FailureKind.APPLICATION, f"world.{name.title()}", name)
