"""Graphs of Python functions: `@task`, `.bind()`, events, timers, waits, inputs.

A node stands for a value that does not exist yet. For type checkers `.bind()` returns the function's own return type,
so graphs are checked like calls. Ray's DAG nodes (`ray.remote` functions with `.bind()`) are accepted as well. Nothing
here recurses over a graph. A node that is used twice is one task.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, NoReturn, ParamSpec, Protocol, TypeVar, cast, overload

import cloudpickle  # type: ignore[import-untyped]

from perdure import raydag, registry, texts, tracebacks
from perdure.model import Attribute, Index, Key, Path, Sleep, WaitEvent
from perdure.options import Options, RetryPolicy, milliseconds

P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")

_SLUG: Final = re.compile(r"[^A-Za-z0-9_.-]+")
SLUG_CHARS_MAX: Final = 200
"""Leaves room in an id for the suffix of duplicates."""


def _step(step: object) -> Index | Key:
    if isinstance(step, int):
        return Index(step)
    if isinstance(step, str):
        return Key(texts.free(step, "a part of a value"))
    raise TypeError(f"a part of a value is picked by an integer or a string, not by {texts.kind_of(step)}")


def _refuse_use(what: str) -> NoReturn:
    raise TypeError(f"{what} has no value yet and cannot be tested; branch inside a task and return a graph")


def _refuse_iteration(what: str) -> NoReturn:
    raise TypeError(f"{what} has no value yet and cannot be iterated over; do it inside a task")


def _shown(path: Path) -> str:
    """A path as it is written: `.lines[0]['price']`."""
    return "".join(map(_shown_step, path))


def _shown_step(step: Index | Key | Attribute) -> str:
    match step:
        case Index(index=index):
            return f"[{index}]"
        case Key(key=key):
            return f"[{key!r}]"
        case Attribute(name=name):
            return f".{name}"


class Node(Generic[R]):
    """A value that a graph will produce. Pass it to `.bind()`; `node[i]` and `node["key"]` are parts of it."""

    __slots__ = ("__weakref__", "options")

    def __init__(self, options: Options) -> None:
        self.options = options

    def __getitem__(self, step: int | str) -> Part:
        return Part(self, (_step(step),))

    def __iter__(self) -> NoReturn:
        _refuse_iteration("a node")

    def __bool__(self) -> NoReturn:
        _refuse_use("a node")

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
    """A wait for an event or a time."""

    __slots__ = ("action", "after")

    def __init__(self, action: WaitEvent | Sleep, options: Options, after: tuple[Node[Any], ...] = ()) -> None:
        super().__init__(options)
        self.action = action
        self.after = after

    def __repr__(self) -> str:
        match self.action:
            case WaitEvent(key=key):
                return f"<perdure event {key!r}>"
            case Sleep(until_ms=until_ms, delay_ms=delay_ms):
                what = f"until {until_ms} ms" if delay_ms is None else f"of {delay_ms / 1000:g} s"
                return f"<perdure sleep {what}>"

    @property
    def name(self) -> str:
        return self.options.task_id or ("event" if isinstance(self.action, WaitEvent) else "sleep")


class WaitForNode(Node[R]):
    """A wait for some of several nodes."""

    __slots__ = ("nodes", "num_returns", "timeout_ms")

    def __init__(self, nodes: tuple[Any, ...], num_returns: int, timeout_ms: int | None, options: Options) -> None:
        super().__init__(options)
        self.nodes = nodes
        self.num_returns = num_returns
        self.timeout_ms = timeout_ms

    @property
    def name(self) -> str:
        return self.options.task_id or "wait"


class TaskNode(Node[R]):
    """A task that the run has already, as `wait` gives those that have no value yet. Use it like any other
    node in a graph that a task returns."""

    __slots__ = ("task_id",)

    def __init__(self, task_id: str) -> None:
        super().__init__(_PLAIN)
        self.task_id = task_id

    def __reduce__(self) -> tuple[Any, ...]:
        return TaskNode, (self.task_id,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskNode) and other.task_id == self.task_id

    def __hash__(self) -> int:
        return hash(self.task_id)

    @property
    def name(self) -> str:
        return self.task_id


_PLAIN: Final = Options()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Part:
    """A part of a node's value."""

    node: Node[Any]
    path: Path

    def __repr__(self) -> str:
        return f"<perdure node {self.node.name}{_shown(self.path)}>"

    def __getitem__(self, step: int | str) -> Part:
        return Part(self.node, (*self.path, _step(step)))

    def __iter__(self) -> NoReturn:
        _refuse_iteration("a part of a node")

    def __bool__(self) -> NoReturn:
        _refuse_use("a part of a node")


