"""Calls to an engine: the stubs of one channel, retries while the service is away, and typed errors."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import grpc

from perdure import errors, texts
from perdure.callstream import CallStream, Method
from perdure.connection import client_channel, repeated
from perdure.context import Waiting
from perdure.v1 import (
    actor_service_pb2,
    actor_service_pb2_grpc,
    blob_service_pb2_grpc,
    function_service_pb2_grpc,
    system_service_pb2_grpc,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)

T = TypeVar("T")

DEFAULT_ADDRESS: Final = "127.0.0.1:7373"
_HOST_AND_PORT: Final = re.compile(r"[^:/]+|https?://.*|(?:[^/:\[]+|\[[^\]]*\]):(?P<port>[^/:]*)")
"""Matches all addresses but those with a scheme of gRPC's, as in dns:///host:port."""
NAMESPACE_CHARS_MAX: Final = 63
PATIENCE_S: Final = 30.0
POLL_S: Final = 25.0
"""The duration of one long poll; the next one follows."""
AWAY_FIRST_S: Final = 0.05
AWAY_MAX_S: Final = 1.0
"""Pauses between two tries while the service is away: the first one, and the longest one."""
NOTE_AFTER_S: Final = 1.0
"""After this time without a service the log says what the client waits for."""

log = logging.getLogger(__name__)


