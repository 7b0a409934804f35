"""Values on a worker: decodes those that attempts need, and stores those that they make."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from perdure import codec, conversion, failures, graph, graphwire, runtimeenv
from perdure.arguments import decode_arguments, encode_arguments
from perdure.context import Context
from perdure.model import (
    AS_JSON,
    INLINE_BYTES_MAX,
    WAITED,
    BlobRef,
    Call,
    Failure,
    FailureKind,
    Function,
    Path,
    Payload,
    Spec,
    SpecNode,
    Waited,
    frozen,
)
from perdure.storage.ports import BlobNotFound, CorruptData
from perdure.worker.interrupt import Interrupted
from perdure.worker.results import (
    Bad,
    Continued,
    Returned,
    bad_of,
    continued,
    data_lost,
    invalid_arguments,
    returned,
    serialization,
)
from perdure.worker.schemas import ANY, NotConvertible, TypedFunction

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


def with_json_output(spec: Spec) -> Spec:
    """The graph, whose output is to be JSON. That of an event or a timer is what it is."""

    def marked(node: SpecNode) -> SpecNode:
        if node.id != spec.output or not isinstance(node.action, Call):
            return node
        attributes = tuple(sorted({*node.action.arguments.attributes, AS_JSON}))
        arguments = replace(node.action.arguments, attributes=attributes)
        return replace(node, action=replace(node.action, arguments=arguments))

    return replace(spec, nodes=tuple(marked(node) for node in spec.nodes))


def _as_json(value: Any, typed: TypedFunction | None, *, as_json: bool) -> codec.Encoded | None:
    if typed is not None:
        data = typed.result(value, is_final=as_json)
    else:
        data = ANY.result(value, is_final=True) if as_json else None
    if data is None:
        return None
    return codec.encode_value(None) if data == b"null" else codec.Encoded(codec.JSON, (data,))


class _FromJson:
    """Implements FromJson for one call."""

    def __init__(self, typed: TypedFunction, values: Sequence[Value], task_id: str) -> None:
        self._typed = typed
        self._values = values
        self._task_id = task_id
        self.placed = typed.placed

    def argument(self, place: int | str, value: Any) -> Any:
        try:
            return self._typed.argument(place, value)
        except NotConvertible as error:
            raise Bad(invalid_arguments(error, self._task_id)) from error

    def is_json(self, index: int) -> bool:
        value = self._values[index]
        return value.payload.encoding in codec.OF_JSON and not value.wraps


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


class Values:
    """The values of one process's attempts. `environment`: what graphs that tasks return inherit."""

    def __init__(self, blobs: Blobs, environment: Mapping[str, Any] | None, objects: Objects | None) -> None:
        self._blobs = blobs
        self.objects: Objects = _NoObjects(blobs) if objects is None else objects
        self._environment = environment or {}

    # -------------------------------------------------------------------------- reading

    def arguments(
        self, arguments: Payload, values: Sequence[Value], task_id: str, typed: TypedFunction | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call, whose references are to these values. Those that are JSON are converted to the types
        of `typed`. Raises Bad."""
        data = self.bytes_of(arguments)
        resolved: dict[tuple[int, bool], Any] = {}
        is_first = True

        def resolve(index: int, as_object: bool) -> Any:
            nonlocal is_first
            key = (index, as_object)
            if as_object and is_first:
                is_first = False
                resolved.update(self._small_objects(values))
            if key not in resolved:
                value = values[index]
                resolved[key] = self._object(value) if as_object else self.decoded(value)
            return resolved[key]

        try:
            from_json = None if typed is None else _FromJson(typed, values, task_id)
            return decode_arguments(arguments, resolve, data, self.objects, self.bytes_of, from_json)
        except codec.Unresolved as unresolved:
            raise bad_of(unresolved) from unresolved
        except Interrupted:
            raise
        except BaseException as error:  # decoding a value and stepping into it runs code of the user's
            raise Bad(serialization(error, task_id, "its arguments")) from error

    def decoded(self, value: Value) -> Any:
        """The value of a reference."""
        decoded: Any
        if value.payload.encoding == WAITED:
            remaining = Waited.from_payload(value.payload).remaining
            decoded = ([self.decoded(ready) for ready in value.ready], [graph.TaskNode(task) for task in remaining])
        else:
            decoded = codec.decode(value.payload, self.bytes_of(value.payload), self.objects)
        for _ in range(value.wraps):
            decoded = (decoded, None)
        if not value.path:
            return decoded
        part = codec.apply_path(decoded, value.path)
        return self.objects.contents(part) if codec.is_object(part) else part

    def _small_objects(self, values: Sequence[Value]) -> dict[tuple[int, bool], Any]:
        """Objects of the small values if they are many, by (position, True)."""
        small = [
            (index, value.payload)
            for index, value in enumerate(values)
            if value.is_whole and value.payload.blob is None and value.payload.encoding != codec.OBJECTS
        ]
        if len(small) < MANY_OBJECTS:
            return {}
        refs = self.objects.load_all([payload for _, payload in small])
        return {(index, True): ref for (index, _), ref in zip(small, refs, strict=True)}

    def _object(self, value: Value) -> Any:
        """An object of Ray with the value, which is not decoded here if it need not be."""
        if not value.is_whole:
            return self.objects.put(self.decoded(value))
        return self.objects.load(value.payload)

    def bytes_of(self, payload: Payload) -> bytes | memoryview:
        """The bytes of a payload. Raises Bad."""
        return payload.data if payload.blob is None else self.load_blob(payload.blob)

    def load_blob(self, blob: BlobRef) -> memoryview:
        """The bytes of a blob. Raises Bad."""
        try:
            return self._blobs.load(blob)
        except (BlobNotFound, CorruptData) as error:  # no other attempt will find it otherwise
            raise Bad(data_lost(f"blob {blob.sha256} cannot be read: {failures.text_of(error)}")) from error
        except Exception as error:
            message = f"blob {blob.sha256} cannot be read: {failures.text_of(error)}"
            failure = Failure(FailureKind.SYSTEM, failures.type_name(type(error)), message)
            raise Bad(failure) from error

    # -------------------------------------------------------------------------- storing

    def result(
        self,
        value: Any,
        function: Function,
        task_id: str,
        typed: TypedFunction | None = None,
        *,
        as_json: bool = False,
    ) -> Returned | Continued:
        """The result of an attempt of this function that returned this value: JSON if `typed` knows its type, or with
        `as_json` if that is possible. Raises Bad."""
        try:
            if graph.is_node(value):
                spec = conversion.to_spec(value, self.objects, names_modules=False)
                spec = self._without_large_parts(with_json_output(spec) if as_json else spec, task_id)
                spec = runtimeenv.snapshot(spec, self._environment, _Packages(self._blobs))
                return continued(graphwire.encode_spec(spec), task_id)
            if codec.is_object(value):
                return returned(self.objects.store(value, innermost=True), task_id)
            is_named = function.code is None  # callers are of any language
            portable = _as_json(value, typed, as_json=as_json)
            if portable is None and is_named:
                portable = codec.encode_portable(value)
            encoded = portable or codec.encode_value(value, self.objects)
        except codec.Unresolved as unresolved:
            raise bad_of(unresolved) from unresolved
        except Interrupted:
            raise
        except BaseException as error:  # pickling runs code of the user's
            raise Bad(serialization(error, task_id, "what it returned")) from error
        return returned(self.payload(encoded, task_id, INLINE_BYTES_MAX), task_id)

    def encoded_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any], task_id: str) -> Payload:
        """The arguments of a call that is made later. Large ones are stored. Raises TypeError for a node."""
        encoded, _ = encode_arguments(args, kwargs, graph.refuse_node, self.objects)
        if encoded.size <= INLINE_BYTES_MAX:
            return encoded
        blob = self._store(codec.Encoded(encoded.encoding, (encoded.data,)), task_id)
        return replace(encoded, data=b"", blob=blob)

    def payload(self, encoded: codec.Encoded, task_id: str, inline_bytes_max: int) -> Payload:
        """An encoded value as a payload; stored as a blob if it is larger than this. Raises Bad."""
        if encoded.size <= inline_bytes_max:
            return encoded.inline()
        return encoded.stored(self._store(encoded, task_id))

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
            raise Bad(Failure(FailureKind.SYSTEM, failures.type_name(type(error)), message)) from error
