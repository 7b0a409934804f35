"""Hostile texts in every text field of every call, and in all that user code can fill, with an innocent run beside
them that must finish. Fields are found by their descriptors, so new ones are covered."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

import perdure
from integration.wire_calls import (
    Stubs,
    event_node,
    graph,
    json_value,
    output_of,
    public_methods,
    refusal_of,
    run_request,
    sum_of,
)
from messages import Place, class_of, places
from patience import PATIENCE_S
from perdure import errors
from perdure.model import INLINE_BYTES_MAX, FailureKind, Payload
from perdure.options import Options
from perdure.v1 import actor_service_pb2
from perdure.v1 import workflow_service_pb2 as pb

pytestmark = pytest.mark.storages("sqlite", "postgres")

HOSTILE = ["\0", "a\0b", "a\nb", "\x1b[31m", "\u202e\u200f", "\U0001f600\u0301", "", "x" * (1 << 20)]


@perdure.actor
class Notes:
    """An innocent actor."""

    def __init__(self) -> None:
        self.text = ""

    @perdure.method
    def note(self, text: str = "") -> str:
        self.text = text
        return text

    @perdure.readonly
    def last(self) -> str:
        return self.text

    @perdure.method
    def keep(self, text: str) -> str:
        setattr(self, text, text)
        return text

    @perdure.method
    def fail(self, text: str) -> None:
        raise Odd(text)


CALL_S = 0.5
"""Of the client's patience: calls that wait are not waited for."""


def good(method: str) -> Any:
    """A request that would be taken if it had no hostile text; the other calls begin with an empty one."""
    match method:
        case "Run":
            return run_request(graph(event_node("n", "k")), "hostile")
        case "BatchRun":
            request = pb.BatchRunRequest(items=[pb.RunItem(workflow_id="hostile")])
            request.sources.add().spec.CopyFrom(graph(event_node("n", "k")))
            return request
        case "SendEvent":
            return pb.SendEventRequest(workflow_id="waits", event_key="k", event_id="e", payload=json_value(1))
        case "BatchSendEvents":
            item = pb.EventItem(workflow_id="waits", event_key="k", event_id="e", payload=json_value(1))
            return pb.BatchSendEventsRequest(items=[item])
        case "BatchGetOutput":
            return pb.BatchGetOutputRequest(items=[pb.OutputItem(workflow_id="waits")])
        case "Watch":
            return pb.WatchRequest(workflow_ids=["waits"])
        case "GetStatus" | "GetMetadata" | "ListTasks" | "GetOutput" | "Cancel" | "Resume" | "DeleteWorkflow":
            kind = getattr(pb, f"{method}Request")
            return kind(workflow_id="hostile" if method in ("Cancel", "Resume", "DeleteWorkflow") else "waits")
        case "GetOrCreateActor":
            request = actor_service_pb2.GetOrCreateActorRequest(actor_id="hostile actor")
            request.actor_class.function.registered.name = f"{__name__}:Notes"
            return request
        case "CallActor":
            return actor_service_pb2.CallActorRequest(actor_id="notes", method="note", request_id="hostile")
        case "QueryActor":
            return actor_service_pb2.QueryActorRequest(actor_id="notes", method="last")
        case "GetActorCall" | "DropActorCall":
            return getattr(actor_service_pb2, f"{method}Request")(actor_id="notes", call_id="hostile")
        case "GetActor" | "ListActorCalls":
            return getattr(actor_service_pb2, f"{method}Request")(actor_id="notes")
        case "DeleteActor":
            return actor_service_pb2.DeleteActorRequest(actor_id="hostile actor")
        case _:
            return None


def calls() -> list[tuple[Any, Place, str]]:
    """Every text field of every request, each with a NUL and with two of the others, by turns."""
    found = [(method, place) for method in public_methods() for place in places(method.input_type) if place.is_text]
    return [
        (method, place, text)
        for number, (method, place) in enumerate(found)
        for text in ("a\0b", *(HOSTILE[(number + step) % len(HOSTILE)] for step in (0, 3)))
    ]


