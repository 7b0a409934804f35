"""The errors of the API: each has a stable reason, a status code, a meaning and advice.

On the wire an error is a google.rpc.Status with one google.rpc.ErrorInfo (domain "perdure.v1", the reason, the fields
as metadata). It stays below 6 KiB, because clients limit trailers to 8 KiB. A client raises the same class with the
same fields. Nothing here depends on the text of a message.

Failures of user code are not errors of the API: `WorkflowExecutionError` and its subclasses say how a run ended, with
the user's own exception as `__cause__`.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from perdure.model import Failure
from perdure.v1.errors_pb2 import ErrorReason, ItemError

T = TypeVar("T")

DOMAIN: Final = "perdure.v1"
DETAILS_KEY: Final = "grpc-status-details-bin"
STATUS_TEXT_BYTES_MAX: Final = 1_000
FIELD_BYTES_MAX: Final = 256
FIELDS_MAX: Final = 8
CONNECTING: Final = "last error: "
"""In gRPC's texts this precedes the reason why a connection failed, which ends with that of the operating system."""
ADVICE: Final = "`perdure serve` starts a service, PERDURE_ADDRESS names another one"


class PerdureError(Exception):
    """The base of all errors of the API. `fields` are details, as strings."""

    reason: ClassVar[str] = "ERROR_REASON_UNSPECIFIED"
    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    retry_after_s: ClassVar[float | None] = None

    def __init__(self, message: str, **fields: str) -> None:
        super().__init__(message)
        self.fields = fields

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else ""


# ------------------------------------------------------------------------------ the request is wrong


class InvalidFieldError(PerdureError, ValueError):
    """A field is malformed: `field` names it. Correct the request."""

    reason = "INVALID_FIELD"
    status = grpc.StatusCode.INVALID_ARGUMENT


class InvalidSpecError(PerdureError, ValueError):
    """The graph has a cycle, an unknown node, a duplicate id, a missing input... `node_id` names the
    node if it is one in particular, and `input` an input that was not given. Correct the graph, or give the input."""

    reason = "INVALID_SPEC"
    status = grpc.StatusCode.INVALID_ARGUMENT


class InvalidArgumentsError(PerdureError, ValueError):
    """The arguments do not fit the function's schema. `pointer` is a JSON pointer to the first that does not, in the
    object of the arguments by name; `function`, `version` and `node_id` name the call. Correct the argument."""

    reason = "INVALID_ARGUMENTS"
    status = grpc.StatusCode.INVALID_ARGUMENT


class InvalidFilterError(PerdureError, ValueError):
    """The filter or order does not parse; `position` counts characters from 0. Correct it there."""

    reason = "INVALID_FILTER"
    status = grpc.StatusCode.INVALID_ARGUMENT


class InvalidPageTokenError(PerdureError, ValueError):
    """Not a token of this call, or the other arguments differ from those of the page before. Start over."""

    reason = "INVALID_PAGE_TOKEN"
    status = grpc.StatusCode.INVALID_ARGUMENT


class RequestIdReusedError(PerdureError):
    """The request id was used with other content. Make a new id for a new request."""

    reason = "REQUEST_ID_REUSED"
    status = grpc.StatusCode.INVALID_ARGUMENT


class PayloadTooLargeError(PerdureError, ValueError):
    """Something is larger than its limit (`limit`, `size`, `field`). Send it as a blob."""

    reason = "PAYLOAD_TOO_LARGE"
    status = grpc.StatusCode.INVALID_ARGUMENT


class BlobHashMismatchError(PerdureError):
    """The bytes have another hash or length than announced; nothing was stored. Upload again."""

    reason = "BLOB_HASH_MISMATCH"
    status = grpc.StatusCode.INVALID_ARGUMENT


class PythonVersionUnsupportedError(PerdureError):
    """Code was pickled by a Python (`python_version`) that no worker has (`available`). Use one of those."""

    reason = "PYTHON_VERSION_UNSUPPORTED"
    status = grpc.StatusCode.INVALID_ARGUMENT


# ------------------------------------------------------------------------------ not there, there already


class WorkflowNotFoundError(PerdureError, LookupError):
    """There is no such workflow in the namespace. Check the id and the namespace."""

    reason = "WORKFLOW_NOT_FOUND"
    status = grpc.StatusCode.NOT_FOUND


