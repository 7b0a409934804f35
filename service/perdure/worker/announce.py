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
from perdure.announcing import DONE, TOLD
from perdure.model import READONLY_MARK, ActorSpec, Function, RetryRule, TaskOptions
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
    info.variadic = typed.is_variadic


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
    if model.retry == RetryRule():  # what the function does not set is left to the graph
        message.ClearField("retry")
    if not model.catch_exceptions:
        message.ClearField("catch_exceptions")
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
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # modules may print
    try:
        for module in sys.argv[1:]:
            importlib.import_module(module)
    except BaseException as error:
        traceback.print_exc()
        tell(_described(error))
        sys.exit(FAILED)
    message = function_service_pb2.ListFunctionsResponse()
    for (name, version), made in sorted(registry.registered().items()):
        if made.__module__ == "__main__":
            continue
        try:
            message.functions.append(describe(name, version, made))
        except Exception as error:
            tell(f"the function {name!r} cannot be called by name: {_described(error)}")
    for field in ("arguments_schema", "result_schema", "description"):
        if message.ByteSize() > ALL_BYTES_MAX:
            tell(f"the functions take {message.ByteSize()} bytes to describe: they are announced without {field}")
            for info in message.functions:
                for described in (info, *info.methods):
                    described.ClearField(field)
    with os.fdopen(answer, "wb") as out:
        out.write(DONE + message.SerializeToString())
    os._exit(0)  # threads and exit handlers of modules are not waited for


def tell(text: str) -> None:
    """Say something to the user of the service."""
    sys.stdout.flush()
    print(f"\n{TOLD}{' '.join(text.split())}", file=sys.stderr, flush=True)


def _described(error: BaseException) -> str:
    """With its place: where a module raised it."""
    text = " ".join(traceback.format_exception_only(error)).strip()
    frames = traceback.extract_tb(error.__traceback__)
    is_syntax = isinstance(error, SyntaxError)  # it names its place itself
    return text if is_syntax or not frames else f"{text} ({frames[-1].filename}, line {frames[-1].lineno})"


if __name__ == "__main__":
    main()
