import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from perdure.v1 import errors_pb2 as _errors_pb2
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

class WorkflowIdReusePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKFLOW_ID_REUSE_POLICY_UNSPECIFIED: _ClassVar[WorkflowIdReusePolicy]
    WORKFLOW_ID_REUSE_POLICY_REJECT: _ClassVar[WorkflowIdReusePolicy]
    WORKFLOW_ID_REUSE_POLICY_ALLOW_IF_UNSUCCESSFUL: _ClassVar[WorkflowIdReusePolicy]
    WORKFLOW_ID_REUSE_POLICY_ALLOW: _ClassVar[WorkflowIdReusePolicy]

class WorkflowIdConflictPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKFLOW_ID_CONFLICT_POLICY_UNSPECIFIED: _ClassVar[WorkflowIdConflictPolicy]
    WORKFLOW_ID_CONFLICT_POLICY_FAIL: _ClassVar[WorkflowIdConflictPolicy]
    WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING: _ClassVar[WorkflowIdConflictPolicy]
    WORKFLOW_ID_CONFLICT_POLICY_CANCEL_EXISTING: _ClassVar[WorkflowIdConflictPolicy]

class EventAck(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_ACK_UNSPECIFIED: _ClassVar[EventAck]
    EVENT_ACK_STORED: _ClassVar[EventAck]
    EVENT_ACK_CONSUMED: _ClassVar[EventAck]
WORKFLOW_ID_REUSE_POLICY_UNSPECIFIED: WorkflowIdReusePolicy
WORKFLOW_ID_REUSE_POLICY_REJECT: WorkflowIdReusePolicy
WORKFLOW_ID_REUSE_POLICY_ALLOW_IF_UNSUCCESSFUL: WorkflowIdReusePolicy
WORKFLOW_ID_REUSE_POLICY_ALLOW: WorkflowIdReusePolicy
WORKFLOW_ID_CONFLICT_POLICY_UNSPECIFIED: WorkflowIdConflictPolicy
WORKFLOW_ID_CONFLICT_POLICY_FAIL: WorkflowIdConflictPolicy
WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING: WorkflowIdConflictPolicy
WORKFLOW_ID_CONFLICT_POLICY_CANCEL_EXISTING: WorkflowIdConflictPolicy
EVENT_ACK_UNSPECIFIED: EventAck
EVENT_ACK_STORED: EventAck
EVENT_ACK_CONSUMED: EventAck

class RunRequest(_message.Message):
    __slots__ = ("namespace", "workflow_id", "request_id", "source", "inputs", "id_reuse_policy", "id_conflict_policy", "metadata", "labels", "queue", "priority", "display_name", "wait", "include_error_object")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _payload_pb2.Payload
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    ID_REUSE_POLICY_FIELD_NUMBER: _ClassVar[int]
    ID_CONFLICT_POLICY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_ERROR_OBJECT_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workflow_id: str
    request_id: str
    source: _spec_pb2.WorkflowSource
    inputs: _containers.MessageMap[str, _payload_pb2.Payload]
    id_reuse_policy: WorkflowIdReusePolicy
    id_conflict_policy: WorkflowIdConflictPolicy
    metadata: _struct_pb2.Struct
    labels: _containers.ScalarMap[str, str]
    queue: str
    priority: int
    display_name: str
    wait: _duration_pb2.Duration
    include_error_object: bool
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., request_id: _Optional[str] = ..., source: _Optional[_Union[_spec_pb2.WorkflowSource, _Mapping]] = ..., inputs: _Optional[_Mapping[str, _payload_pb2.Payload]] = ..., id_reuse_policy: _Optional[_Union[WorkflowIdReusePolicy, str]] = ..., id_conflict_policy: _Optional[_Union[WorkflowIdConflictPolicy, str]] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., queue: _Optional[str] = ..., priority: _Optional[int] = ..., display_name: _Optional[str] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., include_error_object: bool = ...) -> None: ...

class RunResponse(_message.Message):
    __slots__ = ("workflow", "started", "watch_token", "outcome")
    WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    WATCH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    workflow: _workflow_pb2.Workflow
    started: bool
    watch_token: str
    outcome: _workflow_pb2.Outcome
    def __init__(self, workflow: _Optional[_Union[_workflow_pb2.Workflow, _Mapping]] = ..., started: bool = ..., watch_token: _Optional[str] = ..., outcome: _Optional[_Union[_workflow_pb2.Outcome, _Mapping]] = ...) -> None: ...

