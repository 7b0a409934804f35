"""Runs attempts in threads of this process, without a cluster and without isolation; for tests and small work.

While an attempt waits for Perdure, such as a method for a call of another actor, another thread takes its place.

`async def` functions run on one loop in a separate thread, many at a time. User code that holds the GIL holds up the
engine, so its time limit cannot end it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any, Final

from perdure import failures, registry, tracebacks
from perdure.context import Context, tells_waits
from perdure.engine.messages import AttemptLost, AttemptStarted, TaskFailed, TaskSucceeded
from perdure.functions import PYTHON_VERSION
from perdure.model import WAITED, Payload
from perdure.service.executors.lanes import Lanes
from perdure.service.executors.places import Places
from perdure.service.executors.port import (
    Attempt,
    ContinuationReturned,
    Functions,
    Report,
    Reports,
    ValueReader,
    Waiting,
    WaitReason,
    forever,
)
from perdure.service.executors.turns import Key, Turns
from perdure.storage.ports import BlobStore, CorruptData, StorageUnavailable
from perdure.storage.rows import ValueKey
from perdure.v1.function_service_pb2 import FunctionInfo
from perdure.worker import interruptible
from perdure.worker.announce import describe
from perdure.worker.attempt import Runner, now_ms
from perdure.worker.blobs import BlockingBlobs
from perdure.worker.interrupt import interrupt_thread, spare_thread
from perdure.worker.loops import serve
from perdure.worker.results import Continued, Failed, Result, Returned, data_lost, result_of
from perdure.worker.values import AttemptInput, Value, with_ready

log = logging.getLogger(__name__)

THREADS: Final = 4
AGAIN_S: Final = 0.2
UNSURE_S: Final = 0.02
"""The pause between two checks of `holds_for_s`, while other engines may have taken the runs over."""
STOP_S: Final = 5.0
"""User code that does not end within this time is abandoned: a thread cannot be killed."""

Began = tuple[int, float]
"""When an attempt began: by the wall clock, and by the monotonic clock."""


class _LocalAttempt:
    """An attempt in a thread. The lock is held while its thread may be interrupted or moves on."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.is_cancelled = False
        self.began: Began | None = None
        self.thread_id: int | None = None
        self.is_loading = False
        self.task: asyncio.Task[Result] | None = None
        self.lock = threading.Lock()


