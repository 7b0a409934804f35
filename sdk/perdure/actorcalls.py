"""Calls of actors by one client: the requests of ActorService, with values encoded and errors raised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration

from perdure import actorwire, errors, failures, texts, wire
from perdure.context import chain
from perdure.graph import CallNode
from perdure.ids import time_ordered_id
from perdure.infos import ActorCallInfo, ActorInfo
from perdure.model import (
    ACTOR_DELETED,
    CALL_RETENTION_MS,
    REQUEST_ID_CHARS_MAX,
    ActorSpec,
    Call,
    Failure,
    Payload,
    SpecNode,
)
from perdure.options import Options
from perdure.transport import POLL_S
from perdure.v1 import actor_service_pb2 as pb
from perdure.v1 import workflow_pb2
from perdure.values import Values


class ActorDefinition:
    """The class of an actor as a client needs it: how it travels, and how its methods run."""

    def __init__(
        self,
        function: Callable[..., Any],
        options: Options,
        max_pending_calls: int,
        readonly: tuple[str, ...],
        ttl_ms: int = 0,
        call_retention_ms: int = CALL_RETENTION_MS,
    ) -> None:
        self.function = function
        self.options = options
        self.max_pending_calls = max_pending_calls
        self.readonly = readonly
        self.ttl_ms = ttl_ms
        self.call_retention_ms = call_retention_ms

    def spec(self, node: SpecNode) -> ActorSpec:
        """The class as the service takes it. `node` calls its constructor."""
        assert isinstance(node.action, Call)
        return ActorSpec(
            node.action.function,
            node.options,
            self.max_pending_calls,
            self.readonly,
            self.ttl_ms,
            self.call_retention_ms,
        )


class Defined(Protocol):
    """A class that `@actor` has made, or one that derives from `Actor`."""

    @property
    def definition(self) -> ActorDefinition: ...


class ActorCalls:
    """Every call may be repeated, and is while the service is away."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._transport = values.transport

    # -------------------------------------------------------------------------- actors

    async def get_or_create(
        self,
        definition: ActorDefinition,
        actor_id: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        waits: bool = False,
    ) -> ActorInfo:
        """The actor, made first if there is none. With `waits`, after its constructor has ended."""
        spec = await self._values.spec_of(CallNode(definition.function, args, dict(kwargs or {}), definition.options))
        call = spec.nodes[-1].action
        assert isinstance(call, Call)
        if call.refs:
            raise TypeError("an actor is made with values, and a node has none yet; run the graph first")
        request = pb.GetOrCreateActorRequest(
            namespace=self._transport.namespace,
            actor_id=texts.name(actor_id, "actor_id"),
            actor_class=actorwire.class_to_proto(definition.spec(spec.nodes[-1])),
            arguments=actorwire.arguments_to_proto(call.arguments),
            labels=labels,
            chain=chain() if waits else (),
        )
        ask = partial(self._transport.ask, self._transport.actors.GetOrCreateActor, request)
        return await _info(request, ask, waits=waits)

    async def info(self, actor_id: str, *, waits: bool = False) -> ActorInfo:
        """The actor as it is now. With `waits`, after its constructor has ended. Raises ActorNotFoundError."""
        request = pb.GetActorRequest(namespace=self._transport.namespace, actor_id=texts.name(actor_id, "actor_id"))
        ask = partial(self._transport.call, partial(self._transport.actors.GetActor, request))
        return await _info(request, ask, waits=waits)

    async def list(self, filter: str = "", *, page_size: int = 100) -> AsyncIterator[ActorInfo]:
        """The actors, the newest first. The filter is that of ListActors."""
        texts.free(filter, "filter")
        token = ""
        while True:
            request = pb.ListActorsRequest(
                namespace=self._transport.namespace, filter=filter, page_size=page_size, page_token=token
            )
            answer = await self._transport.call(partial(self._transport.actors.ListActors, request))
            for actor in answer.actors:
                yield ActorInfo.from_proto(actor)
            token = answer.next_page_token
            if not token:
                return

    async def replace_class(self, actor_class: Defined, actor_id: str) -> None:
        """Give an actor another class, decorated by `@actor`, with its options. Calls that begin afterwards run with
        it. The state stays; `migrate` of the class makes it fit if the class has another version. Idempotent. Raises
        ActorNotFoundError."""
        definition = getattr(actor_class, "definition", None)
        if not isinstance(definition, ActorDefinition):
            raise TypeError(f"{actor_class!r} is no class of actors; decorate the class with @perdure.actor")
        spec = await self._values.spec_of(CallNode(definition.function, (), {}, definition.options))
        request = pb.ReplaceActorClassRequest(
            namespace=self._transport.namespace,
            actor_id=texts.name(actor_id, "actor_id"),
            actor_class=actorwire.class_to_proto(definition.spec(spec.nodes[-1])),
            request_id=time_ordered_id(),
        )
        await self._transport.ask(self._transport.actors.ReplaceActorClass, request)

    async def delete(self, actor_id: str, *, allow_missing: bool = False) -> None:
        """Delete an actor with its state and its calls. Calls that run or wait fail."""
        request = pb.DeleteActorRequest(
            namespace=self._transport.namespace,
            actor_id=texts.name(actor_id, "actor_id"),
            allow_missing=allow_missing,
        )
        await self._transport.ask(self._transport.actors.DeleteActor, request)

    # -------------------------------------------------------------------------- calls

    async def start(
        self,
        actor_id: str,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
    ) -> str:
        """Record a call; returns its id once it is durable."""
        request = await self._request(actor_id, method, args, kwargs, request_id, expected_revision)
        await self._transport.ask(self._transport.call_actor, request)
        return request.request_id

    async def call(
        self,
        actor_id: str,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Record a call and return its value. Raises ActorCallError if it fails, and TimeoutError after `timeout`
        seconds: the call goes on then."""
        deadline = _deadline(timeout)
        request = await self._request(actor_id, method, args, kwargs, request_id, expected_revision)
        request.wait.CopyFrom(_wait(deadline))
        request.include_error_object = True
        answer = await self._transport.ask(self._transport.call_actor, request)
        if answer.done:
            return await self._value(actor_id, method, answer.outcome)
        try:
            return await self._output(actor_id, request.request_id, method, deadline)
        except errors.ActorNotFoundError as error:  # the call is recorded, so it is not made again with a new actor
            raise errors.ActorCallError(actor_id, method, ACTOR_DELETED) from error

    async def output(
        self, actor_id: str, call_id: str, *, method: str = "the call", timeout: float | None = None
    ) -> Any:
        """The value of a recorded call; waits for it. Raises as `call`, and TaskNotFoundError for an unknown call.
        `method` is its name in errors."""
        return await self._output(actor_id, call_id, method, _deadline(timeout))

    async def _output(self, actor_id: str, call_id: str, method: str, deadline: float | None) -> Any:
        while True:
            request = pb.GetActorCallRequest(
                namespace=self._transport.namespace,
                actor_id=texts.name(actor_id, "actor_id"),
                call_id=texts.name(call_id, "call_id", limit=REQUEST_ID_CHARS_MAX),
                wait=_wait(deadline),
                include_error_object=True,
            )
            answer = await self._transport.call(partial(self._transport.actors.GetActorCall, request))
            if answer.done:
                return await self._value(actor_id, method, answer.outcome)
            if deadline is not None and asyncio.get_running_loop().time() >= deadline:
                raise TimeoutError(f"the call {call_id!r} of actor {actor_id!r} had no result in time; it goes on")

    async def query(
        self,
        actor_id: str,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> Any:
        """Call a readonly method on the last committed state and return its value. Raises as `call`."""
        request = pb.QueryActorRequest(
            namespace=self._transport.namespace,
            actor_id=texts.name(actor_id, "actor_id"),
            method=texts.name(method, "method"),
            arguments=actorwire.arguments_to_proto(await self._values.arguments(args, dict(kwargs or {}))),
            min_revision=min_revision,
            include_error_object=True,
            chain=chain(),
        )
        try:
            async with asyncio.timeout(timeout):
                answer = await self._transport.call(partial(self._transport.actors.QueryActor, request))
        except TimeoutError:
            raise TimeoutError(f"the query {method!r} of actor {actor_id!r} had no result in time") from None
        return await self._value(actor_id, method, answer.outcome)

    async def calls(self, actor_id: str, *, only_pending: bool = False) -> AsyncIterator[ActorCallInfo]:
        """The recorded calls: those that ended, then those that run or wait, in the order of their turns."""
        token = ""
        while True:
            request = pb.ListActorCallsRequest(
                namespace=self._transport.namespace,
                actor_id=texts.name(actor_id, "actor_id"),
                only_pending=only_pending,
                page_size=1000,
                page_token=token,
            )
            answer = await self._transport.call(partial(self._transport.actors.ListActorCalls, request))
            for call in answer.calls:
                yield ActorCallInfo.from_proto(call)
            token = answer.next_page_token
            if not token:
                return

    async def drop(self, actor_id: str, call_id: str) -> bool:
        """End a call that runs or waits: it fails. False: it had ended, or is unknown. Idempotent."""
        request = pb.DropActorCallRequest(
            namespace=self._transport.namespace,
            actor_id=texts.name(actor_id, "actor_id"),
            call_id=texts.name(call_id, "call_id", limit=REQUEST_ID_CHARS_MAX),
        )
        return (await self._transport.ask(self._transport.actors.DropActorCall, request)).dropped

    async def _request(
        self,
        actor_id: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        request_id: str | None,
        expected_revision: int | None,
    ) -> pb.CallActorRequest:
        given = texts.optional(request_id, "request_id", limit=REQUEST_ID_CHARS_MAX)
        return pb.CallActorRequest(
            namespace=self._transport.namespace,
            actor_id=texts.name(actor_id, "actor_id"),
            method=texts.name(method, "method"),
            arguments=actorwire.arguments_to_proto(await self._values.arguments(args, dict(kwargs or {}))),
            request_id=given or time_ordered_id(),
            expected_revision=expected_revision,
            chain=chain(),
        )

    async def _value(self, actor_id: str, method: str, message: workflow_pb2.Outcome) -> Any:
        outcome: Payload | Failure = wire.outcome_from_proto(message)
        if isinstance(outcome, Failure):
            raise errors.ActorCallError(actor_id, method, outcome) from failures.to_exception(outcome)
        return await self._values.value_of(outcome)


async def _info(
    request: pb.GetOrCreateActorRequest | pb.GetActorRequest,
    ask: Callable[[], Awaitable[pb.GetOrCreateActorResponse | pb.GetActorResponse]],
    *,
    waits: bool,
) -> ActorInfo:
    """The actor of a request. With `waits`, it is asked for until the constructor has ended."""
    if waits:
        request.wait.FromSeconds(int(POLL_S))
    while True:
        info = ActorInfo.from_proto((await ask()).actor)
        if not waits or not info.is_creating:
            return info


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else asyncio.get_running_loop().time() + timeout


def _wait(deadline: float | None) -> Duration:
    left = POLL_S
    if deadline is not None:
        left = min(POLL_S, max(deadline - asyncio.get_running_loop().time(), 0))
    return Duration(seconds=int(left), nanos=int(left % 1 * 1e9))
