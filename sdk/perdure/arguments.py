"""Encodes arguments of calls, with references to values that are known only when the call is made, and decodes them.

A function of the caller finds the references. They are numbered here; their meaning is the caller's.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from perdure import codec, failures, wire
from perdure.model import Payload, Ref, frozen
from perdure.v1 import spec_pb2, worker_service_pb2
from perdure.wire import ARGUMENTS

ATOMS: Final[frozenset[type]] = frozenset({int, str, float, bool, type(None)})
"""Types of values without parts. Subclasses may do anything."""
_CONTAINERS: Final[frozenset[type]] = frozenset({tuple, list, dict, set})


def encode_arguments(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    ref_of: Callable[[object], Ref | None],
    objects: codec.Objects | None = None,
    *,
    nested_as_objects: bool = False,
    atoms: frozenset[type] = frozenset(),
) -> tuple[Payload, tuple[Ref, ...]]:
    """Pickle the arguments of a call. Values for which `ref_of` returns a reference are replaced by it; each reference
    is listed once.

    A reference that *is* an argument arrives as its value. A reference inside a container arrives as its value too, or
    as a ray.ObjectRef with `nested_as_objects`. An object of Ray that is an argument arrives as its value, inside a
    container as an object. `ref_of` is not called for containers, and not for values of the types `atoms`, a subset of
    ATOMS.
    """
    nested = codec.Nested(objects)
    if atoms.issuperset(map(type, args)) and atoms.issuperset(map(type, kwargs.values())):
        return codec.with_table(pickle.dumps((args, kwargs), protocol=5), nested), ()
    refs: dict[Ref, int] = {}

    def position(ref: Ref) -> int:
        return refs.setdefault(ref, len(refs))

    def direct(arg: object) -> object:
        ref = ref_of(arg)
        if ref is not None:
            return _Direct("value", position(ref))
        return _Direct("contents", nested.position(arg)) if codec.is_object(arg) else arg

    out = io.BytesIO()
    try:
        plain = tuple(direct(arg) for arg in args), {name: direct(arg) for name, arg in kwargs.items()}
        inside = "object" if nested_as_objects else "nested"
        kind = _WatchedPickler if codec.is_watched() else _Pickler
        kind(out, nested, ref_of, position, inside, atoms | _CONTAINERS).dump(plain)
    except (codec.CodecError, codec.Unresolved):
        raise
    except Exception as error:
        raise codec.CodecError(f"the arguments cannot be pickled: {failures.text_of(error)}") from error
    return codec.with_table(out.getvalue(), nested), tuple(refs)


class _Pickler(codec.Pickler):
    """Replaces references by placeholders."""

    def __init__(
        self,
        out: io.BytesIO,
        nested: codec.Nested,
        ref_of: Callable[[object], Ref | None],
        position: Callable[[Ref], int],
        inside: str,
        plain: frozenset[type],
    ) -> None:
        super().__init__(out, nested)
        self._ref_of = ref_of
        self._position = position
        self._inside = inside
        self._plain = plain

    def persistent_id(self, value: object) -> tuple[str, int] | None:
        kind = type(value)
        if kind in self._plain:
            return None
        if kind is _Direct:
            assert isinstance(value, _Direct)
            return (value.kind, value.index)
        ref = self._ref_of(value)
        return None if ref is None else (self._inside, self._position(ref))


class _WatchedPickler(codec.Watched, _Pickler):
    pass


@frozen
class _Direct:
    """The placeholder of a reference or an object that is an argument itself."""

    kind: str
    index: int


class FromJson(Protocol):
    """Converts arguments to the types that a function declares."""

    def is_json(self, index: int) -> bool:
        """Whether the value of a reference was stored as JSON."""
        ...

    def argument(self, place: int | str, value: Any) -> Any:
        """A value of JSON as the argument at this position or of this name."""
        ...

    def placed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as the function takes them."""
        ...


def decode_arguments(
    payload: Payload,
    resolve: Callable[[int, bool], Any],
    data: bytes | memoryview | None = None,
    objects: codec.Objects | None = None,
    bytes_of: Callable[[Payload], bytes | memoryview] | None = None,
    from_json: FromJson | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Decode the arguments of a call. `resolve(index, as_object)` returns the value of a reference, or an object of
    it. `bytes_of` reads the bytes of a value that was sent by itself, which may be a blob. `from_json` converts
    arguments that were given as JSON."""
    data = payload.data if data is None else data
    try:
        if payload.encoding == ARGUMENTS:
            return _compose(worker_service_pb2.Arguments.FromString(bytes(data)), resolve, objects, bytes_of, from_json)
        nested, pickled = codec.split_objects(memoryview(data)) if payload.encoding == codec.OBJECTS else ((), data)
        args, kwargs = _Unpickler(io.BytesIO(pickled), nested, objects, resolve).load()
    except (codec.CodecError, codec.Unresolved):
        raise
    except Exception as error:
        raise codec.CodecError(f"the arguments cannot be decoded: {failures.described(error)}") from error
    return args, kwargs


class _Unpickler(codec.Unpickler):
    """Replaces placeholders by values."""

    def __init__(
        self,
        pickled: io.BytesIO,
        nested: Sequence[Payload],
        objects: codec.Objects | None,
        resolve: Callable[[int, bool], Any],
    ) -> None:
        super().__init__(pickled, nested, objects)
        self._nested = nested
        self._objects = objects
        self._resolve = resolve

    def persistent_load(self, pid: Any) -> Any:
        kind, index = pid
        if kind == "contents":
            return codec.known(self._objects).value(self._nested[index])
        return self._resolve(index, kind == "object")


def _compose(
    arguments: worker_service_pb2.Arguments,
    resolve: Callable[[int, bool], Any],
    objects: codec.Objects | None,
    bytes_of: Callable[[Payload], bytes | memoryview] | None,
    from_json: FromJson | None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """References are numbered in the order of `graphwire.arguments_refs`."""
    count = 0
    is_json = True  # all of the argument that is decoded

    def value_of(arg: spec_pb2.Arg) -> Any:
        nonlocal count, is_json
        match arg.WhichOneof("kind"):
            case "list":
                return [value_of(item) for item in arg.list.items]
            case "map":
                return {key: value_of(arg.map.entries[key]) for key in sorted(arg.map.entries)}
            case "payload":
                payload = wire.payload_from_proto(arg.payload)
                is_json = is_json and payload.encoding in codec.OF_JSON
                return codec.decode(payload, None if bytes_of is None else bytes_of(payload), objects)
            case _:
                count += 1
                is_json = is_json and from_json is not None and from_json.is_json(count - 1)
                return resolve(count - 1, False)

    def argument(place: int | str, arg: spec_pb2.Arg) -> Any:
        nonlocal is_json
        is_json = True
        value = value_of(arg)
        return from_json.argument(place, value) if from_json is not None and is_json else value

    args = tuple(argument(place, arg) for place, arg in enumerate(arguments.args))
    kwargs = {name: argument(name, arguments.kwargs[name]) for name in sorted(arguments.kwargs)}
    return (args, kwargs) if from_json is None else from_json.placed(args, kwargs)
