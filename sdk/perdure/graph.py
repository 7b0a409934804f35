"""Graphs of Python functions: `@task`, `.bind()`, events, timers, inputs; and their conversion to a Spec.

A node stands for a value that does not exist yet. To the type checker `.bind()` gives the function's
own return type, so graphs are checked like calls. Ray's DAG nodes (`ray.remote` functions with
`.bind()`) are taken as they are. Nothing here recurses over a graph, and a node that is used twice is
one task.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Generic, NoReturn, ParamSpec, TypeVar, cast, overload

import cloudpickle  # type: ignore[import-untyped]

from perdure import codec, raydag
from perdure.model import (
    Action,
    Attribute,
    Call,
    Function,
    Index,
    InputRef,
    Key,
    NodeRef,
    Path,
    Ref,
    Sleep,
    Spec,
    TaskOptions,
    WaitEvent,
)
from perdure.model import Node as SpecNode
from perdure.options import Options, RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")

_SLUG: Final = re.compile(r"[^A-Za-z0-9_.-]+")


class Node(Generic[R]):
    """A value that a graph will make. Pass it on to `.bind()`; `node[i]` and `node["key"]` are parts of it."""

    __slots__ = ("__weakref__", "options")

    def __init__(self, options: Options) -> None:
        self.options = options

    def __getitem__(self, step: int | str) -> Part:
        return Part(self, (Index(step) if isinstance(step, int) else Key(step),))

    def __iter__(self) -> NoReturn:
        raise TypeError("a node has no value yet and cannot be iterated over; do it inside a task")

    def __bool__(self) -> NoReturn:
        raise TypeError("a node has no value yet and cannot be tested; branch inside a task and return a graph")

    def __repr__(self) -> str:
        return f"<perdure node {self.name}>"

    @property
    def name(self) -> str:
        return self.options.task_id or "node"


class CallNode(Node[R]):
    """A call of a function."""

    __slots__ = ("args", "function", "kwargs")

    def __init__(self, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options):
        super().__init__(options)
        self.function = function
        self.args = args
        self.kwargs = kwargs

    @property
    def name(self) -> str:
        return self.options.task_id or slug_of(self.function)


class WaitNode(Node[R]):
    """An event or a moment to wait for."""

    __slots__ = ("action", "after")

    def __init__(self, action: WaitEvent | Sleep, options: Options, after: tuple[Node[Any], ...] = ()) -> None:
        super().__init__(options)
        self.action = action
        self.after = after

    @property
    def name(self) -> str:
        return self.options.task_id or ("event" if isinstance(self.action, WaitEvent) else "sleep")


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of a node's value."""

    node: Node[Any]
    path: Path

    def __getitem__(self, step: int | str) -> Part:
        return Part(self.node, (*self.path, Index(step) if isinstance(step, int) else Key(step)))

    def __iter__(self) -> NoReturn:
        raise TypeError("a node has no value yet and cannot be iterated over; do it inside a task")


class Input:
    """An input of the run, or a part of it: `perdure.input("order").items[0]`."""

    __slots__ = ("_name", "_path")

    def __init__(self, name: str, path: Path = ()) -> None:
        self._name = name
        self._path = path

    def __getitem__(self, step: int | str) -> Input:
        return Input(self._name, (*self._path, Index(step) if isinstance(step, int) else Key(step)))

    def __getattr__(self, name: str) -> Input:
        if name.startswith("__"):
            raise AttributeError(name)
        return Input(self._name, (*self._path, Attribute(name)))

    def __iter__(self) -> NoReturn:
        raise TypeError("an input has no value yet and cannot be iterated over; do it inside a task")

    def ref(self) -> InputRef:
        return InputRef(self._name, self._path)


# ------------------------------------------------------------------------------ building


class Task(Generic[P, R]):
    """A function that graphs may call. Called itself, it is just the function."""

    __perdure_task__ = True

    def __init__(self, function: Callable[P, R], options: Options, original: Task[P, R] | None = None) -> None:
        self.function = function
        self.default_options = options
        self._original = original or self  # what the module has under the name, whatever options this one has
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """A node for this call. The type checker sees the value that it will have."""
        inspect.signature(self.function).bind(*args, **kwargs)
        return cast(R, CallNode(self._original, args, kwargs, self.default_options))

    def options(self, **options: Any) -> Task[P, R]:
        """The same function with other options; those not named stay."""
        return Task(self.function, self.default_options.merged(options), self._original)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # By reference where the workers can import it; code of a script or of a closure travels along.
        module = self.__module__
        by_value = module == "__main__" or module in cloudpickle.list_registry_pickle_by_value()
        if not by_value and _imported(module, self.__qualname__) is self:
            return self.__qualname__
        return (Task, (self.function, self.default_options))


def _imported(module: str, qualname: str) -> object:
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task: `@task`, or `@task(num_cpus=2, max_retries=5)`.

    Options: task_id (or name), num_cpus, num_gpus, memory (bytes), resources, accelerator_type,
    runtime_env, scheduling_strategy, max_retries (3; -1: without limit), retry_exceptions (False, True or
    a list of types), retry_policy, timeout (seconds an attempt may take), catch_exceptions, checkpoint,
    metadata (JSON). Unknown or malformed ones raise TypeError or ValueError here.
    """
    made = Options().merged(options)
    if function is not None:
        return Task(function, made)
    return lambda inner: Task(inner, made)


def event(key: str, *, timeout: float | timedelta | None = None, **options: Any) -> Any:
    """A node that waits for an event; its value is the event's payload. `timeout` in seconds."""
    if not isinstance(key, str) or not 1 <= len(key) <= 256:
        raise ValueError("an event key has 1 to 256 characters")
    return WaitNode(WaitEvent(key, None if timeout is None else _ms(timeout)), Options().merged(options))


