"""Converts Python graphs into a Spec: every node once, inner nodes first, with unique ids.

Nothing here recurses over a graph.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

from perdure import codec, functions, modules, raydag
from perdure.actorwire import encode_call
from perdure.arguments import ATOMS, encode_arguments
from perdure.graph import CallNode, Input, Node, Part, Task, TaskNode, WaitForNode, WaitNode, is_node, task
from perdure.model import (
    Action,
    Call,
    Function,
    InputRef,
    MethodCall,
    NodeRef,
    Payload,
    Ref,
    Spec,
    SpecNode,
    TaskOptions,
    TaskRef,
    Wait,
)
from perdure.options import Options, with_environment
from perdure.selfcalls import MethodNode
from perdure.wire import ARGUMENTS

AnyRef = TypeVar("AnyRef", bound=Ref)


@dataclass(slots=True)
class _Found:
    """A node during conversion. Its refs and needs are positions in the list of nodes."""

    name: str
    options: TaskOptions
    function: Callable[..., Any] | None = None
    action: Action | None = None
    refs: tuple[Ref, ...] = ()
    after: tuple[int, ...] = ()


def to_spec(graph: object, objects: codec.Objects | None = None, *, names_modules: bool | None = None) -> Spec:
    """The spec of the graph that ends in this node. TypeError if it is not a node; CodecError if an argument cannot be
    pickled. Arguments are captured now; `objects` stores the objects of Ray in them.

    With `names_modules` the runtime environments of tasks name the program's own modules that the graph needs; a
    client packs them when it submits the graph. None: as PERDURE_MODULES says.
    """
    if isinstance(graph, Task):
        graph = graph.bind()
    if isinstance(graph, TaskNode):
        graph = _value_of.bind(graph)
    if isinstance(graph, (Part, Input)):
        raise TypeError("a graph ends in a node, not in a part of one or in an input; pass it to a task")
    if not is_node(graph):
        raise TypeError(f"expected a node (made by .bind()), not {type(graph).__name__}")
    if not (modules.are_wanted() if names_modules is None else names_modules):
        return _Converter(objects).convert(graph)
    names: set[str] = set()
    with modules.noted(names):
        return _Converter(objects, names).convert(graph)


@lru_cache(1_000)
def _naming(runtime_env: str, own: tuple[str, ...]) -> str:
    """The runtime environment, with these modules added to those that it names."""
    environment = json.loads(runtime_env or "{}")
    given = environment.get("modules")
    if given is False or isinstance(given, str) or environment.get("working_dir") is not None:
        return runtime_env
    environment["modules"] = sorted({*own, *(given or ())})
    return json.dumps(environment, sort_keys=True, separators=(",", ":"))


def large_parts(spec: Spec, bytes_max: int) -> set[Payload]:
    """Arguments and code in a graph that are too large to travel inline, and must be stored as blobs."""
    calls = (node.action for node in spec.nodes if isinstance(node.action, Call))
    parts = (part for call in calls for part in (call.arguments, call.function.code) if part is not None)
    return {part for part in parts if part.blob is None and part.size > bytes_max and part.encoding != ARGUMENTS}


def with_stored(spec: Spec, stored: Mapping[Payload, Payload]) -> Spec:
    """The graph with some of its arguments and code as blobs."""
    if not stored:
        return spec

    def changed(node: SpecNode) -> SpecNode:
        if not isinstance(node.action, Call):
            return node
        call, code = node.action, node.action.function.code
        known = code is not None and stored.get(code)
        function = replace(call.function, code=known) if known else call.function
        if function is call.function and call.arguments not in stored:
            return node
        arguments = stored.get(call.arguments, call.arguments)
        return replace(node, action=replace(call, function=function, arguments=arguments))

    return replace(spec, nodes=tuple(changed(node) for node in spec.nodes))


@task
def _value_of(value: object) -> object:
    """The function of a task that returns the value of an existing task, so that a graph can consist of it."""
    return value


class _Converter:
    """Finds every node once, orders them inner nodes first, and names them.

    `module_names` are the modules that encoding has noted. Runtime environments name those that are the program's own.
    """

    def __init__(self, objects: codec.Objects | None, module_names: Set[str] = frozenset()) -> None:
        self._objects = objects
        self._module_names = module_names
        self._own: tuple[str, ...] = ()
        self._nodes: list[Any] = []
        self._positions: dict[int, int] = {}
        self._functions: dict[int, Function] = {}
        self._options: dict[int, TaskOptions] = {}
        self._with_own: dict[int, TaskOptions] = {}  # with the program's own modules, by id() of those without
        self._named: dict[tuple[int, str], TaskOptions] = {}  # the same with an id for the task, by that
        self._kept: list[object] = []  # objects whose id() is used as a key

    def convert(self, graph: Any) -> Spec:
        self._position(graph)
        found = [self._find(node) for node in self._nodes]  # grows while it is walked
        self._own = tuple(modules.own(self._module_names))
        order = _inner_first(found)
        ids = _names([found[position].name for position in order])
        id_of = dict(zip(order, ids, strict=True))
        return Spec(tuple(self._node(found[position], id_of[position], id_of) for position in order), id_of[0])

    def _position(self, node: Any) -> int:
        position = self._positions.get(id(node))
        if position is None:
            position = self._positions[id(node)] = len(self._nodes)
            self._nodes.append(node)
        return position

    def _ref_of(self, value: object) -> Ref | None:
        if isinstance(value, TaskNode):
            return TaskRef(value.task_id)
        if isinstance(value, Node):
            return NodeRef(str(self._position(value)))
        if type(value) is Part:
            if isinstance(value.node, TaskNode):
                return TaskRef(value.node.task_id, value.path)
            return NodeRef(str(self._position(value.node)), value.path)
        if type(value) is Input:
            return InputRef(value._name, value._path)
        if raydag.is_dag_node(value):
            return raydag.input_ref(value) or NodeRef(str(self._position(value)))
        return None

    def _find(self, node: Any) -> _Found:
        if isinstance(node, WaitNode):
            after = tuple(self._position(need) for need in node.after)
            return _Found(node.name, self._task_options(node.options), action=node.action, after=after)
        if isinstance(node, WaitForNode):
            waited = tuple(ref for need in node.nodes if isinstance(ref := self._ref_of(need), (NodeRef, TaskRef)))
            wait = Wait(waited, node.num_returns, node.timeout_ms)
            return _Found(node.name, self._task_options(node.options), action=wait, refs=waited)
        if isinstance(node, MethodNode):
            arguments, refs = encode_arguments(node.args, node.kwargs, self._ref_of, self._objects, atoms=ATOMS)
            call = encode_call(MethodCall(node.method, arguments, len(refs)))
            return _Found(node.name, self._task_options(node.options), action=Call(node.function, call), refs=refs)
        is_rays = not isinstance(node, CallNode)
        if is_rays:
            node = CallNode(*raydag.parts_of(node))
            self._kept.append(node)
        function = self._function(node.function)
        arguments, refs = encode_arguments(
            node.args, node.kwargs, self._ref_of, self._objects, nested_as_objects=is_rays, atoms=ATOMS
        )
        return _Found(node.name, self._task_options(node.options), action=Call(function, arguments), refs=refs)

    def _function(self, function: Callable[..., Any]) -> Function:
        if id(function) not in self._functions:
            self._kept.append(function)
            self._functions[id(function)] = functions.encode_function(function, self._objects)
        return self._functions[id(function)]

    def _task_options(self, options: Options) -> TaskOptions:
        if id(options) not in self._options:
            self._kept.append(options)
            self._options[id(options)] = options.to_model()
        return self._options[id(options)]

    def _node(self, found: _Found, node_id: str, id_of: Mapping[int, str]) -> SpecNode:
        action, options = found.action, found.options
        assert action is not None
        if isinstance(action, Call):
            options = self._with_modules(options)
            if found.refs:
                action = Call(action.function, action.arguments, tuple([_renamed(ref, id_of) for ref in found.refs]))
        elif isinstance(action, Wait):
            action = replace(action, refs=tuple(_renamed(ref, id_of) for ref in action.refs))
        wanted = "" if found.name == node_id else found.name
        if options.task_id != wanted:
            options = self._with_id(options, wanted)
        return SpecNode(node_id, action, tuple([id_of[need] for need in found.after]), options)

    def _with_modules(self, options: TaskOptions) -> TaskOptions:
        """The options with the program's own modules. Cached, because many nodes share options."""
        if not self._own:
            return options
        if id(options) not in self._with_own:
            self._with_own[id(options)] = with_environment(options, _naming(options.shape.runtime_env, self._own))
        return self._with_own[id(options)]

    def _with_id(self, options: TaskOptions, task_id: str) -> TaskOptions:
        """The options with a task id. Cached, because many nodes share a name."""
        key = (id(options), task_id)
        if key not in self._named:
            self._named[key] = replace(options, task_id=task_id)
        return self._named[key]


def _renamed(ref: AnyRef, id_of: Mapping[int, str]) -> AnyRef:
    return replace(ref, node_id=id_of[int(ref.node_id)]) if isinstance(ref, NodeRef) else ref


def _needs(found: _Found) -> Iterator[int]:
    yield from (int(ref.node_id) for ref in found.refs if isinstance(ref, NodeRef))
    yield from found.after


def _inner_first(found: list[_Found]) -> list[int]:
    """Positions in post-order from the first node. There are no cycles, because a node is made after its arguments."""
    order: list[int] = []
    seen = {0}
    stack = [(0, _needs(found[0]))]
    while stack:
        position, needs = stack[-1]
        for need in needs:
            if need not in seen:
                seen.add(need)
                stack.append((need, _needs(found[need])))
                break
        else:
            stack.pop()
            order.append(position)
    return order


def _names(wanted: list[str]) -> list[str]:
    """Unique ids: duplicates get _1, _2, ... in order."""
    taken: set[str] = set()
    counts: dict[str, int] = {}
    names = []
    for name in wanted:
        fresh = name
        while fresh in taken:
            counts[name] = counts.get(name, 0) + 1
            fresh = f"{name}_{counts[name]}"
        taken.add(fresh)
        names.append(fresh)
    return names
