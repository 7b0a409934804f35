"""The process of a lease. It has the real session with the engine. In the place of the main thread that runs user code
(`worker/lease.py`) it has a task that behaves in the same way, in virtual time.

User code may ignore its interruption, hold the GIL (then nothing of the process goes on but its connection), leave
threads behind, or kill the process.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from typing import Final

from perdure.context import Waiting, tells_waits
from perdure.v1 import worker_service_pb2 as pb
from perdure.worker.lease import GRACE_S
from perdure.worker.receipts import receipt_of
from perdure.worker.results import Result
from perdure.worker.session import Session
from perdure.worker.values import AttemptInput
from simulation.clock import note
from simulation.executor import DELAY_MAX_S, STILL_MAX_S, STILL_SHARE
from simulation.field import Field, Running
from simulation.process import Process
from simulation.transport import Network

DEATH_SHARE: Final = 0.02
"""Of the attempts, so many kill their process."""
WAIT_SHARE: Final = 0.2
"""Of the attempts, so many wait for the engine for a while."""
STUBBORN_SHARE: Final = 0.3
CLOSE_S: Final = 10.0

Item = tuple[int, AttemptInput]


class Worker:
    """Implements the session's MainThread, as the lease does. `exited`: told how the process ended, "" for well."""

    def __init__(
        self,
        field: Field,
        network: Network,
        process: Process,
        dice: random.Random,
        *,
        address: str,
        welcome: pb.AgentWelcome,
        lease_id: str,
        concurrent: Callable[[str], bool],
        exited: Callable[[str], None],
    ) -> None:
        self._field = field
        self._network = network
        self.process = process
        self._dice = dice
        self._engine_id = welcome.engine_id
        self._exited = exited
        self._concurrent = concurrent
        self._loop = loop = asyncio.get_running_loop()
        self._session = Session(
            address,
            welcome.engine_id,
            lease_id,
            welcome.blob_url,
            "node",
            asks=welcome.has_others,
            dial=network.dialled_by(process),
            loop=loop,
            now_s=loop.time,
        )
        self._holds_until_s = 0.0 if welcome.has_others else inf
        self._queue: deque[Item | None] = deque()
        self._wake = asyncio.Event()
        self._waiting: dict[int, None] = {}
        self._running: dict[int, asyncio.Task[Result | None]] = {}
        self._is_after_limited = False
        self._unbegun: set[int] = set()  # wait until their start was sent
        self._ends: dict[int, asyncio.TimerHandle] = {}
        self._known_async: set[str] = set()
        self._is_broken = False

    def start(self) -> None:
        self.process.spawn(self._live())

    async def _live(self) -> None:
        serving = asyncio.create_task(self._session.serve(self))
        await self._work()
        self._session._close()
        await asyncio.wait({serving}, timeout=CLOSE_S)
        self._exit("")

    def _exit(self, how: str) -> None:
        """The process ends here."""
        if not self.process.is_dead:
            self.kill(how)

    def kill(self, how: str) -> None:
        note("ends", self.process.name, how)
        loses = bool(how) and self._dice.random() < 0.5
        for stream in self._network.streams():
            if stream.client is self.process:
                stream.client_is_dead(loses=loses)
        self._field.end_all(self)
        self.process.kill()
        self._exited(how)

    def is_sure(self) -> bool:
        """Whether the engine and this lease still have each other."""
        streams = [stream for stream in self._network.streams() if stream.client is self.process]
        return not self._is_broken and any(not stream.is_cut for stream in streams)

    # -------------------------------------------------------------------------- from the session

    def assign(self, token: int, attempt_input: AttemptInput) -> None:
        self._waiting[token] = None
        self._put((token, attempt_input))

    def cancel(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            if token in self._waiting:
                del self._waiting[token]
                self._session.send_returned(token)
            elif token in self._running:
                self._interrupt(token)

    def recall(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            if token in self._waiting:
                del self._waiting[token]
                self._session.send_returned(token)

    def holds(self, until_s: float) -> None:
        self._holds_until_s = until_s
        self._wake.set()

    def finish(self) -> None:
        self._put(None)

    def broken(self) -> None:
        self._is_broken = True
        if self.process.is_dead:
            return
        self._waiting.clear()
        self._holds_until_s = inf
        for token in list(self._running):
            self._interrupt(token)
        self._put(None)

    def _put(self, item: Item | None) -> None:
        self._queue.append(item)
        self._wake.set()

    def _interrupt(self, token: int) -> None:
        if token in self._ends:
            return
        if self._dice.random() >= STUBBORN_SHARE or token in self._unbegun:
            self._running[token].cancel()
        self._ends[token] = self._loop.call_later(GRACE_S, self._end_of_grace, token)

    def _end_of_grace(self, token: int) -> None:
        if token in self._running:
            self._exit("the attempt did not end")

    # -------------------------------------------------------------------------- the main thread

    @property
    def _is_sure_of_engine(self) -> bool:
        return self._loop.time() < self._holds_until_s

    async def _waken(self) -> None:
        self._wake.clear()
        await self._wake.wait()

    async def _work(self) -> None:
        while True:
            while not self._queue:
                await self._waken()
            item = self._queue.popleft()
            while item is not None and not self._is_sure_of_engine:
                await self._waken()
            if item is not None and self._is_async(item[1]):
                item = await self._run_together(item)
                if item is None:
                    continue
                self._queue.appendleft(item)
                continue
            if item is None:
                return
            await self._run(*item)

    def _is_async(self, attempt_input: AttemptInput) -> bool:
        key = attempt_input.function.key
        if key not in self._known_async:
            if not self._concurrent(key):
                return False
            self._known_async.add(key)
            self._session.send_concurrent(key)
        return True

    async def _run_together(self, item: Item) -> Item | None:
        """Run asynchronous attempts until none is left. Gives the item that has to wait for that, if there is one."""
        self._spawn(*item)
        rest: Item | None = None
        is_over = False
        while self._running:
            while rest is None and not is_over and self._is_sure_of_engine and self._queue:
                following = self._queue.popleft()
                if following is None:
                    is_over = True
                elif self._is_async(following[1]):
                    self._spawn(*following)
                else:
                    rest = following
            await self._waken()
        if is_over:
            self._queue.appendleft(None)
        return rest

    def _spawn(self, token: int, attempt_input: AttemptInput) -> None:
        if token in self._waiting:
            code = self._begin(token, attempt_input, at_once=True)
            code.add_done_callback(lambda _code: self._wake.set())

    async def _run(self, token: int, attempt_input: AttemptInput) -> None:
        if token in self._waiting:
            code = self._begin(token, attempt_input, at_once=False)
            await asyncio.wait({code})

    def _begin(self, token: int, attempt_input: AttemptInput, *, at_once: bool) -> asyncio.Task[Result | None]:
        began_ms, began_s = self._field.clock(), self._loop.time()
        del self._waiting[token]
        sent = asyncio.Event() if attempt_input.is_limited or self._is_after_limited else None
        self._is_after_limited = attempt_input.is_limited
        on_sent = sent.set if sent else None
        self._session.send_started(token, began_ms, at_once=at_once or sent is not None, on_sent=on_sent)
        context = attempt_input.context
        running = Running((context.run_id, context.task_id, context.attempt), self._engine_id, self)
        if sent is None:
            self._field.begin(running)
            code = asyncio.create_task(self._user_code(token, attempt_input))
        else:
            self._unbegun.add(token)
            code = asyncio.create_task(self._begin_after(sent, token, attempt_input, running))
        self._running[token] = code

        def done(code: asyncio.Task[Result | None]) -> None:
            if self.process.is_dead:
                return
            was_interrupted = code.cancelled()
            result = None if was_interrupted else code.result()
            del self._running[token]
            self._unbegun.discard(token)
            self._field.end(running)
            if (timer := self._ends.pop(token, None)) is not None:
                timer.cancel()
            if was_interrupted and self._dice.random() < 0.2:
                self._abandon()
            else:
                self._session.send_receipt(receipt_of(token, result, began_ms, self._loop.time() - began_s))

        code.add_done_callback(done)
        return code

    async def _begin_after(
        self, sent: asyncio.Event, token: int, attempt_input: AttemptInput, running: Running
    ) -> Result | None:
        await sent.wait()
        self._unbegun.discard(token)
        self._field.begin(running)
        return await self._user_code(token, attempt_input)

    def _abandon(self) -> None:
        """An interrupted attempt has left threads behind: the process ends, and gives back what it has not begun."""
        for token in self._waiting:
            self._session.send_returned(token)
        self._waiting.clear()
        self._session._close()
        self._loop.call_later(0.05, self._exit, "an attempt has left threads behind")

    async def _user_code(self, token: int, attempt_input: AttemptInput) -> Result | None:
        dice = self._dice
        if dice.random() < WAIT_SHARE:
            with tells_waits(partial(self._session.send_waits, token)), Waiting():
                await asyncio.sleep(dice.random() * DELAY_MAX_S)
        elif dice.random() < WAIT_SHARE:  # until its end
            self._session.send_waits(token, True)
        if lasts_s := dice.choice((0.0, 0.001, 0.001, dice.random() * DELAY_MAX_S)):  # or it acts in its first moment
            await asyncio.sleep(lasts_s)
        program, _, argument = attempt_input.function.name.partition(":")
        if (program == "lost" and attempt_input.context.attempt <= int(argument)) or dice.random() < DEATH_SHARE:
            note("dies", self.process.name)
            self._exit("killed by its attempt")
            await asyncio.Event().wait()
        result = self._field.result_of(attempt_input, dice)
        if program == "large" and dice.random() < STILL_SHARE:
            await asyncio.sleep(dice.random() * STILL_MAX_S)
        if result is None:
            if dice.random() < 0.3:
                self.process.pause()  # it holds the GIL
            await asyncio.Event().wait()
        return result