class Input:
    """An input of the run, or a part of it: `perdure.input("order").items[0]`."""

    __slots__ = ("_name", "_path")

    def __init__(self, name: str, path: Path = ()) -> None:
        self._name = name
        self._path = path

    def __repr__(self) -> str:
        return f"<perdure input {self._name}{_shown(self._path)}>"

    def __getitem__(self, step: int | str) -> Input:
        return Input(self._name, (*self._path, _step(step)))

    def __getattr__(self, name: str) -> Input:
        if name.startswith("__"):
            raise AttributeError(name)
        return Input(self._name, (*self._path, Attribute(texts.free(name, "a part of a value"))))

    def __iter__(self) -> NoReturn:
        _refuse_iteration("an input")

    def __bool__(self) -> NoReturn:
        _refuse_use("an input")


# ------------------------------------------------------------------------------ building


class Task(Generic[P, C, R]):
    """A function that graphs may call. Calling it directly calls the function.

    For type checkers `C` is the result of a direct call and `R` the value in graphs. They differ for an `async def`
    only, whose direct call returns a coroutine.
    """

    __perdure_task__ = True

    def __init__(self, function: Callable[P, C], options: Options, original: Task[P, C, R] | None = None) -> None:
        if not callable(function):
            raise TypeError(f"a task is made of a function, not of {texts.kind_of(function)}")
        self.function = function
        self.default_options = options
        self._signature: inspect.Signature | None = None
        self._original = original or self  # the module's object of this name, without the options of this one
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)
        self.__module__ = getattr(function, "__module__", type(function).__module__)
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        tracebacks.note(function)

    def __repr__(self) -> str:
        return f"<perdure task {self.__module__}.{self.__qualname__}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        return self.function(*args, **kwargs)

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """A node for this call. Its type is that of the value. TypeError if the arguments do not match the
        signature."""
        self._check_call(args, kwargs)
        return cast(R, CallNode(self._original, args, kwargs, self.default_options))

    def _check_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._signature is None:
            self._signature = inspect.signature(self.function)
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.__qualname__}(): {error}") from None

    def options(self, **options: Any) -> Task[P, C, R]:
        """The same function with other options; those not named stay."""
        return Task(self.function, self.default_options.merged(options), self._original)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # By name if workers can import it; the code of a script or a closure travels with it.
        module = self.__module__
        by_value = module == "__main__" or module in cloudpickle.list_registry_pickle_by_value()
        if not by_value and imported(module, self.__qualname__) is self:
            return self.__qualname__
        return (type(self), (self.function, self.default_options))


def imported(module: str, qualname: str) -> object:
    """The object that an imported module has under this name; None if there is none."""
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


class TaskDecorator(Protocol):
    """The result of `@task(...)`."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, R]: ...


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, Coroutine[Any, Any, R], R]: ...
@overload
def task(function: Callable[P, R], /) -> Task[P, R, R]: ...
@overload
def task(**options: Any) -> TaskDecorator: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task: `@task`, or `@task(num_cpus=2, max_retries=5)`.

    `name` registers it: workers that import its module announce it, and clients in any language call it by this name.
    It is the task id as well, unless `task_id` is given. `version` (a string) tells versions of a registered task
    apart: a run keeps the version that it began with. ValueError for a name and version that another task has.

    Options: task_id, num_cpus, num_gpus, memory (bytes), resources, accelerator_type,
    runtime_env, scheduling_strategy, max_retries (3; -1: without limit), retry_exceptions (False, True or
    a list of types), retry_policy, timeout (seconds an attempt may take), keep_warm (seconds that an idle worker stays
    for the next attempt with the same needs; with GPUs and without it each attempt has a process of its own),
    catch_exceptions, checkpoint, metadata (JSON). Unknown or malformed ones raise TypeError or ValueError here.
    """
    name, version = options.pop("name", None), options.pop("version", "")
    if name is None and version != "":
        raise TypeError("a task with a version has a name")
    if name is not None:
        registry.check(name, version)
    made = Options().merged(options if name is None else {"task_id": name, **options})

    def decorate(inner: Callable[..., Any]) -> Task[..., Any, Any]:
        decorated: Task[..., Any, Any] = Task(inner, made)
        if name is not None:
            registry.register(name, version, decorated)
        return decorated

    return decorate if function is None else decorate(function)


