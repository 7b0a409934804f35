"""ProtoJSON as it is read: every message that it can tell, and nothing else."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from perdure import errors
from perdure.service.http.connect.codecs import CODECS
from perdure.v1 import actor_service_pb2, spec_pb2
from perdure.v1 import workflow_service_pb2 as pb

KINDS = [pb.RunRequest, pb.WatchRequest, spec_pb2.Node, actor_service_pb2.GetOrCreateActorRequest]
NAMES = sorted(
    {field.json_name for kind in (*KINDS, spec_pb2.TaskNode, spec_pb2.Arg) for field in kind.DESCRIPTOR.fields}
)
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(["1s", "-0.5s", "2026-01-01T00:00:00Z", "Mg==", "_-8", "NaN", "1e9", "\ud800", "@type"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner),
    max_leaves=30,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.DESCRIPTOR.name)
@given(value=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6))
async def test_whatever_comes_is_a_message_or_the_callers_fault(kind: Any, value: Any) -> None:
    with suppress(errors.InvalidFieldError):
        message = await CODECS["json"].read(json.dumps(value).encode(), kind)
        assert await CODECS["json"].read(await CODECS["json"].write(message), kind) == message


@given(data=st.binary() | st.text().map(str.encode))
async def test_so_are_any_bytes(data: bytes) -> None:
    for codec in CODECS.values():
        with suppress(errors.InvalidFieldError):
            await codec.read(data, pb.RunRequest)


@pytest.mark.parametrize("form", CODECS)
async def test_messages_survive(form: str) -> None:
    request = pb.RunRequest(workflow_id="日本 \"'\u0000", labels={"a": "b"}, include_error_object=True)
    request.inputs["x"].data = bytes(range(256))
    request.wait.seconds, request.wait.nanos = 1, 500_000_000
    request.metadata.update({"a": [1, None, {"b": "c"}]})
    codec = CODECS[form]
    assert await codec.read(await codec.write(request), pb.RunRequest) == request


@pytest.mark.parametrize("text", ["Mg==", "Mg", "_-8", "/+8=", ""])
async def test_all_forms_of_base64(text: str) -> None:
    request = await CODECS["json"].read(json.dumps({"inputs": {"a": {"data": text}}}).encode(), pb.RunRequest)
    expected = json_format.ParseDict({"inputs": {"a": {"data": text}}}, pb.RunRequest())
    assert request == expected
