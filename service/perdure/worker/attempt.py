"""One attempt: decodes stored arguments, calls user code, and stores its result.

Does not depend on Ray, streams or threads. Every fault of user code becomes a result: an exception, a value that
cannot be pickled, a function that cannot be loaded. Only exceptions that end the process on purpose are raised. A
result can always be sent: its size is bounded and its texts are Unicode.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeAlias

from perdure import codec, conversion, failures, functions, graph, graphwire, rayobjects, runtimeenv
from perdure.arguments import decode_arguments
from perdure.bounded import SharedBounded
from perdure.context import Context, bind_context
from perdure.model import (
    INLINE_BYTES_MAX,
    WAITED,
    BlobRef,
    Failure,
    FailureKind,
    Function,
    Path,
    Payload,
    Spec,
    Waited,
    frozen,
)
from perdure.storage.ports import BlobNotFound, CorruptData
from perdure.worker.interrupt import Interrupted

FUNCTIONS_MAX: Final = 1_000
SPEC_BYTES_MAX: Final = 6 * 1024 * 1024
"""A graph that a task returns travels in one message, without its large values."""
BLOBS_MAX: Final = 50_000
"""A value names the blobs that it refers to in one message."""
MANY_OBJECTS: Final = 32


class Blobs(Protocol):
    """Reads and writes blobs, called from the thread that runs user code."""

    def load(self, blob: BlobRef) -> memoryview:
        """All bytes, mapped where that is possible."""
        ...

    def store(self, encoded: codec.Encoded) -> BlobRef:
        """Store a value. It is durable when this returns."""
        ...


class Objects(codec.Objects, Protocol):
    """Reads and writes objects of Ray."""

    def store(self, ref: Any, *, innermost: bool = False) -> Payload:
        """Store the contents of an object. With `innermost`, references are followed until the contents are a value."""
        ...

    def contents(self, ref: Any) -> Any:
        """The value of an object of Ray."""
        ...

    def put(self, value: Any) -> Any:
        """An object of Ray with this value."""
        ...

    def load_all(self, payloads: Sequence[Payload]) -> list[Any]:
        """Like `load`, for many at once."""
        ...


@frozen
class Value:
    """The target of a reference in an argument: a stored value, wrapped `wraps` times into a pair (value, None), of
    which `path` selects a part. If the payload is the outcome of a Wait, `ready` are the values that it names.
    """

    payload: Payload
    wraps: int = 0
    path: Path = ()
    ready: tuple[Value, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the value is exactly that of the payload."""
        return not (self.wraps or self.path or self.payload.encoding == WAITED)


@frozen
class AttemptInput:
    """The input of an attempt. `is_limited`: user code is called after the report that the attempt began was sent."""

    context: Context
    function: Function
    arguments: Payload
    values: Sequence[Value]
    is_limited: bool = False


@frozen
class Returned:
    """The attempt returned a value. A large one is stored already."""

    output: Payload


@frozen
class Continued:
    """The attempt returned a graph, serialized."""

    spec: bytes


@frozen
class Failed:
    failure: Failure


Result: TypeAlias = Returned | Continued | Failed


async def with_ready(value: Value, read: Callable[[Sequence[str]], Awaitable[Sequence[Payload]]]) -> Value:
    """The value; if it is the outcome of a Wait, with the values that it names. `read` gives the outputs of tasks."""
    if value.payload.encoding != WAITED:
        return value
    named = Waited.from_payload(value.payload).ready
    outputs = await read([source for _, source, _ in named]) if named else ()
    ready = [Value(output, wraps) for output, (_, _, wraps) in zip(outputs, named, strict=True)]
    return replace(value, ready=tuple([await with_ready(inner, read) for inner in ready]))


@frozen
class _Packages:
    """Stores the packages of code that a returned graph needs."""

    blobs: Blobs

    def has(self, blob: BlobRef) -> bool:
        return False  # storing an existing blob again is cheap

    def put(self, data: bytes) -> BlobRef:
        return self.blobs.store(codec.Encoded(codec.BINARY, (data,)))


