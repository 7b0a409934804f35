"""`@workflow.virtual_actor`: the virtual actors of Ray Workflows (Ray 1.6 to 1.13).

They are the actors of `perdure.actor`, called by `.run()` and `.run_async()`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from perdure import errors
from perdure.actorcalls import ActorCalls
from perdure.actors import ActorClass, readonly
from perdure.infos import ActorInfo
from perdure.model import CREATION, PENDING_CALLS_MAX
from perdure.options import Options
from perdure.workflow import gateway, outcomes
from perdure.workflow.connection import Connection, connect, in_main_thread_of_a_worker
from perdure.workflow.engines import start_ray
from perdure.workflow.running import check_id

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])


class VirtualActorClass(ActorClass[..., Any]):
    """A class of virtual actors."""

    def get_or_create(self, actor_id: str, *args: Any, **kwargs: Any) -> VirtualActor:
        """The actor of this id; made with these arguments if there is none, which are ignored otherwise. Returns once
        it is durable; `ready` waits for its constructor. TypeError for arguments that the constructor does not take,
        ValueError if the id is that of a workflow."""
        reference = self.reference(check_id(actor_id), None, args, kwargs)  # checks the arguments
        connection = connect()
        info = connection.ask(connection.client.actors.get_or_create(self.definition, reference.actor_id, args, kwargs))
        return VirtualActor(connection, info)


def get_actor(actor_id: str | None = None, *, workflow_id: str | None = None) -> VirtualActor:
    """The actor of this id, made by any program. ValueError if there is none. `workflow_id` is another word for the
    id."""
    if (actor_id is None) == (workflow_id is None):
        raise TypeError("get_actor takes an actor_id")
    named = check_id(workflow_id if actor_id is None else actor_id)
    connection = connect()
    try:
        return VirtualActor(connection, connection.ask(connection.client.actors.info(named)))
    except errors.ActorNotFoundError as error:
        raise ValueError(str(error)) from None


class VirtualActor:
    """One actor. `actor.method.run(...)` calls a method."""

    def __init__(self, connection: Connection, info: ActorInfo) -> None:
        self._connection = connection
        self._info = info
        self.actor_id = info.actor_id

    def __repr__(self) -> str:
        return f"<virtual actor {self.actor_id!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return get_actor, (self.actor_id,)

    def __getattr__(self, name: str) -> ActorMethod:
        if name.startswith("_"):
            raise AttributeError(f"{name} begins with an underscore, and is not for callers of an actor")
        return ActorMethod(self, name)

    def ready(self) -> Any:
        """A ray.ObjectRef that is there once the constructor has ended, and raises its error."""
        return _ref(self._connection, self.actor_id, CREATION)


class ActorMethod:
    """A method of an actor."""

    def __init__(self, actor: VirtualActor, name: str, call_id: str | None = None) -> None:
        self._actor = actor
        self._name = name
        self._call_id = call_id

    def options(self, *, name: str) -> ActorMethod:
        """The same method; `name` names the call: a second call with the same name returns the result of the first.
        Other options are those of the class: `@workflow.virtual_actor(max_retries=5)`."""
        return ActorMethod(self._actor, self._name, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"a method of a virtual actor is called by {self._name}.run() or {self._name}.run_async()")

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call it and return its value. Raises WorkflowExecutionError with the method's own exception as `__cause__`,
        and queue.Full if too many calls wait."""
        if self._name in self._actor._info.readonly_methods and self._call_id is None:
            return self._ask(self._calls.query(self._actor.actor_id, self._name, args, kwargs))
        if in_main_thread_of_a_worker():
            import ray

            # Frees the worker's CPU while it waits, because the call may need it.
            return ray.get(self.run_async(*args, **kwargs))
        return self._ask(self._calls.call(self._actor.actor_id, self._name, args, kwargs, request_id=self._call_id))

    def run_async(self, *args: Any, **kwargs: Any) -> Any:
        """Record the call; returns a ray.ObjectRef of its value once it is durable. A readonly method sees the calls
        before it."""
        starting = self._calls.start(self._actor.actor_id, self._name, args, kwargs, request_id=self._call_id)
        call_id = self._ask(starting)
        return _ref(self._actor._connection, self._actor.actor_id, call_id)

    @property
    def _calls(self) -> ActorCalls:
        return self._actor._connection.client.actors

    def _ask(self, work: Any) -> Any:
        try:
            return self._actor._connection.ask(work)
        except errors.ActorCallError as error:
            raise outcomes.failed(self._actor.actor_id, error.failure) from error.__cause__


def _ref(connection: Connection, actor_id: str, task_id: str) -> Any:
    start_ray()
    return gateway.output_ref(connection.address, connection.namespace, actor_id, "", task_id)


class _VirtualActor:
    """`@virtual_actor`, or `@virtual_actor(num_cpus=2)`; `@virtual_actor.readonly` for methods."""

    def __call__(self, cls: type[Any] | None = None, /, **options: Any) -> Any:
        """Make a class a class of virtual actors. Options are those of `perdure.actor`."""
        made = Options().merged(options)
        if cls is not None:
            return VirtualActorClass(cls, made, PENDING_CALLS_MAX)
        return lambda inner: VirtualActorClass(inner, made, PENDING_CALLS_MAX)

    @staticmethod
    def readonly(function: F) -> F:
        """Declare a method readonly: calls of it run in parallel, on the last committed state."""
        marked: Any = readonly(function)
        made: F = marked
        return made


virtual_actor: Final = _VirtualActor()
