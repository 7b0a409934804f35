"""Graphs that call functions by name: finds the functions, keeps their versions in the graph, and checks the arguments.

A graph is changed before it is decoded and stored, so it never depends on what workers announce later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from perdure import errors
from perdure.graphwire import arguments_refs, ref_to_proto
from perdure.model import AS_JSON, NULL
from perdure.registry import VERSION_CHARS_MAX
from perdure.service.api import requests
from perdure.service.catalogue.arguments import Checker, data_of, misfit, parse, value_of
from perdure.service.catalogue.catalogue import Catalogue
from perdure.service.common import limits
from perdure.service.common.pauses import Pauses
from perdure.v1 import actor_service_pb2, payload_pb2, spec_pb2, worker_service_pb2
from perdure.v1.function_service_pb2 import FUNCTION_KIND_ACTOR, FUNCTION_KIND_TASK, FunctionInfo
from perdure.wire import ARGUMENTS

JSON: Final = "json/plain"


def names_functions(spec: spec_pb2.WorkflowSpec) -> bool:
    """Whether the graph calls functions by name."""
    return any(function.WhichOneof("kind") == "registered" for function in _functions(spec))


def _functions(spec: spec_pb2.WorkflowSpec) -> Iterator[spec_pb2.FunctionRef]:
    yield from spec.functions
    for node in spec.nodes:
        if node.WhichOneof("kind") == "task":
            yield node.task.function


def spec_of(entrypoint: spec_pb2.Entrypoint) -> spec_pb2.WorkflowSpec:
    """The graph of one call. Raises InvalidFieldError, PayloadTooLargeError and InvalidArgumentsError."""
    name = requests.text(entrypoint.name, "source.entrypoint.name")
    if ":" in name:
        raise requests.invalid(
            "source.entrypoint.name", "is that of a registered function; 'module:function' is called by a graph"
        )
    requests.check_inline(len(entrypoint.arguments.encode()), "source.entrypoint.arguments")
    task = spec_pb2.TaskNode()
    task.function.registered.name = name
    task.function.registered.version = entrypoint.version
    for parameter, value in parse(entrypoint.arguments).items():
        data_of(parameter, "")
        payload = payload_pb2.Payload(encoding=JSON, data=data_of(value, parameter))
        task.kwargs[parameter].payload.CopyFrom(payload)
    output = spec_pb2.Arg(node=spec_pb2.NodeRef(node_id=name))
    return spec_pb2.WorkflowSpec(nodes=[spec_pb2.Node(id=name, task=task)], output=output)


class Naming:
    """Finds the functions that requests name."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._checker = Checker()

    async def resolved(self, spec: spec_pb2.WorkflowSpec) -> spec_pb2.WorkflowSpec:
        """A copy of the graph in which each function has its version, each call the options of its function, and the
        call that gives the output says that it is to be JSON. Raises FunctionNotFoundError, InvalidArgumentsError and
        InvalidSpecError."""
        if len(spec.nodes) > limits.NODES_MAX:
            return spec  # decoding refuses it
        made = spec_pb2.WorkflowSpec()
        made.CopyFrom(spec)
        found: dict[bytes, FunctionInfo | None] = {}  # one version of a name in all of the graph
        pauses = Pauses()

        async def find(function: spec_pb2.FunctionRef) -> FunctionInfo | None:
            key = function.SerializeToString()
            if key not in found:
                found[key] = await self._find(function)
            elif (info := found[key]) is not None:
                function.registered.version = info.version
            return found[key]

        shared = [await find(function) for function in made.functions]
        output = made.output.node.node_id
        for node in made.nodes:
            await pauses.pause()
            if node.WhichOneof("kind") != "task":
                continue
            function = node.task.function
            if function.WhichOneof("kind") == "shared":
                if function.shared >= len(shared):
                    continue  # decoding refuses it
                info = shared[function.shared]
            else:
                info = await find(function)
            if info is not None:
                self._fit(node, info, is_output=node.id == output)
        return made

    async def resolve_class(self, actor_class: actor_service_pb2.ActorClass) -> FunctionInfo | None:
        """Give a registered class its version, and the options that it does not set; return what is known of it. Raises
        FunctionNotFoundError."""
        info = await self._find(actor_class.function)
        if info is None:
            return None
        if info.kind != FUNCTION_KIND_ACTOR:
            raise errors.FunctionNotFoundError(
                f"{info.name!r} is registered as a task, and not as a class of actors",
                function=info.name,
                version=info.version,
            )
        _merge_under(actor_class.options, info.actor_class.options)
        _merge_under(actor_class, info.actor_class)
        return info

    def check_arguments(self, info: FunctionInfo, arguments: actor_service_pb2.MethodArguments) -> None:
        """Raise InvalidArgumentsError unless arguments that are not pickled fit the function."""
        if not arguments.HasField("arguments"):
            wrap = spec_pb2.Arg
            args = [wrap(payload=each) for each in arguments.args]
            self._check(info, args, {name: wrap(payload=each) for name, each in arguments.kwargs.items()}, "")

    async def _find(self, function: spec_pb2.FunctionRef) -> FunctionInfo | None:
        """What is known of a registered function, whose version is set. None for one that is not registered."""
        if function.WhichOneof("kind") != "registered":
            return None
        named = function.registered
        requests.text(named.name, "function.name")
        requests.text(named.version, "function.version", limit=VERSION_CHARS_MAX, required=False)
        if ":" in named.name:
            if named.version:
                raise requests.invalid("function.version", "is for registered functions, and this is 'module:function'")
            self._catalogue.check_module(named.name)
            return None
        info = await self._catalogue.find(named.name, named.version)
        named.version = info.version
        return info

    def _fit(self, node: spec_pb2.Node, info: FunctionInfo, *, is_output: bool) -> None:
        if info.kind != FUNCTION_KIND_TASK:
            raise errors.InvalidSpecError(
                f"node {node.id!r}: {info.name!r} is a class of actors, and not a task", node_id=node.id
            )
        _merge_under(node.options, info.options)
        task = node.task
        if task.HasField("arguments"):
            return
        self._check(info, task.args, task.kwargs, node.id)
        if is_output:
            _ask_for_json(task)

    def _check(
        self,
        info: FunctionInfo,
        args: Iterable[spec_pb2.Arg],
        kwargs: Mapping[str, spec_pb2.Arg],
        node_id: str,
    ) -> None:
        args = list(args)
        if len(args) > len(info.positional) and info.arguments_schema and not info.variadic:
            most = len(info.positional)
            raise misfit(info, node_id, "", f"it takes {most} of them by position, not {len(args)}")
        named = dict(zip(info.positional, args, strict=False))
        if twice := next((name for name in kwargs if name in named), None):
            raise misfit(info, node_id, f"/{twice}", "is given by position and by name")
        values: dict[str, Any] = {}
        given: list[str] = []
        for name, arg in (*named.items(), *kwargs.items()):
            try:
                values[name] = _value(arg)
            except _NotKnown:
                given.append(name)
        self._checker.check(info, values, given, node_id)


