import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from perdure.v1 import actor_service_pb2 as _actor_service_pb2
from perdure.v1 import failure_pb2 as _failure_pb2
from perdure.v1 import function_service_pb2 as _function_service_pb2
from perdure.v1 import payload_pb2 as _payload_pb2
from perdure.v1 import spec_pb2 as _spec_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ServeAgentRequest(_message.Message):
    __slots__ = ("hello", "capacity", "ended", "leaving", "demand")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    hello: AgentHello
    capacity: ClusterCapacity
    ended: LeaseEnded
    leaving: AgentLeaving
    demand: ClusterDemand
    def __init__(self, hello: _Optional[_Union[AgentHello, _Mapping]] = ..., capacity: _Optional[_Union[ClusterCapacity, _Mapping]] = ..., ended: _Optional[_Union[LeaseEnded, _Mapping]] = ..., leaving: _Optional[_Union[AgentLeaving, _Mapping]] = ..., demand: _Optional[_Union[ClusterDemand, _Mapping]] = ...) -> None: ...

class AgentHello(_message.Message):
    __slots__ = ("agent_id", "cluster_id", "python_version", "capacity", "functions")
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    agent_id: str
    cluster_id: str
    python_version: str
    capacity: ClusterCapacity
    functions: _containers.RepeatedCompositeFieldContainer[_function_service_pb2.FunctionInfo]
    def __init__(self, agent_id: _Optional[str] = ..., cluster_id: _Optional[str] = ..., python_version: _Optional[str] = ..., capacity: _Optional[_Union[ClusterCapacity, _Mapping]] = ..., functions: _Optional[_Iterable[_Union[_function_service_pb2.FunctionInfo, _Mapping]]] = ...) -> None: ...

class ClusterCapacity(_message.Message):
    __slots__ = ("total", "nodes")
    class TotalEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    total: _containers.ScalarMap[str, float]
    nodes: _containers.RepeatedCompositeFieldContainer[ResourceAmounts]
    def __init__(self, total: _Optional[_Mapping[str, float]] = ..., nodes: _Optional[_Iterable[_Union[ResourceAmounts, _Mapping]]] = ...) -> None: ...

