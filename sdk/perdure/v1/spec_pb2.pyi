import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from perdure.v1 import payload_pb2 as _payload_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkflowSpec(_message.Message):
    __slots__ = ("nodes", "output", "default_options", "functions", "callers")
    NODES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    CALLERS_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    output: Arg
    default_options: TaskOptions
    functions: _containers.RepeatedCompositeFieldContainer[FunctionRef]
    callers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., output: _Optional[_Union[Arg, _Mapping]] = ..., default_options: _Optional[_Union[TaskOptions, _Mapping]] = ..., functions: _Optional[_Iterable[_Union[FunctionRef, _Mapping]]] = ..., callers: _Optional[_Iterable[str]] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("id", "task", "event", "timer", "wait", "after", "options")
    ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    TIMER_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    task: TaskNode
    event: EventNode
    timer: TimerNode
    wait: WaitNode
    after: _containers.RepeatedScalarFieldContainer[str]
    options: TaskOptions
    def __init__(self, id: _Optional[str] = ..., task: _Optional[_Union[TaskNode, _Mapping]] = ..., event: _Optional[_Union[EventNode, _Mapping]] = ..., timer: _Optional[_Union[TimerNode, _Mapping]] = ..., wait: _Optional[_Union[WaitNode, _Mapping]] = ..., after: _Optional[_Iterable[str]] = ..., options: _Optional[_Union[TaskOptions, _Mapping]] = ...) -> None: ...

class TaskNode(_message.Message):
    __slots__ = ("function", "args", "kwargs", "arguments", "refs")
    class KwargsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Arg
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Arg, _Mapping]] = ...) -> None: ...
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    REFS_FIELD_NUMBER: _ClassVar[int]
    function: FunctionRef
    args: _containers.RepeatedCompositeFieldContainer[Arg]
    kwargs: _containers.MessageMap[str, Arg]
    arguments: _payload_pb2.Payload
    refs: _containers.RepeatedCompositeFieldContainer[Ref]
    def __init__(self, function: _Optional[_Union[FunctionRef, _Mapping]] = ..., args: _Optional[_Iterable[_Union[Arg, _Mapping]]] = ..., kwargs: _Optional[_Mapping[str, Arg]] = ..., arguments: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., refs: _Optional[_Iterable[_Union[Ref, _Mapping]]] = ...) -> None: ...

class Ref(_message.Message):
    __slots__ = ("node", "input", "task")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    node: NodeRef
    input: InputRef
    task: TaskRef
    def __init__(self, node: _Optional[_Union[NodeRef, _Mapping]] = ..., input: _Optional[_Union[InputRef, _Mapping]] = ..., task: _Optional[_Union[TaskRef, _Mapping]] = ...) -> None: ...

class TaskRef(_message.Message):
    __slots__ = ("task_id", "path")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    path: _containers.RepeatedCompositeFieldContainer[PathStep]
    def __init__(self, task_id: _Optional[str] = ..., path: _Optional[_Iterable[_Union[PathStep, _Mapping]]] = ...) -> None: ...

class EventNode(_message.Message):
    __slots__ = ("event_key", "timeout")
    EVENT_KEY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    event_key: str
    timeout: _duration_pb2.Duration
    def __init__(self, event_key: _Optional[str] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class TimerNode(_message.Message):
    __slots__ = ("delay", "time")
    DELAY_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    delay: _duration_pb2.Duration
    time: _timestamp_pb2.Timestamp
    def __init__(self, delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WaitNode(_message.Message):
    __slots__ = ("refs", "num_returns", "timeout")
    REFS_FIELD_NUMBER: _ClassVar[int]
    NUM_RETURNS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    refs: _containers.RepeatedCompositeFieldContainer[Ref]
    num_returns: int
    timeout: _duration_pb2.Duration
    def __init__(self, refs: _Optional[_Iterable[_Union[Ref, _Mapping]]] = ..., num_returns: _Optional[int] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Arg(_message.Message):
    __slots__ = ("payload", "node", "input", "list", "map")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    payload: _payload_pb2.Payload
    node: NodeRef
    input: InputRef
    list: ArgList
    map: ArgMap
    def __init__(self, payload: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., node: _Optional[_Union[NodeRef, _Mapping]] = ..., input: _Optional[_Union[InputRef, _Mapping]] = ..., list: _Optional[_Union[ArgList, _Mapping]] = ..., map: _Optional[_Union[ArgMap, _Mapping]] = ...) -> None: ...

class NodeRef(_message.Message):
    __slots__ = ("node_id", "path")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    path: _containers.RepeatedCompositeFieldContainer[PathStep]
    def __init__(self, node_id: _Optional[str] = ..., path: _Optional[_Iterable[_Union[PathStep, _Mapping]]] = ...) -> None: ...

class InputRef(_message.Message):
    __slots__ = ("name", "path")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: _containers.RepeatedCompositeFieldContainer[PathStep]
    def __init__(self, name: _Optional[str] = ..., path: _Optional[_Iterable[_Union[PathStep, _Mapping]]] = ...) -> None: ...

class PathStep(_message.Message):
    __slots__ = ("index", "key", "attribute")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    index: int
    key: str
    attribute: str
    def __init__(self, index: _Optional[int] = ..., key: _Optional[str] = ..., attribute: _Optional[str] = ...) -> None: ...

class ArgList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Arg]
    def __init__(self, items: _Optional[_Iterable[_Union[Arg, _Mapping]]] = ...) -> None: ...

class ArgMap(_message.Message):
    __slots__ = ("entries",)
    class EntriesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Arg
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Arg, _Mapping]] = ...) -> None: ...
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.MessageMap[str, Arg]
    def __init__(self, entries: _Optional[_Mapping[str, Arg]] = ...) -> None: ...