class TaskNotFoundError(PerdureError, LookupError):
    """The workflow has no such task and will have none (`task_id`). List its tasks to see what there is."""

    reason = "TASK_NOT_FOUND"
    status = grpc.StatusCode.NOT_FOUND


class ActorNotFoundError(PerdureError, LookupError):
    """There is no such actor in the namespace (`actor_id`). Make it with get_or_create, or check the id."""

    reason = "ACTOR_NOT_FOUND"
    status = grpc.StatusCode.NOT_FOUND


class BlobNotFoundError(PerdureError, LookupError):
    """There is no blob of this hash. Upload it before you refer to it."""

    reason = "BLOB_NOT_FOUND"
    status = grpc.StatusCode.NOT_FOUND


class FunctionNotFoundError(PerdureError, LookupError):
    """No worker has announced a function of this name and version (`function`, `version`), or the service does not
    allow calls of the module's functions. Have workers import the module that registers it."""

    reason = "FUNCTION_NOT_FOUND"
    status = grpc.StatusCode.NOT_FOUND


class WorkflowAlreadyExistsError(PerdureError):
    """The id is in use (`status`, `run_id`). Attach to that run, or choose another id or policy."""

    reason = "WORKFLOW_ALREADY_EXISTS"
    status = grpc.StatusCode.ALREADY_EXISTS


# ------------------------------------------------------------------------------ not in this state


class WorkflowAlreadyFinalError(PerdureError):
    """The run has ended and takes no more of this (`status`). Read its output, or start a new run."""

    reason = "WORKFLOW_ALREADY_FINAL"
    status = grpc.StatusCode.FAILED_PRECONDITION


class WorkflowStillActiveError(PerdureError):
    """The run has not ended (`status`). Cancel it or wait."""

    reason = "WORKFLOW_STILL_ACTIVE"
    status = grpc.StatusCode.FAILED_PRECONDITION


class OutputNotStoredError(PerdureError):
    """The task ended but its output is not stored (`task_id`): it has checkpoint=False. Remove that option to read its
    output later."""

    reason = "OUTPUT_NOT_STORED"
    status = grpc.StatusCode.FAILED_PRECONDITION


class ActorFailedError(PerdureError):
    """The actor takes no calls (`actor_id`, `status`): its constructor failed, or its rows are damaged. The message
    says why, and what makes it work again."""

    reason = "ACTOR_FAILED"
    status = grpc.StatusCode.FAILED_PRECONDITION


class ActorCycleError(PerdureError):
    """The call would wait for itself: a method of the called actor waits for this call (`chain`). Query the actor, or
    let the method return before the call is made."""

    reason = "ACTOR_CYCLE"
    status = grpc.StatusCode.FAILED_PRECONDITION


class WrongKindError(PerdureError):
    """The id names a workflow, and the request is for actors, or the reverse (`kind` is what it names). Use the call
    for that kind, or choose another id."""

    reason = "WRONG_KIND"
    status = grpc.StatusCode.FAILED_PRECONDITION


class EtagMismatchError(PerdureError):
    """Something changed since it was read. Read again, then decide again."""

    reason = "ETAG_MISMATCH"
    status = grpc.StatusCode.ABORTED


class OffsetOutOfRangeError(PerdureError, ValueError):
    """The offset lies beyond the end (`size`). Ask for a smaller one."""

    reason = "OFFSET_OUT_OF_RANGE"
    status = grpc.StatusCode.OUT_OF_RANGE


# ------------------------------------------------------------------------------ not now


class StorageFullError(PerdureError):
    """The storage is full; nothing was changed. Free space; the same request may then be sent again."""

    reason = "STORAGE_FULL"
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    retry_after_s = 10.0


class QueueFullError(PerdureError, queue.Full):
    """The namespace has as many running and pending runs as allowed (`max_running`, `max_pending`); nothing was
    changed. Try again when some have ended, or raise the limits of the service."""

    reason = "QUEUE_FULL"
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    retry_after_s = 1.0


class MailboxFullError(PerdureError, queue.Full):
    """As many calls of the actor run and wait as allowed (`actor_id`, `max_pending_calls`), or as many events for it as
    may wait; nothing was changed. Try again when some have ended, or were taken."""

    reason = "MAILBOX_FULL"
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    retry_after_s = 1.0