class ResourceAmounts(_message.Message):
    __slots__ = ("amounts",)
    class AmountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    amounts: _containers.ScalarMap[str, float]
    def __init__(self, amounts: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ClusterDemand(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ResourceDemand]
    def __init__(self, requests: _Optional[_Iterable[_Union[ResourceDemand, _Mapping]]] = ...) -> None: ...

class ResourceDemand(_message.Message):
    __slots__ = ("wanted", "count")
    WANTED_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    wanted: ResourceAmounts
    count: int
    def __init__(self, wanted: _Optional[_Union[ResourceAmounts, _Mapping]] = ..., count: _Optional[int] = ...) -> None: ...

class LeaseEnded(_message.Message):
    __slots__ = ("lease_id", "reason", "refused")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    reason: str
    refused: bool
    def __init__(self, lease_id: _Optional[str] = ..., reason: _Optional[str] = ..., refused: bool = ...) -> None: ...

class AgentLeaving(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ServeAgentResponse(_message.Message):
    __slots__ = ("welcome", "start", "kill", "watch_demand")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    KILL_FIELD_NUMBER: _ClassVar[int]
    WATCH_DEMAND_FIELD_NUMBER: _ClassVar[int]
    welcome: AgentWelcome
    start: StartLease
    kill: KillLease
    watch_demand: WatchDemand
    def __init__(self, welcome: _Optional[_Union[AgentWelcome, _Mapping]] = ..., start: _Optional[_Union[StartLease, _Mapping]] = ..., kill: _Optional[_Union[KillLease, _Mapping]] = ..., watch_demand: _Optional[_Union[WatchDemand, _Mapping]] = ...) -> None: ...

class AgentWelcome(_message.Message):
    __slots__ = ("engine_id", "blob_url", "has_others")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    BLOB_URL_FIELD_NUMBER: _ClassVar[int]
    HAS_OTHERS_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    blob_url: str
    has_others: bool
    def __init__(self, engine_id: _Optional[str] = ..., blob_url: _Optional[str] = ..., has_others: bool = ...) -> None: ...

class StartLease(_message.Message):
    __slots__ = ("lease_id", "shape")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    shape: Shape
    def __init__(self, lease_id: _Optional[str] = ..., shape: _Optional[_Union[Shape, _Mapping]] = ...) -> None: ...

class Shape(_message.Message):
    __slots__ = ("resources", "runtime_env", "scheduling", "keep_warm")
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_ENV_FIELD_NUMBER: _ClassVar[int]
    SCHEDULING_FIELD_NUMBER: _ClassVar[int]
    KEEP_WARM_FIELD_NUMBER: _ClassVar[int]
    resources: _spec_pb2.Resources
    runtime_env: _struct_pb2.Struct
    scheduling: _spec_pb2.SchedulingStrategy
    keep_warm: _duration_pb2.Duration
    def __init__(self, resources: _Optional[_Union[_spec_pb2.Resources, _Mapping]] = ..., runtime_env: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., scheduling: _Optional[_Union[_spec_pb2.SchedulingStrategy, _Mapping]] = ..., keep_warm: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchDemand(_message.Message):
    __slots__ = ("on",)
    ON_FIELD_NUMBER: _ClassVar[int]
    on: bool
    def __init__(self, on: bool = ...) -> None: ...

class KillLease(_message.Message):
    __slots__ = ("lease_id",)
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    def __init__(self, lease_id: _Optional[str] = ...) -> None: ...

class ServeLeaseRequest(_message.Message):
    __slots__ = ("hello", "started", "receipts", "returned", "concurrent", "asks", "started_ms", "loading", "waits")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    ASKS_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    LOADING_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    hello: LeaseHello
    started: _containers.RepeatedScalarFieldContainer[int]
    receipts: _containers.RepeatedCompositeFieldContainer[Receipt]
    returned: _containers.RepeatedScalarFieldContainer[int]
    concurrent: _containers.RepeatedScalarFieldContainer[str]
    asks: bool
    started_ms: _containers.RepeatedScalarFieldContainer[int]
    loading: _containers.RepeatedCompositeFieldContainer[Loading]
    waits: _containers.RepeatedCompositeFieldContainer[Wait]
    def __init__(self, hello: _Optional[_Union[LeaseHello, _Mapping]] = ..., started: _Optional[_Iterable[int]] = ..., receipts: _Optional[_Iterable[_Union[Receipt, _Mapping]]] = ..., returned: _Optional[_Iterable[int]] = ..., concurrent: _Optional[_Iterable[str]] = ..., asks: bool = ..., started_ms: _Optional[_Iterable[int]] = ..., loading: _Optional[_Iterable[_Union[Loading, _Mapping]]] = ..., waits: _Optional[_Iterable[_Union[Wait, _Mapping]]] = ...) -> None: ...

class Wait(_message.Message):
    __slots__ = ("token", "is_over")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    IS_OVER_FIELD_NUMBER: _ClassVar[int]
    token: int
    is_over: bool
    def __init__(self, token: _Optional[int] = ..., is_over: bool = ...) -> None: ...

class Loading(_message.Message):
    __slots__ = ("token", "stack")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    STACK_FIELD_NUMBER: _ClassVar[int]
    token: int
    stack: str
    def __init__(self, token: _Optional[int] = ..., stack: _Optional[str] = ...) -> None: ...

class LeaseHello(_message.Message):
    __slots__ = ("lease_id", "engine_id", "node_id", "python_version")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    engine_id: str
    node_id: str
    python_version: str
    def __init__(self, lease_id: _Optional[str] = ..., engine_id: _Optional[str] = ..., node_id: _Optional[str] = ..., python_version: _Optional[str] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("token", "output", "continuation", "failure", "start_time", "duration", "method_outcome")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    METHOD_OUTCOME_FIELD_NUMBER: _ClassVar[int]
    token: int
    output: _payload_pb2.Payload
    continuation: bytes
    failure: _failure_pb2.Failure
    start_time: _timestamp_pb2.Timestamp
    duration: _duration_pb2.Duration
    method_outcome: bytes
    def __init__(self, token: _Optional[int] = ..., output: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., continuation: _Optional[bytes] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., method_outcome: _Optional[bytes] = ...) -> None: ...

class ServeLeaseResponse(_message.Message):
    __slots__ = ("functions", "attempts", "cancel", "recall", "finish", "holds_for")
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FOR_FIELD_NUMBER: _ClassVar[int]
    functions: _containers.RepeatedCompositeFieldContainer[LeaseFunction]
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    cancel: _containers.RepeatedScalarFieldContainer[int]
    recall: _containers.RepeatedScalarFieldContainer[int]
    finish: bool
    holds_for: _duration_pb2.Duration
    def __init__(self, functions: _Optional[_Iterable[_Union[LeaseFunction, _Mapping]]] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., cancel: _Optional[_Iterable[int]] = ..., recall: _Optional[_Iterable[int]] = ..., finish: bool = ..., holds_for: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class LeaseFunction(_message.Message):
    __slots__ = ("key", "function")
    KEY_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    key: str
    function: _spec_pb2.FunctionRef
    def __init__(self, key: _Optional[str] = ..., function: _Optional[_Union[_spec_pb2.FunctionRef, _Mapping]] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("token", "namespace", "workflow_id", "run_id", "task_id", "attempt", "function", "arguments", "refs", "is_limited", "callers")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    REFS_FIELD_NUMBER: _ClassVar[int]
    IS_LIMITED_FIELD_NUMBER: _ClassVar[int]
    CALLERS_FIELD_NUMBER: _ClassVar[int]
    token: int
    namespace: str
    workflow_id: str
    run_id: str
    task_id: str
    attempt: int
    function: str
    arguments: _payload_pb2.Payload
    refs: _containers.RepeatedCompositeFieldContainer[Value]
    is_limited: bool
    callers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, token: _Optional[int] = ..., namespace: _Optional[str] = ..., workflow_id: _Optional[str] = ..., run_id: _Optional[str] = ..., task_id: _Optional[str] = ..., attempt: _Optional[int] = ..., function: _Optional[str] = ..., arguments: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., refs: _Optional[_Iterable[_Union[Value, _Mapping]]] = ..., is_limited: bool = ..., callers: _Optional[_Iterable[str]] = ...) -> None: ...

class Arguments(_message.Message):
    __slots__ = ("args", "kwargs")
    class KwargsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _spec_pb2.Arg
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_spec_pb2.Arg, _Mapping]] = ...) -> None: ...
    ARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    args: _containers.RepeatedCompositeFieldContainer[_spec_pb2.Arg]
    kwargs: _containers.MessageMap[str, _spec_pb2.Arg]
    def __init__(self, args: _Optional[_Iterable[_Union[_spec_pb2.Arg, _Mapping]]] = ..., kwargs: _Optional[_Mapping[str, _spec_pb2.Arg]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("payload", "key", "wraps", "path")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    WRAPS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    payload: _payload_pb2.Payload
    key: ValueKey
    wraps: int
    path: _containers.RepeatedCompositeFieldContainer[_spec_pb2.PathStep]
    def __init__(self, payload: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., key: _Optional[_Union[ValueKey, _Mapping]] = ..., wraps: _Optional[int] = ..., path: _Optional[_Iterable[_Union[_spec_pb2.PathStep, _Mapping]]] = ...) -> None: ...

class ValueKey(_message.Message):
    __slots__ = ("run_id", "task_id", "input")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    task_id: str
    input: str
    def __init__(self, run_id: _Optional[str] = ..., task_id: _Optional[str] = ..., input: _Optional[str] = ...) -> None: ...

class FetchValuesRequest(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[ValueKey]
    def __init__(self, keys: _Optional[_Iterable[_Union[ValueKey, _Mapping]]] = ...) -> None: ...

class FetchValuesResponse(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[_payload_pb2.Payload]
    def __init__(self, values: _Optional[_Iterable[_Union[_payload_pb2.Payload, _Mapping]]] = ...) -> None: ...

class MethodCall(_message.Message):
    __slots__ = ("method", "arguments", "refs", "call_id", "chain", "expected_revision", "is_query")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    REFS_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    IS_QUERY_FIELD_NUMBER: _ClassVar[int]
    method: str
    arguments: _payload_pb2.Payload
    refs: int
    call_id: str
    chain: _containers.RepeatedScalarFieldContainer[str]
    expected_revision: int
    is_query: bool
    def __init__(self, method: _Optional[str] = ..., arguments: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., refs: _Optional[int] = ..., call_id: _Optional[str] = ..., chain: _Optional[_Iterable[str]] = ..., expected_revision: _Optional[int] = ..., is_query: bool = ...) -> None: ...

class MethodOutcome(_message.Message):
    __slots__ = ("output", "state", "parts", "dropped", "reminders")
    class PartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _payload_pb2.Payload
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ...) -> None: ...
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    REMINDERS_FIELD_NUMBER: _ClassVar[int]
    output: _payload_pb2.Payload
    state: _payload_pb2.Payload
    parts: _containers.MessageMap[str, _payload_pb2.Payload]
    dropped: _containers.RepeatedScalarFieldContainer[str]
    reminders: _containers.RepeatedCompositeFieldContainer[ReminderSetting]
    def __init__(self, output: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., state: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., parts: _Optional[_Mapping[str, _payload_pb2.Payload]] = ..., dropped: _Optional[_Iterable[str]] = ..., reminders: _Optional[_Iterable[_Union[ReminderSetting, _Mapping]]] = ...) -> None: ...

class ReminderSetting(_message.Message):
    __slots__ = ("key", "delay", "time", "period", "method", "call")
    KEY_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    key: str
    delay: _duration_pb2.Duration
    time: _timestamp_pb2.Timestamp
    period: _duration_pb2.Duration
    method: str
    call: _payload_pb2.Payload
    def __init__(self, key: _Optional[str] = ..., delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., period: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., method: _Optional[str] = ..., call: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ...) -> None: ...

class ClassChange(_message.Message):
    __slots__ = ("change_id", "actor_class")
    CHANGE_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_CLASS_FIELD_NUMBER: _ClassVar[int]
    change_id: str
    actor_class: _actor_service_pb2.ActorClass
    def __init__(self, change_id: _Optional[str] = ..., actor_class: _Optional[_Union[_actor_service_pb2.ActorClass, _Mapping]] = ...) -> None: ...

class DropCall(_message.Message):
    __slots__ = ("call_id",)
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    def __init__(self, call_id: _Optional[str] = ...) -> None: ...
