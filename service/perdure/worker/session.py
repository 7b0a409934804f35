"""The lease's side of its stream: a thread with an event loop that receives attempts and sends receipts.

The main thread runs user code. It talks to this thread through `Session.send_*` and `MainThread` only.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio

from perdure import failures, tracebacks, wire
from perdure.context import Context
from perdure.functions import PYTHON_VERSION
from perdure.model import Failure, FailureKind, Function
from perdure.storage.urls import blob_store
from perdure.v1 import worker_service_pb2 as pb
from perdure.worker.blobs import BlockingBlobs
from perdure.worker.dialling import Dial, dial
from perdure.worker.intake import Intake
from perdure.worker.results import data_lost
from perdure.worker.values import AttemptInput, Value

RECEIPTS_BYTES_SOFT: Final = 1024 * 1024
"""A message is closed at this size. Its last receipt may exceed it by the largest graph that a task may return."""
LOOK_S: Final = 0.25
"""The pause between two looks at a thread that loads a function."""
START_LINGERS_S: Final = 0.002
"""The start of an attempt travels in one message with its end, if the end comes within this time."""
START_LINGERS_MAX_S: Final = 0.05
WAIT_LASTS_S: Final = 0.01
"""The engine is not told of waits that are shorter: most answers come at once."""
ASK_S_MIN: Final = 0.1
ASK_S_MAX: Final = 1.0


class MainThread(Protocol):
    """The calls of this thread to the main thread's side."""

    def assign(self, token: int, attempt_input: AttemptInput) -> None: ...
    def cancel(self, tokens: Iterable[int]) -> None: ...
    def recall(self, tokens: Iterable[int]) -> None: ...
    def holds(self, until_s: float) -> None: ...
    def finish(self) -> None: ...
    def broken(self) -> None: ...


