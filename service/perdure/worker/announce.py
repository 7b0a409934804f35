"""Describes the registered functions of modules, in a process of its own: importing them runs code of the user's.

`python -m perdure.worker.announce MODULE...` writes a serialized ListFunctionsResponse to its standard output, and the
reason why it cannot to its standard error.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final

from perdure import actorwire, optionwire, registry, texts
from perdure.model import READONLY_MARK, ActorSpec, Function, TaskOptions
from perdure.options import Options
from perdure.v1 import actor_service_pb2, function_service_pb2, spec_pb2
from perdure.worker.schemas import TypedFunction

DESCRIPTION_CHARS_MAX: Final = 10_000
SCHEMA_CHARS_MAX: Final = 100_000
"""A longer schema is left out: the function takes any arguments."""
_LOCAL: Final = ("working_dir", "py_modules", "modules")
"""Fields of a runtime environment that name code."""
INFO_BYTES_MAX: Final = 256 * 1024
"""Of one function; a longer one loses its schemas, then its texts."""
ALL_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of all functions of an agent, which travel in one message."""
FAILED: Final = 3


def describe(name: str, version: str, made: Any) -> function_service_pb2.FunctionInfo:
    """What clients are told of a task or of a class of actors. ValueError for options that workers cannot give it."""
    info = function_service_pb2.FunctionInfo(
        name=name, version=version, module=made.__module__, description=_description(made.__wrapped__)
    )
    if hasattr(made, "__perdure_task__"):
        info.kind = function_service_pb2.FUNCTION_KIND_TASK
        info.options.CopyFrom(_options(name, made.default_options))
        _describe(info, TypedFunction(made.function))
        return info
    cls: Any = made.cls
    info.kind = function_service_pb2.FUNCTION_KIND_ACTOR
    info.actor_class.CopyFrom(_actor_class(name, made))
    _describe(info, TypedFunction(cls))
    info.result_schema = ""
    for method, function in inspect.getmembers(cls, inspect.isfunction):
        if not method.startswith("_"):
            described = info.methods.add(name=method, description=_description(function))
            described.readonly = bool(getattr(function, READONLY_MARK, False))
            _describe(described, TypedFunction(function, is_method=True))
    return _shortened(info)


def _shortened(info: function_service_pb2.FunctionInfo) -> function_service_pb2.FunctionInfo:
    for fields in (("arguments_schema", "result_schema"), ("description",)):
        if info.ByteSize() > INFO_BYTES_MAX:
            for described in (info, *info.methods):
                for field in fields:
                    described.ClearField(field)
    if info.ByteSize() > INFO_BYTES_MAX:
        raise ValueError(f"{info.name}: the class has too many methods")
    return info


def _describe(
    info: function_service_pb2.FunctionInfo | function_service_pb2.FunctionMethod, typed: TypedFunction
) -> None:
    info.arguments_schema = _bounded(typed.arguments_schema)
    info.result_schema = _bounded(typed.result_schema)
    info.positional.extend(typed.positional)


def _bounded(schema: str) -> str:
    return schema if len(schema) <= SCHEMA_CHARS_MAX else ""


def _description(function: Callable[..., Any]) -> str:
    return texts.storable(inspect.cleandoc(function.__doc__ or ""))[:DESCRIPTION_CHARS_MAX]


def _options(name: str, options: Options) -> spec_pb2.TaskOptions:
    model = options.to_model()
    environment = json.loads(model.shape.runtime_env or "{}")
    if code := next((field for field in _LOCAL if environment.get(field)), None):
        raise ValueError(f"{name}: a registered function has the code of its workers, so its runtime_env has no {code}")
    message = optionwire.options_to_proto(model, TaskOptions())
    message.ClearField("task_id")  # a graph names its nodes, and tasks by them
    return message


def _actor_class(name: str, made: Any) -> actor_service_pb2.ActorClass:
    definition = made.definition
    _options(name, definition.options)  # which raises
    spec = ActorSpec(
        Function(name, name),
        definition.options.to_model(),
        definition.max_pending_calls,
        definition.readonly,
        definition.ttl_ms,
        definition.call_retention_ms,
    )
    message = actorwire.class_to_proto(spec)
    message.ClearField("function")
    return message


def main() -> None:
    modules = sys.argv[1:]
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # modules may print
    infos = []
    try:
        for module in modules:
            importlib.import_module(module)
        for (name, version), made in sorted(registry.registered().items()):
            if made.__module__ != "__main__":
                infos.append(describe(name, version, made))
        if (size := sum(info.ByteSize() for info in infos)) > ALL_BYTES_MAX:
            raise ValueError(f"the schemas of all functions have {size} bytes, and may have {ALL_BYTES_MAX}")
    except BaseException:
        traceback.print_exc()
        sys.exit(FAILED)
    message = function_service_pb2.ListFunctionsResponse(functions=infos)
    with os.fdopen(answer, "wb") as out:
        out.write(message.SerializeToString())
    os._exit(0)  # threads and exit handlers of modules are not waited for


if __name__ == "__main__":
    main()
