"""Virtual actors: `@perdure.actor` classes, and references to actors.

A reference stands for one actor, by its id. Its methods are called through the service, on any worker. Making a
reference makes no call: an actor is made when it is called first.

For type checkers a reference has the type of the class. A method that is `async def`, or decorated by `@method` or
`@readonly`, is typed as what it is through a reference: `await counter.incr(10)` is of the method's return type. Mypy
does not know that `@actor` makes something else of a class, so `Actor` tells it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

import cloudpickle  # type: ignore[import-untyped]

from perdure import registry, tracebacks
from perdure.actorcalls import ActorDefinition
from perdure.graph import imported
from perdure.model import (
    CALL_RETENTION_MS,
    FIRST_VERSION,
    MIGRATE,
    PENDING_CALLS_MAX,
    READONLY_MARK,
    TTL_MS_MAX,
    TTL_MS_MIN,
    VERSION_MARK,
)
from perdure.options import TASK_OPTIONS, Options, milliseconds
from perdure.references import OWN_NAMES, Reference, StartedCall
from perdure.values import Values

P = ParamSpec("P")
A = TypeVar("A")
R = TypeVar("R")

VERSION_MAX: Final = 1_000_000_000
_NOT_OF_METHODS: Final = frozenset({"task_id", "name", "catch_exceptions", "checkpoint", "allow_inplace"})
"""Options of tasks that methods do not have."""
_OWN: Final = frozenset({"max_pending_calls", "ttl", "call_retention", "version"})
"""Options that only actors have."""


# ------------------------------------------------------------------------------ methods, for type checkers


class BoundMethod(Protocol[P, R]):
    """A method of an actor, through a reference."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call it and return its value. See `Reference`."""
        ...

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same for synchronous code."""
        ...

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, StartedCall[R]]:
        """Record the call, and return once it is durable."""
        ...

    def options(
        self,
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> BoundMethod[P, R]:
        """The same method, called in another way. See `RemoteMethod.options`."""
        ...

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """In a method of the same actor: a node for the graph that it returns."""
        ...


class Method(Protocol[P, R]):
    """A decorated method of a class."""

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Method[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any]) -> BoundMethod[P, R]: ...


@overload
def method(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Method[P, R]: ...
@overload
def method(function: Callable[Concatenate[Any, P], R], /) -> Method[P, R]: ...
def method(function: Callable[..., Any], /) -> Any:
    """Say that callers of the actor call this method. It changes nothing but its type: `await counter.incr(10)` and
    `counter.incr.start(10)` are typed through a reference. Methods of the class call it directly: `self.incr(10)`."""
    return function


@overload
def readonly(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Method[P, R]: ...
@overload
def readonly(function: Callable[Concatenate[Any, P], R], /) -> Method[P, R]: ...
def readonly(function: Callable[..., Any], /) -> Any:
    """Declare a method readonly: calls of it run in parallel, on the last committed state, and what they change is
    dropped."""
    setattr(function, READONLY_MARK, True)
    return function


# ------------------------------------------------------------------------------ classes


class Actor:
    """A base for classes decorated by `@actor`. It does nothing when the program runs: mypy, which leaves the results
    of class decorators out, finds `get` and `options` here. Other type checkers do not need it."""

    if TYPE_CHECKING:
        definition: ClassVar[ActorDefinition]

        @classmethod
        def get(cls: Callable[P, A], actor_id: str, *args: P.args, **kwargs: P.kwargs) -> A:
            """See `ActorClass.get`."""
            ...

        @classmethod
        def options(cls: Callable[P, A], **options: Any) -> ActorClass[P, A]:
            """See `ActorClass.options`."""
            ...


def class_of(actor_class: Callable[P, A]) -> ActorClass[P, A]:
    """The class that `@actor` made. Raises TypeError for anything else. The parameter has the type of the decorated
    class, because mypy ignores the result of a class's decorator."""
    if not isinstance(actor_class, ActorClass):
        raise TypeError(f"{actor_class!r} is no class of actors; decorate the class with @perdure.actor")
    found: ActorClass[P, A] = actor_class
    return found