class Session:
    """One lease's stream. Made and started in the main thread. `asks`: there are other engines, so the session asks
    how long the runs are certainly its engine's own, and passes that on to the main thread. `loop`: a loop of the
    caller's, who runs `serve` on it instead of starting the thread. `now_s`: the monotonic clock of the main thread."""

    def __init__(
        self,
        address: str,
        engine_id: str,
        lease_id: str,
        blob_url: str,
        node_id: str,
        *,
        asks: bool = False,
        dial: Dial = dial,
        loop: asyncio.AbstractEventLoop | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._dial = dial
        self._now_s = now_s
        self._hello = pb.LeaseHello(
            lease_id=lease_id, engine_id=engine_id, node_id=node_id, python_version=PYTHON_VERSION
        )
        self._loop = loop or _new_loop()
        self._out: deque[tuple[str, Any]] = deque()
        self._wake = asyncio.Event()
        self._is_waking = False
        self._is_closing = False
        self._unbegun: set[int] = set()  # given to the main thread; their start was not sent yet
        self._begun: set[int] = set()  # their start was sent, their end was not
        self._on_sent: list[Callable[[], None]] = []  # of the message that is being sent
        self._linger: asyncio.TimerHandle | None = None
        self._waits: dict[int, asyncio.TimerHandle | None] = {}  # by token; None: the engine knows
        self._loading: tuple[int, bool, asyncio.TimerHandle] | None = None  # its token, and whether the engine knows
        self._asks = asks
        self._asked_s = 0.0
        self._functions: dict[str, Function] = {}
        self._store = blob_store(blob_url)
        self.blobs = BlockingBlobs(self._store, self._loop)
        self._thread = threading.Thread(target=self._run, name="perdure-stream", daemon=True)

    def start(self, main_thread: MainThread) -> None:
        self._main_thread = main_thread
        self._thread.start()

    def close(self) -> None:
        """Send what is queued and end the stream."""
        self._call(self._close)
        self._thread.join(timeout=10)

    def _close(self) -> None:
        self._is_closing = True
        self._wake.set()

    # -------------------------------------------------------------------------- from the main thread

    def send_started(
        self, token: int, began_ms: int, *, at_once: bool = False, on_sent: Callable[[], None] | None = None
    ) -> None:
        """Report that an attempt began, and when. Unless `at_once`, the report waits a little for another message to
        travel with. That delays no decision of the engine about attempts without a time limit: receipts of earlier
        attempts are already sent, and the engine assumes that the first attempt at a lease may have begun.

        `on_sent` is called in the stream's thread once gRPC has the report, and sends it even if no thread of this
        process gets the GIL any more. It is not called if the stream ends before."""
        if at_once:
            self._send("started", (token, began_ms, on_sent))
        else:
            self._out.append(("started", (token, began_ms, on_sent)))

    def watch_loading(self, token: int, thread_id: int) -> None:
        """The thread loads the function of an attempt. If that takes long, the engine is told where it is, because a
        time-out of the attempt says so."""
        self._call(lambda: self._look_later(token, thread_id, ""))

    def has_loaded(self) -> None:
        """The function was loaded, or will not be."""
        self._call(self._look_no_more)

    def send_waits(self, token: int, begins: bool) -> None:
        """The attempt begins to wait for the engine, or goes on. The engine is told of waits that last, because it may
        use the place of an attempt that waits for another one. May be called in any thread."""
        self._call(lambda: self._waits_begin(token) if begins else self._waits_end(token))

    def send_receipt(self, receipt: pb.Receipt) -> None:
        self._send("receipt", receipt)

    def send_returned(self, token: int) -> None:
        self._send("returned", token)

    def send_concurrent(self, function: str) -> None:
        self._send("concurrent", function)

    def _send(self, kind: str, item: Any) -> None:
        self._out.append((kind, item))
        if not self._is_waking:
            self._is_waking = True
            self._call(self._wake_up)

    def _wake_up(self) -> None:
        self._is_waking = False
        self._wake.set()

    def _call(self, step: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(step)

    # -------------------------------------------------------------------------- in the stream's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.serve(self._main_thread))

    async def serve(self, main_thread: MainThread) -> None:
        """The session from its first message to its end, which the main thread is told."""
        self._main_thread = main_thread
        try:
            async with self._dial(self._address) as stub:
                self._intake = Intake(stub, self._assign, self._refuse)
                try:
                    with suppress(grpc.RpcError):
                        async for message in stub.ServeLease(self._messages()):
                            await self._handle(message)
                finally:
                    await self._intake.stop()
        finally:
            try:
                await self._store.close()
            finally:
                main_thread.broken()

    async def _messages(self) -> AsyncIterator[pb.ServeLeaseRequest]:
        yield pb.ServeLeaseRequest(hello=self._hello)
        if self._asks:
            self._ask()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._out:
                yield self._gather()
                if self._on_sent:  # gRPC asks for the next message when it has taken this one
                    self._was_sent()
            if self._is_closing:
                return
            self._await_start(START_LINGERS_S)

    def _await_start(self, pause_s: float) -> None:
        """Send a pending start by itself after a pause. This is needed only while no started attempt runs: otherwise
        the end of that attempt is sent before the next one begins."""
        if self._linger is None and self._unbegun and not self._begun:
            self._linger = self._loop.call_later(pause_s, self._start_waited, pause_s)

    def _start_waited(self, pause_s: float) -> None:
        self._linger = None
        if self._out:
            self._wake.set()
        else:
            self._await_start(min(pause_s * 2, START_LINGERS_MAX_S))

    def _gather(self) -> pb.ServeLeaseRequest:
        """The next message: everything that is queued, up to the soft limit."""
        message = pb.ServeLeaseRequest()
        size = 0
        while self._out and size < RECEIPTS_BYTES_SOFT:
            kind, item = self._out.popleft()
            match kind:
                case "receipt":
                    message.receipts.append(item)
                    size += item.ByteSize()
                    self._unbegun.discard(item.token)
                    self._begun.discard(item.token)
                case "started":
                    token, began_ms, on_sent = item
                    message.started.append(token)
                    message.started_ms.append(began_ms)
                    if on_sent is not None:
                        self._on_sent.append(on_sent)
                    self._unbegun.discard(token)
                    self._begun.add(token)
                case "loading":
                    message.loading.add(token=item[0], stack=item[1])
                    size += len(item[1])
                case "waits":
                    message.waits.append(item)
                case "returned":
                    message.returned.append(item)
                    self._unbegun.discard(item)
                case "asks":
                    message.asks = True
                case _:
                    message.concurrent.append(item)
        return message

    def _look_later(self, token: int, thread_id: int, before: str) -> None:
        self._loading = token, bool(before), self._loop.call_later(LOOK_S, self._look, token, thread_id, before)

    def _look(self, token: int, thread_id: int, before: str) -> None:
        stack = tracebacks.of_import(thread_id)[-wire.STACK_CHARS_MAX :]
        if stack != before:
            self._out.append(("loading", (token, stack)))
            self._wake.set()
        self._look_later(token, thread_id, stack or before)

    def _look_no_more(self) -> None:
        if self._loading is None:
            return
        token, is_told, timer = self._loading
        timer.cancel()
        self._loading = None
        if is_told:
            self._out.append(("loading", (token, "")))
            self._wake.set()

    def _waits_begin(self, token: int) -> None:
        if token not in self._waits:
            self._waits[token] = self._loop.call_later(WAIT_LASTS_S, self._tell_wait, token)

    def _tell_wait(self, token: int) -> None:
        self._waits[token] = None
        self._out.append(("waits", pb.Wait(token=token)))
        self._wake.set()

    def _waits_end(self, token: int) -> None:
        if (timer := self._waits.pop(token, None)) is not None:
            timer.cancel()
            return
        self._out.append(("waits", pb.Wait(token=token, is_over=True)))
        self._wake.set()

    def _was_sent(self) -> None:
        on_sent, self._on_sent = self._on_sent, []
        for call in on_sent:
            call()

    def _ask(self) -> None:
        """Ask how long the runs are certainly the engine's own. The answer counts from now, however long it travels."""
        self._asked_s = self._now_s()
        self._out.append(("asks", None))
        self._wake.set()

    def _answered(self, holds_for_s: float) -> None:
        self._main_thread.holds(self._asked_s + holds_for_s)
        self._loop.call_later(min(max(holds_for_s / 4, ASK_S_MIN), ASK_S_MAX), self._ask)

    async def _handle(self, message: pb.ServeLeaseResponse) -> None:
        if message.HasField("holds_for"):
            self._answered(message.holds_for.ToNanoseconds() / 1e9)
        for function in message.functions:
            self._functions[function.key] = wire.function_from_proto(function.function)
        for attempt in message.attempts:
            await self._intake.take(attempt)
        if message.cancel:
            self._main_thread.cancel(self._without_dropped(message.cancel))
        if message.recall:
            self._main_thread.recall(self._without_dropped(message.recall))
        if message.finish:
            self._intake.after_all(self._main_thread.finish)

    def _without_dropped(self, tokens: Sequence[int]) -> list[int]:
        """Return those of the attempts that the main thread was not given yet. The others."""
        dropped = self._intake.drop(tokens)
        for token in dropped:
            self.send_returned(token)
        return [token for token in tokens if token not in dropped]

    def _assign(self, attempt: pb.Attempt, values: list[Value]) -> None:
        attempt_input = self._attempt_input(attempt, values)
        self._unbegun.add(attempt.token)
        self._main_thread.assign(attempt.token, attempt_input)
        self._await_start(START_LINGERS_S)

    def _refuse(self, token: int, error: Exception) -> None:
        self.send_receipt(_without_inputs(token, error))

    def _attempt_input(self, attempt: pb.Attempt, values: list[Value]) -> AttemptInput:
        names = attempt.namespace, attempt.workflow_id, attempt.run_id, attempt.task_id
        context = Context(*names, attempt.attempt, self._address, tuple(attempt.callers))
        return AttemptInput(
            context,
            self._functions[attempt.function],
            wire.payload_from_proto(attempt.arguments),
            values,
            attempt.is_limited,
        )


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _without_inputs(token: int, error: Exception) -> pb.Receipt:
    """The receipt of an attempt that did not begin, because its values could not be read."""
    text = error.details() if isinstance(error, grpc.aio.AioRpcError) else failures.described(error)
    if isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.DATA_LOSS:
        return pb.Receipt(token=token, failure=wire.failure_to_proto(data_lost(text or "")))
    failure = Failure(FailureKind.SYSTEM, "perdure.InputsUnavailable", f"inputs not read: {text}")
    return pb.Receipt(token=token, failure=wire.failure_to_proto(failure))
