"""Converts graphs between `perdure.model` and the messages of `perdure.v1`.

Decoding shares equal functions, options and shapes, so that a graph of 100,000 nodes stays small. A malformed graph
raises `InvalidSpec`, which names the node.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final, assert_never

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from perdure.model import (
    Action,
    BlobRef,
    Call,
    Function,
    InputRef,
    InvalidSpec,
    NodeRef,
    Payload,
    Ref,
    Shape,
    Sleep,
    Spec,
    SpecNode,
    TaskOptions,
    TaskRef,
    Wait,
    WaitEvent,
)
from perdure.optionwire import options_from_proto, options_to_proto
from perdure.snapshots import snapshot_of, snapshots_in
from perdure.v1 import spec_pb2, worker_service_pb2
from perdure.wire import (
    ARGUMENTS,
    fill_payload,
    from_duration,
    from_timestamp,
    function_from_proto,
    function_to_proto,
    json_to_struct,
    path_from_proto,
    path_to_proto,
    payload_from_proto,
    to_duration,
    to_timestamp,
)

NESTING_MAX: Final = 32


def arguments_refs(args: Iterable[spec_pb2.Arg], kwargs: Any) -> Iterator[Ref]:
    """The references of polyglot arguments, in the order on which engine and worker agree: positional arguments, then
    keyword arguments by name; depth first; entries of maps by key."""
    for arg in args:
        yield from _refs_of(arg, 0)
    for name in sorted(kwargs):
        yield from _refs_of(kwargs[name], 0)


def _refs_of(arg: spec_pb2.Arg, depth: int) -> Iterator[Ref]:
    if depth > NESTING_MAX:
        raise ValueError(f"arguments may be nested {NESTING_MAX} deep")
    match arg.WhichOneof("kind"):
        case "node":
            yield NodeRef(arg.node.node_id, path_from_proto(arg.node.path))
        case "input":
            yield InputRef(arg.input.name, path_from_proto(arg.input.path))
        case "list":
            for item in arg.list.items:
                yield from _refs_of(item, depth + 1)
        case "map":
            for key in sorted(arg.map.entries):
                yield from _refs_of(arg.map.entries[key], depth + 1)
        case "payload":
            payload_from_proto(arg.payload)
        case _:
            raise ValueError("an argument is a payload, a node, an input, a list or a map")


def ref_to_proto(ref: Ref) -> spec_pb2.Ref:
    path = path_to_proto(ref.path) if ref.path else ()
    match ref:
        case NodeRef():
            return spec_pb2.Ref(node=spec_pb2.NodeRef(node_id=ref.node_id, path=path))
        case TaskRef():
            return spec_pb2.Ref(task=spec_pb2.TaskRef(task_id=ref.task_id, path=path))
        case InputRef():
            return spec_pb2.Ref(input=spec_pb2.InputRef(name=ref.name, path=path))
        case _:
            assert_never(ref)


def _ref_from_proto(message: spec_pb2.Ref) -> Ref:
    match message.WhichOneof("kind"):
        case "node":
            return NodeRef(message.node.node_id, path_from_proto(message.node.path))
        case "input":
            return InputRef(message.input.name, path_from_proto(message.input.path))
        case "task":
            return TaskRef(message.task.task_id, path_from_proto(message.task.path))
        case _:
            raise ValueError("a reference is to a node, to a task or to an input")


def spec_to_proto(spec: Spec) -> spec_pb2.WorkflowSpec:
    """The message of a graph. Each function is sent once, and options only where they differ from the defaults. A
    runtime environment that all calls share is a default too, because it names the program's modules and a graph may
    have many nodes."""
    output = spec_pb2.Arg(node=spec_pb2.NodeRef(node_id=spec.output))
    message = spec_pb2.WorkflowSpec(output=output, callers=spec.callers)
    functions: dict[str, int] = {}
    usual, environment = _defaults(_common_environment(spec))
    if environment is not None:
        message.default_options.runtime_env.CopyFrom(environment)
    options: dict[int, spec_pb2.TaskOptions | None] = {}  # by id(): nodes share them, and comparing takes long
    for node in spec.nodes:
        out = message.nodes.add(id=node.id, after=node.after)
        if id(node.options) not in options:
            options[id(node.options)] = options_to_proto(node.options, usual) if node.options != usual else None
        if (shared := options[id(node.options)]) is not None:
            out.options.CopyFrom(shared)
        match node.action:
            case Call(function, arguments, refs):
                if function.key not in functions:
                    functions[function.key] = len(functions)
                    message.functions.append(function_to_proto(function))
                out.task.function.shared = functions[function.key]
                _arguments_to_proto(out.task, arguments, refs)
            case WaitEvent(key, timeout_ms):
                out.event.event_key = key
                if timeout_ms is not None:
                    out.event.timeout.CopyFrom(to_duration(timeout_ms))
            case Sleep(delay_ms, until_ms):
                if delay_ms is not None:
                    out.timer.delay.CopyFrom(to_duration(delay_ms))
                else:
                    out.timer.time.CopyFrom(to_timestamp(until_ms) or Timestamp())
            case Wait(refs, num_returns, timeout_ms):
                out.wait.refs.extend([ref_to_proto(ref) for ref in refs])
                out.wait.num_returns = num_returns
                if timeout_ms is not None:
                    out.wait.timeout.CopyFrom(to_duration(timeout_ms))
    return message


@lru_cache(100)
def _defaults(runtime_env: str) -> tuple[TaskOptions, Struct | None]:
    """The options of a task that says nothing, and the message of its runtime environment."""
    return TaskOptions(shape=Shape(runtime_env=runtime_env)), json_to_struct(runtime_env)


def _common_environment(spec: Spec) -> str:
    """The runtime environment of all calls if they have the same, else ""."""
    common: str | None = None
    for node in spec.nodes:
        if isinstance(node.action, Call):
            environment = node.options.shape.runtime_env
            if not environment or common not in (None, environment):
                return ""
            common = environment
    return common or ""


def _arguments_to_proto(task: spec_pb2.TaskNode, arguments: Payload, refs: tuple[Ref, ...]) -> None:
    if arguments.encoding == ARGUMENTS and not arguments.attributes:
        composed = worker_service_pb2.Arguments.FromString(arguments.data)
        task.args.extend(composed.args)
        for name, arg in composed.kwargs.items():
            task.kwargs[name].CopyFrom(arg)
        return
    fill_payload(task.arguments, arguments)
    task.refs.extend([ref_to_proto(ref) for ref in refs])


def spec_from_proto(message: spec_pb2.WorkflowSpec) -> Spec:
    """The graph of a message. InvalidSpec if it cannot run."""
    if message.output.WhichOneof("kind") != "node" or message.output.node.path:
        raise InvalidSpec("the output of a graph is a node, without a path")
    decoder = _SpecDecoder(message)
    nodes = tuple(decoder.node(node) for node in message.nodes)
    return Spec(nodes, message.output.node.node_id, tuple(message.callers))


def _wait_from_proto(message: spec_pb2.WaitNode) -> Wait:
    refs = tuple(_ref_from_proto(ref) for ref in message.refs)
    timeout_ms = from_duration(message.timeout) if message.HasField("timeout") else None
    waited = tuple(ref for ref in refs if not isinstance(ref, InputRef))
    if len(waited) < len(refs):
        raise ValueError("an input has its value from the start and cannot be waited for")
    return Wait(waited, message.num_returns or 1, timeout_ms)


class _SpecDecoder:
    """Decodes nodes, and shares their equal parts."""

    def __init__(self, message: spec_pb2.WorkflowSpec) -> None:
        self._options: dict[bytes, TaskOptions] = {}
        self._functions: dict[bytes, Function] = {}
        self._shared: list[Function] = []
        try:
            for function in message.functions:
                if function.WhichOneof("kind") == "shared":
                    raise ValueError("a function of the graph is registered or pickled; nodes share it by its place")
                self._shared.append(self._function(function))
            has_default = message.HasField("default_options")
            default = options_from_proto(message.default_options, TaskOptions()) if has_default else TaskOptions()
            self._usual = _checked(default)
        except ValueError as error:
            raise InvalidSpec(str(error)) from error

    def node(self, message: spec_pb2.Node) -> SpecNode:
        try:
            return SpecNode(message.id, self._action(message), tuple(message.after), self._options_of(message))
        except InvalidSpec:
            raise
        except ValueError as error:
            raise InvalidSpec(f"node {message.id!r:.80}: {error}", message.id[:80]) from error

    def _options_of(self, message: spec_pb2.Node) -> TaskOptions:
        if not message.HasField("options"):
            return self._usual
        key = message.options.SerializeToString(deterministic=True)
        if key not in self._options:
            self._options[key] = _checked(options_from_proto(message.options, self._usual))
        return self._options[key]

    def _function(self, message: spec_pb2.FunctionRef) -> Function:
        if message.WhichOneof("kind") == "shared":
            if message.shared >= len(self._shared):
                raise ValueError(f"the graph has no shared function {message.shared}")
            return self._shared[message.shared]
        key = message.SerializeToString(deterministic=True)
        if key not in self._functions:
            self._functions[key] = function_from_proto(message)
        return self._functions[key]

    def _action(self, message: spec_pb2.Node) -> Action:
        match message.WhichOneof("kind"):
            case "task":
                return self._call(message.task)
            case "event":
                if not 1 <= len(message.event.event_key) <= 256:
                    raise ValueError("an event key has 1 to 256 characters")
                has_timeout = message.event.HasField("timeout")
                timeout_ms = from_duration(message.event.timeout) if has_timeout else None
                return WaitEvent(message.event.event_key, timeout_ms)
            case "timer":
                match message.timer.WhichOneof("until"):
                    case "delay":
                        return Sleep(delay_ms=from_duration(message.timer.delay))
                    case "time":
                        return Sleep(until_ms=from_timestamp(message.timer.time))
                    case _:
                        raise ValueError("a timer has a delay or a time")
            case "wait":
                return _wait_from_proto(message.wait)
            case _:
                raise ValueError("a node is a task, an event, a timer or a wait")

    def _call(self, task: spec_pb2.TaskNode) -> Call:
        function = self._function(task.function)
        if task.HasField("arguments"):
            if task.args or task.kwargs:
                raise ValueError("a task has args and kwargs, or arguments and refs, not both")
            refs = tuple([_ref_from_proto(ref) for ref in task.refs]) if task.refs else ()
            return Call(function, payload_from_proto(task.arguments), refs)
        composed = worker_service_pb2.Arguments(args=task.args)
        for name, arg in task.kwargs.items():
            composed.kwargs[name].CopyFrom(arg)
        refs = tuple(arguments_refs(task.args, task.kwargs))
        return Call(function, Payload(ARGUMENTS, composed.SerializeToString(deterministic=True)), refs)


def _checked(options: TaskOptions) -> TaskOptions:
    """The options. ValueError if their modules are not a stored package: the sender's own files cannot be read here."""
    environment = options.shape.runtime_env
    uri = json.loads(environment).get("modules") if '"modules"' in environment else None
    if uri is not None and snapshot_of(uri) is None:
        raise ValueError("runtime_env: modules is the URI of a stored package")
    return options


