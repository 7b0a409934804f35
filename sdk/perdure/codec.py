"""Python values, functions and exceptions to payloads and back.

Only workers and Python clients import this: the engine never decodes. Large buffers (numpy, Arrow) are
kept out of the pickle (protocol 5, PEP 574) and laid out so that a mapped file is read without a copy.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import pickle
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cloudpickle  # type: ignore[import-untyped]

from perdure.model import NULL, Attribute, Function, Index, Key, Path, Payload, Ref
from perdure.v1 import spec_pb2, worker_service_pb2, workflow_pb2

PICKLE: Final = "python/pickle"
BUFFERS: Final = "python/pickle+buffers"
JSON: Final = "json/plain"
BINARY: Final = "binary/plain"
OUTCOME: Final = "perdure/outcome"
ARGUMENTS: Final = "perdure/arguments"

BUFFER_BYTES_MIN: Final = 4096
"""Smaller buffers stay in the pickle, where they cost less than a place of their own."""
ALIGNMENT: Final = 64
MAGIC: Final = b"PERDURE1"

PYTHON_VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


class CodecError(ValueError):
    """A value could not be encoded or decoded. `__cause__` says why."""


class FunctionUnavailable(ImportError):
    """A function could not be loaded here."""


# ------------------------------------------------------------------------------ values


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded value in pieces that share the memory of the value."""

    encoding: str
    chunks: tuple[bytes | memoryview, ...]

    @property
    def size(self) -> int:
        return sum(len(chunk) for chunk in self.chunks)

    def inline(self) -> Payload:
        """As one piece, copied."""
        return Payload(self.encoding, b"".join(self.chunks))


def encode(value: object) -> Encoded:
    """Pickle a value. Raises CodecError if it cannot be pickled."""
    buffers: list[memoryview] = []

    def keep_out(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if len(view) < BUFFER_BYTES_MIN:
            return True
        buffers.append(view)
        return False

    try:
        data = _dump(value, keep_out)
    except Exception as error:
        raise CodecError(f"a value of type {_name(type(value))} cannot be pickled: {error}") from error
    if not buffers:
        return Encoded(PICKLE, (data,))
    lengths = [len(data), *(len(view) for view in buffers)]
    header = MAGIC + struct.pack(f"<Q{len(lengths)}Q", len(lengths), *lengths)
    chunks: list[bytes | memoryview] = [header, data]
    end = len(header) + len(data)
    for view in buffers:
        padding = -end % ALIGNMENT
        chunks += [bytes(padding), view]
        end += padding + len(view)
    return Encoded(BUFFERS, tuple(chunks))


def _dump(value: object, keep_out: Callable[[pickle.PickleBuffer], bool]) -> bytes:
    out = io.BytesIO()
    cloudpickle.Pickler(out, protocol=5, buffer_callback=keep_out).dump(value)
    return out.getvalue()


def encode_value(value: object) -> Encoded:
    """Like `encode`, but None is the null that every language knows."""
    return Encoded(NULL.encoding, ()) if value is None else encode(value)


def decode(payload: Payload, data: bytes | memoryview | None = None) -> Any:
    """The value of a payload; `data` are the bytes of its blob if it has one. Buffers are not copied,
    so arrays are read-only. Raises CodecError."""
    data = payload.data if data is None else data
    try:
        match payload.encoding:
            case "python/pickle":
                return pickle.loads(data)
            case "python/pickle+buffers":
                return _decode_buffers(memoryview(data))
            case "json/plain":
                return json.loads(bytes(data))
            case "binary/plain":
                return bytes(data)
            case "binary/null":
                return None
            case "perdure/outcome":
                return _decode_outcome(bytes(data))
            case encoding:
                raise CodecError(f"no decoder for the encoding {encoding!r}")
    except CodecError:
        raise
    except Exception as error:
        raise CodecError(f"a {payload.encoding} value cannot be decoded: {type(error).__name__}: {error}") from error


def _decode_buffers(data: memoryview) -> Any:
    if bytes(data[:8]) != MAGIC:
        raise CodecError("not a pickle with buffers")
    (count,) = struct.unpack_from("<Q", data, 8)
    lengths = struct.unpack_from(f"<{count}Q", data, 16)
    end = 16 + 8 * count + lengths[0]
    pickled = data[end - lengths[0] : end]
    buffers = []
    for length in lengths[1:]:
        start = end + -end % ALIGNMENT
        end = start + length
        buffers.append(data[start:end].toreadonly())
    return pickle.loads(pickled, buffers=buffers)


def _decode_outcome(data: bytes) -> tuple[Any, BaseException | None]:
    from perdure import failures, wire

    outcome = workflow_pb2.Outcome.FromString(data)
    if outcome.WhichOneof("kind") == "failure":
        return None, failures.to_exception(wire.failure_from_proto(outcome.failure))
    return decode(wire.payload_from_proto(outcome.output)), None


def apply_path(value: Any, path: Path) -> Any:
    """The part of a value that a reference picks."""
    for step in path:
        match step:
            case Index(index):
                value = value[index]
            case Key(key):
                value = value[key]
            case Attribute(name):
                value = getattr(value, name)
    return value


# ------------------------------------------------------------------------------ arguments


def encode_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], ref_of: Callable[[object], Ref | None]
) -> tuple[Payload, tuple[Ref, ...]]:
    """Pickle a call. What `ref_of` names is left out and stands in the refs instead, each once.

    A reference that is an argument itself and one inside a container are told apart, since workers
    may hand them over differently.
    """
    refs: dict[Ref, int] = {}
    direct = [ref_of(arg) for arg in args]
    direct_named = {name: ref_of(arg) for name, arg in kwargs.items()}

    def position(ref: Ref) -> int:
        return refs.setdefault(ref, len(refs))

    plain_args = tuple(arg if ref is None else _Direct(position(ref)) for arg, ref in zip(args, direct, strict=True))
    plain_kwargs = {
        name: arg if (ref := direct_named[name]) is None else _Direct(position(ref)) for name, arg in kwargs.items()
    }

    out = io.BytesIO()
    try:
        _ArgumentsPickler(out, ref_of, position).dump((plain_args, plain_kwargs))
    except Exception as error:
        raise CodecError(f"the arguments cannot be pickled: {error}") from error
    return Payload(PICKLE, out.getvalue()), tuple(refs)


