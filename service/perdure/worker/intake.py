"""Attempts on their way from the stream of a lease to its main thread, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import grpc
import grpc.aio

from perdure import wire
from perdure.model import WAITED, Payload
from perdure.v1 import worker_service_pb2 as pb
from perdure.worker.values import Value, with_ready

KEYS_AT_ONCE: Final = 2_000
"""Values that one call asks for. Their names have at most 2.5 MB."""
PATIENCE_S: Final = 60.0
"""The longest wait for values while the database of the engine is away. (A dead engine breaks the stream.)"""
PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 2.0


class ValueStub(Protocol):
    """The part of the stub of WorkerService that is called here."""

    def FetchValues(self, request: pb.FetchValuesRequest) -> Awaitable[pb.FetchValuesResponse]: ...


class Intake:
    """An attempt whose values must be fetched waits here, and so do the attempts that come after it. Messages of the
    stream do not wait, so that a cancellation is heeded at once.

    `give` is called with each attempt and its values. An error of the fetch or of `give` fails that attempt only:
    `fail` is called with its token."""

    def __init__(
        self, stub: ValueStub, give: Callable[[pb.Attempt, list[Value]], None], fail: Callable[[int, Exception], None]
    ) -> None:
        self._stub = stub
        self._give = give
        self._fail = fail
        self._refs: dict[int, list[pb.Value]] = {}  # of attempts of which some messages have come
        self._pending: dict[int, tuple[pb.Attempt, list[pb.Value]]] = {}  # by token; those of the first are fetched
        self._fetching: asyncio.Task[list[Value]] | None = None
        self._working: asyncio.Task[None] | None = None
        self._after: Callable[[], None] | None = None

    async def take(self, attempt: pb.Attempt) -> None:
        """A message that has an attempt, or a part of one. This never waits."""
        if not attempt.function:  # the rest of the attempt follows
            self._refs.setdefault(attempt.token, []).extend(attempt.refs)
            return
        refs = [*self._refs.pop(attempt.token, ()), *attempt.refs]
        if not self._pending and not any(_is_to_fetch(value) for value in refs):
            try:
                self._give(attempt, await self._values(attempt.run_id, refs))
            except Exception as error:
                self._fail(attempt.token, error)
            return
        self._pending[attempt.token] = attempt, refs
        if self._working is None:
            self._working = asyncio.create_task(self._work())

    def drop(self, tokens: Iterable[int]) -> set[int]:
        """Drop those of the attempts that still wait here. Returns their tokens."""
        first = next(iter(self._pending), None)
        dropped = {token for token in tokens if self._pending.pop(token, None) is not None}
        if first in dropped and self._fetching is not None:
            self._fetching.cancel()
        return dropped

    def after_all(self, step: Callable[[], None]) -> None:
        """Call `step` when no attempt waits here any more."""
        if self._working is None:
            step()
        else:
            self._after = step

    async def stop(self) -> None:
        """The stream is over. Attempts that wait here are forgotten."""
        self._pending.clear()
        self._after = None
        if self._fetching is not None:
            self._fetching.cancel()
        if self._working is not None:
            await asyncio.wait((self._working,))

    async def _work(self) -> None:
        while self._pending:
            token, (attempt, refs) = next(iter(self._pending.items()))
            self._fetching = asyncio.create_task(self._values(attempt.run_id, refs))
            try:
                await asyncio.wait((self._fetching,))
            finally:
                self._fetching.cancel()
            if self._pending.pop(token, None) is None:  # dropped meanwhile
                continue
            try:
                self._give(attempt, self._fetching.result())
            except Exception as error:
                self._fail(token, error)
        self._working = None
        if self._after is not None:
            self._after()

    async def _values(self, run_id: str, refs: Sequence[pb.Value]) -> list[Value]:
        keys = [value.key for value in refs if value.WhichOneof("kind") == "key"]
        fetched = iter(await self._fetch(keys)) if keys else iter(())
        values = []
        for value in refs:
            payload = wire.payload_from_proto(value.payload) if value.WhichOneof("kind") == "payload" else next(fetched)
            value_ = Value(payload, value.wraps, wire.path_from_proto(value.path))
            values.append(await with_ready(value_, lambda tasks: self._outputs(run_id, tasks)))
        return values

    async def _outputs(self, run_id: str, task_ids: Sequence[str]) -> list[Payload]:
        return await self._fetch([pb.ValueKey(run_id=run_id, task_id=task_id) for task_id in task_ids])

    async def _fetch(self, keys: list[pb.ValueKey]) -> list[Payload]:
        payloads: list[Payload] = []
        while len(payloads) < len(keys):
            following = keys[len(payloads) : len(payloads) + KEYS_AT_ONCE]
            answer = await self._patiently(pb.FetchValuesRequest(keys=following))
            payloads += [wire.payload_from_proto(value) for value in answer.values]
        return payloads

    async def _patiently(self, request: pb.FetchValuesRequest) -> pb.FetchValuesResponse:
        """Fetch values. While the engine's database is away this tries again, for up to PATIENCE_S."""
        pause_s, failed_s = PAUSE_FIRST_S, None
        while True:
            try:
                return await self._stub.FetchValues(request)
            except grpc.aio.AioRpcError as error:
                now_s = asyncio.get_running_loop().time()
                failed_s = now_s if failed_s is None else failed_s
                if error.code() is not grpc.StatusCode.UNAVAILABLE or now_s - failed_s >= PATIENCE_S:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)


def _is_to_fetch(value: pb.Value) -> bool:
    return value.WhichOneof("kind") == "key" or value.payload.encoding == WAITED
