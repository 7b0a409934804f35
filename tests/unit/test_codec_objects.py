"""Objects of Ray in values and arguments: named by their contents, each once; with every blob they need."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest
import ray
from ray.exceptions import OwnerDiedError, RayTaskError

from perdure import codec, conversion, failures, functions, graphwire
from perdure.arguments import decode_arguments, encode_arguments
from perdure.codec import CodecError
from perdure.context import Context
from perdure.graph import task
from perdure.model import BlobRef, FailureKind, NodeRef, Payload
from perdure.rayobjects import CONTENTS_INLINE_BYTES_MAX, ObjectFailed, ObjectUnavailable, contents
from perdure.worker.attempt import Runner
from perdure.worker.results import Continued, Failed, Returned
from perdure.worker.values import AttemptInput, Value

Ref: Any = ray.ObjectRef
LARGE = "x" * (CONTENTS_INLINE_BYTES_MAX + 1)


class Objects:
    """A store of objects and blobs without Ray. Implements the worker's Objects and Blobs."""

    def __init__(self) -> None:
        self.held: dict[Any, Any] = {}
        self.kept: dict[str, bytes] = {}
        self.stored: list[Any] = []
        self.loads = 0

    def put(self, value: Any) -> Any:
        ref = Ref(os.urandom(28))
        self.held[ref] = value
        return ref

    def contents(self, ref: Any) -> Any:
        found = self.held[ref]
        if isinstance(found, BaseException):
            raise found
        return found

    def store(self, ref: Any, *, innermost: bool = False) -> Payload:
        value = self.contents(ref)
        if innermost and codec.is_object(value):
            return self.store(value, innermost=True)
        self.stored.append(ref)
        encoded = codec.encode_value(value, self)
        if encoded.size <= CONTENTS_INLINE_BYTES_MAX:
            return encoded.inline()
        return encoded.stored(Blobs(self.kept).store(encoded))

    def load(self, payload: Payload) -> Any:
        return self.put(self.value(payload))

    def load_all(self, payloads: Sequence[Payload]) -> list[Any]:
        self.loads += 1
        return [self.load(payload) for payload in payloads]

    def value(self, payload: Payload) -> Any:
        return codec.decode(payload, None if payload.blob is None else self.kept[payload.blob.sha256], self)


class Blobs:
    def __init__(self, kept: dict[str, bytes]) -> None:
        self.kept = kept

    def store(self, encoded: codec.Encoded) -> BlobRef:
        data = encoded.inline().data
        sha256 = hashlib.sha256(data).hexdigest()
        self.kept[sha256] = data
        return BlobRef(sha256, len(data))

    def load(self, blob: BlobRef) -> memoryview:
        return memoryview(self.kept[blob.sha256])


@pytest.fixture
def objects() -> Objects:
    return Objects()


def there_and_back(value: Any, objects: Objects) -> Any:
    return codec.decode(codec.encode(value, objects).inline(), None, objects)


# ------------------------------------------------------------------------------ values


def test_objects_at_any_depth_come_back_as_objects(objects: Objects) -> None:
    inner = objects.put("inner")
    back = there_and_back({"a": [objects.put(1), (objects.put([inner]),)]}, objects)
    first, (second,) = back["a"]
    assert objects.contents(first) == 1
    assert objects.contents(objects.contents(second)[0]) == "inner"


def test_buffers_and_objects_go_together(objects: Objects) -> None:
    array = np.arange(10_000)
    encoded = codec.encode([array, objects.put(array * 2)], objects)
    data = memoryview(b"".join(encoded.chunks))
    back, ref = codec.decode(Payload(encoded.encoding), data, objects)
    assert (back == array).all()
    assert (objects.contents(ref) == array * 2).all()
    start = np.frombuffer(data, np.uint8).ctypes.data
    assert start <= back.ctypes.data < start + len(data), "not copied"
    assert (back.ctypes.data - start) % codec.ALIGNMENT == 0


def test_one_object_many_times_is_one(objects: Objects) -> None:
    ref = objects.put(LARGE)
    encoded = codec.encode([ref, {"again": ref}], objects)
    assert len(encoded.refs) == len(objects.kept) == 1
    first, second = codec.decode(encoded.inline(), None, objects)
    assert first is second["again"]


