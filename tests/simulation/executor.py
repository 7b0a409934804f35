"""A cluster that exists only in the simulation: runs attempts by their program, and misbehaves.

What a task does follows from the name of its function, so that a reader of a failing seed sees it:

    value        returns a value                        flaky:N      fails N times, then returns
    broken       always fails                           lost:N       its worker dies N times
    grow:NAME    returns the graph NAME of the world    hang:N       never ends, N times
    large        returns a blob, perhaps long after it has stored it
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from perdure import graphwire
from perdure.engine.messages import AttemptLost, AttemptStarted, TaskFailed, TaskSucceeded
from perdure.model import Failure, FailureKind, Payload, Spec
from perdure.service.executors.port import GraphReturned, Report, Reports, ValueReader, Work, forever
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.rows import ValueKey
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
        on_submit: Callable[[Work], None],
        on_begin: Callable[[Work], None] = lambda _work: None,
        blobs: MemoryBlobStore | None = None,
        forgets: Callable[[Work], bool] = lambda _work: False,
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
        self._here: dict[tuple[str, str, int], Work] = {}
        self._cancelled: set[tuple[str, str, int]] = set()
        self._report: Callable[[Reports], None] | None = None
        self._handles: list[asyncio.TimerHandle] = []

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

    def waiting(self, run_id: str, task_id: str, attempt: int) -> None:
        return None

    def python_versions(self) -> frozenset[str]:
        return frozenset()

    def submit(self, work: Work) -> None:
        self._on_submit(work)
        for source in work.inputs:
            if source.task_id.startswith(VOLATILE):
                at_hand = self._values.cached(ValueKey(work.run_id, task_id=source.task_id))
                assert at_hand is not None, f"{work.task_id} starts and the value of {source.task_id} is gone"
        if work.key in self._here:
            return
        self._here[work.key] = work
        self._later(lambda: self._begin(work))

    def cancel(self, run_id: str, task_id: str, attempt: int) -> None:
        self._cancelled.add((run_id, task_id, attempt))

    def _later(self, step: Callable[[], None], still_s: float = 0.0) -> None:
        delay_s = still_s + self._dice.choice((0.0, 0.001, self._dice.random() * DELAY_MAX_S))
        self._handles.append(asyncio.get_running_loop().call_later(delay_s, step))

    def _begin(self, work: Work) -> None:
        if work.key in self._cancelled:
            return
        if self._holds_for_s() <= 0:
            self._later(lambda: self._begin(work))
            return
        self._on_begin(work)
        note("begins", *work.key)
        self._ledger.begun[work.run_id, work.task_id] += 1
        numbers = self._numbers if self._forgets(work) else self._ledger.numbers
        before = numbers.get((work.run_id, work.task_id), 0)
        assert work.attempt > before, f"{work.task_id} begins as attempt {work.attempt} after attempt {before}"
        numbers[work.run_id, work.task_id] = work.attempt
        if self._dice.random() < STRAY_LOSS_SHARE:
            self._later(lambda: self._tell(work, AttemptLost(work.task_id, work.attempt, "stray", self._clock())))
            return
        hangs = work.call.function.name.startswith("hang")
        if hangs or self._dice.random() < 0.8:  # the message that it began may be overtaken by the result
            self._tell(work, AttemptStarted(work.task_id, work.attempt, self._clock()))
        self._later(lambda: self._end(work))

    def _end(self, work: Work) -> None:
        # a cancelled attempt may have ended before it was told
        if work.key in self._cancelled and self._dice.random() < 0.5:
            return
        if work.call.function.name == "large":
            self._end_large(work)
            return
        for report in self._outcome(work):
            self._tell(work, report)

    def _end_large(self, work: Work) -> None:
        """The blob is there at once; who stored it says so later."""
        assert self._blobs is not None
        # Some make the same again, and some make what another run has made, too.
        which = self._dice.choice((work.run_id, "common"))
        data = f"{which}/{work.task_id}".encode()
        blob = self._blobs.put_now(data)
        self._ledger.returned[work.run_id, work.task_id].append(data)
        output = Payload("binary/plain", blob=blob)
        still_s = self._dice.random() * STILL_MAX_S if self._dice.random() < STILL_SHARE else 0.0
        self._later(lambda: self._tell(work, TaskSucceeded(work.task_id, work.attempt, output, self._clock())), still_s)

    def _outcome(self, work: Work) -> Sequence[Report]:
        program, _, argument = work.call.function.name.partition(":")
        task_id, attempt, now_ms = work.task_id, work.attempt, self._clock()
        match program:
            case "grow":
                return [GraphReturned(task_id, attempt, graphwire.encode_spec(self._graphs[argument]), now_ms)]
            case "broken":
                return [TaskFailed(task_id, attempt, _error("broken"), now_ms)]
            case "flaky" if attempt <= int(argument):
                return [TaskFailed(task_id, attempt, _error("flaky"), now_ms)]
            case "lost" if attempt <= int(argument):
                return [AttemptLost(task_id, attempt, "worker died", now_ms)]
            case "hang" if attempt <= int(argument):
                return []
        # every execution gives another value, so a task that ran again after its end is seen
        count = self._ledger.begun[work.run_id, task_id]
        data = f"{work.run_id}/{task_id}/{count}/{self._dice.getrandbits(32)}".encode()
        self._ledger.returned[work.run_id, task_id].append(data)
        return [TaskSucceeded(task_id, attempt, Payload("binary/plain", data), now_ms)]

    def _tell(self, work: Work, report: Report) -> None:
        if self._report is None:
            return
        note("reports", work.run_id, report)
        self._report([(work.run_id, report)])
        if self._dice.random() < REPEAT_SHARE:
            self._later(lambda: self._report and self._report([(work.run_id, report)]))


def _error(name: str) -> Failure:
    return Failure(FailureKind.APPLICATION, f"world.{name.title()}", name)
