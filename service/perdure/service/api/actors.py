"""Calls about virtual actors."""

from __future__ import annotations

from typing import Any, Final

from perdure import actorwire, errors, texts, wire
from perdure.model import CALLER_CHARS_MAX, CALLERS_MAX, CONSTRUCTOR, ActorSpec, MethodCall, Payload, TaskStatus
from perdure.service.api import answers, pages, requests
from perdure.service.api.caller import Caller
from perdure.service.api.naming import Naming
from perdure.service.api.sources import Sources
from perdure.service.common import limits
from perdure.service.machines.actors import ARGUMENTS, RINGS, source_of
from perdure.service.operations.actors import Actors, CallResult
from perdure.service.operations.asked import NewRun
from perdure.service.runs.views import TaskView
from perdure.storage.ports import BlobStore
from perdure.storage.rows import RunRow
from perdure.v1 import actor_service_pb2 as pb
from perdure.v1 import workflow_pb2

READONLY_MAX: Final = 1_000
_CALL_STATUS: Final[dict[TaskStatus, Any]] = {
    TaskStatus.BLOCKED: pb.ACTOR_CALL_STATUS_WAITING,
    TaskStatus.READY: pb.ACTOR_CALL_STATUS_RUNNING,
    TaskStatus.RUNNING: pb.ACTOR_CALL_STATUS_RUNNING,
    TaskStatus.BACKING_OFF: pb.ACTOR_CALL_STATUS_RUNNING,
    TaskStatus.SUCCESSFUL: pb.ACTOR_CALL_STATUS_SUCCESSFUL,
    TaskStatus.FAILED: pb.ACTOR_CALL_STATUS_FAILED,
    TaskStatus.CANCELED: pb.ACTOR_CALL_STATUS_FAILED,
}


