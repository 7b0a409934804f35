"""Runs attempts in threads of this process: no cluster, no isolation; for tests and small things.

`async def` functions run on one loop in a thread of their own, many at a time.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Final

from perdure.codec import PYTHON_VERSION
from perdure.context import Context
from perdure.engine.messages import AttemptLost, AttemptStarted, TaskFailed, TaskSucceeded
from perdure.service.executors.port import GraphReturned, Report, Reports, ValueReader, Work
from perdure.storage.ports import BlobStore, StorageError
from perdure.storage.rows import ValueKey
from perdure.worker.attempt import Assignment, Continued, Failed, Result, Returned, Runner, Value, now_ms
from perdure.worker.blobs import BlockingBlobs
from perdure.worker.interrupt import Interrupted, interrupt_thread, spare_thread

THREADS: Final = 4

Key = tuple[str, str, int]


class _Running:
    """An attempt in a thread. The lock is held while its thread may be interrupted or moves on."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.is_cancelled = False
        self.thread_id: int | None = None
        self.task: asyncio.Task[Result] | None = None
        self.lock = threading.Lock()


class LocalExecutor:
    """Implements Executor."""

    def __init__(self, blobs: BlobStore, *, threads: int = THREADS, clock: Callable[[], int] = now_ms) -> None:
        self._blobs = blobs
        self._clock = clock
        self._threads_max = threads
        self._queue: queue.SimpleQueue[tuple[_Running, Assignment] | None] = queue.SimpleQueue()
        self._here: dict[Key, _Running] = {}
        self._held: dict[tuple[str, str], list[Work]] = {}  # behind an older attempt that was cancelled
        self._threads: list[threading.Thread] = []
        self._report: Callable[[Reports], None] | None = None

    async def start(self, report: Callable[[Reports], None], values: ValueReader) -> None:
        self._loop = asyncio.get_running_loop()
        self._report = report
        self._values = values
        self._runner = Runner(BlockingBlobs(self._blobs, self._loop))
        self._async_loop = asyncio.new_event_loop()
        loop_thread = threading.Thread(target=self._async_loop.run_forever, name="perdure-async", daemon=True)
        workers = [
            threading.Thread(target=self._work, name=f"perdure-{number}", daemon=True)
            for number in range(self._threads_max)
        ]
        self._loop_thread, self._threads = loop_thread, workers
        for thread in (loop_thread, *workers):
            thread.start()

    async def stop(self) -> None:
        if self._report is None:
            return
        self._report = None
        for key in list(self._here):
            self.cancel(*key)
        for _ in self._threads:
            self._queue.put(None)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=5)
        self._async_loop.call_soon_threadsafe(self._async_loop.stop)
        self._loop_thread.join(timeout=5)
        if not self._loop_thread.is_alive():
            self._async_loop.close()

    @property
    def is_idle(self) -> bool:
        """Whether no attempt is here."""
        return not self._here

    def python_versions(self) -> frozenset[str]:
        return frozenset({PYTHON_VERSION})

    def submit(self, work: Work) -> None:
        if work.key in self._here:
            return
        older = [key for key in self._here if key[:2] == work.key[:2]]
        if older:
            self._held.setdefault(work.key[:2], []).append(work)
            return
        self._here[work.key] = _Running(work)
        keys = [_key(work, source.task_id, source.input) for source in work.inputs]
        payloads = [self._values.cached(key) for key in keys]
        if all(payload is not None for payload in payloads):
            self._enqueue(work, [payload for payload in payloads if payload is not None])
        else:
            task = self._loop.create_task(self._fetch(work, keys))
            task.add_done_callback(lambda _: None)

    async def _fetch(self, work: Work, keys: list[ValueKey]) -> None:
        try:
            payloads = await self._values.read(keys)
        except StorageError as error:
            self._end(work, AttemptLost(work.task_id, work.attempt, f"inputs not read: {error}", self._clock()))
            return
        self._enqueue(work, payloads)

    def _enqueue(self, work: Work, payloads: list) -> None:  # type: ignore[type-arg]
        running = self._here.get(work.key)
        if running is None:
            return
        context = Context(work.namespace, work.workflow_id, work.run_id, work.task_id, work.attempt)
        values = [
            Value(payload, source.wraps, source.path) for payload, source in zip(payloads, work.inputs, strict=True)
        ]
        self._queue.put((running, Assignment(context, work.call.function, work.call.arguments, values)))

    def cancel(self, run_id: str, task_id: str, attempt: int) -> None:
        held = self._held.get((run_id, task_id), [])
        held[:] = [work for work in held if work.attempt != attempt]
        running = self._here.get((run_id, task_id, attempt))
        if running is None:
            return
        with running.lock:
            running.is_cancelled = True
            if running.thread_id is not None:
                interrupt_thread(running.thread_id)
            if running.task is not None:
                self._async_loop.call_soon_threadsafe(running.task.cancel)

    # -------------------------------------------------------------------------- in the threads

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            running, assignment = item
            if running.is_cancelled:
                self._tell(running, None)
            elif self._runner.is_async(assignment.function):
                self._async_loop.call_soon_threadsafe(self._begin_async, running, assignment)
            else:
                self._run(running, assignment)

    def _run(self, running: _Running, assignment: Assignment) -> None:
        thread_id = threading.get_ident()
        result: Result | None = None
        began_ms = self._clock()
        try:
            with running.lock:
                if running.is_cancelled:
                    raise Interrupted
                running.thread_id = thread_id
            self._began(running)
            result = self._runner.run(assignment)
        except (Interrupted, KeyboardInterrupt, SystemExit):
            result = None
        finally:
            with running.lock:
                running.thread_id = None
                spare_thread(thread_id)
        self._tell(running, result, began_ms)

    def _begin_async(self, running: _Running, assignment: Assignment) -> None:
        async def run() -> Result:
            return await self._runner.run_async(assignment)

        began_ms = self._clock()
        self._began(running)
        with running.lock:
            running.task = task = self._async_loop.create_task(run())
            if running.is_cancelled:
                task.cancel()

        def done(task: asyncio.Task[Result]) -> None:
            self._tell(running, None if task.cancelled() else task.result(), began_ms)

        task.add_done_callback(done)

    def _began(self, running: _Running) -> None:
        work = running.work
        self._post(lambda: self._send(work, AttemptStarted(work.task_id, work.attempt, self._clock())))

    def _tell(self, running: _Running, result: Result | None, began_ms: int | None = None) -> None:
        """None: it was cancelled, or ended itself like a worker that exits."""
        work = running.work
        report: Report
        match result:
            case Returned(output):
                report = TaskSucceeded(work.task_id, work.attempt, output, self._clock(), began_ms)
            case Continued(spec):
                report = GraphReturned(work.task_id, work.attempt, spec, self._clock(), began_ms)
            case Failed(failure):
                report = TaskFailed(work.task_id, work.attempt, failure, self._clock())
            case None:
                report = AttemptLost(work.task_id, work.attempt, "the attempt was interrupted", self._clock())
        self._post(lambda: self._end(work, report))

    def _post(self, step: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(step)

    # -------------------------------------------------------------------------- on the loop

    def _end(self, work: Work, report: Report) -> None:
        self._here.pop(work.key, None)
        self._send(work, report)
        for held in self._held.pop(work.key[:2], []):
            self.submit(held)

    def _send(self, work: Work, report: Report) -> None:
        if self._report is not None:
            self._report([(work.run_id, report)])


def _key(work: Work, task_id: str, name: str) -> ValueKey:
    return ValueKey(work.run_id, task_id, name)