class StreamRunsRequest(_message.Message):
    __slots__ = ("calls", "abandoned")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ABANDONED_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[StreamedRun]
    abandoned: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, calls: _Optional[_Iterable[_Union[StreamedRun, _Mapping]]] = ..., abandoned: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamedRun(_message.Message):
    __slots__ = ("token", "call")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    token: int
    call: RunRequest
    def __init__(self, token: _Optional[int] = ..., call: _Optional[_Union[RunRequest, _Mapping]] = ...) -> None: ...

class StreamRunsResponse(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[StreamedRunAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[StreamedRunAnswer, _Mapping]]] = ...) -> None: ...

class StreamedRunAnswer(_message.Message):
    __slots__ = ("token", "answer", "error")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    token: int
    answer: RunResponse
    error: _errors_pb2.ItemError
    def __init__(self, token: _Optional[int] = ..., answer: _Optional[_Union[RunResponse, _Mapping]] = ..., error: _Optional[_Union[_errors_pb2.ItemError, _Mapping]] = ...) -> None: ...

class BatchRunRequest(_message.Message):
    __slots__ = ("namespace", "sources", "items")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    sources: _containers.RepeatedCompositeFieldContainer[_spec_pb2.WorkflowSource]
    items: _containers.RepeatedCompositeFieldContainer[RunItem]
    def __init__(self, namespace: _Optional[str] = ..., sources: _Optional[_Iterable[_Union[_spec_pb2.WorkflowSource, _Mapping]]] = ..., items: _Optional[_Iterable[_Union[RunItem, _Mapping]]] = ...) -> None: ...

class RunItem(_message.Message):
    __slots__ = ("source_index", "workflow_id", "request_id", "inputs", "id_reuse_policy", "id_conflict_policy", "metadata", "labels", "queue", "priority", "display_name")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _payload_pb2.Payload
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SOURCE_INDEX_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    ID_REUSE_POLICY_FIELD_NUMBER: _ClassVar[int]
    ID_CONFLICT_POLICY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    source_index: int
    workflow_id: str
    request_id: str
    inputs: _containers.MessageMap[str, _payload_pb2.Payload]
    id_reuse_policy: WorkflowIdReusePolicy
    id_conflict_policy: WorkflowIdConflictPolicy
    metadata: _struct_pb2.Struct
    labels: _containers.ScalarMap[str, str]
    queue: str
    priority: int
    display_name: str
    def __init__(self, source_index: _Optional[int] = ..., workflow_id: _Optional[str] = ..., request_id: _Optional[str] = ..., inputs: _Optional[_Mapping[str, _payload_pb2.Payload]] = ..., id_reuse_policy: _Optional[_Union[WorkflowIdReusePolicy, str]] = ..., id_conflict_policy: _Optional[_Union[WorkflowIdConflictPolicy, str]] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., queue: _Optional[str] = ..., priority: _Optional[int] = ..., display_name: _Optional[str] = ...) -> None: ...

class BatchRunResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RunResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RunResult, _Mapping]]] = ...) -> None: ...

class RunResult(_message.Message):
    __slots__ = ("workflow_id", "run_id", "started", "error")
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    workflow_id: str
    run_id: str
    started: bool
    error: _errors_pb2.ItemError
    def __init__(self, workflow_id: _Optional[str] = ..., run_id: _Optional[str] = ..., started: bool = ..., error: _Optional[_Union[_errors_pb2.ItemError, _Mapping]] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("namespace", "workflow_id", "expected_etag", "modules")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_ETAG_FIELD_NUMBER: _ClassVar[int]
    MODULES_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workflow_id: str
    expected_etag: str
    modules: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., expected_etag: _Optional[str] = ..., modules: _Optional[str] = ...) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ("workflow", "resumed")
    WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    workflow: _workflow_pb2.Workflow
    resumed: bool
    def __init__(self, workflow: _Optional[_Union[_workflow_pb2.Workflow, _Mapping]] = ..., resumed: bool = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("namespace", "workflow_id", "reason", "expected_etag")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_ETAG_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workflow_id: str
    reason: str
    expected_etag: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., reason: _Optional[str] = ..., expected_etag: _Optional[str] = ...) -> None: ...

class CancelResponse(_message.Message):
    __slots__ = ("workflow",)
    WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    workflow: _workflow_pb2.Workflow
    def __init__(self, workflow: _Optional[_Union[_workflow_pb2.Workflow, _Mapping]] = ...) -> None: ...