class ActorCalls:
    """Every call may be repeated. Calls that name an actor raise ActorNotFoundError if it does not exist, and
    WrongKindError if the id is that of a workflow."""

    def __init__(self, actors: Actors, sources: Sources, naming: Naming, blobs: BlobStore) -> None:
        self._actors = actors
        self._sources = sources
        self._naming = naming
        self._blobs = blobs

    # -------------------------------------------------------------------------- actors

    async def get_or_create(self, request: pb.GetOrCreateActorRequest, caller: Caller) -> pb.GetOrCreateActorResponse:
        """Get an actor, made first if there is none. Answers once it is durable, and with `wait` waits for the end of
        its constructor."""
        if (info := await self._naming.resolve_class(request.actor_class)) is not None:
            self._naming.check_arguments(info, request.arguments)
        spec = _class(request.actor_class)
        source = source_of(spec)
        call = MethodCall(CONSTRUCTOR, _arguments(request.arguments), chain=_chain(request.chain))
        new = NewRun(
            namespace=requests.namespace(request.namespace),
            workflow_id=_actor_id(request.actor_id),
            request_id="",
            source=source,
            inputs={ARGUMENTS: actorwire.encode_call(call)},
            labels=requests.labels(request.labels),
            name=source.name,
            repeat=caller.repeat,
        )
        await self._sources.check_blobs(new.blobs())
        row, is_new = await self._actors.get_or_create(new)
        return pb.GetOrCreateActorResponse(actor=await self._created(row, request, caller), created=is_new)

    async def get(self, request: pb.GetActorRequest, caller: Caller) -> pb.GetActorResponse:
        """An actor, with `wait` after the end of its constructor."""
        row = await self._actors.row(requests.namespace(request.namespace), _actor_id(request.actor_id))
        return pb.GetActorResponse(actor=await self._created(row, request, caller))

    async def _created(
        self, row: RunRow, request: pb.GetOrCreateActorRequest | pb.GetActorRequest, caller: Caller
    ) -> pb.Actor:
        wait_s = requests.wait_s(request.wait, caller) if request.HasField("wait") else 0
        if wait_s and not row.status.is_final:
            row = await self._actors.created(row, wait_s)
        return answers.actor(row, *await self._actors.view(row))

    async def delete(self, request: pb.DeleteActorRequest, caller: Caller) -> pb.DeleteActorResponse:
        """Remove an actor with its state and its calls."""
        await self._actors.delete(
            requests.namespace(request.namespace),
            _actor_id(request.actor_id),
            allow_missing=request.allow_missing,
            repeat=caller.repeat,
        )
        return pb.DeleteActorResponse()

    # -------------------------------------------------------------------------- calls

    async def call(self, request: pb.CallActorRequest, caller: Caller) -> pb.CallActorResponse:
        """Record a call. Answers once it is durable, and with `wait` waits for its result."""
        namespace, actor_id = requests.namespace(request.namespace), _actor_id(request.actor_id)
        call = MethodCall(
            method=_method(request.method),
            arguments=_arguments(request.arguments),
            call_id=_call_id(request.request_id, "request_id"),
            chain=_chain(request.chain),
            expected_revision=_revision(request.expected_revision) if request.HasField("expected_revision") else None,
        )
        if (own := f"{namespace}/{actor_id}") in call.chain:
            circle = " -> ".join((*call.chain[call.chain.index(own) :], own))
            raise errors.ActorCycleError(f"the call of {call.method!r} would wait for itself: {circle}", chain=circle)
        await self._sources.check_blobs(actorwire.blobs_of_arguments(call.arguments))
        wait_s = requests.wait_s(request.wait, caller) if request.HasField("wait") else 0
        result = await self._actors.call(namespace, actor_id, call, wait_s=wait_s, repeat=caller.repeat)
        answer = pb.CallActorResponse()
        await self._fill(answer, result, include_error=request.include_error_object)
        return answer

    async def query(self, request: pb.QueryActorRequest, caller: Caller) -> pb.QueryActorResponse:
        """Call a readonly method on the last committed state."""
        row = await self._actors.row(requests.namespace(request.namespace), _actor_id(request.actor_id))
        call = MethodCall(
            _method(request.method), _arguments(request.arguments), chain=_chain(request.chain), is_query=True
        )
        await self._sources.check_blobs(actorwire.blobs_of_arguments(call.arguments))
        wait_s = limits.WAIT_S_MAX if caller.left_s is None else max(caller.left_s - limits.DEADLINE_MARGIN_S, 0)
        min_revision = _revision(request.min_revision)
        result = await self._actors.query(row, call, min_revision=min_revision, wait_s=wait_s)
        assert result.value is not None
        answer = pb.QueryActorResponse(revision=result.revision)
        await self._fill_outcome(answer.outcome, result.value, include_error=request.include_error_object)
        return answer

    async def result(self, request: pb.GetActorCallRequest, caller: Caller) -> pb.GetActorCallResponse:
        """The result of a recorded call. `done` is False if there is none within the time to wait."""
        row = await self._actors.row(requests.namespace(request.namespace), _actor_id(request.actor_id))
        call_id = _call_id(request.call_id, "call_id")
        answer = pb.GetActorCallResponse()
        result = await self._actors.result(row, call_id, requests.wait_s(request.wait, caller))
        await self._fill(answer, result, include_error=request.include_error_object)
        return answer

    async def _fill(
        self, answer: pb.CallActorResponse | pb.GetActorCallResponse, result: CallResult, *, include_error: bool
    ) -> None:
        if result.value is not None:
            answer.done = True
            answer.revision = result.revision
            await self._fill_outcome(answer.outcome, result.value, include_error=include_error)

    async def _fill_outcome(self, outcome: workflow_pb2.Outcome, value: Any, *, include_error: bool) -> None:
        answers.fill_value(outcome, value, include_error=include_error)
        await pages.store_large(outcome, self._blobs, limits.INLINE_PAYLOAD_BYTES_MAX)

    async def calls(self, request: pb.ListActorCallsRequest) -> pb.ListActorCallsResponse:
        """A page of the recorded calls of an actor."""
        row = await self._actors.row(requests.namespace(request.namespace), _actor_id(request.actor_id))
        limit = requests.page_size(request.page_size)
        question = (row.namespace, row.run_id, request.only_pending)
        last = requests.read_token(request.page_token, question, _is_call_id) or ""
        views = await self._actors.calls(row, only_pending=request.only_pending, after=last, most=limit + 1)
        page, answer = pages.Page(limit), pb.ListActorCallsResponse()
        for view in views:
            call = _call(view)
            if not page.fits(call):
                answer.next_page_token = requests.make_token(question, answer.calls[-1].call_id)
                break
            answer.calls.append(call)
        return answer

    async def drop(self, request: pb.DropActorCallRequest, caller: Caller) -> pb.DropActorCallResponse:
        """End a call that runs or waits. Answers once that is durable."""
        namespace, actor_id = requests.namespace(request.namespace), _actor_id(request.actor_id)
        call_id = _pending_id(request.call_id)
        return pb.DropActorCallResponse(
            dropped=await self._actors.drop(namespace, actor_id, call_id, repeat=caller.repeat)
        )

    async def replace_class(self, request: pb.ReplaceActorClassRequest, caller: Caller) -> pb.ReplaceActorClassResponse:
        """Give an actor another class. Answers once that is durable."""
        namespace, actor_id = requests.namespace(request.namespace), _actor_id(request.actor_id)
        await self._naming.resolve_class(request.actor_class)
        spec, request_id = _class(request.actor_class), _call_id(request.request_id, "request_id")
        await self._sources.check_blobs(source_of(spec).blobs)
        await self._actors.replace_class(namespace, actor_id, spec, request_id, repeat=caller.repeat)
        return pb.ReplaceActorClassResponse()