class FunctionRef(_message.Message):
    __slots__ = ("registered", "pickled", "shared")
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    PICKLED_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    registered: RegisteredFunction
    pickled: PickledFunction
    shared: int
    def __init__(self, registered: _Optional[_Union[RegisteredFunction, _Mapping]] = ..., pickled: _Optional[_Union[PickledFunction, _Mapping]] = ..., shared: _Optional[int] = ...) -> None: ...

class RegisteredFunction(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class PickledFunction(_message.Message):
    __slots__ = ("code", "qualified_name", "python_version")
    CODE_FIELD_NUMBER: _ClassVar[int]
    QUALIFIED_NAME_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    code: _payload_pb2.Payload
    qualified_name: str
    python_version: str
    def __init__(self, code: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., qualified_name: _Optional[str] = ..., python_version: _Optional[str] = ...) -> None: ...

class WorkflowSource(_message.Message):
    __slots__ = ("spec", "spec_blob", "entrypoint")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SPEC_BLOB_FIELD_NUMBER: _ClassVar[int]
    ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
    spec: WorkflowSpec
    spec_blob: _payload_pb2.BlobRef
    entrypoint: Entrypoint
    def __init__(self, spec: _Optional[_Union[WorkflowSpec, _Mapping]] = ..., spec_blob: _Optional[_Union[_payload_pb2.BlobRef, _Mapping]] = ..., entrypoint: _Optional[_Union[Entrypoint, _Mapping]] = ...) -> None: ...

class Entrypoint(_message.Message):
    __slots__ = ("name", "version", "arguments")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    arguments: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., arguments: _Optional[str] = ...) -> None: ...

class TaskOptions(_message.Message):
    __slots__ = ("task_id", "resources", "retry", "attempt_timeout", "catch_exceptions", "checkpoint", "metadata", "runtime_env", "scheduling", "allow_inplace", "keep_warm")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    CATCH_EXCEPTIONS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_ENV_FIELD_NUMBER: _ClassVar[int]
    SCHEDULING_FIELD_NUMBER: _ClassVar[int]
    ALLOW_INPLACE_FIELD_NUMBER: _ClassVar[int]
    KEEP_WARM_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    resources: Resources
    retry: RetryPolicy
    attempt_timeout: _duration_pb2.Duration
    catch_exceptions: bool
    checkpoint: bool
    metadata: _struct_pb2.Struct
    runtime_env: _struct_pb2.Struct
    scheduling: SchedulingStrategy
    allow_inplace: bool
    keep_warm: _duration_pb2.Duration
    def __init__(self, task_id: _Optional[str] = ..., resources: _Optional[_Union[Resources, _Mapping]] = ..., retry: _Optional[_Union[RetryPolicy, _Mapping]] = ..., attempt_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., catch_exceptions: bool = ..., checkpoint: bool = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., runtime_env: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., scheduling: _Optional[_Union[SchedulingStrategy, _Mapping]] = ..., allow_inplace: bool = ..., keep_warm: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SchedulingStrategy(_message.Message):
    __slots__ = ("name", "node_affinity", "pickled")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_AFFINITY_FIELD_NUMBER: _ClassVar[int]
    PICKLED_FIELD_NUMBER: _ClassVar[int]
    name: str
    node_affinity: NodeAffinity
    pickled: _payload_pb2.Payload
    def __init__(self, name: _Optional[str] = ..., node_affinity: _Optional[_Union[NodeAffinity, _Mapping]] = ..., pickled: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ...) -> None: ...

class NodeAffinity(_message.Message):
    __slots__ = ("node_id", "soft")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    soft: bool
    def __init__(self, node_id: _Optional[str] = ..., soft: bool = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ("num_cpus", "num_gpus", "memory_bytes", "custom", "accelerator_type")
    class CustomEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NUM_CPUS_FIELD_NUMBER: _ClassVar[int]
    NUM_GPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_TYPE_FIELD_NUMBER: _ClassVar[int]
    num_cpus: float
    num_gpus: float
    memory_bytes: int
    custom: _containers.ScalarMap[str, float]
    accelerator_type: str
    def __init__(self, num_cpus: _Optional[float] = ..., num_gpus: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., custom: _Optional[_Mapping[str, float]] = ..., accelerator_type: _Optional[str] = ...) -> None: ...

class RetryPolicy(_message.Message):
    __slots__ = ("max_attempts", "initial_interval", "max_interval", "backoff_coefficient", "jitter", "non_retryable_types", "retryable_types", "retry_application_errors")
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MAX_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    JITTER_FIELD_NUMBER: _ClassVar[int]
    NON_RETRYABLE_TYPES_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_TYPES_FIELD_NUMBER: _ClassVar[int]
    RETRY_APPLICATION_ERRORS_FIELD_NUMBER: _ClassVar[int]
    max_attempts: int
    initial_interval: _duration_pb2.Duration
    max_interval: _duration_pb2.Duration
    backoff_coefficient: float
    jitter: float
    non_retryable_types: _containers.RepeatedScalarFieldContainer[str]
    retryable_types: _containers.RepeatedScalarFieldContainer[str]
    retry_application_errors: bool
    def __init__(self, max_attempts: _Optional[int] = ..., initial_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., backoff_coefficient: _Optional[float] = ..., jitter: _Optional[float] = ..., non_retryable_types: _Optional[_Iterable[str]] = ..., retryable_types: _Optional[_Iterable[str]] = ..., retry_application_errors: bool = ...) -> None: ...
