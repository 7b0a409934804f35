"""One attempt: from stored bytes to a call of user code, and from what it gives back to stored bytes.

Knows nothing of Ray, streams or threads. Nothing that user code does escapes from here but what ends
the process on purpose: an exception, a value that cannot be pickled, a function that cannot be loaded
all become a result.
"""

from __future__ import annotations

import inspect
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from perdure import codec, failures, graph, graphwire
from perdure.context import Context, bind_context
from perdure.model import INLINE_BYTES_MAX, BlobRef, Failure, FailureKind, Function, InvalidSpec, Path, Payload
from perdure.worker.interrupt import Interrupted

FUNCTIONS_MAX: Final = 1_000


class Blobs(Protocol):
    """Large values, from the thread that runs user code."""

    def load(self, blob: BlobRef) -> memoryview:
        """All bytes, mapped where that is possible."""
        ...

    def store(self, encoded: codec.Encoded) -> BlobRef:
        """Durable when it returns."""
        ...


@dataclass(frozen=True, slots=True)
class Value:
    """What an argument refers to: a stored value, put into `wraps` pairs (value, None), and a part of it."""

    payload: Payload
    wraps: int = 0
    path: Path = ()


@dataclass(frozen=True, slots=True)
class Assignment:
    """All that an attempt needs."""

    context: Context
    function: Function
    arguments: Payload
    values: Sequence[Value]


@dataclass(frozen=True, slots=True)
class Returned:
    """A value; a large one is stored already."""

    output: Payload


@dataclass(frozen=True, slots=True)
class Continued:
    """A graph, serialized."""

    spec: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    failure: Failure


Result: TypeAlias = Returned | Continued | Failed


class _Bad(Exception):
    """Something around the user's code went wrong, as a failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Runner:
    """Runs attempts, and keeps the functions it has loaded."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._functions: OrderedDict[str, Callable[..., Any]] = OrderedDict()

    def is_async(self, function: Function) -> bool:
        """Whether the function is `async def`; one that cannot be loaded is not."""
        try:
            return inspect.iscoroutinefunction(self._load(function))
        except _Bad:
            return False

    def run(self, assignment: Assignment) -> Result:
        """Run it in this thread."""
        try:
            function, args, kwargs = self._prepare(assignment)
            with bind_context(assignment.context):
                try:
                    value = function(*args, **kwargs)
                except (Interrupted, KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    return Failed(failures.from_exception(error, skip_frames=1))
            return self._finish(value, assignment.context.task_id)
        except _Bad as bad:
            return Failed(bad.failure)

    async def run_async(self, assignment: Assignment) -> Result:
        """Run an `async def` function on the running loop."""
        try:
            function, args, kwargs = self._prepare(assignment)
            with bind_context(assignment.context):
                try:
                    value = await function(*args, **kwargs)
                except Exception as error:
                    return Failed(failures.from_exception(error, skip_frames=1))
            return self._finish(value, assignment.context.task_id)
        except _Bad as bad:
            return Failed(bad.failure)

    def _prepare(self, assignment: Assignment) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        function = self._load(assignment.function)
        decoded: dict[int, Any] = {}

        def resolve(index: int, _is_nested: bool) -> Any:
            if index not in decoded:
                decoded[index] = self._decode(assignment.values[index])
            return decoded[index]

        try:
            args, kwargs = codec.decode_arguments(assignment.arguments, resolve, self._bytes_of(assignment.arguments))
        except (codec.CodecError, LookupError, AttributeError, TypeError) as error:
            raise _Bad(_serialization(error, assignment.context.task_id, "its arguments")) from error
        return function, args, kwargs

    def _decode(self, value: Value) -> Any:
        decoded = codec.decode(value.payload, self._bytes_of(value.payload))
        for _ in range(value.wraps):
            decoded = (decoded, None)
        return codec.apply_path(decoded, value.path)

    def _bytes_of(self, payload: Payload) -> bytes | memoryview:
        return payload.data if payload.blob is None else self._load_blob(payload.blob)

    def _load_blob(self, blob: BlobRef) -> memoryview:
        try:
            return self._blobs.load(blob)
        except Exception as error:
            kind = type(error)
            message = f"blob {blob.sha256} cannot be read: {error}"
            failure = Failure(FailureKind.SYSTEM, failures.type_name(kind), message)
            raise _Bad(failure) from error

    def _load(self, function: Function) -> Callable[..., Any]:
        if (found := self._functions.get(function.key)) is not None:
            return found
        code = function.code
        data = self._load_blob(code.blob) if code is not None and code.blob is not None else None
        try:
            found = codec.load_function(function, data)
        except codec.FunctionUnavailable as error:
            failure = failures.from_exception(error, FailureKind.FUNCTION_UNAVAILABLE, skip_frames=1)
            raise _Bad(failure) from error
        self._functions[function.key] = found
        if len(self._functions) > FUNCTIONS_MAX:
            self._functions.popitem(last=False)
        return found

    def _finish(self, value: Any, task_id: str) -> Result:
        try:
            if graph.is_node(value):
                return Continued(graphwire.encode_spec(graph.to_spec(value)))
            encoded = codec.encode_value(value)
        except (codec.CodecError, InvalidSpec, TypeError, ValueError) as error:
            raise _Bad(_serialization(error, task_id, "what it returned")) from error
        if encoded.size <= INLINE_BYTES_MAX:
            return Returned(encoded.inline())
        try:
            return Returned(Payload(encoded.encoding, blob=self._blobs.store(encoded)))
        except Exception as error:
            message = f"the value of task {task_id!r} cannot be stored: {error}"
            raise _Bad(Failure(FailureKind.SYSTEM, failures.type_name(type(error)), message)) from error


def _serialization(error: Exception, task_id: str, what: str) -> Failure:
    failure = failures.from_exception(error, FailureKind.SERIALIZATION)
    message = f"task {task_id!r}: {what} cannot travel: {error}"
    return Failure(FailureKind.SERIALIZATION, failure.type, message, failure.stack_trace, failure.base_types)


def now_ms() -> int:
    return time.time_ns() // 1_000_000