def test_a_payload_names_every_blob_that_it_needs(objects: Objects) -> None:
    deep = objects.put(LARGE)
    encoded = codec.encode([objects.put([deep, LARGE * 2])], objects)
    assert {ref.sha256 for ref in encoded.refs} == set(objects.kept)
    assert len(encoded.refs) == 2
    blob = BlobRef("0" * 64, 1)
    assert encoded.stored(blob).blobs() == (blob, *encoded.refs)
    assert encoded.inline().blobs() == encoded.refs


def test_small_contents_travel_along(objects: Objects) -> None:
    encoded = codec.encode([objects.put(1)], objects)
    assert encoded.refs == ()
    assert [objects.value(nested) for nested in codec.nested_objects(encoded.inline(), encoded.inline().data)] == [1]


def test_values_without_objects_are_encoded_as_ever(objects: Objects) -> None:
    value = {"a": np.arange(2000), "b": [1, "two"]}
    assert codec.encode(value, objects) == codec.encode(value)
    assert codec.nested_objects(codec.encode(1).inline(), b"") == ()


def test_without_a_store_of_objects_there_is_a_sentence(objects: Objects) -> None:
    ref = objects.put(1)
    with pytest.raises(CodecError, match=r"a ray.ObjectRef can be stored by processes that are connected to Ray"):
        codec.encode([ref])
    with pytest.raises(CodecError, match="objects of Ray are for processes that are connected to Ray"):
        codec.decode(codec.encode([ref], objects).inline())
    with pytest.raises(CodecError, match="objects of Ray are for"):
        decode_arguments(encode_arguments((ref,), {}, lambda _: None, objects)[0], lambda index, as_object: None)


@pytest.mark.parametrize("data", [b"", b"PERDUREO", b"PERDUREO" + bytes(8), b"PERDUREO" + b"\xff" * 60, b"\x80\x05"])
def test_broken_tables_are_an_error(data: bytes, objects: Objects) -> None:
    with pytest.raises(CodecError):
        codec.decode(Payload(codec.OBJECTS, data), None, objects)
    with pytest.raises(CodecError):
        decode_arguments(Payload(codec.OBJECTS, data), lambda index, as_object: None, None, objects)


def test_a_pickle_with_objects_is_not_read_by_others(objects: Objects) -> None:
    _, pickled = codec.split_objects(memoryview(codec.encode([objects.put(1)], objects).inline().data))
    with pytest.raises(CodecError, match="is read by perdure"):
        pickle.loads(pickled)


class Thing:
    pass


def test_a_value_with_objects_waits_for_no_collector(objects: Objects) -> None:
    payload = codec.encode([Thing(), objects.put(1)], objects).inline()
    thing = codec.decode(payload, None, objects)[0]
    gone = weakref.ref(thing)
    gc.disable()
    try:
        del thing
        assert gone() is None
    finally:
        gc.enable()


def test_what_is_unresolved_passes_through(objects: Objects) -> None:
    ref = objects.put(ObjectUnavailable("away"))
    with pytest.raises(ObjectUnavailable, match="away"):
        codec.encode([ref], objects)
    with pytest.raises(ObjectUnavailable, match="away"):
        encode_arguments((ref,), {}, lambda _: None, objects)


def test_an_error_that_holds_an_object_travels_as_what_it_says(objects: Objects) -> None:
    failure = failures.from_exception(ValueError("text", objects.put(1)))
    assert failure.error is None
    assert failure.message.startswith("('text', ObjectRef(")


def test_contents_on_their_way_are_decoded_on_arrival(objects: Objects) -> None:
    encoded = codec.encode([objects.put(5), np.arange(3000)], objects)
    travelled = pickle.loads(pickle.dumps(contents(encoded.inline(), None, _Marked(objects)), protocol=5))
    assert travelled[0] == "object of 5"
    assert travelled[1][-1] == 2999


class _Marked(Objects):
    """Objects that are loaded as plain texts, which can be pickled."""

    def __init__(self, inner: Objects) -> None:
        super().__init__()
        self.kept = inner.kept

    def load(self, payload: Payload) -> Any:
        return f"object of {self.value(payload)}"


# ------------------------------------------------------------------------------ arguments and code


