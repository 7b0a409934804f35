"""Encodes Python values as payloads, and decodes them. `functions` and `failures` do the same for code and exceptions.

Only workers and Python clients import this; the engine never decodes. Large buffers (numpy, Arrow) are kept out of the
pickle (protocol 5, PEP 574) and laid out so that a mapped file is read without a copy.

Objects of Ray in a value are listed by their stored contents, in a table before the pickle. `Objects` fetches and
stores contents. Ray is used only if the program has loaded it.
"""

from __future__ import annotations

import copyreg
import io
import json
import pickle
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType
from typing import Any, Final, Protocol, TypeAlias

import cloudpickle  # type: ignore[import-untyped]

from perdure import told, tracebacks, wire
from perdure.model import NULL, Attribute, BlobRef, Index, Key, Path, Payload, frozen

PICKLE: Final = "python/pickle"
BUFFERS: Final = "python/pickle+buffers"
OBJECTS: Final = "python/pickle+objects"
JSON: Final = "json/plain"
OF_JSON: Final = frozenset({JSON, NULL.encoding})
"""Encodings of values of JSON."""
BINARY: Final = "binary/plain"
OUTCOME: Final = wire.OUTCOME
DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {}
"""Decoders of other modules, by encoding. `perdure.failures` adds that of OUTCOME, which contains errors."""

BUFFER_BYTES_MIN: Final = 4096
"""Smaller buffers stay in the pickle, where they cost less."""
ALIGNMENT: Final = 64
ATOMS: Final = frozenset({int, str, bytes, float, bool, type(None)})
"""Types whose values need nothing of this module to be pickled."""
MAGIC: Final = b"PERDURE1"
MAGIC_OBJECTS: Final = b"PERDUREO"


class CodecError(ValueError):
    """A value could not be encoded or decoded. `__cause__` says why."""


class Unresolved(Exception):
    """Something that a value refers to cannot be fetched or stored. Encoding and decoding pass it on unchanged."""


class Objects(Protocol):
    """Objects of Ray by their stored contents. Every method may raise CodecError and Unresolved."""

    def store(self, ref: Any) -> Payload:
        """Store the contents of a ray.ObjectRef. They are durable, with everything they refer to, when this returns."""
        ...

    def load(self, payload: Payload) -> Any:
        """A ray.ObjectRef of these contents."""
        ...

    def value(self, payload: Payload) -> Any:
        """The value of these contents."""
        ...


def is_object(value: object) -> bool:
    """Whether it is a ray.ObjectRef."""
    raylet = sys.modules.get("ray._raylet")
    return raylet is not None and isinstance(value, raylet.ObjectRef)


# ------------------------------------------------------------------------------ values


@frozen
class Encoded:
    """An encoded value, in pieces that share memory with the value."""

    encoding: str
    chunks: tuple[bytes | memoryview, ...]
    refs: tuple[BlobRef, ...] = ()

    @property
    def size(self) -> int:
        return sum(len(chunk) for chunk in self.chunks)

    def inline(self) -> Payload:
        """An inline payload, with the bytes copied into one piece."""
        return Payload(self.encoding, b"".join(self.chunks), refs=self.refs)

    def stored(self, blob: BlobRef) -> Payload:
        """The payload that refers to the blob as which the bytes were stored."""
        return Payload(self.encoding, blob=blob, refs=self.refs)


Reducers: TypeAlias = Mapping[type, Callable[[Any], Any]]
"""How objects of some types are reduced, as in `copyreg.dispatch_table`."""


def encode(value: object, objects: Objects | None = None, reducers: Reducers | None = None) -> Encoded:
    """Pickle a value. Raises CodecError if it cannot be pickled."""
    if type(value) in ATOMS:
        return Encoded(PICKLE, (pickle.dumps(value, protocol=5),))
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

    nested = Nested(objects)
    try:
        pickled = pickle_value(value, nested, keep_out, reducers=reducers)
    except (CodecError, Unresolved):
        raise
    except Exception as error:
        raise CodecError(
            f"a value of type {told.type_name(type(value))} cannot be pickled: {told.text_of(error)}"
        ) from error
    chunks: list[bytes | memoryview] = [pickled]
    encoding = PICKLE
    if buffers:
        encoding = BUFFERS
        lengths = [len(chunks[0]), *(len(view) for view in buffers)]
        header = MAGIC + struct.pack(f"<Q{len(lengths)}Q", len(lengths), *lengths)
        chunks.insert(0, header)
        end = len(header) + lengths[0]
        for view in buffers:
            padding = -end % ALIGNMENT
            chunks += [bytes(padding), view]
            end += padding + len(view)
    if nested.payloads:
        return Encoded(OBJECTS, (nested.table(), *chunks), nested.blobs())
    return Encoded(encoding, tuple(chunks))


