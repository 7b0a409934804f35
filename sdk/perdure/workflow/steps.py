"""`@workflow.step`: the API of Ray Workflows before `.bind()` (Ray 1.6 to 1.13).

A step is a task whose calls, made by `.step()`, can be run by themselves. It differs from a task in its retries, which
are those of Ray's steps: errors of the function are retried too, at once, and `max_retries` counts all attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, ParamSpec, Protocol, TypeVar, overload

from perdure.graph import CallNode, Task
from perdure.options import Options
from perdure.raydag import AT_ONCE
from perdure.workflow import running

P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")

DEFAULTS: Final = Options(max_retries=2, retry_exceptions=True, retry_policy=AT_ONCE)
"""Three attempts in all."""


class StepNode(CallNode[R]):
    """A call of a step: pass it to other steps and to `.bind()`, return it from a step, or run it."""

    __slots__ = ()

    def run(self, workflow_id: str | None = None, metadata: Mapping[str, Any] | None = None) -> R:
        """Run the graph that ends in this call and return its value. See `workflow.run`."""
        node: Any = self
        value: R = running.run(node, workflow_id=workflow_id, metadata=metadata)
        return value

    def run_async(self, workflow_id: str | None = None, metadata: Mapping[str, Any] | None = None) -> Any:
        """Like `run`, but returns a ray.ObjectRef of the value. See `workflow.run_async`."""
        return running.run_async(self, workflow_id=workflow_id, metadata=metadata)


class Step(Task[P, C, R]):
    """A function that can be a step of workflows. Calling it directly calls the function."""

    def step(self, *args: Any, **kwargs: Any) -> StepNode[R]:
        """A node for this call. Nodes in the arguments, also inside of lists, tuples, dictionaries, sets and
        dataclasses, arrive as their values. TypeError if the arguments do not match the signature."""
        self._check_call(args, kwargs)
        function: Any = self._original
        return StepNode(function, args, kwargs, self.default_options)

    def options(self, **options: Any) -> Step[P, C, R]:
        """The same step with other options; those not named stay. See `workflow.step`."""
        return Step(self.function, self.default_options.merged(_as_of_tasks(options)), self._original)


class StepDecorator(Protocol):
    """The result of `@step(...)`."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Step[P, R, R]: ...


@overload
def step(function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, Coroutine[Any, Any, R], R]: ...
@overload
def step(function: Callable[P, R], /) -> Step[P, R, R]: ...
@overload
def step(**options: Any) -> StepDecorator: ...
def step(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a step: `@workflow.step`, or `@workflow.step(num_gpus=1, max_retries=5)`.

    Options are those of `perdure.task`, but for `max_retries`: the number of attempts in all (3; -1: without limit),
    of which errors of the function use up one each, as lost workers do. Unknown or malformed options raise TypeError
    or ValueError here.
    """
    made = DEFAULTS.merged(_as_of_tasks(options))
    if function is not None:
        return Step(function, made)
    return lambda inner: Step(inner, made)


def _as_of_tasks(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of steps as options of tasks, whose `max_retries` does not count the first attempt."""
    converted = dict(options)
    attempts = converted.get("max_retries")
    if isinstance(attempts, int) and not isinstance(attempts, bool) and attempts != -1:
        if attempts < 1:
            raise ValueError("max_retries of a step counts all its attempts: it is 1 or more, or -1 for no limit")
        converted["max_retries"] = attempts - 1
    return converted