# ------------------------------------------------------------------------------ requests


def _actor_id(value: str) -> str:
    return requests.text(value, "actor_id")


def _call_id(value: str, field: str) -> str:
    call_id = requests.text(value, field, limit=limits.REQUEST_ID_CHARS_MAX)
    if call_id.startswith(".") or "/" in call_id:
        raise requests.invalid(field, 'does not begin with "." and has no "/"')
    return call_id


def _pending_id(value: str) -> str:
    """The id of a call that may be dropped: one of a caller, or of a reminder."""
    if value.startswith(RINGS):
        return requests.text(value, "call_id")
    return _call_id(value, "call_id")


def _is_call_id(place: Any) -> bool:
    return isinstance(place, str) and texts.is_name(place)


def _method(value: str) -> str:
    return requests.text(value, "method")


def _revision(value: int) -> int:
    if value < 0:
        raise requests.invalid("revision", "must be 0 or more")
    return value


def _chain(values: Any) -> tuple[str, ...]:
    if len(values) > CALLERS_MAX:
        raise requests.invalid("chain", f"has at most {CALLERS_MAX} workflows and actors, which wait for each other")
    return tuple(requests.text(value, "chain", limit=CALLER_CHARS_MAX) for value in values)


def _arguments(message: pb.MethodArguments) -> Payload:
    is_whole = message.HasField("arguments") and not message.args and not message.kwargs
    for payload in (*message.args, *message.kwargs.values()):
        requests.payload(payload, "arguments")
    try:
        arguments = (
            requests.payload(message.arguments, "arguments") if is_whole else actorwire.arguments_from_proto(message)
        )
        actorwire.blobs_of_arguments(arguments)  # raises for malformed ones
    except ValueError as error:
        raise requests.invalid("arguments", str(error)) from error
    requests.check_inline(len(arguments.data), "arguments")
    return arguments


def _class(message: pb.ActorClass) -> ActorSpec:
    try:
        spec = actorwire.class_from_proto(message)
    except ValueError as error:
        raise requests.invalid("actor_class", str(error)) from error
    texts.check_class(spec.function, spec.options)
    if len(spec.readonly) > READONLY_MAX:
        raise requests.invalid("actor_class.readonly_methods", f"there may be {READONLY_MAX} of them")
    for method in spec.readonly:
        requests.text(method, "actor_class.readonly_methods")
    if spec.function.version:
        raise errors.CapabilityMissingError(
            f"the class {spec.function.name!r} has a version; leave it out", capability="function-versions"
        )
    if spec.function.code is not None:
        requests.check_inline(len(spec.function.code.data), "actor_class.function.pickled.code")
    return spec


# ------------------------------------------------------------------------------ answers


def _call(view: TaskView) -> pb.ActorCall:
    message = pb.ActorCall(
        call_id=view.task_id,
        method=view.function_name,
        status=_CALL_STATUS[view.status],
        start_time=wire.to_timestamp(view.started_ms),
        end_time=wire.to_timestamp(view.ended_ms),
        attempt=view.attempts,
    )
    if view.failure is not None and view.status is TaskStatus.FAILED:
        message.failure.CopyFrom(answers.summary(view.failure))
    if view.waiting is not None:
        answers.fill_waiting(message.waiting, view.waiting)
    return message