def encode_spec(spec: Spec) -> bytes:
    return spec_to_proto(spec).SerializeToString(deterministic=True)


def decode_spec(data: bytes) -> Spec:
    """InvalidSpec if it is not a graph that can run."""
    try:
        message = spec_pb2.WorkflowSpec.FromString(data)
    except DecodeError as error:
        raise InvalidSpec(f"not a serialized WorkflowSpec: {error}") from error
    return spec_from_proto(message)


# ------------------------------------------------------------------------------ blobs


def blobs_of_spec(spec: Spec) -> Iterator[BlobRef]:
    """Every blob that the graph needs, some more than once: code, arguments and the blobs they refer to, packages of
    runtime environments. InvalidSpec for malformed names of blobs."""
    environments: set[str] = set()
    functions: set[str] = set()
    for node in spec.nodes:
        scheduling = node.options.shape.scheduling
        if isinstance(scheduling, Payload):
            yield from scheduling.blobs()
        environments.add(node.options.shape.runtime_env)
        if not isinstance(node.action, Call):
            continue
        function, arguments = node.action.function, node.action.arguments
        if function.key not in functions and function.code is not None:
            functions.add(function.key)
            yield from function.code.blobs()
        yield from arguments.blobs()
        if arguments.encoding == ARGUMENTS and arguments.blob is None:
            try:
                payloads = payloads_in(arguments)
            except (DecodeError, ValueError) as error:
                raise InvalidSpec(f"node {node.id!r:.80}: its arguments do not decode: {error}", node.id) from error
            for payload in payloads:
                yield from payload.blobs()
    for environment in environments:
        yield from _packages_of(environment)


