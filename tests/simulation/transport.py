"""The network between engines and workers: streams as gRPC gives them, with the faults of a network.

Messages of a stream arrive in order, each some time after it was sent, and a prefix of them if the stream is cut. The
two ends notice a cut at different times, up to the time-out of the keepalive. What a dead process had sent arrives, or
what was still in its buffers does not.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio

from perdure.service.api.errors import translate
from perdure.service.rpc.worker import WorkerServicer
from perdure.worker.dialling import Dial
from simulation.clock import note
from simulation.process import Process

DELAYS_S: Final = (0.0005, 0.0005, 0.001, 0.005, 0.03)
LATE_SHARE: Final = 0.03
LATE_MAX_S: Final = 0.8
NOTICE_MAX_S: Final = 20.0
"""A worker's keepalive: a peer that is silent for this long is gone."""


class Host:
    """One life of an engine, as it is reached."""

    def __init__(self, process: Process, servicer: WorkerServicer) -> None:
        self.process = process
        self.servicer = servicer
        self.streams: dict[Stream, None] = {}
        self.questions: dict[asyncio.Future[Any], None] = {}


class Network:
    """Engines by address, and the streams to them. `dice`: those of a part of the world."""

    def __init__(self, dice: Callable[[str], random.Random]) -> None:
        self._dice = dice
        self._hosts: dict[str, Host] = {}
        self._dialled: Counter[str] = Counter()
        self.marks: Counter[str] = Counter()

    def listen(self, address: str, host: Host) -> None:
        self._hosts[address] = host

    def hang_up(self, address: str) -> None:
        """Nothing listens any more, and the streams end: in good order, or because the process is dead."""
        host = self._hosts.pop(address, None)
        if host is None:
            return
        for stream in list(host.streams):
            stream.server_is_gone()
        for question in host.questions:
            if not question.done():
                question.set_exception(failed(grpc.StatusCode.UNAVAILABLE, "the engine is gone"))

    def find(self, address: str) -> Host:
        host = self._hosts.get(address)
        if host is None:
            raise failed(grpc.StatusCode.UNAVAILABLE, "connection refused")
        return host

    def streams(self) -> list[Stream]:
        return [stream for host in self._hosts.values() for stream in host.streams]

    def dialled_by(self, process: Process) -> Dial:
        """What a process of a worker reaches engines with."""

        @asynccontextmanager
        async def dial(address: str) -> AsyncIterator[Stub]:
            self._dialled[process.name] += 1
            name = f"{process.name} to {address} {self._dialled[process.name]}"
            stub = Stub(self, process, address, self._dice(name))
            try:
                yield stub
            finally:
                stub.close()

        return dial