class _ArgumentsPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Leaves references out."""

    def __init__(self, out: io.BytesIO, ref_of: Callable[[object], Ref | None], position: Callable[[Ref], int]) -> None:
        super().__init__(out, protocol=5)
        self._ref_of = ref_of
        self._position = position

    def persistent_id(self, value: object) -> tuple[str, int] | None:
        if type(value) is _Direct:
            return ("value", value.index)
        ref = self._ref_of(value)
        return None if ref is None else ("nested", self._position(ref))


@dataclass(frozen=True, slots=True)
class _Direct:
    """Stands for a reference that is an argument itself."""

    index: int


def decode_arguments(
    payload: Payload, resolve: Callable[[int, bool], Any], data: bytes | memoryview | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call. `resolve(index, is_nested)` gives the value of a reference."""
    data = payload.data if data is None else data
    if payload.encoding == ARGUMENTS:
        return _compose(worker_service_pb2.Arguments.FromString(bytes(data)), resolve)

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            kind, index = pid
            return resolve(index, kind == "nested")

    try:
        args, kwargs = Unpickler(io.BytesIO(data)).load()
    except Exception as error:
        raise CodecError(f"the arguments cannot be decoded: {type(error).__name__}: {error}") from error
    return args, kwargs


def _compose(
    arguments: worker_service_pb2.Arguments, resolve: Callable[[int, bool], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """References are numbered in the order of `graphwire.arguments_refs`."""
    count = 0

    def value_of(arg: spec_pb2.Arg, *, is_nested: bool) -> Any:
        nonlocal count
        match arg.WhichOneof("kind"):
            case "list":
                return [value_of(item, is_nested=True) for item in arg.list.items]
            case "map":
                return {key: value_of(arg.map.entries[key], is_nested=True) for key in sorted(arg.map.entries)}
            case "payload":
                from perdure import wire

                return decode(wire.payload_from_proto(arg.payload))
            case _:
                count += 1
                return resolve(count - 1, is_nested)

    args = tuple(value_of(arg, is_nested=False) for arg in arguments.args)
    return args, {name: value_of(arguments.kwargs[name], is_nested=False) for name in sorted(arguments.kwargs)}


# ------------------------------------------------------------------------------ functions


def encode_function(function: Callable[..., Any]) -> Function:
    """A function to be called elsewhere: by reference if it can be imported, else with its code."""
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
    try:
        code: bytes = cloudpickle.dumps(function, protocol=5)
    except Exception as error:
        raise CodecError(f"the function {name} cannot be pickled: {error}") from error
    key = hashlib.sha256(code).hexdigest()
    return Function(key, name, Payload(PICKLE, code), python_version=PYTHON_VERSION)


def load_function(function: Function, data: bytes | memoryview | None = None) -> Callable[..., Any]:
    """The function itself. Raises FunctionUnavailable with what has to be done about it."""
    try:
        if function.code is None:
            module, _, qualname = function.name.partition(":")
            found: Any = importlib.import_module(module)
            for part in qualname.split("."):
                found = getattr(found, part)
        else:
            if function.python_version and function.python_version != PYTHON_VERSION:
                raise FunctionUnavailable(
                    f"{function.name} was pickled by Python {function.python_version}, and this is {PYTHON_VERSION}"
                )
            found = pickle.loads(function.code.data if data is None else data)
    except FunctionUnavailable:
        raise
    except Exception as error:
        raise FunctionUnavailable(
            f"{function.name} cannot be loaded on the worker: {type(error).__name__}: {error}. Make its module "
            "importable there (working directory of the agent, runtime_env), or have cloudpickle send it by value"
        ) from error
    if not callable(found):
        raise FunctionUnavailable(f"{function.name} is a {_name(type(found))}, not a function")
    loaded: Any = found
    inner: Callable[..., Any] = loaded.function if hasattr(loaded, "__perdure_task__") else loaded
    return inner  # a @perdure.task is its function


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