class SlowConsumerError(PerdureError):
    """The reader of a stream fell too far behind. Reconnect with the last resume token."""

    reason = "SLOW_CONSUMER"
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    retry_after_s = 0.1


class ServiceUnavailableError(PerdureError):
    """The service does not answer, or a proxy before it. Try again; ids make that safe."""

    reason = "ERROR_REASON_UNSPECIFIED"
    status = grpc.StatusCode.UNAVAILABLE


class UnreachableError(ServiceUnavailableError):
    """No service answers at `address`. Start one with `perdure serve`, or give the address of one. Clients raise this
    error; the service never sends it."""

    reason = "UNREACHABLE"

    @classmethod
    def of(cls, address: str, text: str) -> UnreachableError:
        """The error for gRPC's text about a connection."""
        why = text.rpartition(": ")[2] if CONNECTING in text else text
        return cls(f"no service answers at {address}: {why}; {ADVICE}", address=address)


class DrainingError(ServiceUnavailableError):
    """This replica is shutting down; another one, or the next one, serves. Try again."""

    reason = "DRAINING"
    retry_after_s = 0.5


class DatabaseUnavailableError(ServiceUnavailableError):
    """The database does not answer. Ids make it safe to try again."""

    reason = "DATABASE_UNAVAILABLE"
    retry_after_s = 1.0


class StartingError(ServiceUnavailableError):
    """The replica is not ready yet. Try again."""

    reason = "STARTING"
    retry_after_s = 0.5


# ------------------------------------------------------------------------------ ours


class CapabilityMissingError(PerdureError, NotImplementedError):
    """This server does not offer that (`capability`). Ask GetSystemInfo what it offers, or use a newer one."""

    reason = "CAPABILITY_MISSING"
    status = grpc.StatusCode.UNIMPLEMENTED


class InternalError(PerdureError):
    """A bug in the service. Report it with `error_id`, which names it in the logs."""

    reason = "INTERNAL"
    status = grpc.StatusCode.INTERNAL


class CorruptDataError(PerdureError):
    """A stored value fails its checksum or does not decode (`subject`). Restore it from a backup."""

    reason = "CORRUPT_DATA"
    status = grpc.StatusCode.DATA_LOSS


def _classes(base: type[PerdureError]) -> list[type[PerdureError]]:
    return [base, *(found for sub in base.__subclasses__() for found in _classes(sub))]


BY_REASON: Final = {error.reason: error for error in _classes(PerdureError) if error.reason != PerdureError.reason}


# ------------------------------------------------------------------------------ the wire


def cut(text: str, bytes_max: int) -> str:
    """The text, cut to this number of bytes of UTF-8. Characters that UTF-8 cannot encode are escaped."""
    data = text[:bytes_max].encode("utf-8", "backslashreplace")
    return data[:bytes_max].decode("utf-8", "ignore")


def to_status(error: PerdureError) -> Status:
    """The error as a message."""
    message = cut(error.message, STATUS_TEXT_BYTES_MAX)
    status = Status(code=error.status.value[0], message=message)
    fields = {key: cut(value, FIELD_BYTES_MAX) for key, value in list(error.fields.items())[:FIELDS_MAX]}
    status.details.add().Pack(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=fields))
    if error.retry_after_s is not None:
        seconds = int(error.retry_after_s)
        nanos = int((error.retry_after_s - seconds) * 1_000_000_000)
        status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos)))
    if isinstance(error, InvalidFieldError):
        violation = BadRequest.FieldViolation(field=fields.get("field", ""), description=message)
        status.details.add().Pack(BadRequest(field_violations=[violation]))
    if isinstance(error, InvalidArgumentsError):
        violation = BadRequest.FieldViolation(field=f"arguments{fields.get('pointer', '')}", description=message)
        status.details.add().Pack(BadRequest(field_violations=[violation]))
    return status