def pickle_value(
    value: object,
    nested: Nested,
    keep_out: Callable[[pickle.PickleBuffer], bool] | None = None,
    *,
    is_code: bool = False,
    reducers: Reducers | None = None,
) -> bytes:
    """Pickle a value; its objects and buffers go to `nested` and `keep_out`. Raises whatever pickling raises. Code
    (`is_code`) may refer to actors of Ray."""
    out = io.BytesIO()
    kind = _WatchedPickler if is_watched() else Pickler
    kind(out, nested, keep_out, is_code=is_code, more=reducers).dump(value)
    return out.getvalue()


def encode_value(value: object, objects: Objects | None = None) -> Encoded:
    """Like `encode`, but None becomes a null that every language can read."""
    return Encoded(NULL.encoding, ()) if value is None else encode(value, objects)


def encode_portable(value: object) -> Encoded | None:
    """A value that every language can read: null, plain bytes, or JSON (tuples become arrays, keys become strings).
    None if the value cannot be encoded like that."""
    if value is None:
        return encode_value(value)
    if isinstance(value, (bytes, bytearray)):
        return Encoded(BINARY, (bytes(value),))
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return Encoded(JSON, (text.encode(),))
    except (TypeError, ValueError, RecursionError):
        return None


def decode(
    payload: Payload,
    data: bytes | memoryview | None = None,
    objects: Objects | None = None,
    *,
    is_writable: bool = False,
) -> Any:
    """The value of a payload; `data` are the bytes of its blob, if it has one. Buffers are not copied, so arrays are
    read-only; with `is_writable` they are copied, and are as they were when they were encoded. Raises CodecError."""
    if data is None:
        if payload.blob is not None:
            raise CodecError("the value is in a blob, whose bytes are not here")
        data = payload.data
    try:
        match payload.encoding:
            case "python/pickle":
                return pickle.loads(data)
            case "python/pickle+buffers":
                return _decode_buffers(memoryview(bytearray(data) if is_writable else data), is_writable)
            case "python/pickle+objects":
                return decode_objects(memoryview(bytearray(data) if is_writable else data), objects, is_writable)
            case "json/plain":
                return json.loads(bytes(data))
            case "binary/plain":
                return bytes(data)
            case "binary/null":
                return None
            case encoding if encoding in DECODERS:
                return DECODERS[encoding](bytes(data))
            case encoding:
                raise CodecError(f"no decoder for the encoding {encoding!r}")
    except (CodecError, Unresolved):
        raise
    except Exception as error:
        raise CodecError(f"a {payload.encoding} value cannot be decoded: {told.described(error)}") from error


def _decode_buffers(data: memoryview, is_writable: bool) -> Any:
    pickled, buffers = _split_buffers(data, is_writable)
    return pickle.loads(pickled, buffers=buffers)


def _split_buffers(data: memoryview, is_writable: bool) -> tuple[memoryview, list[memoryview]]:
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
        buffers.append(data[start:end] if is_writable else data[start:end].toreadonly())
    return pickled, buffers


def apply_path(value: Any, path: Path) -> Any:
    """The part of a value that a reference selects."""
    for step in path:
        match step:
            case Index(index):
                value = value[index]
            case Key(key):
                value = value[key]
            case Attribute(name):
                value = getattr(value, name)
    return value


# ------------------------------------------------------------------------------ objects in values


class Nested:
    """Collects the objects in a value while it is pickled, each once."""

    def __init__(self, objects: Objects | None) -> None:
        self._objects = objects
        self.payloads: dict[Payload, int] = {}

    def position(self, ref: Any) -> int:
        if self._objects is None:
            raise CodecError(
                "a ray.ObjectRef can be stored by processes that are connected to Ray, and not in every place"
            )
        return self.payloads.setdefault(self._objects.store(ref), len(self.payloads))

    def blobs(self) -> tuple[BlobRef, ...]:
        """Every blob that the value refers to, directly or not."""
        return tuple(dict.fromkeys(blob for payload in self.payloads for blob in payload.blobs()))

    def table(self) -> bytes:
        """The table before the pickle. Its end is aligned."""
        items = [wire.encode_payload(payload) for payload in self.payloads]
        table = MAGIC_OBJECTS + struct.pack(f"<Q{len(items)}Q", len(items), *map(len, items)) + b"".join(items)
        return table + bytes(-len(table) % ALIGNMENT)


def with_table(pickled: bytes, nested: Nested) -> Payload:
    """A payload of a pickle without buffers, with the table of its objects."""
    if nested.payloads:
        return Payload(OBJECTS, nested.table() + pickled, refs=nested.blobs())
    return Payload(PICKLE, pickled)