class Transport:
    """The channel to an engine, for one event loop. `patience` is the number of seconds for which a call is repeated
    while the service is away."""

    def __init__(self, address: str, namespace: str, patience: float) -> None:
        self.address = address
        self.namespace = namespace
        self.patience = patience
        self.under_way = 0
        """Calls without an answer yet, including those that wait for the service to come back."""
        self._watching = 0
        self._is_noted = False
        self._look_timer: asyncio.TimerHandle | None = None
        self._was_ready = False  # when the timer was set, or by an answer since
        self._channel = client_channel(address)
        self.workflows = workflow_service_pb2_grpc.WorkflowServiceStub(self._channel)
        self.actors = actor_service_pb2_grpc.ActorServiceStub(self._channel)
        self.blobs = blob_service_pb2_grpc.BlobServiceStub(self._channel)
        self.functions = function_service_pb2_grpc.FunctionServiceStub(self._channel)
        self.system = system_service_pb2_grpc.SystemServiceStub(self._channel)
        self.run = CallStream(
            Method[workflow_service_pb2.RunRequest, workflow_service_pb2.RunResponse](
                self.workflows.Run,
                self.workflows.StreamRuns,
                workflow_service_pb2.StreamRunsRequest,
                workflow_service_pb2.StreamedRun,
            )
        )
        self.call_actor = CallStream(
            Method[actor_service_pb2.CallActorRequest, actor_service_pb2.CallActorResponse](
                self.actors.CallActor,
                self.actors.CallActors,
                actor_service_pb2.CallActorsRequest,
                actor_service_pb2.StreamedCall,
            )
        )

    async def close(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
        await self.run.close()
        await self.call_actor.close()
        await self._channel.close(None)

    async def ask(self, method: Callable[..., Awaitable[T]], request: object, *, asked_s: float | None = None) -> T:
        """Make a call that changes something. A repeated call says so in its metadata, so the service answers it as it
        would have answered the first one. `asked_s`: the time, by the loop's clock, of an earlier try."""
        loop = asyncio.get_running_loop()
        attempts = itertools.count(0 if asked_s is None else 1)
        began_s = loop.time() if asked_s is None else asked_s

        def ask() -> Awaitable[T]:
            attempt = next(attempts)
            return method(request, metadata=repeated(attempt, loop.time() - began_s) if attempt else None)

        return await self.call(ask)

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call until the service answers or patience ends. Raises the errors of `perdure.errors`."""
        absence = Absence(self)
        self._look_soon()
        self.under_way += 1
        try:
            with Waiting():
                while True:
                    try:
                        answer = await ask()
                    except grpc.RpcError as rpc_error:
                        error = errors.from_rpc_error(rpc_error)
                    except errors.PerdureError as refused:  # one call of a stream
                        error = refused
                    else:
                        absence.end()
                        return answer
                    await absence.wait(error)
        finally:
            self.under_way -= 1

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Log what a stream waits for, as for a call."""
        self._look_soon()
        self._watching += 1
        try:
            yield
        finally:
            self._watching -= 1

    def _look_soon(self) -> None:
        """Log what a call waits for, if the channel does not connect soon. A call to an address that drops packets
        fails only after a long time. One timer serves all calls, because setting one for each costs more than all
        else that this does."""
        if self._look_timer is None:
            self._was_ready = self._is_ready()
            self._look_timer = asyncio.get_running_loop().call_later(NOTE_AFTER_S, self._look)

    def _look(self) -> None:
        self._look_timer = None
        if self._is_ready() or not (self.under_way or self._watching):
            return
        if self._was_ready:  # the connection may have been lost just now
            self._look_soon()
        else:
            self.note(f"no connection yet; {errors.ADVICE}")

    def _is_ready(self) -> bool:
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    def note(self, what: str) -> None:
        """Log what is waited for, once, however many calls wait."""
        if not self._is_noted and self.patience >= NOTE_AFTER_S:
            self._is_noted = True
            log.warning("waiting up to %g s for the service at %s: %s", self.patience, self.address, what)

    def answered(self) -> None:
        self._is_noted = False
        self._was_ready = True


def transport_to(address: str = "", namespace: str = "", patience: float = PATIENCE_S) -> Transport:
    """A channel to the service at this address, by default that of PERDURE_ADDRESS and then 127.0.0.1:7373; the default
    of the namespace is that of PERDURE_NAMESPACE. InvalidFieldError for a malformed one."""
    address = _checked(address or os.environ.get("PERDURE_ADDRESS") or DEFAULT_ADDRESS)
    namespace = namespace or os.environ.get("PERDURE_NAMESPACE") or ""
    namespace = texts.name(namespace, "namespace", limit=NAMESPACE_CHARS_MAX, required=False)
    return Transport(address, namespace, patience)


def _checked(given: str) -> str:
    """The address. Raises InvalidFieldError if nothing can answer there, which gRPC notices only after some time."""
    found = _HOST_AND_PORT.fullmatch(given)
    port = found["port"] if found is not None else None
    if found is not None and not (port and port.isdecimal() and 0 < int(port) < 65_536):
        raise errors.InvalidFieldError(
            f"address: is host:port, as {DEFAULT_ADDRESS}, without http://, and not {given!r:.300}", field="address"
        )
    return given


async def waited(messages: AsyncIterable[T]) -> AsyncIterator[T]:
    """The messages of a stream, for each of which the caller waits."""
    following = aiter(messages)
    while True:
        with Waiting():
            try:
                message = await anext(following)
            except StopAsyncIteration:
                return
        yield message


class Absence:
    """An absence of the service, as one caller sees it: how long it has lasted, and when to try again. It begins with
    the first call without an answer, and ends with any answer."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._began_s: float | None = None
        self._pause_s = AWAY_FIRST_S

    def end(self) -> None:
        """The service has answered."""
        self._began_s = None
        self._pause_s = AWAY_FIRST_S
        self._transport.answered()

    async def wait(self, error: errors.PerdureError) -> None:
        """Pause before the next try. Raises the error if it does not mean that the service is away, or if the absence
        has lasted as long as patience."""
        if type(error) is errors.ServiceUnavailableError:  # from the channel, not from the service
            error = errors.UnreachableError.of(self._transport.address, error.message)
        elif not isinstance(error, (errors.ServiceUnavailableError, errors.SlowConsumerError)):
            raise error
        now_s = asyncio.get_running_loop().time()
        self._began_s = now_s if self._began_s is None else self._began_s
        away_s = now_s - self._began_s
        if away_s >= self._transport.patience:
            raise error
        if away_s >= NOTE_AFTER_S:
            self._transport.note(error.message)
        # The last try comes when patience ends, not one pause earlier.
        await asyncio.sleep(min(self._pause_s, self._transport.patience - away_s))
        self._pause_s = min(self._pause_s * 2, AWAY_MAX_S)
