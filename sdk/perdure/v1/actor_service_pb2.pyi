import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from perdure.v1 import errors_pb2 as _errors_pb2
from perdure.v1 import failure_pb2 as _failure_pb2
from perdure.v1 import payload_pb2 as _payload_pb2
from perdure.v1 import spec_pb2 as _spec_pb2
from perdure.v1 import workflow_pb2 as _workflow_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ActorStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTOR_STATUS_UNSPECIFIED: _ClassVar[ActorStatus]
    ACTOR_STATUS_CREATING: _ClassVar[ActorStatus]
    ACTOR_STATUS_READY: _ClassVar[ActorStatus]
    ACTOR_STATUS_FAILED: _ClassVar[ActorStatus]

class ActorCallStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTOR_CALL_STATUS_UNSPECIFIED: _ClassVar[ActorCallStatus]
    ACTOR_CALL_STATUS_WAITING: _ClassVar[ActorCallStatus]
    ACTOR_CALL_STATUS_RUNNING: _ClassVar[ActorCallStatus]
    ACTOR_CALL_STATUS_SUCCESSFUL: _ClassVar[ActorCallStatus]
    ACTOR_CALL_STATUS_FAILED: _ClassVar[ActorCallStatus]
ACTOR_STATUS_UNSPECIFIED: ActorStatus
ACTOR_STATUS_CREATING: ActorStatus
ACTOR_STATUS_READY: ActorStatus
ACTOR_STATUS_FAILED: ActorStatus
ACTOR_CALL_STATUS_UNSPECIFIED: ActorCallStatus
ACTOR_CALL_STATUS_WAITING: ActorCallStatus
ACTOR_CALL_STATUS_RUNNING: ActorCallStatus
ACTOR_CALL_STATUS_SUCCESSFUL: ActorCallStatus
ACTOR_CALL_STATUS_FAILED: ActorCallStatus