class ActorClass(Generic[P, A]):
    """A class of virtual actors, made by `@actor`."""

    __perdure_actor__ = True

    def __init__(
        self,
        cls: Callable[P, A],
        options: Options,
        max_pending_calls: int = PENDING_CALLS_MAX,
        original: ActorClass[P, A] | None = None,
        ttl: float | None = None,
        call_retention: float | None = None,
    ) -> None:
        given: Any = cls
        if not inspect.isclass(given):
            raise TypeError(f"an actor is made of a class, not of a {type(given).__name__}")
        self.cls: Callable[P, A] = cls
        self.max_pending_calls = max_pending_calls
        self.ttl = ttl
        self.call_retention = call_retention
        self._options = options
        self._original = original or self
        self.__name__, self.__qualname__, self.__module__ = given.__name__, given.__qualname__, given.__module__
        self.__doc__ = cls.__doc__
        self.__wrapped__ = cls
        if taken := next((name for name in OWN_NAMES if callable(getattr(given, name, None))), None):
            raise TypeError(f"no method of an actor is called {taken!r}: references have an attribute of this name")
        if inspect.isfunction(inspect.getattr_static(given, MIGRATE, None)):
            raise TypeError(f"{MIGRATE} takes a version and a state, and no object: decorate it with @staticmethod")
        names = [name for name in dir(given) if getattr(inspect.getattr_static(given, name), READONLY_MARK, False)]
        ttl_ms = 0 if ttl is None else milliseconds("ttl", ttl)
        kept_ms = CALL_RETENTION_MS if call_retention is None else milliseconds("call_retention", call_retention)
        self.definition = ActorDefinition(self._original, options, max_pending_calls, tuple(names), ttl_ms, kept_ms)
        tracebacks.note(cls)

    def __repr__(self) -> str:
        return f"<perdure actor {self.__module__}.{self.__qualname__}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> A:
        """An object of the class itself, for tests: it is no actor."""
        return self.cls(*args, **kwargs)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        """A class that derives from this one derives from the class that was decorated, and is decorated itself."""
        return (self.cls,)

    @property
    def version(self) -> int:
        """The version of the class, for its states."""
        found: int = vars(self.cls).get(VERSION_MARK, FIRST_VERSION)
        return found

    def get(self, actor_id: str, *args: P.args, **kwargs: P.kwargs) -> A:
        """A reference to the actor of this id, at the engine that PERDURE_ADDRESS names, or in a task at the engine of
        the task. If there is no such actor when it is called first, it is made with these arguments; otherwise they are
        ignored. `Client.actor` is for another engine. InvalidFieldError for a malformed id, TypeError for arguments
        that the constructor does not take."""
        return cast(A, self.reference(actor_id, None, args, kwargs))

    def reference(
        self, actor_id: str, values: Values | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Reference:
        """As `get`, at the engine of a client."""
        try:
            inspect.signature(self.cls).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.__qualname__}(): {error}") from None
        return Reference(actor_id, values, self.definition, args, kwargs)

    def options(self, **options: Any) -> ActorClass[P, A]:
        """The same class with other options; those not named stay."""
        given, most, ttl, kept = _options(options, self.max_pending_calls, self.ttl, self.call_retention)
        return ActorClass(self.cls, self._options.merged(given), most, self._original, ttl, kept)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # By name if workers can import it; the code of a script or a closure travels with it.
        module = self.__module__
        by_value = module == "__main__" or module in cloudpickle.list_registry_pickle_by_value()
        if not by_value and imported(module, self.__qualname__) is self:
            return self.__qualname__
        return type(self), (self.cls, self._options, self.max_pending_calls, None, self.ttl, self.call_retention)


class ActorDecorator(Protocol):
    """The result of `@actor(...)`."""

    def __call__(self, cls: Callable[P, A], /) -> ActorClass[P, A]: ...


@overload
def actor(cls: Callable[P, A], /) -> ActorClass[P, A]: ...
@overload
def actor(**options: Any) -> ActorDecorator: ...
def actor(cls: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a class a class of virtual actors: `@actor`, or `@actor(num_gpus=1, timeout=60)`.

    Options: max_pending_calls (1,000), ttl (seconds, 1 or more: an actor that nobody calls for this long is deleted;
    without it, it lives until it is deleted), call_retention (seconds: older results of calls may be forgotten; 7
    days), and of `perdure.task` num_cpus, num_gpus, memory, resources, accelerator_type, runtime_env,
    scheduling_strategy, max_retries, retry_exceptions, retry_policy, timeout (seconds that an attempt of a method may
    take), keep_warm (calls prefer the worker that has the object, which stays for so many seconds) and metadata.

    `version` (1) grows when stored states no longer fit the class. A call that finds a state of an older version gives
    it to the static method `migrate(version, state)` of the class, which returns the state for this version; `state` is
    the dict of the attributes, or what `__getstate__` returned.

    `name` registers the class: workers that import its module announce it, with `version` if that is given, and clients
    in any language make and call its actors by this name. ValueError for a name and version that another class has.

    Unknown or malformed options raise TypeError or ValueError here.
    """
    name, announced = options.pop("name", None), str(options.get("version", ""))
    if name is not None:
        registry.check(name, announced)
    version = _version(options.pop("version", FIRST_VERSION))
    given, most, ttl, kept = _options(options, PENDING_CALLS_MAX, None, None)
    made = Options().merged(given)

    def decorate(inner: Callable[..., Any]) -> ActorClass[..., Any]:
        decorated = ActorClass(inner, made, most, None, ttl, kept)
        if version != FIRST_VERSION:
            setattr(inner, VERSION_MARK, version)
        if name is not None:
            registry.register(name, announced, decorated)
        return decorated

    return decorate if cls is None else decorate(cls)


def _version(version: object) -> int:
    if isinstance(version, bool) or not isinstance(version, int):
        raise TypeError("version is an integer")
    if not FIRST_VERSION <= version <= VERSION_MAX:
        raise ValueError(f"version is {FIRST_VERSION} to {VERSION_MAX:,}")
    return version


def _options(
    options: Mapping[str, Any], most: int, ttl: float | None, kept: float | None
) -> tuple[dict[str, Any], int, float | None, float | None]:
    """The options that actors share with tasks, and their own: max_pending_calls, ttl and call_retention."""
    given = dict(options)
    if unfit := sorted(given.keys() & _NOT_OF_METHODS):
        raise TypeError(f"{unfit[0]} is an option of tasks, and not of actors")
    if unknown := sorted(given.keys() - TASK_OPTIONS - _OWN):
        known = ", ".join(sorted((TASK_OPTIONS | _OWN) - _NOT_OF_METHODS))
        raise TypeError(f"unknown option {unknown[0]!r}; there are {known}")
    most = given.pop("max_pending_calls", most)
    if isinstance(most, bool) or not isinstance(most, int):
        raise TypeError("max_pending_calls is an integer")
    if most < 1:
        raise ValueError("max_pending_calls is 1 or more")
    return (
        given,
        most,
        _seconds(given.pop("ttl", ttl), "ttl"),
        _seconds(given.pop("call_retention", kept), "call_retention"),
    )


def _seconds(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number of seconds, or None")
    if not TTL_MS_MIN <= value * 1000 <= TTL_MS_MAX:
        raise ValueError(f"{name} is 1 second or more, and at most 10,000 years")
    return value