def sleep(seconds: float | timedelta, *, after: Any = (), **options: Any) -> Any:
    """A node that waits durably, without a worker, counted from when the nodes in `after` are done."""
    return WaitNode(Sleep(delay_ms=_ms(seconds)), Options().merged(options), _nodes(after))


def sleep_until(moment: datetime, *, after: Any = (), **options: Any) -> Any:
    """A node that waits until a moment, which must have a time zone."""
    if moment.tzinfo is None:
        raise ValueError("the moment needs a time zone, since the engine may have another one")
    until_ms = round(moment.timestamp() * 1000)
    return WaitNode(Sleep(until_ms=until_ms), Options().merged(options), _nodes(after))


def input(name: str) -> Any:
    """An input that `run(..., inputs={name: value})` gives."""
    if not name:
        raise ValueError("an input has a name")
    return Input(name)


def _nodes(after: Any) -> tuple[Node[Any], ...]:
    nodes = tuple(after) if isinstance(after, (list, tuple)) else (after,)
    if not all(isinstance(node, Node) for node in nodes):
        raise TypeError("after takes a node or a list of nodes")
    return nodes


def _ms(seconds: float | timedelta) -> int:
    value = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
    if not 0 <= value < float("inf"):
        raise ValueError("a time must be 0 seconds or more")
    return round(value * 1000)


def is_node(value: object) -> bool:
    """Whether a task that returns this value returns a graph."""
    return isinstance(value, Node) or raydag.is_dag_node(value)


def slug_of(function: Callable[..., Any]) -> str:
    """ "module.qualname" with nothing in it that an id may not have."""
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', 'task')}"
    return _SLUG.sub("", name).strip(".") or "task"


# ------------------------------------------------------------------------------ conversion


@dataclass(slots=True)
class _Found:
    """A node on its way into a spec: its refs and needs are positions among the found."""

    name: str
    options: TaskOptions
    function: Callable[..., Any] | None = None
    action: Action | None = None
    refs: tuple[Ref, ...] = ()
    after: tuple[int, ...] = ()


def to_spec(graph: object) -> Spec:
    """The graph whose value is this node's. TypeError if it is no node; CodecError if an argument
    cannot be pickled. Arguments are captured now."""
    if isinstance(graph, Task):
        graph = graph.bind()
    if not is_node(graph):
        raise TypeError(f"expected a node (made by .bind()), not {type(graph).__name__}")
    return _Converter().convert(graph)


class _Converter:
    """Finds every node once, orders them inner first, names them."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._positions: dict[int, int] = {}
        self._functions: dict[int, Function] = {}
        self._options: dict[int, TaskOptions] = {}
        self._kept: list[object] = []  # what id() was taken of must live as long

    def convert(self, graph: Any) -> Spec:
        self._position(graph)
        found = [self._find(node) for node in self._nodes]  # grows while it is walked
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
        if isinstance(value, Node):
            return NodeRef(str(self._position(value)))
        if type(value) is Part:
            return NodeRef(str(self._position(value.node)), value.path)
        if type(value) is Input:
            return value.ref()
        if raydag.is_dag_node(value):
            return raydag.input_ref(value) or NodeRef(str(self._position(value)))
        return None

    def _find(self, node: Any) -> _Found:
        if isinstance(node, WaitNode):
            after = tuple(self._position(need) for need in node.after)
            return _Found(node.name, self._task_options(node.options), action=node.action, after=after)
        if not isinstance(node, CallNode):
            node = CallNode(*raydag.parts_of(node))
            self._kept.append(node)
        function = self._function(node.function)
        arguments, refs = codec.encode_arguments(node.args, node.kwargs, self._ref_of)
        return _Found(node.name, self._task_options(node.options), action=Call(function, arguments), refs=refs)

    def _function(self, function: Callable[..., Any]) -> Function:
        if id(function) not in self._functions:
            self._kept.append(function)
            self._functions[id(function)] = codec.encode_function(function)
        return self._functions[id(function)]

    def _task_options(self, options: Options) -> TaskOptions:
        if id(options) not in self._options:
            self._kept.append(options)
            self._options[id(options)] = options.to_model()
        return self._options[id(options)]

    def _node(self, found: _Found, node_id: str, id_of: Mapping[int, str]) -> SpecNode:
        action = found.action
        assert action is not None
        if isinstance(action, Call):
            refs = tuple(_renamed(ref, id_of) for ref in found.refs)
            action = Call(action.function, action.arguments, refs)
        options = found.options
        wanted = "" if found.name == node_id else found.name
        if options.task_id != wanted:
            options = replace(options, task_id=wanted)
        return SpecNode(node_id, action, tuple(id_of[need] for need in found.after), options)


def _renamed(ref: Ref, id_of: Mapping[int, str]) -> Ref:
    return NodeRef(id_of[int(ref.node_id)], ref.path) if isinstance(ref, NodeRef) else ref


def _needs(found: _Found) -> Iterator[int]:
    yield from (int(ref.node_id) for ref in found.refs if isinstance(ref, NodeRef))
    yield from found.after


def _inner_first(found: list[_Found]) -> list[int]:
    """Positions in post-order from the first one. Graphs of nodes have no cycles: a node is made after
    what it is bound to."""
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
    """Ids that are given once each: duplicates get _1, _2, ... in their order."""
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


__all__ = [
    "Input",
    "Node",
    "RetryPolicy",
    "Task",
    "event",
    "input",
    "is_node",
    "sleep",
    "sleep_until",
    "task",
    "to_spec",
]