def event(key: str, *, timeout: float | timedelta | None = None, **options: Any) -> Any:
    """A node that waits for an event; its value is the event's payload. `timeout` is in seconds. InvalidFieldError for
    an invalid key."""
    if not isinstance(key, str):
        raise ValueError(f"event_key: has 1 to 256 printable characters, and is no {type(key).__name__}")
    texts.name(key, "event_key")
    return WaitNode(
        WaitEvent(key, None if timeout is None else milliseconds("a time", timeout)), Options().merged(options)
    )


def sleep(seconds: float | timedelta, *, after: Any = (), **options: Any) -> Any:
    """A durable timer, which holds no worker. It begins when the nodes in `after` are done."""
    return WaitNode(Sleep(delay_ms=milliseconds("a time", seconds)), Options().merged(options), _nodes(after))


def sleep_until(moment: datetime, *, after: Any = (), **options: Any) -> Any:
    """A durable timer that ends at a moment, which must have a time zone."""
    if moment.tzinfo is None:
        raise ValueError("the moment needs a time zone, since the engine may have another one")
    until_ms = round(moment.timestamp() * 1000)
    return WaitNode(Sleep(until_ms=until_ms), Options().merged(options), _nodes(after))


def wait(
    nodes: Sequence[R], num_returns: int = 1, timeout: float | timedelta | None = None, *, task_id: str | None = None
) -> tuple[list[R], list[R]]:
    """A node that waits until `num_returns` of these nodes have values, or for `timeout` seconds.

    Its value is `(ready, remaining)`: the values of at most `num_returns` nodes that are done, in the order given, and
    the other nodes, for graphs that tasks return. The other nodes go on running.
    """
    waited = tuple(nodes)
    for node in waited:
        if isinstance(node, (Part, Input)) or not is_node(node):
            raise TypeError(f"wait takes a list of nodes (made by .bind()), not of {type(node).__name__}")
    if len({id(node) for node in waited}) < len(waited):
        raise ValueError("wait takes each node once")
    if isinstance(num_returns, bool) or not isinstance(num_returns, int):
        raise TypeError("num_returns is an integer")
    if not 1 <= num_returns <= len(waited):
        raise ValueError(f"num_returns must be between 1 and the number of nodes ({len(waited)}), not {num_returns}")
    timeout_ms = None if timeout is None else milliseconds("a time", timeout)
    options = Options().merged({} if task_id is None else {"task_id": task_id})
    return cast("tuple[list[R], list[R]]", WaitForNode(waited, num_returns, timeout_ms, options))


def input(name: str) -> Any:
    """An input of the run, which `run(..., inputs={name: value})` sets."""
    if not isinstance(name, str):
        raise TypeError(f"an input has a name, not {texts.kind_of(name)}")
    return Input(texts.name(name, "input"))


def _nodes(after: Any) -> tuple[Node[Any], ...]:
    nodes = tuple(after) if isinstance(after, (list, tuple)) else (after,)
    if not all(isinstance(node, Node) for node in nodes):
        raise TypeError("after takes a node or a list of nodes")
    return nodes


def is_node(value: object) -> bool:
    """Whether a task that returns this value returns a graph, even one that `to_spec` refuses."""
    return isinstance(value, (Node, Part, Input)) or raydag.is_dag_node(value)


def refuse_node(value: object) -> None:
    """Raise TypeError for a node: it has no value yet."""
    if is_node(value):
        raise TypeError("an actor is called with values, and a node has none yet; run the graph first")


def slug_of(function: Callable[..., Any]) -> str:
    """ "module.qualname" without characters that an id may not have."""
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', 'task')}"
    return slug(name)


def slug(name: str) -> str:
    """A name without characters that an id may not have."""
    return _SLUG.sub("", name).strip(".")[:SLUG_CHARS_MAX] or "task"


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
    "wait",
]
