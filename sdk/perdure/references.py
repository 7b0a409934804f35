"""References to actors. A reference stands for one actor, by its id, and its methods are called through the service.

Making a reference makes no call: an actor is made when it is called first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from perdure import ambient, errors, texts
from perdure.actorcalls import ActorCalls, ActorDefinition
from perdure.loopthread import LoopThread
from perdure.values import Values

R = TypeVar("R")

MADE_MAX: Final = 3
"""Times that one call makes its actor. An actor that is there may be deleted before it gets the call."""


class Reference:
    """Stands for one actor. `reference.method(...)` is a call of a method. `values` is the connection of its client, if
    it has one."""

    __slots__ = ("_args", "_definition", "_kwargs", "_thread", "_values", "actor_id")

    def __init__(
        self,
        actor_id: str,
        values: Values | None = None,
        definition: ActorDefinition | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.actor_id = texts.name(actor_id, "actor_id")
        self._values = values
        self._thread: LoopThread | None = None
        self._definition = definition
        self._args = args
        self._kwargs = dict(kwargs or {})

    def __repr__(self) -> str:
        return f"<perdure actor {self.actor_id!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._definition is None:
            return Reference, (self.actor_id,)
        return _restored, (self.actor_id, self._definition.function, self._args, self._kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and other.actor_id == self.actor_id and other._values is self._values

    def __hash__(self) -> int:
        return hash(self.actor_id)

    def __getattr__(self, name: str) -> RemoteMethod:
        if name.startswith("_"):
            raise AttributeError(f"{name} begins with an underscore, and is not for callers of an actor")
        definition = self._definition
        if definition is not None and not callable(getattr(_class_of(definition), name, None)):
            raise AttributeError(f"{definition.function!r} has no method {name!r}")
        return RemoteMethod(self, name)


OWN_NAMES: Final = tuple(name for name in Reference.__slots__ if not name.startswith("_"))
"""No methods of actors can be called by these names."""


def in_thread(reference: Reference, thread: LoopThread) -> Reference:
    """The reference for synchronous code: the thread runs the loop of its client."""
    made = Reference(reference.actor_id, reference._values, reference._definition, reference._args, reference._kwargs)
    made._thread = thread
    return made


def _class_of(definition: ActorDefinition) -> type[Any]:
    function: Any = definition.function
    cls: type[Any] = function.cls
    return cls


def _restored(actor_id: str, actor_class: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reference:
    reference: Reference = actor_class.reference(actor_id, None, args, kwargs)
    return reference


class RemoteMethod:
    """A method of an actor, through a reference."""

    __slots__ = ("_expected_revision", "_min_revision", "_reference", "_request_id", "_timeout", "name")

    def __init__(
        self,
        reference: Reference,
        name: str,
        request_id: str | None = None,
        expected_revision: int | None = None,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> None:
        self._reference = reference
        self._request_id = request_id
        self._expected_revision = expected_revision
        self._min_revision = min_revision
        self._timeout = timeout
        self.name = name

    def __repr__(self) -> str:
        return f"<method {self.name} of {self._reference!r}>"

    def options(
        self,
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> RemoteMethod:
        """The same method, called in another way.

        `request_id` makes the call idempotent: a second call with the same id returns the result of the first; without
        one, each call has an id of its own, and only retries of this client share it. A recorded call fails unless the
        actor is at `expected_revision` when it runs. A readonly method, called without a request id, sees at least
        `min_revision`. Otherwise these two raise ValueError in the call. After `timeout` seconds the caller gets
        TimeoutError; a recorded call goes on.
        """
        return RemoteMethod(self._reference, self.name, request_id, expected_revision, min_revision, timeout)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method and return its value. Raises ActorCallError, with the method's own exception as `__cause__`,
        if it fails, MailboxFullError if too many calls wait, and ActorCycleError for a call that would wait for
        itself."""
        return await self._ask(self._values(), args, kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The same for synchronous code. In a method of an actor or a task it blocks the worker meanwhile."""
        reference = self._reference
        if reference._values is None:
            return ambient.blocking(lambda values: self._ask(values, args, kwargs))
        if reference._thread is None:
            raise RuntimeError("this reference belongs to an asynchronous client; await the call")
        return reference._thread.wait(self._ask(reference._values, args, kwargs))

    async def start(self, *args: Any, **kwargs: Any) -> StartedCall[Any]:
        """Record the call, and return once it is durable. Its value is read through what this returns."""
        calls = ActorCalls(self._values())
        reference = self._reference
        self._check_revisions(is_query=False)

        async def start(_timeout: float | None) -> str:
            return await calls.start(
                reference.actor_id,
                self.name,
                args,
                kwargs,
                request_id=self._request_id,
                expected_revision=self._expected_revision,
            )

        return StartedCall(calls, reference.actor_id, self.name, await self._made_if_missing(calls, start))

    def _values(self) -> Values:
        if self._reference._thread is not None:
            raise RuntimeError(f"this reference belongs to a SyncClient; call {self.name}.run(...)")
        return self._reference._values or ambient.values()

    async def _ask(self, values: Values, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        calls, reference = ActorCalls(values), self._reference
        definition = reference._definition
        is_query = definition is not None and self.name in definition.readonly and self._request_id is None
        self._check_revisions(is_query=is_query)

        async def call(timeout: float | None) -> Any:
            if is_query:
                return await calls.query(
                    reference.actor_id,
                    self.name,
                    args,
                    kwargs,
                    min_revision=self._min_revision,
                    timeout=timeout,
                )
            return await calls.call(
                reference.actor_id,
                self.name,
                args,
                kwargs,
                request_id=self._request_id,
                expected_revision=self._expected_revision,
                timeout=timeout,
            )

        return await self._made_if_missing(calls, call)

    def _check_revisions(self, *, is_query: bool) -> None:
        if is_query and self._expected_revision is not None:
            raise ValueError(
                f"expected_revision is for recorded calls, and {self.name!r} is readonly: it takes min_revision, or a "
                "request_id, with which it is recorded"
            )
        if not is_query and self._min_revision:
            raise ValueError(f"min_revision is for readonly methods, and the call of {self.name!r} is recorded")

    async def _made_if_missing(self, calls: ActorCalls, call: Callable[[float | None], Coroutine[Any, Any, R]]) -> R:
        """The result of `call`, which gets the seconds that it may take. All of this takes no longer than `timeout`."""
        reference, clock = self._reference, asyncio.get_running_loop().time
        until_s = None if self._timeout is None else clock() + self._timeout
        left_s = self._timeout
        for _ in range(MADE_MAX):
            try:
                return await call(left_s)
            except (errors.ActorNotFoundError, errors.ActorFailedError):  # its constructor failed: it has no state
                if reference._definition is None:
                    raise
            # Another caller may delete it while its constructor is waited for.
            with suppress(errors.ActorNotFoundError):
                try:
                    async with asyncio.timeout_at(until_s):
                        await calls.get_or_create(
                            reference._definition, reference.actor_id, reference._args, reference._kwargs, waits=True
                        )
                except TimeoutError:
                    raise TimeoutError(f"the actor {reference.actor_id!r} was not made in time") from None
            left_s = None if until_s is None else max(until_s - clock(), 0)
        return await call(left_s)


class StartedCall(Generic[R]):
    """A recorded call."""

    def __init__(self, calls: ActorCalls, actor_id: str, method: str, call_id: str) -> None:
        self.actor_id = actor_id
        self.call_id = call_id
        self._method = method
        self._calls = calls

    def __repr__(self) -> str:
        return f"<call {self.call_id!r} of actor {self.actor_id!r}>"

    async def output(self, *, timeout: float | None = None) -> R:
        """Its value; waits for it. Raises ActorCallError if it fails, TimeoutError after `timeout` seconds."""
        value: R = await self._calls.output(self.actor_id, self.call_id, method=self._method, timeout=timeout)
        return value

    async def drop(self) -> bool:
        """End it, if it has not ended: it fails. Idempotent."""
        return await self._calls.drop(self.actor_id, self.call_id)
