import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from perdure.v1 import actor_service_pb2 as _actor_service_pb2
from perdure.v1 import spec_pb2 as _spec_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FunctionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FUNCTION_KIND_UNSPECIFIED: _ClassVar[FunctionKind]
    FUNCTION_KIND_TASK: _ClassVar[FunctionKind]
    FUNCTION_KIND_ACTOR: _ClassVar[FunctionKind]
FUNCTION_KIND_UNSPECIFIED: FunctionKind
FUNCTION_KIND_TASK: FunctionKind
FUNCTION_KIND_ACTOR: FunctionKind

class FunctionInfo(_message.Message):
    __slots__ = ("name", "version", "kind", "description", "arguments_schema", "result_schema", "positional", "methods", "module", "announce_time", "is_served", "options", "variadic", "actor_class")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    RESULT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    POSITIONAL_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    MODULE_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCE_TIME_FIELD_NUMBER: _ClassVar[int]
    IS_SERVED_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    VARIADIC_FIELD_NUMBER: _ClassVar[int]
    ACTOR_CLASS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    kind: FunctionKind
    description: str
    arguments_schema: str
    result_schema: str
    positional: _containers.RepeatedScalarFieldContainer[str]
    methods: _containers.RepeatedCompositeFieldContainer[FunctionMethod]
    module: str
    announce_time: _timestamp_pb2.Timestamp
    is_served: bool
    options: _spec_pb2.TaskOptions
    variadic: bool
    actor_class: _actor_service_pb2.ActorClass
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., kind: _Optional[_Union[FunctionKind, str]] = ..., description: _Optional[str] = ..., arguments_schema: _Optional[str] = ..., result_schema: _Optional[str] = ..., positional: _Optional[_Iterable[str]] = ..., methods: _Optional[_Iterable[_Union[FunctionMethod, _Mapping]]] = ..., module: _Optional[str] = ..., announce_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., is_served: bool = ..., options: _Optional[_Union[_spec_pb2.TaskOptions, _Mapping]] = ..., variadic: bool = ..., actor_class: _Optional[_Union[_actor_service_pb2.ActorClass, _Mapping]] = ...) -> None: ...

class FunctionMethod(_message.Message):
    __slots__ = ("name", "readonly", "description", "arguments_schema", "result_schema", "positional", "variadic")
    NAME_FIELD_NUMBER: _ClassVar[int]
    READONLY_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    RESULT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    POSITIONAL_FIELD_NUMBER: _ClassVar[int]
    VARIADIC_FIELD_NUMBER: _ClassVar[int]
    name: str
    readonly: bool
    description: str
    arguments_schema: str
    result_schema: str
    positional: _containers.RepeatedScalarFieldContainer[str]
    variadic: bool
    def __init__(self, name: _Optional[str] = ..., readonly: bool = ..., description: _Optional[str] = ..., arguments_schema: _Optional[str] = ..., result_schema: _Optional[str] = ..., positional: _Optional[_Iterable[str]] = ..., variadic: bool = ...) -> None: ...

class ListFunctionsRequest(_message.Message):
    __slots__ = ("name_prefix", "all_versions", "page_size", "page_token")
    NAME_PREFIX_FIELD_NUMBER: _ClassVar[int]
    ALL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name_prefix: str
    all_versions: bool
    page_size: int
    page_token: str
    def __init__(self, name_prefix: _Optional[str] = ..., all_versions: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListFunctionsResponse(_message.Message):
    __slots__ = ("functions", "next_page_token")
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    functions: _containers.RepeatedCompositeFieldContainer[FunctionInfo]
    next_page_token: str
    def __init__(self, functions: _Optional[_Iterable[_Union[FunctionInfo, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetFunctionRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class GetFunctionResponse(_message.Message):
    __slots__ = ("function",)
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    function: FunctionInfo
    def __init__(self, function: _Optional[_Union[FunctionInfo, _Mapping]] = ...) -> None: ...
