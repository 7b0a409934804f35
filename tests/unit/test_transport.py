"""Clients and a service that is away: how long they wait, when they retry, and what they log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import grpc
import pytest

import perdure
from perdure import batches, errors, transport
from perdure.connection import AGE_KEY, REPEAT_KEY, service_config
from perdure.transport import Absence, Transport
from perdure.v1 import errors_pb2, workflow_service_pb2

NOWHERE = "127.0.0.1:1"


class Away(grpc.RpcError):
    """The error of a channel whose server does not answer."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "connections to all backends failing; last error: ipv4:127.0.0.1:1: Failed to connect: refused (111)"


class Clock:
    """A clock that advances with every sleep."""

    def __init__(self) -> None:
        self.now_s = 0.0

    async def sleep(self, delay: float) -> None:
        self.now_s += delay


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock.now_s)
    monkeypatch.setattr(transport.asyncio, "sleep", clock.sleep)
    return clock


@pytest.fixture
async def client() -> AsyncIterator[perdure.Client]:
    async with perdure.Client(NOWHERE, patience=30) as client:
        yield client


async def test_patience_begins_when_the_service_goes_away(client: perdure.Client, clock: Clock) -> None:
    """A call may have waited for long before, for an output say."""
    began: list[float] = []

    async def ask() -> None:
        began.append(clock.now_s)
        if len(began) == 1:
            clock.now_s += 25
        raise Away

    with pytest.raises(errors.UnreachableError):
        await client._transport.call(ask)
    assert clock.now_s == pytest.approx(55)
    assert began[-1] == pytest.approx(55)
    assert max(later - earlier for earlier, later in pairwise(began[1:])) <= 1.0


class Stubs:
    """A service that answers watches now and then, and else is away."""

    def __init__(self, clock: Clock, *, answers: int = 0) -> None:
        self._clock = clock
        self._answers = answers

    def Watch(self, request: object) -> Any:
        return _Call(self._answer())

    async def _answer(self) -> AsyncIterator[workflow_service_pb2.WatchResponse]:
        if self._answers and self._clock.now_s > 20:
            self._answers -= 1
            yield workflow_service_pb2.WatchResponse(resume_token="t")
            self._clock.now_s += 100
        raise Away


class _Call:
    def __init__(self, answers: AsyncIterator[Any]) -> None:
        self._answers = answers

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._answers

    def cancel(self) -> None:
        pass


@pytest.mark.parametrize(("answers", "ends_s"), [(0, 30), (1, 20 + 100 + 30)])
async def test_a_watch_waits_as_long_as_any_call(
    answers: int, ends_s: float, client: perdure.Client, clock: Clock
) -> None:
    """The time away is compared with the patience, not the next pause; any answer ends it."""
    client._transport.workflows = Stubs(clock, answers=answers)  # type: ignore[assignment]
    with pytest.raises(errors.UnreachableError):
        await anext(client.handle("w").watch())
    assert clock.now_s == pytest.approx(ends_s, abs=1.0)


async def test_items_of_a_batch_wait_as_long_as_any_call(client: perdure.Client, clock: Clock) -> None:
    asked: list[int] = []

    async def ask(some: Any) -> list[Any]:
        asked.append(len(some))
        if len(asked) == 1:
            clock.now_s += 40
        result = workflow_service_pb2.EventResult()
        result.error.CopyFrom(errors_pb2.ItemError(code=14, reason=errors_pb2.ERROR_REASON_STARTING))
        return [result for _ in some]

    results = await batches._patiently(client._values, [1, 2], ask)
    assert len(results) == 2
    assert set(asked) == {2}
    assert clock.now_s == pytest.approx(70)


async def test_no_patience_is_one_try(client: perdure.Client, clock: Clock) -> None:
    client.patience = 0
    tries: list[float] = []

    async def ask() -> None:
        tries.append(clock.now_s)
        raise Away

    with pytest.raises(errors.UnreachableError) as caught:
        await client._transport.call(ask)
    assert len(tries) == 1
    assert caught.value.fields == {"address": NOWHERE}
    assert "refused (111)" in str(caught.value)
    assert "ipv4" not in str(caught.value)
    assert "`perdure serve`" in str(caught.value)


