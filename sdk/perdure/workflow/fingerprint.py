"""Whether two graphs are the same, asked by a program that runs again under the same workflow id.

Code may have been mended and options tuned in between, so neither counts. What counts are the tasks, the functions
by name, how they depend on each other, and those arguments and inputs that are plain data; pickles of anything else
differ from process to process.
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
    """The same for the same graph with the same inputs."""
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
    """Objects of Ray have other names in every process, so a value that holds some is as good as any."""
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
    """The data as text if it is numbers, texts, bytes, lists, tuples and dictionaries only."""
    if payload.encoding != codec.PICKLE or any(opcode in payload.data for opcode in _SET_OPCODES):
        return payload.encoding
    try:
        return repr(_Unpickler(io.BytesIO(payload.data)).load())
    except Exception:
        return payload.encoding