def split_objects(data: memoryview) -> tuple[tuple[Payload, ...], memoryview]:
    """The objects of the table, and the bytes after it."""
    if bytes(data[:8]) != MAGIC_OBJECTS:
        raise CodecError("not a pickle with objects")
    (count,) = struct.unpack_from("<Q", data, 8)
    end = 16 + 8 * count
    payloads = []
    for length in struct.unpack_from(f"<{count}Q", data, 16):
        payloads.append(wire.decode_payload(bytes(data[end : end + length])))
        end += length
    return tuple(payloads), data[end + -end % ALIGNMENT :]


def nested_objects(payload: Payload, data: bytes | memoryview) -> tuple[Payload, ...]:
    """The contents of the objects in a value, read from the table without decoding the value."""
    return split_objects(memoryview(data))[0] if payload.encoding == OBJECTS else ()


def decode_objects(data: memoryview, objects: Objects | None, is_writable: bool = False) -> Any:
    """The value of bytes that begin with a table of objects."""
    nested, rest = split_objects(data)
    pickled, buffers = _split_buffers(rest, is_writable) if bytes(rest[:8]) == MAGIC else (rest, [])
    return Unpickler(io.BytesIO(pickled), nested, objects, buffers).load()


def stored_object(index: int) -> Any:
    """The placeholder in pickles for the object at a position of the table."""
    raise CodecError("a value with objects of Ray is read by perdure.codec only")


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Handles objects and actors of Ray, and code. Dispatches by type, so other values cost nothing extra."""

    def __init__(
        self,
        out: io.BytesIO,
        nested: Nested,
        keep_out: Callable[[pickle.PickleBuffer], bool] | None = None,
        *,
        is_code: bool = False,
        more: Reducers | None = None,
    ) -> None:
        common = cloudpickle.Pickler._dispatch_table
        raylet = sys.modules.get("ray._raylet")
        reducers: dict[type, Any]
        if raylet is None or not hasattr(raylet, "ObjectRef"):
            reducers = _CommonReducers()
        else:
            reducers = {**copyreg.dispatch_table, **common}
            reducers[raylet.ObjectRef] = lambda ref: (stored_object, (nested.position(ref),))
            actor = sys.modules.get("ray.actor")
            if not is_code and actor is not None and hasattr(actor, "ActorHandle"):
                reducers[actor.ActorHandle] = _refuse_actor
        reducers[CodeType] = tracebacks.Reducer(common[CodeType])
        if more:
            reducers.update(more)
        self.dispatch_table = reducers
        super().__init__(out, protocol=5, buffer_callback=keep_out)


class _CommonReducers(dict[type, Any]):
    """The reducers of cloudpickle and of the process, without a copy per value, which would cost more than most
    values."""

    def __missing__(self, kind: type) -> Any:
        found = cloudpickle.Pickler._dispatch_table.get(kind) or copyreg.dispatch_table.get(kind)
        if found is None:
            raise KeyError(kind)
        return found


class Watched:
    """Makes a pickler report each object. Used only where needed, because it costs a call per object."""

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
        if (watch := _watch.get()) is not None:
            watch(obj, reduced)
        return reduced


class _WatchedPickler(Watched, Pickler):
    pass


_watch: ContextVar[Callable[[object, Any], None] | None] = ContextVar("perdure_watch", default=None)


@contextmanager
def watched(watch: Callable[[object, Any], None]) -> Iterator[None]:
    """Inside, `watch` is called with each object that is encoded and its reduction by cloudpickle. NotImplemented means
    that a function, class or module travels by name."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def is_watched() -> bool:
    return _watch.get() is not None


def tell_watch(value: object) -> None:
    """Report an object that travels by name, and is not pickled because its encoding is known."""
    if (watch := _watch.get()) is not None:
        watch(value, NotImplemented)


def _refuse_actor(handle: object) -> Any:
    raise CodecError("actor handles cannot be passed between tasks; name the actor, and get it by its name")


class Unpickler(pickle.Unpickler):
    """Resolves the objects in a pickle."""

    def __init__(
        self,
        pickled: io.BytesIO,
        nested: Sequence[Payload],
        objects: Objects | None,
        buffers: Sequence[memoryview] = (),
    ) -> None:
        super().__init__(pickled, buffers=buffers)
        self._load = _loader(nested, objects)

    def find_class(self, module: str, name: str) -> Any:
        if name == stored_object.__name__ and module == __name__:
            return self._load
        return super().find_class(module, name)


def _loader(nested: Sequence[Payload], objects: Objects | None) -> Callable[[int], Any]:
    """A loader of objects, each once. Not a method: the unpickler would refer to itself, and free its values only by
    garbage collection."""
    loaded: dict[int, Any] = {}

    def load(index: int) -> Any:
        if index not in loaded:
            loaded[index] = known(objects).load(nested[index])
        return loaded[index]

    return load


def known(objects: Objects | None) -> Objects:
    """The objects; CodecError if there are none."""
    if objects is None:
        raise CodecError("objects of Ray are for processes that are connected to Ray, which this one is not")
    return objects
