"""Values, arguments and functions to payloads and back."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import pickletools
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import perdure
from perdure import codec, functions, tracebacks, wire
from perdure.arguments import decode_arguments, encode_arguments
from perdure.codec import CodecError
from perdure.functions import FunctionUnavailable
from perdure.model import (
    Attribute,
    BlobRef,
    Failure,
    FailureKind,
    Function,
    Index,
    InputRef,
    Key,
    NodeRef,
    Payload,
)
from perdure.v1 import spec_pb2, worker_service_pb2

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner), max_leaves=20
)


@dataclass(frozen=True)
class Point:
    x: int
    y: int


def through(value: object) -> Any:
    encoded = codec.encode_value(value)
    data = b"".join(encoded.chunks)
    assert encoded.size == len(data)
    assert encoded.inline() == Payload(encoded.encoding, data)
    return codec.decode(encoded.inline())


@given(values)
@example(None)
@example(b"x" * 100_000)
@example("漢" * 100_000)
@example(2**10_000)
@example([[]] * 1000)
def test_values_come_back(value: object) -> None:
    back = through(value)
    assert back == value
    assert type(back) is type(value)


def test_none_is_the_null_of_every_language() -> None:
    assert codec.encode_value(None).inline() == Payload("binary/null")
    assert codec.decode(Payload("binary/null")) is None


def test_objects_come_back() -> None:
    assert through(Point(1, 2)) == Point(1, 2)
    assert through(lambda x: x + 1)(2) == 3
    assert through({1, 2}) == {1, 2}
    assert math.isnan(through(float("nan")))


def test_a_blob_is_read_like_inline_bytes() -> None:
    data = codec.encode([1, "two"]).inline().data
    assert codec.decode(Payload("python/pickle", blob=BlobRef("0" * 64, len(data))), memoryview(data)) == [1, "two"]


def test_what_is_shared_stays_shared() -> None:
    inner: list[int] = []
    first, second = through([inner, inner])
    assert first is second


# ------------------------------------------------------------------------------ buffers


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=6))
@settings(max_examples=30)
def test_arrays_come_back_whatever_their_sizes(sizes: list[int]) -> None:
    arrays = [np.arange(size, dtype=np.int64) for size in sizes]
    for array, back in zip(arrays, through(arrays), strict=True):
        np.testing.assert_array_equal(array, back)


def test_large_buffers_stay_out_of_the_pickle() -> None:
    array = np.arange(100_000)
    encoded = codec.encode(array)
    assert encoded.encoding == "python/pickle+buffers"
    assert any(isinstance(chunk, memoryview) and np.shares_memory(chunk, array) for chunk in encoded.chunks)
    assert len(encoded.chunks[1]) < 1000


def test_small_buffers_stay_in_the_pickle() -> None:
    assert codec.encode(np.arange(10)).encoding == "python/pickle"


def test_buffers_are_aligned_and_not_copied() -> None:
    arrays = [np.arange(1000 + number, dtype=np.uint8).repeat(7) for number in range(5)]
    data = b"".join(codec.encode(arrays).chunks)
    mapped = np.frombuffer(data, dtype=np.uint8)
    for back in codec.decode(Payload(codec.BUFFERS), data):
        assert np.shares_memory(back, mapped)
        assert (back.ctypes.data - mapped.ctypes.data) % codec.ALIGNMENT == 0
        assert not back.flags.writeable


def test_arrays_that_are_not_contiguous_come_back() -> None:
    array = np.arange(100_000).reshape(100, 1000)
    for part in (array[::2, ::3], array.T, np.asfortranarray(array)):
        np.testing.assert_array_equal(through(part), part)


def test_bytearrays_come_back() -> None:
    data = bytearray(b"ab" * 50_000)
    assert codec.decode(codec.encode(pickle.PickleBuffer(data)).inline()) == data


@given(st.binary(max_size=200), st.integers(0, 8))
def test_broken_buffers_are_an_error_and_nothing_else(garbage: bytes, keep: int) -> None:
    whole = codec.encode(np.arange(2000)).inline().data
    for data in (garbage, codec.MAGIC + garbage, whole[: keep * 8] + garbage, whole[: -1 - keep * 100]):
        with pytest.raises(CodecError):
            codec.decode(Payload(codec.BUFFERS, data))


def test_a_count_of_buffers_that_cannot_be_is_an_error() -> None:
    with pytest.raises(CodecError):
        codec.decode(Payload(codec.BUFFERS, codec.MAGIC + struct.pack("<Q", 2**62) + bytes(100)))


# ------------------------------------------------------------------------------ other encodings


@given(values.filter(lambda value: not any(sign in repr(value) for sign in ("b'", 'b"', "("))))
def test_json_is_read(value: object) -> None:
    assert codec.decode(Payload("json/plain", json.dumps(value).encode())) == value


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[1,]", b"[" * 100_000])
def test_broken_json_is_an_error(data: bytes) -> None:
    with pytest.raises(CodecError, match="json/plain"):
        codec.decode(Payload("json/plain", data))


@given(st.binary())
def test_bytes_are_bytes(data: bytes) -> None:
    back = codec.decode(Payload("binary/plain", blob=BlobRef("0" * 64, len(data))), memoryview(data))
    assert type(back) is bytes
    assert back == data


def reserves_little(data: bytes) -> bool:
    """Whether unpickling reserves little memory. A broken memo index makes it reserve room for all lower ones."""
    with contextlib.suppress(Exception):
        return all(
            not opcode.name.endswith("PUT") or argument < 1e6 for opcode, argument, _ in pickletools.genops(data)
        )
    return not set(data) & set(b"pr")


broken_pickles = st.binary(max_size=60).filter(reserves_little)


@given(broken_pickles)
def test_broken_pickles_are_an_error_or_a_value(data: bytes) -> None:
    with contextlib.suppress(CodecError):
        assert codec.decode(Payload("python/pickle", data)) is not Ellipsis


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(CodecError, match="no decoder for the encoding 'avro/x'"):
        codec.decode(Payload("avro/x", b"1"))


def test_a_protobuf_message_travels_as_a_python_value() -> None:
    message = spec_pb2.NodeRef(node_id="a")
    assert through(message) == message


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(CodecError, match=r"a value of type _?thread\.lock cannot be pickled"):
        codec.encode(__import__("threading").Lock())


def test_a_value_too_deep_for_pickle_is_an_error() -> None:
    deep: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 10):
        deep = [deep]
    with pytest.raises(CodecError, match=r"a value of type builtins\.list cannot be pickled"):
        codec.encode(deep)
    while deep:  # taken apart by hand, since freeing it would be deep as well
        deep = deep[0]


def test_outcomes_are_pairs() -> None:
    value = codec.encode_value(Point(1, 2)).inline()
    assert codec.decode(wire.outcome_payload(value, 1)) == (Point(1, 2), None)
    assert codec.decode(wire.outcome_payload(value, 2)) == ((Point(1, 2), None), None)
    failure = Failure(FailureKind.APPLICATION, "m.Bad", "no")
    nothing, error = codec.decode(wire.outcome_payload(failure, 0))
    assert (nothing, str(error)) == (None, "m.Bad: no")
    (nothing, error), none = codec.decode(wire.outcome_payload(failure, 1))
    assert (nothing, str(error), none) == (None, "m.Bad: no", None)


def test_parts_are_stepped_into() -> None:
    value = {"points": [Point(1, 2), Point(3, 4)]}
    assert codec.apply_path(value, (Key("points"), Index(-1), Attribute("x"))) == 3
    assert codec.apply_path(value, ()) is value


# ------------------------------------------------------------------------------ arguments


class Hole:
    """Stands for a reference in these tests."""

    def __init__(self, name: str) -> None:
        self.name = name


def ref_of(value: object) -> Any:
    return NodeRef(value.name) if isinstance(value, Hole) else None


def call_through(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    payload, refs = encode_arguments(args, kwargs, ref_of, nested_as_objects=True)
    names = [ref.node_id for ref in refs if isinstance(ref, NodeRef)]
    back_args, back_kwargs = decode_arguments(payload, lambda index, nested: (names[index], nested))
    return back_args, back_kwargs, names


@given(st.lists(values, max_size=3).map(tuple), st.dictionaries(st.text(min_size=1, max_size=5), values, max_size=3))
@settings(max_examples=40)
def test_arguments_come_back(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert call_through(args, kwargs) == (args, kwargs, [])


def test_references_are_left_out_and_each_is_named_once() -> None:
    a, b = Hole("a"), Hole("b")
    args, kwargs, names = call_through((a, [b, {"k": a}], 1), {"x": b, "y": (a,)})
    assert names == ["a", "b"]
    assert args == (("a", False), [("b", True), {"k": ("a", True)}], 1)
    assert kwargs == {"x": ("b", False), "y": (("a", True),)}


def test_two_objects_for_one_reference_are_one_reference() -> None:
    assert call_through((Hole("a"), [Hole("a")]), {}) == ((("a", False), [("a", True)]), {}, ["a"])


def test_arguments_that_cannot_be_pickled_are_an_error() -> None:
    with pytest.raises(CodecError, match="the arguments cannot be pickled"):
        encode_arguments((__import__("threading").Lock(),), {}, lambda _: None)


@given(broken_pickles)
def test_broken_arguments_are_an_error(data: bytes) -> None:
    with pytest.raises(CodecError, match="the arguments cannot be decoded"):
        decode_arguments(Payload("python/pickle", data), lambda index, nested: None)


def test_arguments_of_other_languages_are_composed() -> None:
    def json_arg(value: object) -> spec_pb2.Arg:
        return spec_pb2.Arg(payload=wire.payload_to_proto(Payload("json/plain", json.dumps(value).encode())))

    node = spec_pb2.Arg(node=spec_pb2.NodeRef(node_id="n"))
    given_input = spec_pb2.Arg(input=spec_pb2.InputRef(name="i"))
    entries = spec_pb2.ArgMap(entries={"b": node, "a": json_arg(1)})
    items = spec_pb2.ArgList(items=[json_arg("x"), given_input])
    message = worker_service_pb2.Arguments(
        args=[node, spec_pb2.Arg(list=items)],
        kwargs={"z": given_input, "m": spec_pb2.Arg(map=entries)},
    )
    payload = Payload(wire.ARGUMENTS, message.SerializeToString())
    args, kwargs = decode_arguments(payload, lambda index, nested: (index, nested))
    assert args == ((0, False), ["x", (1, False)])
    assert kwargs == {"m": {"a": 1, "b": (2, False)}, "z": (3, False)}


def test_a_composed_argument_in_a_blob_is_read_and_never_taken_for_an_empty_one() -> None:
    blob = Payload("json/plain", blob=BlobRef("0" * 64, 3))
    items = spec_pb2.ArgList(items=[spec_pb2.Arg(payload=wire.payload_to_proto(blob))])
    payload = Payload(wire.ARGUMENTS, worker_service_pb2.Arguments(args=[spec_pb2.Arg(list=items)]).SerializeToString())
    args, _ = decode_arguments(payload, lambda *_: None, bytes_of=lambda named: b"[7]" if named == blob else b"")
    assert args == ([[7]],)
    with pytest.raises(CodecError, match="in a blob"):
        decode_arguments(payload, lambda *_: None)


def test_an_input_is_a_reference_too() -> None:
    _, refs = encode_arguments((Hole("x"),), {}, lambda v: InputRef("x") if isinstance(v, Hole) else None)
    assert refs == (InputRef("x"),)


# ------------------------------------------------------------------------------ functions


@perdure.task
def increment(number: int) -> int:
    return number + 1


def test_a_function_that_can_be_imported_travels_by_its_name() -> None:
    function = functions.encode_function(json.dumps)
    assert function.name == "json.dumps"
    assert function.code is not None
    assert function.code.size < 100
    assert functions.load_function(function) is json.dumps


def test_a_function_without_a_module_travels_with_its_code() -> None:
    base = 10
    function = functions.encode_function(lambda x: x + base)
    assert functions.load_function(function)(1) == 11
    assert function.python_version == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_the_key_is_the_hash_of_the_code() -> None:
    one, two = functions.encode_function(json.dumps), functions.encode_function(json.loads)
    assert one == functions.encode_function(json.dumps)
    assert one.key != two.key
    assert len(one.key) == 64


def test_a_task_is_loaded_as_its_function() -> None:
    loaded = functions.load_function(functions.encode_function(increment))
    assert not hasattr(loaded, "__perdure_task__")
    assert loaded(1) == 2


def test_another_version_of_python_is_refused_with_both_named() -> None:
    function = Function("k", "m.f", Payload("python/pickle", pickle.dumps(json.dumps)), python_version="3.8")
    with pytest.raises(
        FunctionUnavailable, match=rf"m\.f was pickled by Python 3\.8, and this is {functions.PYTHON_VERSION}"
    ):
        functions.load_function(function)


def test_a_registered_function_is_imported() -> None:
    found = functions.load_function(Function("k", "json.encoder:JSONEncoder.encode"))
    assert found is json.encoder.JSONEncoder.encode


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no_such_module:f", "ModuleNotFoundError"),
        ("json:no_such_function", "AttributeError"),
        ("json", "cannot be loaded"),
        (":", "cannot be loaded"),
        ("json:__name__", r"is a builtins\.str, not a function"),
    ],
)
def test_a_registered_function_that_is_not_there_is_named(name: str, text: str) -> None:
    with pytest.raises(FunctionUnavailable, match=text):
        functions.load_function(Function("k", name))


@pytest.mark.parametrize("name", ["operator:add", "json:JSONEncoder.encode", "json.encoder:JSONEncoder", "math:sqrt"])
def test_what_a_module_defines_or_offers_is_loaded_by_name(name: str) -> None:
    if name == "json:JSONEncoder.encode":  # `json` offers the class, and not what is in it
        with pytest.raises(FunctionUnavailable, match="may not be called by name"):
            functions.load_function(Function("k", name))
    else:
        assert callable(functions.load_function(Function("k", name)))


@pytest.mark.parametrize("name", ["json.encoder:re.compile", "json.encoder:c_make_encoder", "zipfile:os.system"])
def test_what_a_module_imports_is_not_its_own(name: str) -> None:
    with pytest.raises(FunctionUnavailable, match="may not be called by name"):
        functions.load_function(Function("k", name))


def test_a_function_that_was_renamed_is_named_with_its_module_and_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "renamed_steps.py").write_text("class Shop:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    tracebacks.is_unpacked_at(str(tmp_path))
    by_value = Payload("python/pickle", b"crenamed_steps\ncharge\n.")
    for function, missing in (
        (Function("a", "renamed_steps.charge", by_value), "charge"),
        (Function("b", "renamed_steps:charge"), "charge"),
        (Function("c", "renamed_steps:Shop.charge"), "Shop.charge"),
    ):
        with pytest.raises(FunctionUnavailable) as caught:
            functions.load_function(function)
        text = str(caught.value)
        assert f"The module 'renamed_steps' (renamed_steps.py) has no '{missing}'" in text
        assert "put the name back (an alias is enough) and resume the run with code 'new'" in text
        assert "runtime_env" not in text
    sys.modules.pop("renamed_steps")


def test_a_module_that_fails_in_its_import_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_steps.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FunctionUnavailable, match=r"ZeroDivisionError: .*\. Correct that, and resume"):
        functions.load_function(Function("a", "failing_steps:charge"))


@given(broken_pickles)
def test_broken_code_is_an_error(data: bytes) -> None:
    with pytest.raises(FunctionUnavailable):
        functions.load_function(Function("k", "m.f", Payload("python/pickle", data)))


def test_a_function_that_cannot_be_pickled_is_named() -> None:
    lock = __import__("threading").Lock()

    def closed_over() -> object:
        return lock

    with pytest.raises(CodecError, match=r"the function .*closed_over cannot be pickled"):
        functions.encode_function(closed_over)