class GetOutputRequest(_message.Message):
    __slots__ = ("namespace", "workflow_id", "task_id", "wait", "max_inline_bytes", "include_error_object", "run_id")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    MAX_INLINE_BYTES_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_ERROR_OBJECT_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workflow_id: str
    task_id: str
    wait: _duration_pb2.Duration
    max_inline_bytes: int
    include_error_object: bool
    run_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., task_id: _Optional[str] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_inline_bytes: _Optional[int] = ..., include_error_object: bool = ..., run_id: _Optional[str] = ...) -> None: ...

class GetOutputResponse(_message.Message):
    __slots__ = ("status", "done", "outcome", "run_id")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    status: _workflow_pb2.WorkflowStatus
    done: bool
    outcome: _workflow_pb2.Outcome
    run_id: str
    def __init__(self, status: _Optional[_Union[_workflow_pb2.WorkflowStatus, str]] = ..., done: bool = ..., outcome: _Optional[_Union[_workflow_pb2.Outcome, _Mapping]] = ..., run_id: _Optional[str] = ...) -> None: ...

class BatchGetOutputRequest(_message.Message):
    __slots__ = ("namespace", "items", "wait", "include_error_object")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_ERROR_OBJECT_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    items: _containers.RepeatedCompositeFieldContainer[OutputItem]
    wait: _duration_pb2.Duration
    include_error_object: bool
    def __init__(self, namespace: _Optional[str] = ..., items: _Optional[_Iterable[_Union[OutputItem, _Mapping]]] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., include_error_object: bool = ...) -> None: ...

class OutputItem(_message.Message):
    __slots__ = ("workflow_id", "run_id")
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    workflow_id: str
    run_id: str
    def __init__(self, workflow_id: _Optional[str] = ..., run_id: _Optional[str] = ...) -> None: ...

class BatchGetOutputResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[OutputResult]
    def __init__(self, results: _Optional[_Iterable[_Union[OutputResult, _Mapping]]] = ...) -> None: ...

class OutputResult(_message.Message):
    __slots__ = ("done", "outcome", "run_id", "error")
    DONE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    done: bool
    outcome: _workflow_pb2.Outcome
    run_id: str
    error: _errors_pb2.ItemError
    def __init__(self, done: bool = ..., outcome: _Optional[_Union[_workflow_pb2.Outcome, _Mapping]] = ..., run_id: _Optional[str] = ..., error: _Optional[_Union[_errors_pb2.ItemError, _Mapping]] = ...) -> None: ...

class SendEventRequest(_message.Message):
    __slots__ = ("namespace", "workflow_id", "event_key", "event_id", "payload", "ack")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_KEY_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workflow_id: str
    event_key: str
    event_id: str
    payload: _payload_pb2.Payload
    ack: EventAck
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., event_key: _Optional[str] = ..., event_id: _Optional[str] = ..., payload: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., ack: _Optional[_Union[EventAck, str]] = ...) -> None: ...