class _NotKnown(Exception):
    """The value of an argument is known only when the call is made, or is no JSON."""


def _value(arg: spec_pb2.Arg) -> Any:
    match arg.WhichOneof("kind"):
        case "payload" if arg.payload.encoding == JSON and not arg.payload.codecs and not arg.payload.HasField("blob"):
            return value_of(arg.payload.data)
        case "payload" if arg.payload.encoding in (NULL.encoding, "") and not arg.payload.HasField("blob"):
            return None
        case "list":
            return [_value(item) for item in arg.list.items]
        case "map":
            return {key: _value(arg.map.entries[key]) for key in arg.map.entries}
        case _:
            raise _NotKnown


def _ask_for_json(task: spec_pb2.TaskNode) -> None:
    """Have the result of a call be JSON: its arguments say so, which only workers read."""
    try:
        refs = [ref_to_proto(ref) for ref in arguments_refs(task.args, task.kwargs)]
    except ValueError:
        return  # decoding refuses it
    composed = worker_service_pb2.Arguments(args=task.args)
    for name, arg in task.kwargs.items():
        composed.kwargs[name].CopyFrom(arg)
    task.arguments.encoding = ARGUMENTS
    task.arguments.data = composed.SerializeToString(deterministic=True)
    task.arguments.attributes.update([AS_JSON])
    task.refs.extend(refs)
    task.ClearField("args")
    task.ClearField("kwargs")


def _merge_under(over: Any, under: Any) -> None:
    """Set the fields of a message that it does not set, from another one."""
    for field, value in under.ListFields():
        if field.is_repeated:
            if not getattr(over, field.name):
                getattr(over, field.name).MergeFrom(value)
        elif field.has_presence:
            if not over.HasField(field.name):
                if field.message_type is None:
                    setattr(over, field.name, value)
                else:
                    getattr(over, field.name).CopyFrom(value)
        elif not getattr(over, field.name):
            setattr(over, field.name, value)