async def test_what_is_waited_for_is_logged_once(
    client: perdure.Client, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait(times: int) -> None:
        absence = Absence(client._transport)
        for _ in range(times):
            await absence.wait(errors.StartingError("the engine is starting"))
        absence.end()

    caplog.set_level(logging.WARNING, "perdure")
    await wait(3)
    assert not caplog.messages, "most restarts take less"
    first, second = Absence(client._transport), Absence(client._transport)
    for _ in range(8):
        for absence in (first, second):
            await absence.wait(errors.StartingError("the engine is starting"))
    assert caplog.messages == [f"waiting up to 30 s for the service at {NOWHERE}: the engine is starting"]
    first.end()
    await wait(8)
    assert len(caplog.messages) == 2


async def test_an_address_that_swallows_everything_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """An address that neither accepts nor refuses connections."""
    client = Transport(NOWHERE, "", 30)
    told = asyncio.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    handler = Handler()
    logging.getLogger("perdure").addHandler(handler)
    try:
        waiting = asyncio.ensure_future(client.call(asyncio.Event().wait))
        await told.wait()
        waiting.cancel()
    finally:
        logging.getLogger("perdure").removeHandler(handler)
        await client.close()
    assert "no connection yet" in caplog.text


class FakeChannel:
    """A channel with a state that a test sets."""

    def __init__(self) -> None:
        self.is_ready = True
        self.asked = asyncio.Event()

    def get_state(self) -> grpc.ChannelConnectivity:
        self.asked.set()
        return grpc.ChannelConnectivity.READY if self.is_ready else grpc.ChannelConnectivity.CONNECTING

    async def close(self, _grace: float | None) -> None:
        pass


async def test_a_call_is_not_blamed_for_the_time_before_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The timer of an earlier call looks soon after a later call has begun, while the connection is away."""
    monkeypatch.setattr(transport, "NOTE_AFTER_S", 0.01)
    client = Transport(NOWHERE, "", 30)
    channel = FakeChannel()
    monkeypatch.setattr(client, "_channel", channel)

    async def connect() -> None:
        channel.is_ready = True

    channel.is_ready = False
    await client.call(connect)
    channel.is_ready = False
    waiting = asyncio.ensure_future(client.call(asyncio.Event().wait))
    try:
        channel.asked.clear()
        await channel.asked.wait()
        assert caplog.messages == []
        while not caplog.messages:  # it has waited long enough at the next look
            channel.asked.clear()
            await channel.asked.wait()
            await asyncio.sleep(0)
        assert "no connection yet" in caplog.text
    finally:
        waiting.cancel()
        await client.close()


def test_grpc_retries_only_what_changes_nothing() -> None:
    """Its retries do not say how old a call is, so a repeat could be taken for a new call."""
    retried: set[str] = set()
    for config in json.loads(service_config())["methodConfig"]:
        if "retryPolicy" in config:
            retried |= {f"{name['service']}/{name['method']}" for name in config["name"]}
    assert {"perdure.v1.WorkflowService/GetOutput", "perdure.v1.ActorService/QueryActor"} <= retried
    changing = {"WorkflowService/Run", "WorkflowService/SendEvent", "ActorService/CallActor", "BlobService/UploadBlob"}
    assert not {f"perdure.v1.{name}" for name in changing} & retried


@pytest.mark.parametrize("many", [False, True])
async def test_a_repeated_event_says_how_old_it_is(client: perdure.Client, clock: Clock, many: bool) -> None:
    said: list[Any] = []

    async def away_at_first(_request: object, metadata: Any = None) -> Any:
        said.append(dict(metadata or ()))
        clock.now_s += 0.25
        if len(said) == 1:
            raise Away
        result = workflow_service_pb2.EventResult()
        return workflow_service_pb2.BatchSendEventsResponse(results=[result])

    workflows: Any = client._values.transport.workflows
    if many:
        workflows.BatchSendEvents = away_at_first
        await batches.send_events(client._values, [perdure.EventItem("w", "key", 1)])
    else:
        workflows.SendEvent = single(away_at_first)
        await client.send_event("w", "key", 1)
    assert said[0] == {}
    assert said[1][REPEAT_KEY] == "1"
    assert int(said[1][AGE_KEY]) >= 250


def single(answer: Any) -> Any:
    async def send(request: object, metadata: Any = None) -> Any:
        await answer(request, metadata)
        return workflow_service_pb2.SendEventResponse()

    return send
