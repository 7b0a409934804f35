"""Fingerprints of graphs: whether a program that uses a workflow id again has the same graph.

Code and options may have been changed in between, so they are not part of it. A fingerprint covers the tasks, the
names of functions, the dependencies, and arguments and inputs that are plain data. Pickles of other values differ
between processes.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from typing import Any, Final

from perdure import codec
from perdure.model import Call, Payload, Spec

LABEL: Final = "perdure.graph"
_SET_OPCODES: Final = (pickle.EMPTY_SET, pickle.FROZENSET, pickle.ADDITEMS)


def of(spec: Spec, inputs: Mapping[str, Any]) -> str:
    """The fingerprint of a graph with its inputs."""
    digest = hashlib.sha256()
    for node in spec.nodes:
        action = node.action
        seen: tuple[object, ...] = (type(action).__name__,)
        if isinstance(action, Call):
            seen = (action.function.name, action.refs, _plain(action.arguments))
        digest.update(repr((node.id, node.after, seen)).encode("utf-8", "backslashreplace"))
    for name in sorted(inputs):
        digest.update(repr((name, _plain(_encoded(inputs[name])))).encode("utf-8", "backslashreplace"))
    digest.update(spec.output.encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _encoded(value: Any) -> Payload:
    """The payload of a value. Values with objects of Ray are all alike, because the ids of objects differ between
    processes."""
    try:
        return codec.encode_value(value).inline()
    except codec.CodecError:
        return Payload(codec.OBJECTS)


class _NotPlain(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise _NotPlain

    def persistent_load(self, pid: Any) -> Any:
        return ("a reference", pid)


def _plain(payload: Payload) -> str:
    """The value as text if it consists of numbers, texts, bytes, lists, tuples and dictionaries only, else its
    encoding."""
    if payload.encoding != codec.PICKLE or any(opcode in payload.data for opcode in _SET_OPCODES):
        return payload.encoding
    try:
        return repr(_Unpickler(io.BytesIO(payload.data)).load())
    except Exception:
        return payload.encoding