async def ask(channel: grpc.aio.Channel, method: Any, place: Place, text: str) -> None:
    """One call. It is answered, or refused by an error of ours that is not "internal"."""
    message = good(method.name) or class_of(method.input_type)()
    place.put(message, text)
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = class_of(method.input_type)
    read = class_of(method.output_type).FromString
    try:
        if method.client_streaming:
            await channel.stream_unary(path, kind.SerializeToString, read)(iter([message]), timeout=CALL_S)
        elif method.server_streaming:
            await channel.unary_stream(path, kind.SerializeToString, read)(message, timeout=CALL_S).read()
        else:
            await channel.unary_unary(path, kind.SerializeToString, read)(message, timeout=20)
    except grpc.aio.AioRpcError as error:
        if method.server_streaming and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return
        refusal = refusal_of(error)
        assert refusal.code is not grpc.StatusCode.INTERNAL, f"{method.name} {place} {text[:9]!r}: {refusal.message}"
        assert refusal.reason in errors.BY_REASON


@pytest.mark.timeout(300)
async def test_in_every_field_of_every_call(
    channel: grpc.aio.Channel, stubs: Stubs, client: perdure.Client, goes_on_serving: None
) -> None:
    await stubs.workflows.Run(run_request(graph(event_node("n", "never")), "waits"))
    notes = client.actor(Notes, "notes")
    assert await notes.note("first") == "first"
    innocent = asyncio.create_task(client.run(chain(), workflow_id="innocent"))
    known = calls()
    assert len(known) > 300
    for method, place, text in known:
        await ask(channel, method, place, text)
    assert await innocent == 3
    assert await notes.note("last") == "last"
    await stubs.workflows.Run(run_request(sum_of(1, 2), "last"))
    assert (await output_of(stubs, "last")).output.data == b"3"


# ------------------------------------------------------------------------------ what user code fills


@perdure.task
def add(left: int, right: int = 0) -> int:
    return left + right


def chain() -> Any:
    return add.bind(add.bind(add.bind(1), 1), 1)


class Odd(Exception):
    """With a field that is hostile, too."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@perdure.task
def fails(text: str) -> None:
    raise Odd(text) from ValueError(text)


@perdure.task
def gives(text: str) -> dict[str, Any]:
    return {text: [text, {text}]}


@perdure.task(max_retries=0)
def grows(text: str, what: str) -> Any:
    """Returns a graph with that text somewhere, round the checks of the SDK."""
    if what == "task id":
        node = add.bind(1)
        object.__setattr__(node, "options", unchecked(task_id=text))
        return node
    if what == "event key":
        node = perdure.event("k", timeout=0.001)
        object.__setattr__(node.action, "key", text)
        return node
    node = add.bind(1)
    object.__setattr__(node, "options", unchecked(metadata={"a": text}))
    return node


def unchecked(**given: Any) -> Options:
    return Options(**given)


HALVES = ["a\ud800b", "\udfff"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("text", [*HOSTILE, *HALVES], ids=lambda text: ascii(text)[:20])
async def test_hostile_texts_from_user_code(client: perdure.Client, text: str, goes_on_serving: None) -> None:
    innocent = asyncio.create_task(client.run(chain(), workflow_id="innocent"))
    assert await client.run(gives.bind(text)) == {text: [text, {text}]}
    with pytest.raises(errors.WorkflowExecutionError) as raised:
        await client.run(fails.bind(text), workflow_id="fails")
    if len(text) < INLINE_BYTES_MAX:  # larger errors travel as their texts alone
        assert isinstance(raised.value.__cause__, Odd)
        assert raised.value.__cause__.text == text
    assert "\0" not in raised.value.failure.message
    for what in ("task id", "event key", "metadata"):
        grown = await client.start(grows.bind(text, what), workflow_id=f"grows {what}")
        outcome = await grown.outcome(timeout=PATIENCE_S)
        assert isinstance(outcome, Payload) or outcome.kind is not FailureKind.SYSTEM, outcome
    assert await innocent == 3


@pytest.mark.timeout(300)
@pytest.mark.parametrize("text", [*HOSTILE, *HALVES], ids=lambda text: ascii(text)[:20])
async def test_hostile_texts_from_methods(client: perdure.Client, text: str, goes_on_serving: None) -> None:
    """As values, names of fields and errors. Each fails its own call at most."""
    notes = client.actor(Notes, "notes")
    assert await notes.note(text) == text
    assert await notes.last() == text
    assert await notes.keep(text) == text
    with pytest.raises(errors.ActorCallError) as raised:
        await notes.fail(text)
    if len(text) < INLINE_BYTES_MAX:
        assert isinstance(raised.value.__cause__, Odd)
        assert raised.value.__cause__.text == text
    assert await notes.note("innocent") == "innocent"