def blobs_of_code(function: Function, shape: Shape) -> Iterator[BlobRef]:
    """Every blob that calls of a function need besides their arguments. InvalidSpec for malformed names of blobs."""
    if function.code is not None:
        yield from function.code.blobs()
    if isinstance(shape.scheduling, Payload):
        yield from shape.scheduling.blobs()
    yield from _packages_of(shape.runtime_env)


def _packages_of(environment: str) -> Iterator[BlobRef]:
    try:
        yield from snapshots_in(environment)
    except ValueError as error:
        raise InvalidSpec(f"runtime_env: {error}") from error


def payloads_in(arguments: Payload) -> list[Payload]:
    """The values in inline arguments with the encoding ARGUMENTS. Raises DecodeError and ValueError."""
    composed = worker_service_pb2.Arguments.FromString(arguments.data)
    return list(_payloads_of((*composed.args, *composed.kwargs.values())))


def _payloads_of(args: Iterable[spec_pb2.Arg]) -> Iterator[Payload]:
    for arg in args:
        match arg.WhichOneof("kind"):
            case "payload":
                yield payload_from_proto(arg.payload)
            case "list":
                yield from _payloads_of(arg.list.items)
            case "map":
                yield from _payloads_of(arg.map.entries.values())
            case _:
                pass
