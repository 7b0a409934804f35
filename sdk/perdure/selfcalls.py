"""Methods of an actor as nodes: `self.other.bind(...)` in a method, for the graph that it returns.

A worker prepares the class of an actor: its public methods become descriptors. A method of an instance is then called
as ever, without a Python frame of its own, and has `.bind` and `.step`. Only the class itself is changed, never its
bases: an inherited method is found by `super`, as in a class that does not override it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import FunctionType
from typing import Any, Final

from perdure.graph import Node, slug
from perdure.model import Function, frozen
from perdure.options import Options


@frozen
class Running:
    """The method that runs: its instance, and the class as a function."""

    instance: Any
    function: Function


_running: ContextVar[Running | None] = ContextVar("perdure_running_method", default=None)


@contextmanager
def running(instance: Any, function: Function) -> Iterator[None]:
    """Inside, a method of this instance runs."""
    token = _running.set(Running(instance, function))
    try:
        yield
    finally:
        _running.reset(token)


class MethodNode(Node[Any]):
    """A call of a method of the actor whose method returns the graph."""

    __slots__ = ("args", "function", "kwargs", "method")

    def __init__(
        self, running: Running, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
    ) -> None:
        super().__init__(options)
        self.function = running.function
        self.method = method
        self.args = args
        self.kwargs = kwargs

    @property
    def name(self) -> str:
        return self.options.task_id or slug(f"{self.function.name.replace(':', '.')}.{self.method}")


_OF_FUNCTIONS: Final = frozenset({"__code__", "__defaults__", "__kwdefaults__"})
"""The attributes by which `inspect` recognizes a function."""


class Bound(partial[Any]):
    """A method of an instance, which behaves as a bound method does."""

    _name: str
    _options: Options = Options()

    @property
    def __self__(self) -> Any:
        return self.args[0]

    @property
    def __func__(self) -> Callable[..., Any]:
        return self.func

    def __getattr__(self, name: str) -> Any:
        if name in _OF_FUNCTIONS:
            raise AttributeError(name)
        return getattr(self.func, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bound) and other.func == self.func and other.args[0] is self.args[0]

    def __hash__(self) -> int:
        return hash((self.func, id(self.args[0])))

    def __repr__(self) -> str:
        return f"<bound method {self.func.__qualname__} of {self.args[0]!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.args[0], self._name)

    def bind(self, *args: Any, **kwargs: Any) -> MethodNode:
        """A node for a call of this method, in the graph that a method of the same actor returns. TypeError if the
        arguments do not match the signature, or if no method of the actor runs."""
        current = _running.get()
        if current is None or current.instance is not self.args[0]:
            raise TypeError(
                f"{self.func.__qualname__}.bind is for methods that run in the actor, and this is another object"
            )
        try:
            inspect.signature(self).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.func.__qualname__}(): {error}") from None
        return MethodNode(current, self._name, args, kwargs, self._options)

    step = bind

    def options(self, **options: Any) -> Bound:
        """The same method with other options for nodes; those not named stay."""
        return _bound(self.func, self.args[0], self._name, self._options.merged(options))


def _bound(function: Callable[..., Any], instance: Any, name: str, options: Options | None = None) -> Bound:
    bound = Bound(function, instance)
    bound._name = name
    if options is not None:
        bound._options = options
    return bound


class OwnMethod:
    """A method in the class that defines it."""

    __slots__ = ("function", "name")

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = name

    def __getattr__(self, name: str) -> Any:
        return _attribute(self, name)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self.function if instance is None else _bound(self.function, instance, self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.function,)  # pickles of the class have the function


class InheritedMethod:
    """A method in a class that inherits it."""

    __slots__ = ("heir", "name")

    def __init__(self, heir: type, name: str) -> None:
        self.heir = heir
        self.name = name

    def __getattr__(self, name: str) -> Any:
        return _attribute(self, name)

    @property
    def function(self) -> Any:
        return getattr(super(self.heir, self.heir), self.name)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return getattr(super(self.heir, owner or self.heir), self.name)
        found = getattr(super(self.heir, instance), self.name)
        function = getattr(found, "__func__", None)
        return found if function is None else _bound(function, instance, self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return InheritedMethod, (self.heir, self.name)


METHODS: Final = (OwnMethod, InheritedMethod)


def _attribute(method: Any, name: str) -> Any:
    """An attribute of the function, such as a mark of a decorator."""
    if name in ("function", "heir", "name"):  # while it is unpickled
        raise AttributeError(name)
    return getattr(method.function, name)


def _itself(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def is_prepared(cls: type, own: str) -> bool:
    """Whether the methods of a class still have `.bind`. `own`: what `prepare` returned."""
    return not own or type(vars(cls).get(own)) is OwnMethod


def prepare(cls: type) -> str:
    """Give the public methods of a class `.bind`. Nothing else about it changes. Returns the name of one that the class
    defines; "" if it defines none. Idempotent."""
    defined = ""
    for name in dir(cls):
        if name.startswith("_"):
            continue
        own = vars(cls).get(name)
        if type(own) in (FunctionType, OwnMethod):
            defined = name
        if type(own) is FunctionType:
            type.__setattr__(cls, name, OwnMethod(own, name))
        elif own is None and type(inspect.getattr_static(cls, name, None)) in (FunctionType, *METHODS):
            type.__setattr__(cls, name, InheritedMethod(cls, name))
    return defined