class Actor(_message.Message):
    __slots__ = ("namespace", "actor_id", "class_name", "revision", "pending_calls", "create_time", "status", "labels", "failure", "readonly_methods", "waiting", "ttl", "call_retention")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PENDING_CALLS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    READONLY_METHODS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    CALL_RETENTION_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    actor_id: str
    class_name: str
    revision: int
    pending_calls: int
    create_time: _timestamp_pb2.Timestamp
    status: ActorStatus
    labels: _containers.ScalarMap[str, str]
    failure: _failure_pb2.Failure
    readonly_methods: _containers.RepeatedScalarFieldContainer[str]
    waiting: _workflow_pb2.Waiting
    ttl: _duration_pb2.Duration
    call_retention: _duration_pb2.Duration
    def __init__(self, namespace: _Optional[str] = ..., actor_id: _Optional[str] = ..., class_name: _Optional[str] = ..., revision: _Optional[int] = ..., pending_calls: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., status: _Optional[_Union[ActorStatus, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ..., readonly_methods: _Optional[_Iterable[str]] = ..., waiting: _Optional[_Union[_workflow_pb2.Waiting, _Mapping]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., call_retention: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ActorClass(_message.Message):
    __slots__ = ("function", "options", "max_pending_calls", "readonly_methods", "ttl", "call_retention")
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_PENDING_CALLS_FIELD_NUMBER: _ClassVar[int]
    READONLY_METHODS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    CALL_RETENTION_FIELD_NUMBER: _ClassVar[int]
    function: _spec_pb2.FunctionRef
    options: _spec_pb2.TaskOptions
    max_pending_calls: int
    readonly_methods: _containers.RepeatedScalarFieldContainer[str]
    ttl: _duration_pb2.Duration
    call_retention: _duration_pb2.Duration
    def __init__(self, function: _Optional[_Union[_spec_pb2.FunctionRef, _Mapping]] = ..., options: _Optional[_Union[_spec_pb2.TaskOptions, _Mapping]] = ..., max_pending_calls: _Optional[int] = ..., readonly_methods: _Optional[_Iterable[str]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., call_retention: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class MethodArguments(_message.Message):
    __slots__ = ("args", "kwargs", "arguments")
    class KwargsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _payload_pb2.Payload
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ...) -> None: ...
    ARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    args: _containers.RepeatedCompositeFieldContainer[_payload_pb2.Payload]
    kwargs: _containers.MessageMap[str, _payload_pb2.Payload]
    arguments: _payload_pb2.Payload
    def __init__(self, args: _Optional[_Iterable[_Union[_payload_pb2.Payload, _Mapping]]] = ..., kwargs: _Optional[_Mapping[str, _payload_pb2.Payload]] = ..., arguments: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ...) -> None: ...

class GetOrCreateActorRequest(_message.Message):
    __slots__ = ("namespace", "actor_id", "actor_class", "arguments", "labels", "wait", "chain")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_CLASS_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    actor_id: str
    actor_class: ActorClass
    arguments: MethodArguments
    labels: _containers.ScalarMap[str, str]
    wait: _duration_pb2.Duration
    chain: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, namespace: _Optional[str] = ..., actor_id: _Optional[str] = ..., actor_class: _Optional[_Union[ActorClass, _Mapping]] = ..., arguments: _Optional[_Union[MethodArguments, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., chain: _Optional[_Iterable[str]] = ...) -> None: ...

class GetOrCreateActorResponse(_message.Message):
    __slots__ = ("actor", "created")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    actor: Actor
    created: bool
    def __init__(self, actor: _Optional[_Union[Actor, _Mapping]] = ..., created: bool = ...) -> None: ...

class GetActorRequest(_message.Message):
    __slots__ = ("namespace", "actor_id", "wait")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    actor_id: str
    wait: _duration_pb2.Duration
    def __init__(self, namespace: _Optional[str] = ..., actor_id: _Optional[str] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class GetActorResponse(_message.Message):
    __slots__ = ("actor",)
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    actor: Actor
    def __init__(self, actor: _Optional[_Union[Actor, _Mapping]] = ...) -> None: ...

class CallActorRequest(_message.Message):
    __slots__ = ("namespace", "actor_id", "method", "arguments", "request_id", "wait", "expected_revision", "chain", "include_error_object")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_ERROR_OBJECT_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    actor_id: str
    method: str
    arguments: MethodArguments
    request_id: str
    wait: _duration_pb2.Duration
    expected_revision: int
    chain: _containers.RepeatedScalarFieldContainer[str]
    include_error_object: bool
    def __init__(self, namespace: _Optional[str] = ..., actor_id: _Optional[str] = ..., method: _Optional[str] = ..., arguments: _Optional[_Union[MethodArguments, _Mapping]] = ..., request_id: _Optional[str] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., expected_revision: _Optional[int] = ..., chain: _Optional[_Iterable[str]] = ..., include_error_object: bool = ...) -> None: ...

class CallActorResponse(_message.Message):
    __slots__ = ("done", "outcome", "revision")
    DONE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    done: bool
    outcome: _workflow_pb2.Outcome
    revision: int
    def __init__(self, done: bool = ..., outcome: _Optional[_Union[_workflow_pb2.Outcome, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class CallActorsRequest(_message.Message):
    __slots__ = ("calls", "abandoned")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ABANDONED_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[StreamedCall]
    abandoned: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, calls: _Optional[_Iterable[_Union[StreamedCall, _Mapping]]] = ..., abandoned: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamedCall(_message.Message):
    __slots__ = ("token", "call")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    token: int
    call: CallActorRequest
    def __init__(self, token: _Optional[int] = ..., call: _Optional[_Union[CallActorRequest, _Mapping]] = ...) -> None: ...

class CallActorsResponse(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[StreamedAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[StreamedAnswer, _Mapping]]] = ...) -> None: ...

class StreamedAnswer(_message.Message):
    __slots__ = ("token", "answer", "error")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    token: int
    answer: CallActorResponse
    error: _errors_pb2.ItemError
    def __init__(self, token: _Optional[int] = ..., answer: _Optional[_Union[CallActorResponse, _Mapping]] = ..., error: _Optional[_Union[_errors_pb2.ItemError, _Mapping]] = ...) -> None: ...

class QueryActorRequest(_message.Message):
    __slots__ = ("namespace", "actor_id", "method", "arguments", "min_revision", "include_error_object", "chain")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_ERROR_OBJECT_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    actor_id: str
    method: str
    arguments: MethodArguments
    min_revision: int
    include_error_object: bool
    chain: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, namespace: _Optional[str] = ..., actor_id: _Optional[str] = ..., method: _Optional[str] = ..., arguments: _Optional[_Union[MethodArguments, _Mapping]] = ..., min_revision: _Optional[int] = ..., include_error_object: bool = ..., chain: _Optional[_Iterable[str]] = ...) -> None: ...

class QueryActorResponse(_message.Message):
    __slots__ = ("outcome", "revision")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    outcome: _workflow_pb2.Outcome
    revision: int
    def __init__(self, outcome: _Optional[_Union[_workflow_pb2.Outcome, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class GetActorCallRequest(_message.Message):
    __slots__ = ("namespace", "actor_id", "call_id", "wait", "include_error_object")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_ERROR_OBJECT_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    actor_id: str
    call_id: str
    wait: _duration_pb2.Duration
    include_error_object: bool
    def __init__(self, namespace: _Optional[str] = ..., actor_id: _Optional[str] = ..., call_id: _Optional[str] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., include_error_object: bool = ...) -> None: ...

class GetActorCallResponse(_message.Message):
    __slots__ = ("done", "outcome", "revision")
    DONE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    done: bool
    outcome: _workflow_pb2.Outcome
    revision: int
    def __init__(self, done: bool = ..., outcome: _Optional[_Union[_workflow_pb2.Outcome, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class ActorCall(_message.Message):
    __slots__ = ("call_id", "method", "status", "start_time", "end_time", "attempt", "failure", "waiting")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    method: str
    status: ActorCallStatus
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    attempt: int
    failure: _failure_pb2.Failure
    waiting: _workflow_pb2.Waiting
    def __init__(self, call_id: _Optional[str] = ..., method: _Optional[str] = ..., status: _Optional[_Union[ActorCallStatus, str]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ..., waiting: _Optional[_Union[_workflow_pb2.Waiting, _Mapping]] = ...) -> None: ...

class ListActorCallsRequest(_message.Message):
    __slots__ = ("namespace", "actor_id", "page_size", "page_token", "only_pending")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ONLY_PENDING_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    actor_id: str
    page_size: int
    page_token: str
    only_pending: bool
    def __init__(self, namespace: _Optional[str] = ..., actor_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., only_pending: bool = ...) -> None: ...

class ListActorCallsResponse(_message.Message):
    __slots__ = ("calls", "next_page_token")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[ActorCall]
    next_page_token: str
    def __init__(self, calls: _Optional[_Iterable[_Union[ActorCall, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DropActorCallRequest(_message.Message):
    __slots__ = ("namespace", "actor_id", "call_id")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    actor_id: str
    call_id: str
    def __init__(self, namespace: _Optional[str] = ..., actor_id: _Optional[str] = ..., call_id: _Optional[str] = ...) -> None: ...

class DropActorCallResponse(_message.Message):
    __slots__ = ("dropped",)
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    dropped: bool
    def __init__(self, dropped: bool = ...) -> None: ...

class ReplaceActorClassRequest(_message.Message):
    __slots__ = ("namespace", "actor_id", "actor_class", "request_id")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_CLASS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    actor_id: str
    actor_class: ActorClass
    request_id: str
    def __init__(self, namespace: _Optional[str] = ..., actor_id: _Optional[str] = ..., actor_class: _Optional[_Union[ActorClass, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ReplaceActorClassResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListActorsRequest(_message.Message):
    __slots__ = ("namespace", "page_size", "page_token", "filter")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    page_size: int
    page_token: str
    filter: str
    def __init__(self, namespace: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., filter: _Optional[str] = ...) -> None: ...

class ListActorsResponse(_message.Message):
    __slots__ = ("actors", "next_page_token")
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    actors: _containers.RepeatedCompositeFieldContainer[Actor]
    next_page_token: str
    def __init__(self, actors: _Optional[_Iterable[_Union[Actor, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteActorRequest(_message.Message):
    __slots__ = ("namespace", "actor_id", "allow_missing")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_ID_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MISSING_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    actor_id: str
    allow_missing: bool
    def __init__(self, namespace: _Optional[str] = ..., actor_id: _Optional[str] = ..., allow_missing: bool = ...) -> None: ...

class DeleteActorResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
