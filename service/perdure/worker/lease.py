"""The body of a lease: a worker slot that runs attempts in the main thread of its process.

Attempts run in the main thread, because a `ray.get` in user code gives the CPU back only there. `async def` functions
run on a loop in the main thread, many at a time. When the stream breaks, the process stops its attempts: their results
could not be reported, and their successors may be starting elsewhere.

User code may hold the GIL from its first moment on. Then nothing else of this process is sent, and the engine cannot
count the time of an attempt. So one whose time is limited begins only after the report of its start was sent, and the
next attempt after the report of its end.

A cancelled attempt is interrupted. If it does not end within GRACE_S, or leaves threads or Ray tasks behind, the
process ends. If user code holds the GIL and prevents even that, the engine has the process killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final, NoReturn

from perdure import registry, tracebacks
from perdure.context import tells_waits
from perdure.rayobjects import RayObjects
from perdure.worker import children, interruptible, loops
from perdure.worker.attempt import Runner, now_ms
from perdure.worker.interrupt import Interrupted, interrupt_thread, spare_thread
from perdure.worker.receipts import receipt_of
from perdure.worker.results import Result, result_of
from perdure.worker.session import Session
from perdure.worker.values import AttemptInput

GRACE_S: Final = 1.0
"""The time between the interrupt of an attempt and the end of the process, if the attempt does not end."""
CHILDREN_S: Final = 0.5
"""The longest time that an ending process waits for the Ray tasks that it cancelled."""
EXIT_CODE: Final = 86
RAY_UNPACKS: Final = "/runtime_resources/"
"""Ray unpacks the code of runtime environments below folders of this name."""


def run_lease(
    address: str,
    engine_id: str,
    lease_id: str,
    blob_url: str,
    paths: Sequence[str] = (),
    node_id: str = "",
    environment: str = "",
    has_others: bool = False,
    imports: Sequence[str] = (),
) -> int:
    """Serve until the engine says to finish or is gone. Returns the number of attempts that ran.

    `paths` are folders of modules, besides those of the runtime environment. `environment` is the runtime environment
    of the lease's shape. `has_others`: other engines may take over the runs of this lease's engine. `imports` are
    modules that register functions.
    """
    named = json.loads(environment) if environment else {}
    has_code = any(named.get(field) for field in ("working_dir", "py_modules", "modules"))
    for path in sys.path:
        if RAY_UNPACKS in path:
            tracebacks.is_unpacked_at(path)
    for path in paths:
        if path not in sys.path:
            sys.path.insert(len(sys.path) if has_code else 0, path)
    registry.look_in(imports)
    os.environ["PERDURE_ADDRESS"] = address  # workflows that tasks start run on the same engine
    session = Session(address, engine_id, lease_id, blob_url, node_id, asks=has_others)
    lease = _Lease(session, named, holds_until_s=0.0 if has_others else inf)
    session.start(lease)
    try:
        return lease.work()
    except BaseException:  # left by user code, such as a signal handler that raises
        lease.give_back()
        raise
    finally:
        session.close()


class _Lease:
    """Implements MainThread: the upper methods run in the stream's thread, the lower ones in the main thread."""

    def __init__(self, session: Session, environment: Mapping[str, Any], *, holds_until_s: float) -> None:
        self._session = session
        self._runner = Runner(session.blobs, environment, RayObjects(session.blobs))
        self._queue: queue.SimpleQueue[tuple[int, AttemptInput] | None] = queue.SimpleQueue()
        self._main = threading.get_ident()
        self._lock = threading.Lock()
        self._waiting: set[int] = set()  # assigned, not begun, not dropped
        self._current: int | None = None  # the synchronous attempt that runs in the main thread
        self._loading: int | None = None  # an attempt that was reported as begun, and whose function is loaded first
        self._loading_since = 0, 0.0
        self._interrupted: int | None = None  # no attempt is interrupted twice
        self._sent: threading.Event | None = None  # what the current attempt waits for before it calls user code
        self._is_after_limited = False  # the end of a limited attempt may not be sent yet
        self._tasks: dict[int, asyncio.Task[Result]] = {}  # the attempts that run on the loop
        self._async_loop: asyncio.AbstractEventLoop | None = None
        self._async_wake: asyncio.Event | None = None
        self._known_async: set[str] = set()
        self._ends_s: dict[int, float] = {}  # by interrupted attempt: when the process ends if the attempt has not
        self._guard: threading.Thread | None = None
        self._ray_task = children.ray_task()
        self._count = 0
        self._holds_until_s = holds_until_s  # no attempt begins later: another engine may have taken the run over
        self._held = threading.Event()

    # -------------------------------------------------------------------------- in the stream's thread

    def assign(self, token: int, attempt_input: AttemptInput) -> None:
        with self._lock:
            self._waiting.add(token)
        self._put((token, attempt_input))

    def cancel(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            with self._lock:
                if self._is_running(token):  # also while its function is loaded
                    self._interrupt(token)
                elif token in self._waiting:
                    self._waiting.discard(token)
                    self._session.send_returned(token)

    def recall(self, tokens: Iterable[int]) -> None:
        with self._lock:
            for token in tokens:
                if token in self._waiting and token != self._loading:
                    self._waiting.discard(token)
                    self._session.send_returned(token)

    def holds(self, until_s: float) -> None:
        self._holds_until_s = until_s
        self._wake_up()

    def finish(self) -> None:
        self._put(None)

    def broken(self) -> None:
        """The stream is over: interrupt all attempts. After `finish` there are none."""
        with self._lock:
            self._waiting.clear()
            self._holds_until_s = inf  # no attempt is left
            running = [*self._tasks, *([self._current] if self._current is not None else [])]
            for token in running:
                self._interrupt(token)
        self._put(None)

    def _is_running(self, token: int) -> bool:
        return token == self._current or token in self._tasks

    def _interrupt(self, token: int) -> None:
        """Interrupt an attempt, and end the process if the attempt does not end in time. The lock is held."""
        if token == self._current:
            if token != self._interrupted:
                self._interrupted = token
                interrupt_thread(self._main)
            if self._sent is not None:
                self._sent.set()
        elif self._async_loop is not None:
            self._async_loop.call_soon_threadsafe(self._tasks[token].cancel)
        self._ends_s.setdefault(token, time.monotonic() + GRACE_S)
        if self._guard is None:
            self._guard = threading.Thread(target=self._watch, name="perdure-guard", daemon=True)
            self._guard.start()

    def _watch(self) -> None:
        """End the process if an interrupted attempt still runs after its grace. All have the same grace, so the first
        one is due first. The Ray tasks that the attempt started are cancelled first, level by level, because Ray takes
        seconds per level to notice that the owner is gone."""
        if self._current is not None:
            for child in children.of(self._ray_task):
                children.cancel(child)
        while True:
            with self._lock:
                for token in [token for token in self._ends_s if not self._is_running(token)]:
                    del self._ends_s[token]
                if not self._ends_s:
                    self._guard = None
                    return
                pause_s = next(iter(self._ends_s.values())) - time.monotonic()
            if pause_s <= 0:
                os._exit(EXIT_CODE)
            time.sleep(pause_s)

    def _put(self, item: tuple[int, AttemptInput] | None) -> None:
        self._queue.put(item)
        self._wake_up()

    def _wake_up(self) -> None:
        self._held.set()
        loop, wake = self._async_loop, self._async_wake
        if loop is not None and wake is not None:
            loop.call_soon_threadsafe(wake.set)

    # -------------------------------------------------------------------------- in the main thread

    @property
    def _is_sure(self) -> bool:
        return time.monotonic() < self._holds_until_s

    def _make_sure(self) -> None:
        """Wait until it is certain that no other engine has taken over the waiting attempts."""
        while not self._is_sure:
            self._held.clear()
            if not self._is_sure:
                self._held.wait()

    def work(self) -> int:
        while True:
            try:
                item = self._queue.get()
            except Interrupted:  # sent to an attempt that has just ended
                continue
            has_more = True
            if item is not None:
                self._make_sure()
                if not self._load(*item):
                    continue
            while has_more and item is not None and self._is_async(item[1]):
                has_more, item = loops.run(self._run_together(item))
            if not has_more:
                continue
            if item is None:
                return self._count
            self._run(*item)

    def _load(self, token: int, attempt_input: AttemptInput) -> bool:
        """Load the function of a waiting attempt, if this lease has not loaded it before. The attempt begins with that,
        so its time limit and its cancellation end an import that hangs. False: the attempt was dropped or has ended."""
        if self._runner.has_loaded(attempt_input.function):
            return True
        threads = threading.active_count()
        began_ms, began_s = now_ms(), time.perf_counter()
        sent = threading.Event() if attempt_input.is_limited or self._is_after_limited else None

        def enter() -> bool:
            with self._lock:
                if token not in self._waiting:
                    return False
                self._session.send_started(token, began_ms, at_once=True, on_sent=sent.set if sent else None)
                self._loading = self._current = token
                self._loading_since = began_ms, began_s
                self._sent = sent
            if sent is not None:
                _wait_for(sent)
                self._session.watch_loading(token, self._main)
            return True

        def leave() -> None:
            self._leave()
            if sent is not None:
                self._session.has_loaded()

        if not interruptible.load(self._runner, attempt_input.function, enter, leave):
            return False
        if token != self._interrupted:
            return True
        with self._lock:
            self._waiting.discard(token)
        if self._has_left_work(threads):
            self._abandon()
        self._session.send_receipt(receipt_of(token, None, began_ms, time.perf_counter() - began_s))
        return False

    def _begin(self, token: int, began_ms: int, *, at_once: bool, on_sent: Callable[[], None] | None = None) -> bool:
        """Take an attempt from the waiting ones. False: it was dropped before. The caller holds the lock."""
        if token not in self._waiting:
            return False
        self._waiting.discard(token)
        self._count += 1
        if token != self._loading:
            self._session.send_started(token, began_ms, at_once=at_once, on_sent=on_sent)
        return True

    def _is_told_first(self, token: int, attempt_input: AttemptInput) -> bool:
        """Whether user code waits until the report of the start, and so all reports before it, were sent. They were
        sent before the function was loaded, if this attempt loaded it."""
        must_wait = attempt_input.is_limited or self._is_after_limited
        self._is_after_limited = attempt_input.is_limited
        return must_wait and token != self._loading

    def _start_of(self, token: int) -> tuple[int, float]:
        """When an attempt that begins now has begun, by the wall clock and by the monotonic clock."""
        return self._loading_since if token == self._loading else (now_ms(), time.perf_counter())

    def _run(self, token: int, attempt_input: AttemptInput) -> None:
        began_ms, began_s = self._start_of(token)
        threads = threading.active_count()
        sent = threading.Event() if self._is_told_first(token, attempt_input) else None
        is_dropped = False

        def enter() -> bool:
            nonlocal is_dropped
            with self._lock:
                if not self._begin(token, began_ms, at_once=sent is not None, on_sent=sent.set if sent else None):
                    is_dropped = True
                    return False
                self._current, self._sent = token, sent
            if sent is not None:
                _wait_for(sent)
            return True

        with tells_waits(partial(self._session.send_waits, token)):
            result = interruptible.run(self._runner, attempt_input, enter, self._leave)
        if is_dropped:
            return
        if token == self._interrupted and self._has_left_work(threads):
            self._abandon()
        self._session.send_receipt(receipt_of(token, result, began_ms, time.perf_counter() - began_s))

    def _has_left_work(self, threads: int) -> bool:
        """Whether threads or Ray tasks of an interrupted attempt still run."""
        guard = self._guard
        now = threading.active_count() - (guard is not None and guard.is_alive())
        return now > threads or bool(children.of(self._ray_task))

    def _abandon(self) -> NoReturn:
        """End the process. Ray then ends the tasks that it started, because their owner is gone. The interrupted
        attempt is not answered, so that the engine assigns no new one until then."""
        self.give_back()
        until_s = time.monotonic() + CHILDREN_S
        for child in children.of(self._ray_task):
            children.cancel(child)
        while children.of(self._ray_task) and time.monotonic() < until_s:
            time.sleep(0.01)
        self._session.close()
        os._exit(EXIT_CODE)

    def give_back(self) -> None:
        """Return the attempts that did not begin, so that they run elsewhere."""
        with self._lock:
            for token in self._waiting:
                self._session.send_returned(token)
            self._waiting.clear()

    def _leave(self) -> None:
        """No attempt runs in the main thread any more: take back a pending interrupt."""
        with self._lock:
            self._current = None
            spare_thread(self._main)

    # -------------------------------------------------------------------------- async functions

    def _is_async(self, attempt_input: AttemptInput) -> bool:
        key = attempt_input.function.key
        if key in self._known_async:
            return True
        if not self._runner.is_async(attempt_input.function):
            return False
        self._known_async.add(key)
        self._session.send_concurrent(key)
        return True

    async def _run_together(self, item: tuple[int, AttemptInput]) -> tuple[bool, tuple[int, AttemptInput] | None]:
        """Run async attempts until none is left. Returns whether an item remains to be done, and the item."""
        self._async_wake = asyncio.Event()
        self._async_loop = asyncio.get_running_loop()
        has_rest, rest = False, None
        try:
            self._spawn(*item)
            while self._tasks:
                while not has_rest and self._is_sure and not self._queue.empty():
                    following = self._queue.get()
                    if following is not None and not self._load(*following):
                        continue
                    if following is not None and self._is_async(following[1]):
                        self._spawn(*following)
                    else:
                        has_rest, rest = True, following
                await self._async_wake.wait()
                self._async_wake.clear()
        finally:
            self._async_loop = self._async_wake = None
        return has_rest, rest

    def _spawn(self, token: int, attempt_input: AttemptInput) -> None:
        began_ms, began_s = self._start_of(token)
        wake, loop = self._async_wake, self._async_loop
        assert wake is not None
        assert loop is not None
        sent = asyncio.Event() if self._is_told_first(token, attempt_input) else None
        on_sent = None if sent is None else partial(_call_in, loop, sent.set)
        with self._lock:
            if not self._begin(token, began_ms, at_once=True, on_sent=on_sent):
                return
            # Not by the loop's task factory, which user code may have set.
            run = self._run_async(token, attempt_input, sent)
            task = asyncio.Task(run, loop=loop)
            self._tasks[token] = task

        def done(task: asyncio.Task[Result]) -> None:
            with self._lock:
                del self._tasks[token]
            try:
                self._session.send_receipt(receipt_of(token, result_of(task), began_ms, time.perf_counter() - began_s))
            finally:
                wake.set()

        task.add_done_callback(done)

    async def _run_async(self, token: int, attempt_input: AttemptInput, sent: asyncio.Event | None) -> Result:
        if sent is not None:
            await sent.wait()
        with tells_waits(partial(self._session.send_waits, token)):
            return await self._runner.run_async(attempt_input)


def _wait_for(sent: threading.Event) -> None:
    """Wait until a report was sent. If the stream ends before, the attempt is interrupted. Signal handlers that earlier
    attempts left behind may raise here, which is no fault of this one."""
    while not sent.is_set():
        with suppress(Exception):
            sent.wait()


def _call_in(loop: asyncio.AbstractEventLoop, step: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the attempt was cancelled, and was the last one
        loop.call_soon_threadsafe(step)