class Stub:
    """Of WorkerService, as a worker has it."""

    def __init__(self, network: Network, process: Process, address: str, dice: random.Random) -> None:
        self._network = network
        self._process = process
        self._address = address
        self._dice = dice
        self._streams: list[Stream] = []

    def ServeAgent(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        return self._serve("ServeAgent", messages)

    def ServeLease(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        return self._serve("ServeLease", messages)

    async def _serve(self, method: str, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        await asyncio.sleep(delay(self._dice))
        stream = Stream(self._network.find(self._address), self._process, method, self._dice)
        self._streams.append(stream)
        pump = asyncio.create_task(stream.send_all(messages))
        try:
            async for message in stream.down.received():
                yield message
        finally:
            pump.cancel()

    async def FetchValues(self, request: Any) -> Any:
        await asyncio.sleep(delay(self._dice))
        host = self._network.find(self._address)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def ask() -> None:
            try:
                answered = await host.servicer.FetchValues(copy(request), None)  # type: ignore[arg-type]
            except Exception as error:
                found: Any = as_status(error)
                if not answer.done():
                    answer.set_exception(found)
            else:
                if not answer.done():
                    answer.set_result(answered)

        host.questions[answer] = None
        host.process.spawn(ask())
        try:
            answered = await answer
        finally:
            del host.questions[answer]
        await asyncio.sleep(delay(self._dice))
        return copy(answered)

    def close(self) -> None:
        for stream in self._streams:
            stream.client_is_gone()


class Stream:
    """One call of ServeAgent or ServeLease."""

    def __init__(self, host: Host, client: Process, method: str, dice: random.Random) -> None:
        self.host = host
        self.client = client
        self.method = method
        self.dice = dice
        self.up = Way(client, dice)
        self.down = Way(host.process, dice)
        self._is_over = False
        host.streams[self] = None
        self._handler = host.process.spawn(self._handle())

    async def send_all(self, messages: AsyncIterator[Any]) -> None:
        """In the client: send what the iterator gives, until it ends."""
        async for message in messages:
            self.up.send(message)
        self.up.send(None)

    async def _handle(self) -> None:
        """In the engine."""
        error: BaseException | None = None
        try:
            async for message in getattr(self.host.servicer, self.method)(self.up.received(), None):
                self.down.send(message)
        except asyncio.CancelledError:
            error = failed(grpc.StatusCode.CANCELLED, "the server is stopped")
            raise
        except Exception as raised:
            error = as_status(raised)
        finally:
            self.host.streams.pop(self, None)
            self.down.send(error)

    # -------------------------------------------------------------------------- ends and faults

    def client_is_gone(self) -> None:
        """The call is over for the client. The engine notices soon."""
        if not self._is_over:
            self._is_over = True
            outside(delay(self.dice), self._cancel_handler)

    def client_is_dead(self, *, loses: bool) -> None:
        """The process of the client is dead. `loses`: with what it had in its buffers."""
        if loses:
            self.up.cut()
        if not self._is_over:
            self._is_over = True
            outside(delay(self.dice) * 3, self._cancel_handler)

    def server_is_gone(self) -> None:
        self.host.streams.pop(self, None)
        self._cancel_handler()
        outside(delay(self.dice), self._break)

    def cut(self) -> None:
        """The network between the two breaks. Each notices at some time."""
        note("cut", self.method, self.client.name)
        self.up.cut()
        self.down.cut()
        outside(self.dice.choice((0.001, self.dice.random() * NOTICE_MAX_S)), self._break)
        outside(self.dice.choice((0.001, self.dice.random() * NOTICE_MAX_S)), self._cancel_handler)

    @property
    def is_cut(self) -> bool:
        return self.down.is_cut

    def _break(self) -> None:
        self.down.close(failed(grpc.StatusCode.UNAVAILABLE, "the connection broke"))

    def _cancel_handler(self) -> None:
        self._handler.cancel()


class Way:
    """The messages of one direction."""

    def __init__(self, sender: Process, dice: random.Random) -> None:
        self._sender = sender
        self._dice = dice
        self._last_s = 0.0
        self._under_way: deque[Any] = deque()
        self._arrived: deque[Any] = deque()
        self._wake = asyncio.Event()
        self.is_cut = False

    def send(self, message: Any) -> None:
        """None and errors end the stream."""
        if self.is_cut or self._sender.is_dead:
            return
        self._under_way.append(message if message is None or isinstance(message, BaseException) else copy(message))
        now_s = asyncio.get_running_loop().time()
        self._last_s = max(self._last_s, now_s + delay(self._dice))
        outside(self._last_s - now_s, self._arrive)

    def cut(self) -> None:
        self.is_cut = True

    def close(self, error: BaseException) -> None:
        """The receiver notices that nothing comes any more."""
        self.is_cut = True
        self._arrived.append(error)
        self._wake.set()

    def _arrive(self) -> None:
        message = self._under_way.popleft()
        if not self.is_cut:
            self._arrived.append(message)
            self._wake.set()

    async def received(self) -> AsyncIterator[Any]:
        while True:
            while not self._arrived:
                self._wake.clear()
                await self._wake.wait()
            message = self._arrived.popleft()
            if message is None:
                return
            if isinstance(message, BaseException):
                raise message
            yield message


def delay(dice: random.Random) -> float:
    return dice.random() * LATE_MAX_S if dice.random() < LATE_SHARE else dice.choice(DELAYS_S)


def outside(delay_s: float, step: Callable[[], None]) -> None:
    """Do something later that belongs to no process."""
    asyncio.get_running_loop().call_later(delay_s, step, context=contextvars.Context())


def copy(message: Any) -> Any:
    """What the receiver has is not what the sender has."""
    return type(message).FromString(message.SerializeToString())


def failed(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def as_status(error: Exception) -> grpc.aio.AioRpcError:
    """As the interceptors of the server do it."""
    translated = translate(error, "WorkerService")
    return failed(translated.status, translated.message)