class _NoObjects:
    """Implements Objects for a process that is not part of a Ray cluster."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def value(self, payload: Payload) -> Any:
        return codec.decode(payload, payload.data if payload.blob is None else self._blobs.load(payload.blob), self)

    def store(self, ref: Any, *, innermost: bool = False) -> Payload:
        raise codec.CodecError(_NO_RAY)

    def contents(self, ref: Any) -> Any:
        raise codec.CodecError(_NO_RAY)

    def load(self, payload: Payload) -> Any:
        raise codec.CodecError(_NO_RAY)

    def put(self, value: Any) -> Any:
        raise codec.CodecError(_NO_RAY)

    def load_all(self, payloads: Sequence[Payload]) -> list[Any]:
        raise codec.CodecError(_NO_RAY)


_NO_RAY: Final = (
    "objects of Ray are for workers of a Ray cluster, and this is none; a node inside of a container reaches a "
    "@perdure.task as its value, and a ray.remote function as an object"
)


class _Bad(codec.Unresolved):
    """A failure outside user code, such as a value that cannot be read."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Runner:
    """Runs attempts, and keeps the functions it has loaded."""

    def __init__(
        self, blobs: Blobs, environment: Mapping[str, Any] | None = None, objects: Objects | None = None
    ) -> None:
        self._blobs = blobs
        self._objects: Objects = _NoObjects(blobs) if objects is None else objects
        self._environment = environment or {}  # what graphs that tasks return inherit
        self._functions: SharedBounded[str, Callable[..., Any]] = SharedBounded(FUNCTIONS_MAX)

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

    def run(self, attempt_input: AttemptInput) -> Result:
        """Run it in this thread. Raises exceptions that end a worker: Interrupted, KeyboardInterrupt, SystemExit."""
        try:
            function, args, kwargs = self._prepare(attempt_input)
            depth = sys.getrecursionlimit()
            with bind_context(attempt_input.context):
                try:
                    value = function(*args, **kwargs)
                except (Interrupted, KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    _leave_room(depth)
                    return Failed(failures.from_exception(error, _kind(error), skip_frames=1))
                finally:
                    _leave_room(depth)
            return self._finish(value, attempt_input)
        except _Bad as bad:
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
                    if _is_end(error):
                        raise
                    _leave_room(depth)
                    return Failed(failures.from_exception(error, _kind(error), skip_frames=1))
                finally:
                    _leave_room(depth)
            return self._finish(value, attempt_input)
        except _Bad as bad:
            return Failed(bad.failure)
        except BaseException as error:
            if _is_end(error):
                raise
            return unforeseen(error)

    def _prepare(self, attempt_input: AttemptInput) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        function = self._load(attempt_input.function)
        data = self._bytes_of(attempt_input.arguments)
        resolved: dict[tuple[int, bool], Any] = {}

        is_first = True

        def resolve(index: int, as_object: bool) -> Any:
            nonlocal is_first
            key = (index, as_object)
            if as_object and is_first:
                is_first = False
                resolved.update(self._small_objects(attempt_input.values))
            if key not in resolved:
                value = attempt_input.values[index]
                resolved[key] = self._object(value) if as_object else self._decode(value)
            return resolved[key]

        try:
            args, kwargs = decode_arguments(attempt_input.arguments, resolve, data, self._objects)
        except codec.Unresolved as unresolved:
            raise _bad(unresolved) from unresolved
        except Interrupted:
            raise
        except BaseException as error:  # decoding a value and stepping into it runs code of the user's
            raise _Bad(_serialization(error, attempt_input.context.task_id, "its arguments")) from error
        return function, args, kwargs

    def _decode(self, value: Value) -> Any:
        decoded: Any
        if value.payload.encoding == WAITED:
            remaining = Waited.from_payload(value.payload).remaining
            decoded = ([self._decode(ready) for ready in value.ready], [graph.TaskNode(task) for task in remaining])
        else:
            decoded = codec.decode(value.payload, self._bytes_of(value.payload), self._objects)
        for _ in range(value.wraps):
            decoded = (decoded, None)
        if not value.path:
            return decoded
        part = codec.apply_path(decoded, value.path)
        return self._objects.contents(part) if codec.is_object(part) else part

    def _small_objects(self, values: Sequence[Value]) -> dict[tuple[int, bool], Any]:
        """Objects of the small values if they are many, by (position, True)."""
        small = [
            (index, value.payload)
            for index, value in enumerate(values)
            if value.is_whole and value.payload.blob is None and value.payload.encoding != codec.OBJECTS
        ]
        if len(small) < MANY_OBJECTS:
            return {}
        refs = self._objects.load_all([payload for _, payload in small])
        return {(index, True): ref for (index, _), ref in zip(small, refs, strict=True)}

    def _object(self, value: Value) -> Any:
        """An object of Ray with the value, which is not decoded here if it need not be."""
        if not value.is_whole:
            return self._objects.put(self._decode(value))
        return self._objects.load(value.payload)

    def _bytes_of(self, payload: Payload) -> bytes | memoryview:
        return payload.data if payload.blob is None else self._load_blob(payload.blob)

    def _load_blob(self, blob: BlobRef) -> memoryview:
        try:
            return self._blobs.load(blob)
        except (BlobNotFound, CorruptData) as error:  # no other attempt will find it otherwise
            raise _Bad(data_lost(f"blob {blob.sha256} cannot be read: {failures.text_of(error)}")) from error
        except Exception as error:
            message = f"blob {blob.sha256} cannot be read: {failures.text_of(error)}"
            failure = Failure(FailureKind.SYSTEM, failures.type_name(type(error)), message)
            raise _Bad(failure) from error

    def _load(self, function: Function) -> Callable[..., Any]:
        if (found := self._functions.get(function.key)) is not None:
            return found
        code = function.code
        data = self._load_blob(code.blob) if code is not None and code.blob is not None else None
        try:
            found = functions.load_function(function, data, self._objects)
        except codec.Unresolved as unresolved:
            raise _bad(unresolved) from unresolved
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
            raise _Bad(failure) from error
        self._functions.keep(function.key, found)
        return found

    def _finish(self, value: Any, attempt_input: AttemptInput) -> Result:
        task_id = attempt_input.context.task_id
        try:
            if graph.is_node(value):
                spec = self._without_large_parts(conversion.to_spec(value, self._objects, names_modules=False), task_id)
                spec = runtimeenv.snapshot(spec, self._environment, _Packages(self._blobs))
                return _continued(graphwire.encode_spec(spec), task_id)
            if codec.is_object(value):
                return _returned(self._objects.store(value, innermost=True), task_id)
            is_registered = attempt_input.function.code is None  # callers are of any language
            portable = codec.encode_portable(value) if is_registered else None
            encoded = portable or codec.encode_value(value, self._objects)
        except codec.Unresolved as unresolved:
            raise _bad(unresolved) from unresolved
        except Interrupted:
            raise
        except BaseException as error:  # pickling runs code of the user's
            raise _Bad(_serialization(error, task_id, "what it returned")) from error
        if encoded.size <= INLINE_BYTES_MAX:
            return _returned(encoded.inline(), task_id)
        return _returned(encoded.stored(self._store(encoded, task_id)), task_id)

    def _without_large_parts(self, spec: Spec, task_id: str) -> Spec:
        parts = conversion.large_parts(spec, INLINE_BYTES_MAX)
        stored = {
            part: replace(part, data=b"", blob=self._store(codec.Encoded(part.encoding, (part.data,)), task_id))
            for part in parts
        }
        return conversion.with_stored(spec, stored)

    def _store(self, encoded: codec.Encoded, task_id: str) -> BlobRef:
        try:
            return self._blobs.store(encoded)
        except Exception as error:
            message = f"the value of task {task_id!r} cannot be stored: {failures.text_of(error)}"
            raise _Bad(Failure(FailureKind.SYSTEM, failures.type_name(type(error)), message)) from error


def _leave_room(depth: int) -> None:
    """Restore the recursion limit if user code lowered it: the whole process shares it."""
    if sys.getrecursionlimit() < depth:
        sys.setrecursionlimit(depth)


def unforeseen(error: BaseException) -> Failed:
    """The result of an attempt that ended with an exception that nothing else handles."""
    failure = failures.from_exception(error)
    message = f"the attempt ended with {failure.type}: {failure.message}"
    return Failed(replace(failure, kind=FailureKind.SERIALIZATION, message=message, error=None))


def result_of(task: asyncio.Task[Result]) -> Result | None:
    """The result of a finished asyncio task of `run_async`; None: it was cancelled."""
    if task.cancelled():
        return None
    error = task.exception()
    return task.result() if error is None else unforeseen(error)


def exited(exit_: BaseException) -> Failed:
    """The result of an attempt that raised SystemExit or KeyboardInterrupt."""
    message = f"the task ended with {failures.described(exit_)}"
    return Failed(Failure(FailureKind.SYSTEM, "perdure.WorkerExited", message))


def _returned(output: Payload, task_id: str) -> Returned:
    if len(output.refs) > BLOBS_MAX:
        message = f"task {task_id!r}: what it returned refers to {len(output.refs)} large objects, {BLOBS_MAX} at most"
        raise _Bad(Failure(FailureKind.SERIALIZATION, "perdure.ValueTooLarge", message))
    return Returned(output)


def _continued(spec: bytes, task_id: str) -> Continued:
    if len(spec) > SPEC_BYTES_MAX:
        message = (
            f"task {task_id!r}: the graph that it returned has {len(spec)} bytes without its large values, "
            f"{SPEC_BYTES_MAX} at most; return a graph of tasks that return its parts"
        )
        raise _Bad(Failure(FailureKind.SERIALIZATION, "perdure.GraphTooLarge", message))
    return Continued(spec)


def _is_end(error: BaseException) -> bool:
    """Whether the attempt's own coroutine was cancelled, and not one that it awaited."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return False


def _kind(error: BaseException) -> FailureKind:
    try:
        return FailureKind.SYSTEM if rayobjects.is_loss(error) else FailureKind.APPLICATION
    except Exception:  # it may hide its class
        return FailureKind.APPLICATION


def _bad(unresolved: codec.Unresolved) -> _Bad:
    """As a failure: of the task if an object is an error, else of the system."""
    if isinstance(unresolved, _Bad):
        return unresolved
    if isinstance(unresolved, rayobjects.ObjectFailed):
        failure = failures.from_exception(unresolved.error, _kind(unresolved.error))
        return _Bad(replace(failure, stack_trace=failure.stack_trace or unresolved.trace))
    kind = type(unresolved.__cause__ or unresolved)
    return _Bad(Failure(FailureKind.SYSTEM, failures.type_name(kind), failures.text_of(unresolved)))


def _serialization(error: BaseException, task_id: str, what: str) -> Failure:
    failure = failures.from_exception(error, FailureKind.SERIALIZATION)
    text = failure.message if isinstance(error, Exception) else failures.described(error)
    advice = functions.renamed(error)
    message = f"task {task_id!r}: {what} cannot travel: {text}" + (f". {advice}" if advice else "")
    return Failure(FailureKind.SERIALIZATION, failure.type, message, failure.stack_trace, failure.base_types)


def data_lost(what: str) -> Failure:
    """The failure of a task that needs damaged or missing data. It is not retried."""
    return Failure(FailureKind.SYSTEM, "perdure.CorruptData", f"data is lost: {what}", non_retryable=True)


def now_ms() -> int:
    return time.time_ns() // 1_000_000
