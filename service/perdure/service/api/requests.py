"""Checks request messages and converts them to engine types. Errors name the field."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sized
from functools import lru_cache
from typing import Any, Final, Protocol

from google.protobuf.duration_pb2 import Duration

from perdure import errors, graphwire, texts, wire
from perdure.model import DEFAULT_NAMESPACE, BlobRef, Call, Payload, Spec
from perdure.service.api.caller import Caller
from perdure.service.common import limits
from perdure.service.machines.actors import MAIL
from perdure.service.machines.source import RunSource
from perdure.service.operations.asked import Conflict, NewEvent, NewRun, Reuse
from perdure.v1 import payload_pb2, spec_pb2, workflow_service_pb2

DEFAULT_QUEUE: Final = "default"

_REUSE: Final = {0: Reuse.REJECT, 1: Reuse.REJECT, 2: Reuse.ALLOW_IF_UNSUCCESSFUL, 3: Reuse.ALLOW}
_CONFLICT: Final = {0: Conflict.FAIL, 1: Conflict.FAIL, 2: Conflict.USE_EXISTING, 3: Conflict.CANCEL_EXISTING}


def invalid(field: str, what: str) -> errors.InvalidFieldError:
    return errors.InvalidFieldError(f"{field}: {what}", field=field)


def malformed() -> errors.InvalidFieldError:
    """For bytes that are no message of the request's type."""
    return errors.InvalidFieldError("the request is no message of its type, or one nested too deep", field="")


def text(value: str, field: str, *, limit: int = limits.ID_CHARS_MAX, required: bool = True) -> str:
    """A name, checked by `texts.name`."""
    return texts.name(value, field, limit=limit, required=required) if value or required else ""


def namespace(value: str) -> str:
    return text(value, "namespace", limit=63, required=False) or DEFAULT_NAMESPACE


def workflow_id(value: str) -> str:
    return text(value, "workflow_id")


class NamesRun(Protocol):
    """A request about one run."""

    @property
    def namespace(self) -> str: ...

    @property
    def workflow_id(self) -> str: ...


def named(request: NamesRun) -> tuple[str, str]:
    """The namespace and the workflow id of a request about one run."""
    return namespace(request.namespace), workflow_id(request.workflow_id)


def payload(message: payload_pb2.Payload, field: str) -> Payload:
    """A payload; an unset one is null."""
    if not message.encoding and not message.data and not message.HasField("blob"):
        return Payload("binary/null")
    check_inline(len(message.data), field)
    try:
        return texts.payload(wire.payload_from_proto(message), field)
    except errors.PerdureError:
        raise
    except ValueError as error:
        raise invalid(field, str(error)) from error


def check_inline(size: int, field: str) -> None:
    """Raise an error unless a value of this size may travel inline."""
    if size > limits.INLINE_PAYLOAD_BYTES_MAX:
        raise errors.PayloadTooLargeError(
            f"{field}: {size} bytes inline, at most {limits.INLINE_PAYLOAD_BYTES_MAX}; upload a blob",
            field=field,
            size=str(size),
            limit=str(limits.INLINE_PAYLOAD_BYTES_MAX),
        )


def blob(message: payload_pb2.BlobRef, field: str) -> BlobRef:
    try:
        return BlobRef(message.sha256, message.size_bytes)
    except ValueError as error:
        raise invalid(field, str(error)) from error


def wait_s(asked: Duration, caller: Caller) -> float:
    """The time to wait, bounded by the limit and by the deadline of the call less a margin."""
    try:
        wanted = wire.from_duration(asked) / 1000
    except ValueError as error:
        raise invalid("wait", str(error)) from error
    left = caller.left_s
    bound = limits.WAIT_S_MAX if left is None else max(left - limits.DEADLINE_MARGIN_S, 0)
    return min(wanted, bound, limits.WAIT_S_MAX)


def count_items(items: Sized) -> None:
    """Raise an error unless the number of items is within the limits of a batch."""
    if not 1 <= len(items) <= limits.BATCH_ITEMS_MAX:
        raise invalid("items", f"there are {len(items)}, and may be 1 to {limits.BATCH_ITEMS_MAX}")


def event(item: workflow_service_pb2.SendEventRequest | workflow_service_pb2.EventItem) -> NewEvent:
    if item.event_key == MAIL:  # with it, events would be calls of actors that no check of CallActor has seen
        raise invalid("event_key", f"{MAIL!r} is the key of calls of actors, which CallActor sends")
    return NewEvent(
        workflow_id(item.workflow_id),
        text(item.event_key, "event_key"),
        text(item.event_id, "event_id", limit=limits.REQUEST_ID_CHARS_MAX),
        payload(item.payload, "payload"),
    )


def page_size(value: int) -> int:
    if value < 0:
        raise invalid("page_size", "must be 0 or more")
    return min(value or limits.PAGE_DEFAULT, limits.PAGE_MAX)


