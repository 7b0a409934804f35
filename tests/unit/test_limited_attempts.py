"""A lease whose attempts have a time limit, on a stream whose pace the test sets.

The test plays the part of gRPC: a message of the lease is sent when the next one is asked for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import pytest

import perdure
from perdure import graphwire
from perdure.conversion import to_spec
from perdure.model import Call, Shape
from perdure.service.executors.pool.attempts import parts_of
from perdure.service.executors.port import Attempt
from perdure.v1 import worker_service_pb2 as pb
from perdure.worker.lease import _Lease
from perdure.worker.session import Session

EARLY_S = 0.2
"""User code that did not wait would begin within this time."""
began = threading.Event()
"""User code runs in this process, and sets it."""

Serve = Callable[[AsyncIterator[pb.ServeLeaseRequest]], AsyncIterator[pb.ServeLeaseResponse]]


@pytest.fixture(autouse=True)
def nothing_began() -> None:
    began.clear()


def signal() -> None:
    began.set()


class Signal:
    """Unpickling it is user code."""

    def __reduce__(self) -> Any:
        return signal, ()


def called() -> Any:
    return signal


def called_async() -> Any:
    async def call() -> None:
        signal()

    return call


def loaded() -> Any:
    part = Signal()
    return lambda: part


FUNCTIONS = pytest.mark.parametrize("make", [called, called_async, loaded])


def order(function: Any, token: int, *, is_limited: bool = True) -> pb.ServeLeaseResponse:
    """Orders an attempt."""
    (node,) = to_spec(perdure.task(function).bind()).nodes
    assert isinstance(node.action, Call)
    code = node.action.function
    attempt = Attempt("default", "wf", "run", f"t{token}", 1, node.action, Shape(), (), is_limited=is_limited)
    functions = [pb.LeaseFunction(key=code.key, function=graphwire.function_to_proto(code))]
    return pb.ServeLeaseResponse(functions=functions, attempts=parts_of(attempt, token, lambda key: None))


def serve_lease(serve: Serve) -> None:
    """Run a lease in this thread until its stream or its work is over."""

    class Stub:
        def ServeLease(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
            return serve(messages)

    @asynccontextmanager
    async def dial(_address: str) -> AsyncIterator[Any]:
        yield Stub()

    session = Session("nowhere", "engine", "lease", "memory:", "", dial=dial)
    lease = _Lease(session, {}, holds_until_s=inf)
    session.start(lease)
    try:
        lease.work()
    finally:
        session.close()


async def until(
    messages: AsyncIterator[pb.ServeLeaseRequest], field: str, message: pb.ServeLeaseRequest | None = None
) -> pb.ServeLeaseRequest:
    """`message`, or else the next one, in which the field is not empty."""
    while message is None or not getattr(message, field):
        message = await anext(messages)
    return message


async def is_early() -> bool:
    """Whether user code begins although the report of that is not sent yet."""
    until_s = asyncio.get_running_loop().time() + EARLY_S
    while not began.is_set() and asyncio.get_running_loop().time() < until_s:
        await asyncio.sleep(0.005)
    return began.is_set()


@FUNCTIONS
def test_user_code_is_called_after_the_report_of_its_start_was_sent(make: Callable[[], Any]) -> None:
    """Of a function that is loaded first, and of one that was."""
    seen: list[object] = []
    function = make()

    async def serve(messages: AsyncIterator[pb.ServeLeaseRequest]) -> AsyncIterator[pb.ServeLeaseResponse]:
        await anext(messages)  # the hello
        for token in (1, 2):
            began.clear()
            yield order(function, token)
            message = await until(messages, "started")
            seen.extend([list(message.started), await is_early()])
            message = await until(messages, "receipts", message)
            seen.append(message.receipts[0].WhichOneof("result"))
        yield pb.ServeLeaseResponse(finish=True)

    serve_lease(serve)
    assert seen == [[1], False, "output", [2], False, "output"]


@pytest.mark.parametrize(("make", "is_loaded"), [(called, False), (called, True), (loaded, False)])
def test_user_code_is_called_after_the_report_of_the_end_of_a_limited_attempt_was_sent(
    make: Callable[[], Any], is_loaded: bool
) -> None:
    """Otherwise that attempt could end at its limit although it was done in time."""
    seen: list[object] = []
    function = make()

    async def serve(messages: AsyncIterator[pb.ServeLeaseRequest]) -> AsyncIterator[pb.ServeLeaseResponse]:
        await anext(messages)
        if is_loaded:
            yield order(function, 1)
            await until(messages, "receipts")
            began.clear()
        orders = order(lambda: None, 2)
        orders.MergeFrom(order(function, 3, is_limited=False))
        yield orders
        async for message in messages:
            ended = {receipt.token for receipt in message.receipts}
            if 2 in ended:
                seen.append(await is_early())
            if 3 in ended:
                yield pb.ServeLeaseResponse(finish=True)

    serve_lease(serve)
    assert seen == [False]
    assert began.is_set()


@FUNCTIONS
@pytest.mark.parametrize("is_loaded", [False, True])
def test_an_attempt_cancelled_while_its_report_is_not_sent_never_begins(
    make: Callable[[], Any], is_loaded: bool
) -> None:
    seen: list[object] = []
    function = make()

    async def serve(messages: AsyncIterator[pb.ServeLeaseRequest]) -> AsyncIterator[pb.ServeLeaseResponse]:
        await anext(messages)
        if is_loaded:
            yield order(function, 1)
            await until(messages, "receipts")
            began.clear()
        yield order(function, 2)
        message = await until(messages, "started")
        yield pb.ServeLeaseResponse(cancel=[2])
        message = await until(messages, "receipts", message)
        seen.extend([message.receipts[0].failure.type, began.is_set()])
        yield pb.ServeLeaseResponse(finish=True)

    serve_lease(serve)
    assert seen == ["perdure.Interrupted", False]


@FUNCTIONS
@pytest.mark.parametrize("is_loaded", [False, True])
def test_an_attempt_whose_report_cannot_be_sent_ends_with_the_stream(make: Callable[[], Any], is_loaded: bool) -> None:
    function = make()

    async def serve(messages: AsyncIterator[pb.ServeLeaseRequest]) -> AsyncIterator[pb.ServeLeaseResponse]:
        await anext(messages)
        if is_loaded:
            yield order(function, 1)
            await until(messages, "receipts")
            began.clear()
        yield order(function, 2)
        await until(messages, "started")

    serve_lease(serve)
    assert not began.is_set()