class _Queue:
    """Attempts on their way to the threads."""

    def __init__(self) -> None:
        self._turns: Turns[tuple[_LocalAttempt, AttemptInput]] = Turns()
        self._called: Turns[tuple[_LocalAttempt, AttemptInput]] = Turns()  # those that other attempts wait for
        self._changed = threading.Condition()
        self._is_closed = False

    def put(self, running: _LocalAttempt, attempt_input: AttemptInput) -> None:
        with self._changed:
            turns = self._called if running.attempt.is_awaited else self._turns
            turns.add(running.attempt.key, (running, attempt_input))
            self._changed.notify()

    def get(self, places: Places) -> tuple[_LocalAttempt, AttemptInput] | None:
        """Waits for one. None: it was closed and nothing is left, or this thread is one too many."""
        with self._changed:
            while True:
                if places.is_surplus() or (self._is_closed and not self._turns and not self._called):
                    return None
                if self._called:
                    return self._called.take()
                if self._turns and (self._is_closed or places.takes_any()):
                    return self._turns.take()
                self._changed.wait()

    def stir(self) -> None:
        """Let threads look again whether they are too many."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


def _described(name: str, version: str, made: Any) -> FunctionInfo | None:
    try:
        return describe(name, version, made)
    except ValueError as error:
        log.warning("a function has no name here: %s", error)
        return None


class LocalExecutor:
    """Implements Executor. `address` returns the engine's address, once it has one: tasks start workflows there."""

    def __init__(
        self,
        blobs: BlobStore,
        *,
        threads: int = THREADS,
        clock: Callable[[], int] = now_ms,
        address: Callable[[], str] = str,
    ) -> None:
        self._blobs = blobs
        self._clock = clock
        self._address = address
        self._threads_max = threads
        self._queue = _Queue()
        self._here: dict[Key, _LocalAttempt] = {}
        self._lanes = Lanes()
        self._fetching: set[asyncio.Task[None]] = set()
        self._places = Places(threads, self._work, self._queue.stir)
        self._report: Callable[[Reports], None] | None = None
        self._is_stopping = False
        self._holds_for_s: Callable[[], float] = forever
        self._registered: Mapping[tuple[str, str], Any] = {}
        self._functions: Functions = {}

    async def start(
        self, report: Callable[[Reports], None], values: ValueReader, holds_for_s: Callable[[], float] = forever
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._report = report
        self._values = values
        self._holds_for_s = holds_for_s
        self._runner = Runner(BlockingBlobs(self._blobs, self._loop))
        self._async_loop = asyncio.new_event_loop()
        self._loop_thread = threading.Thread(target=self._serve_async, name="perdure-async", daemon=True)
        self._loop_thread.start()
        self._places.open()

    async def stop(self) -> None:
        if self._report is None:
            return
        self._report = None
        self._lanes.drop_all()
        for running in self._here.values():
            self._interrupt(running)
        for task in self._fetching:
            task.cancel()
        await asyncio.gather(*self._fetching, return_exceptions=True)
        self._places.close()
        self._queue.close()
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        self._places.join(time.monotonic() + STOP_S)
        self._is_stopping = True
        self._async_loop.call_soon_threadsafe(self._async_loop.stop)
        self._loop_thread.join(timeout=STOP_S)

    def _serve_async(self) -> None:
        """Run the loop. When it is stopped, remaining tasks are cancelled, so that their `finally` blocks run."""
        loop = self._async_loop
        serve(loop, lambda: self._is_stopping)
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=STOP_S / 2))
        loop.close()

    @property
    def is_idle(self) -> bool:
        """Whether no attempt is here."""
        return not self._here

    def waiting(self, run_id: str, task_id: str, number: int) -> Waiting | None:
        running = self._here.get((run_id, task_id, number))
        if running is None or running.thread_id is not None or running.task is not None:
            return None
        return Waiting(WaitReason.RESOURCES, f"waits for one of the {self._threads_max} threads of the engine")

    def loading(self, run_id: str, task_id: str, number: int) -> str:
        running = self._here.get((run_id, task_id, number))
        thread_id = None if running is None or not running.is_loading else running.thread_id
        return "" if thread_id is None else tracebacks.of_import(thread_id)

    def functions(self) -> Functions:
        """Those that this process has registered: tasks share its modules."""
        made = registry.registered()
        if made != self._registered:
            self._registered = made
            self._functions = {name: info for name, each in made.items() if (info := _described(*name, each))}
        return self._functions

    def python_versions(self) -> frozenset[str]:
        return frozenset({PYTHON_VERSION})

    def submit(self, attempt: Attempt) -> None:
        if attempt.key in self._here or self._lanes.waits(attempt):
            return
        self._here[attempt.key] = _LocalAttempt(attempt)
        self._lanes.enter(attempt)
        payloads = [self._values.cached(_key(attempt, source.task_id, source.input)) for source in attempt.inputs]
        if all(payload is not None and payload.encoding != WAITED for payload in payloads):
            pairs = zip(payloads, attempt.inputs, strict=True)
            self._enqueue(attempt, [Value(payload, at.wraps, at.path) for payload, at in pairs if payload])
        else:
            task = self._loop.create_task(self._fetch(attempt))
            self._fetching.add(task)
            task.add_done_callback(self._fetching.discard)

    async def _fetch(self, attempt: Attempt) -> None:
        async def read(task_ids: Sequence[str]) -> list[Payload]:
            return await self._values.read([ValueKey(attempt.run_id, task_id=task_id) for task_id in task_ids])

        while True:
            try:
                keys = [_key(attempt, source.task_id, source.input) for source in attempt.inputs]
                payloads = await self._values.read(keys)
                values = [
                    await with_ready(Value(payload, source.wraps, source.path), read)
                    for payload, source in zip(payloads, attempt.inputs, strict=True)
                ]
            except StorageUnavailable:  # not the fault of this attempt
                await asyncio.sleep(AGAIN_S)
            except CorruptData as error:
                self._end(attempt, TaskFailed(attempt.task_id, attempt.number, data_lost(str(error)), self._clock()))
                return
            except Exception as error:  # the attempt must end in any case
                reason = f"inputs not read: {failures.described(error)}"
                self._end(attempt, AttemptLost(attempt.task_id, attempt.number, reason, self._clock()))
                return
            else:
                self._enqueue(attempt, values)
                return

    def _enqueue(self, attempt: Attempt, values: Sequence[Value]) -> None:
        running = self._here.get(attempt.key)
        if running is None:
            return
        names = attempt.namespace, attempt.workflow_id, attempt.run_id, attempt.task_id
        context = Context(*names, attempt.number, self._address(), attempt.callers)
        self._queue.put(running, AttemptInput(context, attempt.call.function, attempt.call.arguments, values))

    def cancel(self, run_id: str, task_id: str, number: int) -> None:
        self._lanes.drop((run_id, task_id, number))
        running = self._here.get((run_id, task_id, number))
        if running is not None and self._report is not None:
            self._interrupt(running)

    def _interrupt(self, running: _LocalAttempt) -> None:
        with running.lock:
            if running.is_cancelled:  # no attempt is interrupted twice
                return
            running.is_cancelled = True
            if running.thread_id is not None:
                interrupt_thread(running.thread_id)
            if running.task is not None:
                self._async_loop.call_soon_threadsafe(running.task.cancel)

    # -------------------------------------------------------------------------- in the threads

    def _work(self) -> None:
        while (item := self._queue.get(self._places)) is not None:
            running, attempt_input = item
            while self._holds_for_s() <= 0 and not running.is_cancelled:
                time.sleep(UNSURE_S)
            if running.is_cancelled or not self._load(running, attempt_input):
                self._tell(running, None)
            elif self._runner.is_async(attempt_input.function):
                self._async_loop.call_soon_threadsafe(self._begin_async, running, attempt_input)
            else:
                self._run(running, attempt_input)

    def _load(self, running: _LocalAttempt, attempt_input: AttemptInput) -> bool:
        """Load the function of an attempt, if it was not loaded before. The attempt begins with that, so its time limit
        and its cancellation end an import that hangs. False: it was cancelled."""
        if self._runner.has_loaded(attempt_input.function):
            return True
        thread_id = threading.get_ident()
        enter, leave = partial(self._enter, running, thread_id), partial(_leave, running, thread_id)
        running.is_loading = True
        interruptible.load(self._runner, attempt_input.function, enter, leave)
        running.is_loading = False
        return not running.is_cancelled

    def _run(self, running: _LocalAttempt, attempt_input: AttemptInput) -> None:
        thread_id = threading.get_ident()
        enter, leave = partial(self._enter, running, thread_id), partial(_leave, running, thread_id)
        with tells_waits(self._places.waits):
            result = interruptible.run(self._runner, attempt_input, enter, leave)
        self._tell(running, result, running.began)

    def _enter(self, running: _LocalAttempt, thread_id: int) -> bool:
        """The attempt begins in a thread. False: it was cancelled."""
        with running.lock:
            if running.is_cancelled:
                return False
            running.thread_id = thread_id
        self._begin(running)
        return True

    def _begin_async(self, running: _LocalAttempt, attempt_input: AttemptInput) -> None:
        async def run() -> Result:
            return await self._runner.run_async(attempt_input)

        began = self._begin(running)
        with running.lock:
            # Not by the loop's task factory, which user code may have set.
            running.task = task = asyncio.Task(run(), loop=self._async_loop)
            if running.is_cancelled:
                task.cancel()

        def done(task: asyncio.Task[Result]) -> None:
            self._tell(running, result_of(task), began)

        task.add_done_callback(done)

    def _begin(self, running: _LocalAttempt) -> Began:
        """Report that an attempt begins, unless it has begun with the loading of its function."""
        if running.began is None:
            began_ms, _ = running.began = self._clock(), time.perf_counter()
            attempt = running.attempt
            self._post(lambda: self._send(attempt, AttemptStarted(attempt.task_id, attempt.number, began_ms, began_ms)))
        return running.began

    def _tell(self, running: _LocalAttempt, result: Result | None, began: Began | None = None) -> None:
        """Report the result of an attempt; None: it was cancelled."""
        attempt, now_ms = running.attempt, self._clock()
        times: tuple[int, int | None, int | None] = now_ms, None, None
        if began is not None:
            began_ms, began_s = began
            times = now_ms, began_ms, max(now_ms, began_ms + ceil((time.perf_counter() - began_s) * 1000))
        report: Report
        match result:
            case Returned(output):
                report = TaskSucceeded(attempt.task_id, attempt.number, output, *times)
            case Continued(spec, method_outcome):
                report = ContinuationReturned(attempt.task_id, attempt.number, spec, *times, method_outcome)
            case Failed(failure):
                report = TaskFailed(attempt.task_id, attempt.number, failure, *times)
            case None:
                report = AttemptLost(attempt.task_id, attempt.number, "the attempt was interrupted", now_ms)
        self._post(lambda: self._end(attempt, report))

    def _post(self, step: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(step)

    # -------------------------------------------------------------------------- on the loop

    def _end(self, attempt: Attempt, report: Report) -> None:
        self._here.pop(attempt.key, None)
        freed = self._lanes.leave(attempt)
        self._send(attempt, report)
        for waiting in freed:
            self.submit(waiting)

    def _send(self, attempt: Attempt, report: Report) -> None:
        if self._report is not None:
            self._report([(attempt.run_id, report)])


def _leave(running: _LocalAttempt, thread_id: int) -> None:
    """The attempt has left its thread: take back a pending interrupt."""
    with running.lock:
        running.thread_id = None
        spare_thread(thread_id)


def _key(attempt: Attempt, task_id: str, name: str) -> ValueKey:
    return ValueKey(attempt.run_id, task_id, name)
