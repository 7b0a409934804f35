"""One attempt: decodes stored arguments, calls user code, and stores its result.

Does not depend on Ray, streams or threads. Every fault of user code becomes a result: an exception, a value that
cannot be pickled, a function that cannot be loaded. Only exceptions that end the process on purpose are raised. A
result can always be sent: its size is bounded and its texts are Unicode.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from perdure import codec, failures, functions
from perdure.bounded import SharedBounded
from perdure.context import bind_context
from perdure.model import ACTOR_CALL, AS_JSON, FailureKind, Function
from perdure.wire import ARGUMENTS
from perdure.worker.interrupt import Interrupted
from perdure.worker.methods import Methods
from perdure.worker.results import Bad, Failed, Result, bad_of, exited, is_end, kind_of, leave_room, unforeseen
from perdure.worker.schemas import TypedFunction
from perdure.worker.values import AttemptInput, Blobs, Objects, Values

FUNCTIONS_MAX: Final = 1_000


class Runner:
    """Runs attempts, and keeps the functions it has loaded."""

    def __init__(
        self, blobs: Blobs, environment: Mapping[str, Any] | None = None, objects: Objects | None = None
    ) -> None:
        self._values = Values(blobs, environment, objects)
        self._functions: SharedBounded[str, Callable[..., Any]] = SharedBounded(FUNCTIONS_MAX)
        self._typed: SharedBounded[str, TypedFunction] = SharedBounded(FUNCTIONS_MAX)
        self._methods = Methods(self._values)

    def has_loaded(self, function: Function) -> bool:
        """Whether a call of the function imports nothing. Loading one may take long, or hang, so it is a part of the
        attempt: the worker reports that the attempt began before it calls `is_async` or `run`."""
        return function.key in self._functions

    def is_async(self, function: Function) -> bool:
        """Whether the function is `async def`; one that cannot be loaded is not."""
        try:
            return inspect.iscoroutinefunction(self._load(function))
        except Interrupted:
            raise
        except BaseException:  # the attempt will load it again and report the error
            return False

    def prepare(self, attempt_input: AttemptInput) -> None:
        """Make what an attempt in this thread needs, and what an interrupt must not leave half made."""
        if attempt_input.arguments.encoding == ACTOR_CALL:
            self._methods.prepare()

    def run(self, attempt_input: AttemptInput) -> Result:
        """Run it in this thread. Raises exceptions that end a worker: Interrupted, KeyboardInterrupt, SystemExit."""
        try:
            if attempt_input.arguments.encoding == ACTOR_CALL:
                return self._methods.run(attempt_input, self._load(attempt_input.function))
            function, args, kwargs = self._prepare(attempt_input)
            depth = sys.getrecursionlimit()
            with bind_context(attempt_input.context):
                try:
                    value = function(*args, **kwargs)
                except (Interrupted, KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    leave_room(depth)
                    return Failed(failures.from_exception(error, kind_of(error), skip_frames=1))
                finally:
                    leave_room(depth)
            return self._result(attempt_input, function, value)
        except Bad as bad:
            return Failed(bad.failure)
        except (Interrupted, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return unforeseen(error)

    async def run_async(self, attempt_input: AttemptInput) -> Result:
        """Run an `async def` function on the running loop. Raises CancelledError when it was cancelled."""
        try:
            function, args, kwargs = self._prepare(attempt_input)
            depth = sys.getrecursionlimit()
            with bind_context(attempt_input.context):
                try:
                    value = await function(*args, **kwargs)
                except (SystemExit, KeyboardInterrupt) as exit_:  # raised from a coroutine, it would end the loop
                    return exited(exit_)
                except BaseException as error:
                    if is_end(error):
                        raise
                    leave_room(depth)
                    return Failed(failures.from_exception(error, kind_of(error), skip_frames=1))
                finally:
                    leave_room(depth)
            return self._result(attempt_input, function, value)
        except Bad as bad:
            return Failed(bad.failure)
        except BaseException as error:
            if is_end(error):
                raise
            return unforeseen(error)

    def _prepare(self, attempt_input: AttemptInput) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        function = self._load(attempt_input.function)
        args, kwargs = self._values.arguments(
            attempt_input.arguments,
            attempt_input.values,
            attempt_input.context.task_id,
            self._typed_for(attempt_input, function),
        )
        return function, args, kwargs

    def _result(self, attempt_input: AttemptInput, function: Callable[..., Any], value: Any) -> Result:
        return self._values.result(
            value,
            attempt_input.function,
            attempt_input.context.task_id,
            self._typed_for(attempt_input, function),
            as_json=AS_JSON in attempt_input.arguments.attributes,
        )

    def _typed_for(self, attempt_input: AttemptInput, function: Callable[..., Any]) -> TypedFunction | None:
        """The types of a registered function that is called as other languages call it; None for any other call."""
        called = attempt_input.function
        if not called.is_registered or attempt_input.arguments.encoding != ARGUMENTS:
            return None
        typed = self._typed.get(called.key)
        if typed is None:
            self._typed.keep(called.key, typed := TypedFunction(function))
        return typed

    def _load(self, function: Function) -> Callable[..., Any]:
        if (found := self._functions.get(function.key)) is not None:
            return found
        code = function.code
        data = self._values.load_blob(code.blob) if code is not None and code.blob is not None else None
        try:
            found = functions.load_function(function, data, self._values.objects)
        except codec.Unresolved as unresolved:
            raise bad_of(unresolved) from unresolved
        except Interrupted:
            raise
        except BaseException as error:  # importing a module runs code of the user's
            failure = failures.from_exception(error, FailureKind.FUNCTION_UNAVAILABLE, skip_frames=1)
            if isinstance(error, functions.FunctionUnavailable):  # clients raise FunctionUnavailableError for it
                stack = (failure.cause or failure).stack_trace
                failure = replace(failure, type="perdure.FunctionUnavailable", error=None, stack_trace=stack)
            else:
                message = f"{function.name} cannot be loaded on the worker: {failures.described(error)}"
                failure = replace(failure, message=message)
            raise Bad(failure) from error
        self._functions.keep(function.key, found)
        return found


def now_ms() -> int:
    return time.time_ns() // 1_000_000