class SendEventResponse(_message.Message):
    __slots__ = ("sequence", "duplicate", "commit_time")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    duplicate: bool
    commit_time: _timestamp_pb2.Timestamp
    def __init__(self, sequence: _Optional[int] = ..., duplicate: bool = ..., commit_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class BatchSendEventsRequest(_message.Message):
    __slots__ = ("namespace", "items")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    items: _containers.RepeatedCompositeFieldContainer[EventItem]
    def __init__(self, namespace: _Optional[str] = ..., items: _Optional[_Iterable[_Union[EventItem, _Mapping]]] = ...) -> None: ...

class EventItem(_message.Message):
    __slots__ = ("workflow_id", "event_key", "event_id", "payload")
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_KEY_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    workflow_id: str
    event_key: str
    event_id: str
    payload: _payload_pb2.Payload
    def __init__(self, workflow_id: _Optional[str] = ..., event_key: _Optional[str] = ..., event_id: _Optional[str] = ..., payload: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ...) -> None: ...

class BatchSendEventsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[EventResult]
    def __init__(self, results: _Optional[_Iterable[_Union[EventResult, _Mapping]]] = ...) -> None: ...

class EventResult(_message.Message):
    __slots__ = ("sequence", "duplicate", "error")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    duplicate: bool
    error: _errors_pb2.ItemError
    def __init__(self, sequence: _Optional[int] = ..., duplicate: bool = ..., error: _Optional[_Union[_errors_pb2.ItemError, _Mapping]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("namespace", "workflow_id", "wait", "wait_for")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workflow_id: str
    wait: _duration_pb2.Duration
    wait_for: _containers.RepeatedScalarFieldContainer[_workflow_pb2.WorkflowStatus]
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., wait_for: _Optional[_Iterable[_Union[_workflow_pb2.WorkflowStatus, str]]] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("workflow",)
    WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    workflow: _workflow_pb2.Workflow
    def __init__(self, workflow: _Optional[_Union[_workflow_pb2.Workflow, _Mapping]] = ...) -> None: ...

class GetMetadataRequest(_message.Message):
    __slots__ = ("namespace", "workflow_id", "task_id")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workflow_id: str
    task_id: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., task_id: _Optional[str] = ...) -> None: ...

class GetMetadataResponse(_message.Message):
    __slots__ = ("metadata",)
    METADATA_FIELD_NUMBER: _ClassVar[int]
    metadata: _workflow_pb2.Metadata
    def __init__(self, metadata: _Optional[_Union[_workflow_pb2.Metadata, _Mapping]] = ...) -> None: ...

class ListWorkflowsRequest(_message.Message):
    __slots__ = ("namespace", "page_size", "page_token", "filter", "order_by")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    page_size: int
    page_token: str
    filter: str
    order_by: str
    def __init__(self, namespace: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., filter: _Optional[str] = ..., order_by: _Optional[str] = ...) -> None: ...

class ListWorkflowsResponse(_message.Message):
    __slots__ = ("workflows", "next_page_token", "watch_token")
    WORKFLOWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WATCH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    workflows: _containers.RepeatedCompositeFieldContainer[_workflow_pb2.Workflow]
    next_page_token: str
    watch_token: str
    def __init__(self, workflows: _Optional[_Iterable[_Union[_workflow_pb2.Workflow, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., watch_token: _Optional[str] = ...) -> None: ...

class ListTasksRequest(_message.Message):
    __slots__ = ("namespace", "workflow_id", "page_size", "page_token", "statuses")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workflow_id: str
    page_size: int
    page_token: str
    statuses: _containers.RepeatedScalarFieldContainer[_workflow_pb2.TaskStatus]
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., statuses: _Optional[_Iterable[_Union[_workflow_pb2.TaskStatus, str]]] = ...) -> None: ...

class ListTasksResponse(_message.Message):
    __slots__ = ("tasks", "next_page_token")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[_workflow_pb2.Task]
    next_page_token: str
    def __init__(self, tasks: _Optional[_Iterable[_Union[_workflow_pb2.Task, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteWorkflowRequest(_message.Message):
    __slots__ = ("namespace", "workflow_id", "allow_missing", "expected_etag")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MISSING_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_ETAG_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workflow_id: str
    allow_missing: bool
    expected_etag: str
    def __init__(self, namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., allow_missing: bool = ..., expected_etag: _Optional[str] = ...) -> None: ...

class DeleteWorkflowResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("namespace", "workflow_ids", "filter", "resume_token", "include_tasks", "until_final", "progress_interval", "max_batch_delay")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_TASKS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FINAL_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_DELAY_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workflow_ids: _containers.RepeatedScalarFieldContainer[str]
    filter: str
    resume_token: str
    include_tasks: bool
    until_final: bool
    progress_interval: _duration_pb2.Duration
    max_batch_delay: _duration_pb2.Duration
    def __init__(self, namespace: _Optional[str] = ..., workflow_ids: _Optional[_Iterable[str]] = ..., filter: _Optional[str] = ..., resume_token: _Optional[str] = ..., include_tasks: bool = ..., until_final: bool = ..., progress_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_batch_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("events", "resume_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[WatchEvent]
    resume_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[WatchEvent, _Mapping]]] = ..., resume_token: _Optional[str] = ...) -> None: ...

class WatchEvent(_message.Message):
    __slots__ = ("sequence", "time", "workflow", "task", "deleted_workflow_id")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    DELETED_WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: _timestamp_pb2.Timestamp
    workflow: _workflow_pb2.Workflow
    task: TaskChange
    deleted_workflow_id: str
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., workflow: _Optional[_Union[_workflow_pb2.Workflow, _Mapping]] = ..., task: _Optional[_Union[TaskChange, _Mapping]] = ..., deleted_workflow_id: _Optional[str] = ...) -> None: ...

class TaskChange(_message.Message):
    __slots__ = ("workflow_id", "run_id", "task")
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    workflow_id: str
    run_id: str
    task: _workflow_pb2.Task
    def __init__(self, workflow_id: _Optional[str] = ..., run_id: _Optional[str] = ..., task: _Optional[_Union[_workflow_pb2.Task, _Mapping]] = ...) -> None: ...