def test_an_object_is_its_value_as_an_argument_and_an_object_inside_of_a_container(objects: Objects) -> None:
    ref, large = objects.put(1), objects.put(LARGE)
    payload, refs = encode_arguments((ref, [ref, large]), {"named": large}, lambda _: None, objects)
    assert refs == ()
    assert {blob.sha256 for blob in payload.refs} == set(objects.kept)
    (direct, nested), kwargs = decode_arguments(payload, lambda index, as_object: None, None, objects)
    assert (direct, kwargs) == (1, {"named": LARGE})
    assert [objects.contents(found) for found in nested] == [1, LARGE]


def test_references_and_objects_do_not_mix_up(objects: Objects) -> None:
    def ref_of(value: object) -> Any:
        return NodeRef(value.decode()) if isinstance(value, bytes) else None

    payload, refs = encode_arguments((objects.put(1), b"a", [b"b", b"a"]), {}, ref_of, objects, nested_as_objects=True)
    assert refs == (NodeRef("a"), NodeRef("b"))
    args, _ = decode_arguments(payload, lambda index, as_object: (index, as_object), None, objects)
    assert args == (1, (0, False), [(1, True), (0, True)])


def test_a_function_brings_what_it_closes_over(objects: Objects) -> None:
    ref = objects.put(LARGE)
    function = functions.encode_function(lambda: ref, objects)
    assert function.code is not None
    assert [blob.sha256 for blob in function.code.refs] == list(objects.kept)
    assert objects.contents(functions.load_function(function, None, objects)()) == LARGE
    with pytest.raises(functions.FunctionUnavailable, match="objects of Ray are for"):
        functions.load_function(function)


@pytest.fixture
def by_value() -> Any:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@task
def pair(first: Any, rest: Any) -> Any:
    return first, rest


remote_pair: Any = ray.remote(lambda first, rest: (first, rest))


def test_nested_nodes_are_objects_for_functions_of_rays_and_values_for_tasks(objects: Objects, by_value: Any) -> None:
    for build, expected in ((pair.bind, False), (remote_pair.bind, True)):
        inner: Any = pair.bind(1, 2)  # no object: where Ray runs, its `bind` takes none that it does not know
        spec = conversion.to_spec(build(inner, [inner]), objects)
        call: Any = spec.nodes[-1].action
        seen: list[bool] = []
        decode_arguments(call.arguments, lambda index, as_object, seen=seen: seen.append(as_object), None, objects)  # type: ignore[misc]
        assert seen == [False, expected]


def test_graphs_name_the_blobs_of_their_objects(objects: Objects, by_value: Any) -> None:
    spec = conversion.to_spec(pair.bind(objects.put(LARGE), [objects.put(LARGE * 2)]), objects)
    assert {blob.sha256 for blob in graphwire.blobs_of_spec(spec)} == set(objects.kept)
    assert len(objects.kept) == 2


# ------------------------------------------------------------------------------ attempts


def attempt(objects: Objects, function: Any, *args: Any, kinds: bool = False, values: tuple[Value, ...] = ()) -> Any:
    """Arguments that are "#0", "#1", ... refer to the values."""

    def ref_of(arg: object) -> Any:
        return NodeRef(arg[1:]) if isinstance(arg, str) and arg.startswith("#") else None

    arguments, refs = encode_arguments(args, {}, ref_of, objects, nested_as_objects=kinds)
    ordered = [values[int(ref.node_id)] for ref in refs if isinstance(ref, NodeRef)]
    runner = Runner(Blobs(objects.kept), objects=objects)
    found = functions.encode_function(function, objects)
    return runner.run(AttemptInput(Context("default", "w", "r", "t", 1), found, arguments, ordered))


def test_a_task_that_returns_an_object_gives_its_contents(objects: Objects) -> None:
    result = attempt(objects, lambda ref: ref[0], [objects.put(objects.put(7))])
    assert isinstance(result, Returned)
    assert codec.decode(result.output) == 7