def run(
    request: workflow_service_pb2.RunRequest | workflow_service_pb2.RunItem, namespace: str, source: RunSource
) -> NewRun:
    """A request to run a graph that was checked before."""
    wanted_id = text(request.workflow_id, "workflow_id", required=False)
    request_id = text(request.request_id, "request_id", limit=limits.REQUEST_ID_CHARS_MAX, required=False)
    if request_id and not request_id.isascii():
        raise invalid("request_id", "has ASCII characters only")
    if not wanted_id and not request_id:
        raise invalid("request_id", "is required without a workflow_id, or a retry could run the workflow twice")
    if request.id_reuse_policy not in _REUSE:
        raise invalid("id_reuse_policy", "is unknown to this server")
    if request.id_conflict_policy not in _CONFLICT:
        raise invalid("id_conflict_policy", "is unknown to this server")
    if request.priority:
        raise _missing("priorities", f"priority is {request.priority}, and this server has none; leave it out")
    queue = text(request.queue, "queue", limit=63, required=False) or DEFAULT_QUEUE
    if queue != DEFAULT_QUEUE:
        raise _missing("queues", f"queue is {queue!r}, and this server has only {DEFAULT_QUEUE!r}; leave it out")
    return NewRun(
        namespace=namespace,
        workflow_id=wanted_id,
        request_id=request_id,
        source=source,
        inputs=_inputs(request.inputs),
        reuse=_REUSE[request.id_reuse_policy],
        conflict=_CONFLICT[request.id_conflict_policy],
        metadata=_metadata(request),
        labels=labels(request.labels),
        name=text(request.display_name, "display_name", required=False) or source.name,
    )


def _missing(capability: str, message: str) -> errors.CapabilityMissingError:
    return errors.CapabilityMissingError(message, capability=capability)


def spec(message: spec_pb2.WorkflowSpec) -> Spec:
    """A valid graph within the limits."""
    if len(message.nodes) > limits.NODES_MAX:
        raise errors.InvalidSpecError(f"the graph has {len(message.nodes)} nodes, at most {limits.NODES_MAX}")
    graph = graphwire.spec_from_proto(message)
    texts.check_spec(graph)
    return graph


def check_payloads(graph: Spec) -> None:
    for node in graph.nodes:
        if isinstance(node.action, Call) and len(node.action.arguments.data) > limits.INLINE_PAYLOAD_BYTES_MAX:
            size = len(node.action.arguments.data)
            raise errors.PayloadTooLargeError(
                f"node {node.id!r}: its arguments have {size} bytes inline, at most "
                f"{limits.INLINE_PAYLOAD_BYTES_MAX}; upload a blob",
                field=f"nodes[{node.id!r}].arguments",
                size=str(size),
                limit=str(limits.INLINE_PAYLOAD_BYTES_MAX),
            )


def _inputs(given: Mapping[str, payload_pb2.Payload]) -> dict[str, Payload]:
    if not given:  # to go through an empty map of a message takes longer than all other checks
        return {}
    return {texts.key(name, "inputs"): payload(value, f"inputs[{name!r}]") for name, value in given.items()}


def _metadata(request: workflow_service_pb2.RunRequest | workflow_service_pb2.RunItem) -> str:
    if not request.HasField("metadata"):
        return ""
    size = request.metadata.ByteSize()
    if size > limits.METADATA_BYTES_MAX:
        raise errors.PayloadTooLargeError(
            f"metadata: {size} bytes, at most {limits.METADATA_BYTES_MAX}",
            field="metadata",
            size=str(size),
            limit=str(limits.METADATA_BYTES_MAX),
        )
    try:
        told = wire.struct_to_json(request.metadata)
    except (ValueError, RecursionError) as error:  # NaN, say
        raise invalid("metadata", f"is no JSON: {error}") from error
    return texts.json_text(told, "metadata")


def labels(given: Mapping[str, str]) -> dict[str, str]:
    if not given:
        return {}
    if len(given) > limits.LABELS_MAX:
        raise invalid("labels", f"there may be {limits.LABELS_MAX} of them")
    for key, value in given.items():
        texts.key(key, "labels", limit=limits.LABEL_KEY_CHARS_MAX)
        if len(value.encode()) > limits.LABEL_VALUE_BYTES_MAX:
            raise invalid(f"labels[{key!r}]", f"has at most {limits.LABEL_VALUE_BYTES_MAX} bytes")
        text(value, f"labels[{key!r}]", required=False)
    return dict(given)


# ------------------------------------------------------------------------------ page tokens


def make_token(query: Iterable[object], place: object) -> str:
    """An opaque token for a place in a listing, bound to the query."""
    data = json.dumps([_mark(repr(tuple(query))), place]).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def read_token(token: str, query: Iterable[object], is_place: Callable[[Any], bool]) -> Any:
    """The place in a token; None for an empty token. Raises InvalidPageTokenError if the token is not one of this
    query."""
    if not token:
        return None
    try:
        mark, place = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError, RecursionError) as error:
        raise errors.InvalidPageTokenError("this is not a token of this service") from error
    if mark != _mark(repr(tuple(query))) or not is_place(place):
        raise errors.InvalidPageTokenError("the token belongs to another question; start over")
    return place


def is_number(place: Any) -> bool:
    """Whether a place is a position or the number of a commit."""
    return type(place) is int and 0 <= place < 1 << 63


def is_row(place: Any, kind: type) -> bool:
    """Whether a place is a pair of a column value of this kind and a run id."""
    match place:
        case [value, str(run_id)] if texts.is_name(run_id):
            return is_number(value) if kind is int else isinstance(value, str) and texts.is_name(value)
        case _:
            return False


@lru_cache(100)
def _mark(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:16]