def from_rpc_error(error: grpc.RpcError) -> PerdureError:
    """The error that the service raised, or the closest one."""
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    text = str(error.details() or "") if hasattr(error, "details") else str(error)
    trailers: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    for key, value in trailers or ():
        if key == DETAILS_KEY and (found := _from_details(value, text)) is not None:
            return found
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "message" in text and "larger than" in text:
        return PayloadTooLargeError(f"the message is larger than the service reads: {text}")
    # CANCELLED comes from a server that is going away. A call that is cancelled on this side raises no RpcError.
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return ServiceUnavailableError(text or "the service does not answer")
    unknown = PerdureError(f"{code.name}: {text}")
    unknown.fields = {"code": code.name}
    return unknown


def from_item(message: ItemError) -> PerdureError:
    """The error of one item of a batch or a stream."""
    try:
        reason = ErrorReason.Name(message.reason).removeprefix("ERROR_REASON_")
    except ValueError:  # this client is older than the reason
        reason = str(message.reason)
    return _made(reason, message.message, message.metadata)


def _made(reason: str, message: str, fields: Mapping[str, str]) -> PerdureError:
    kind = BY_REASON.get(reason, PerdureError)
    error = kind(message)
    error.fields = dict(fields) | ({} if kind is not PerdureError else {"reason": reason})
    return error


def _from_details(value: bytes | str, text: str) -> PerdureError | None:
    try:
        status = Status.FromString(value if isinstance(value, bytes) else value.encode("latin-1"))
    except DecodeError:
        return None
    info = ErrorInfo()
    for detail in status.details:
        if _unpack(detail, info) and info.domain == DOMAIN:
            return _made(info.reason, status.message or text, info.metadata)
    return None


def _unpack(detail: AnyMessage, info: ErrorInfo) -> bool:
    return detail.TypeName() == ErrorInfo.DESCRIPTOR.full_name and detail.Unpack(info)


# ------------------------------------------------------------------------------ how runs end


class WorkflowExecutionError(Exception):
    """A run failed. `__cause__` is the exception that user code raised, or a `RemoteError`."""

    def __init__(self, workflow_id: str, failure: Failure) -> None:
        where = f" in task {failure.task_id!r}" if failure.task_id else ""
        super().__init__(f"workflow {workflow_id!r} failed{where}: {failure.type}: {failure.message}")
        self.workflow_id = workflow_id
        self.failure = failure

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.workflow_id, self.failure), vars(self)


class WorkflowCancellationError(WorkflowExecutionError):
    """The run was canceled."""

    def __init__(self, workflow_id: str, failure: Failure) -> None:
        super().__init__(workflow_id, failure)
        self.args = (f"workflow {workflow_id!r} was canceled: {failure.message}",)


class ActorCallError(Exception):
    """A call of an actor failed. `__cause__` is the exception that the method raised, or a `RemoteError`. The state of
    the actor is as it was before the call, unless the method had returned a graph, which failed."""

    def __init__(self, actor_id: str, method: str, failure: Failure) -> None:
        super().__init__(f"{method} of actor {actor_id!r} failed: {failure.type}: {failure.message}")
        self.actor_id = actor_id
        self.method = method
        self.failure = failure

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.actor_id, self.method, self.failure), vars(self)


class BatchError(Exception):
    """Some items of a batch failed. `results` are those of all items, in order; the result of a failed item is its
    error. `__cause__` is the first error."""

    def __init__(self, results: list[Any]) -> None:
        failed = [result for result in results if isinstance(result, Exception)]
        super().__init__(f"{len(failed)} of {len(results)} failed; the first: {failed[0] if failed else None}")
        self.results = results
        self.__cause__ = failed[0] if failed else None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.results,)


def all_of(results: Sequence[T | PerdureError]) -> list[T]:
    """The results. Raises BatchError if one of them is an error of the API or of a run."""
    if any(isinstance(result, (PerdureError, WorkflowExecutionError)) for result in results):
        raise BatchError(list(results))
    return cast("list[T]", list(results))


class RemoteError(Exception):
    """An error that cannot be unpickled here: its type, message and stack as text. A note says why, for example that a
    module is missing."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.type}: {failure.message}")
        self.failure = failure

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.failure,), vars(self)


class TaskLostError(RemoteError):
    """The system under a task failed as often as its retry policy allows."""


class TaskTimeoutError(RemoteError, TimeoutError):
    """An attempt, or the wait for an event, took too long."""


class SerializationError(RemoteError):
    """A value could not be encoded or decoded."""


class FunctionUnavailableError(RemoteError):
    """A worker could not load the function."""