def test_a_nested_node_is_an_object_with_its_value(objects: Objects) -> None:
    values = (
        Value(codec.encode_value([1, 2]).inline()),
        Value(codec.encode_value(3).inline(), wraps=1),
    )

    def look(refs: list[Any]) -> bool:
        return all(type(ref).__name__ == "ObjectRef" for ref in refs)

    assert codec.decode(attempt(objects, look, ["#0", "#1"], kinds=True, values=values).output) is True
    result = attempt(objects, lambda refs: refs, ["#0", "#1", "#0"], kinds=True, values=values)
    first, second, third = codec.decode(result.output, None, objects)
    assert objects.contents(first) == objects.contents(third) == [1, 2]
    assert objects.contents(second) == (3, None)


def test_many_small_nested_nodes_are_made_objects_at_once(objects: Objects) -> None:
    values = tuple(Value(codec.encode_value(index).inline(), wraps=index // 98) for index in range(100))
    names = [f"#{index}" for index in range(100)]
    result = attempt(objects, lambda refs: refs, names, kinds=True, values=values)
    refs = codec.decode(result.output, None, objects)
    assert [objects.contents(ref) for ref in refs] == [*range(98), (98, None), (99, None)]
    assert objects.loads == 1


def test_results_name_the_blobs_of_their_objects(objects: Objects) -> None:
    result = attempt(objects, lambda refs: refs, [objects.put(LARGE)])
    assert [blob.sha256 for blob in result.output.refs] == list(objects.kept)


def test_a_returned_graph_stores_its_objects(objects: Objects, by_value: Any) -> None:
    result = attempt(objects, lambda refs: pair.bind(refs[0], refs), [objects.put(LARGE)])
    assert isinstance(result, Continued)
    assert graphwire.decode_spec(result.spec).nodes[0].id.endswith("pair")


class Breaking(Objects):
    """Its objects are fine while a task gets them, and are not when it returns them."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def load(self, payload: Payload) -> Any:
        return self.put(self.error)


def test_an_object_that_is_an_error_is_the_error_of_the_task() -> None:
    objects = Breaking(ObjectFailed(KeyError("gone"), "trace of it"))
    for function in (lambda refs: refs, lambda refs: refs[0]):
        result = attempt(objects, function, [objects.put(1)])
        assert isinstance(result, Failed)
        assert (result.failure.kind, result.failure.type) == (FailureKind.APPLICATION, "builtins.KeyError")
        assert result.failure.stack_trace == "trace of it"


def test_an_object_that_cannot_be_had_is_a_failure_of_the_system() -> None:
    objects = Breaking(ObjectUnavailable("away"))
    result = attempt(objects, lambda refs: refs, [objects.put(1)])
    assert isinstance(result, Failed)
    assert (result.failure.kind, result.failure.message) == (FailureKind.SYSTEM, "away")


def test_an_object_that_is_lost_under_a_task_is_a_failure_of_the_system(objects: Objects) -> None:
    lost: Any = OwnerDiedError("ff" * 28, None, "")
    wrapped: Any = RayTaskError("inner", "trace", lost)

    def raises(error: Any) -> None:
        raise error

    for error, kind in (
        (lost, FailureKind.SYSTEM),
        (wrapped, FailureKind.SYSTEM),
        (KeyError(), FailureKind.APPLICATION),
    ):
        result = attempt(objects, lambda error=error: raises(error))
        assert isinstance(result, Failed)
        assert result.failure.kind is kind


def test_without_ray_an_object_as_an_argument_is_its_value_still(objects: Objects) -> None:
    arguments, _ = encode_arguments((objects.put(LARGE), objects.put(2)), {}, lambda _: None, objects)
    function = functions.encode_function(lambda text, number: (len(text), number))
    context = Context("default", "w", "r", "t", 1)
    result = Runner(Blobs(objects.kept)).run(AttemptInput(context, function, arguments, ()))
    assert isinstance(result, Returned)
    assert codec.decode(result.output) == (len(LARGE), 2)


def test_without_ray_nested_objects_are_a_clear_failure(objects: Objects) -> None:
    arguments, _ = encode_arguments(([objects.put(2)],), {}, lambda _: None, objects)
    function = functions.encode_function(lambda refs: refs)
    context = Context("default", "w", "r", "t", 1)
    result = Runner(Blobs(objects.kept)).run(AttemptInput(context, function, arguments, ()))
    assert isinstance(result, Failed)
    assert result.failure.kind is FailureKind.SERIALIZATION
    assert "objects of Ray are for workers of a Ray cluster" in result.failure.message
