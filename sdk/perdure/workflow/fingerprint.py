"""Fingerprints of graphs: whether a program that uses a workflow id again has the same graph.

Code and options may have been changed in between, so they are not part of it; time-outs are options, and the time of
`sleep_until` is another one in each start of a program. A fingerprint covers the tasks, the names of functions, the
dependencies, the keys of events, the lengths of sleeps, the numbers of waits, and arguments and inputs that are plain
data. Pickles of other values differ between processes.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from typing import Any, Final, assert_never

from perdure import codec
from perdure.model import Action, Call, Payload, Sleep, Spec, Wait, WaitEvent

LABEL: Final = "perdure.graph"
_SET_OPCODES: Final = (pickle.EMPTY_SET, pickle.FROZENSET, pickle.ADDITEMS)


def of(spec: Spec, inputs: Mapping[str, Any]) -> str:
    """The fingerprint of a graph with its inputs."""
    digest = hashlib.sha256()
    for node in spec.nodes:
        digest.update(repr((node.id, node.after, _seen(node.action))).encode("utf-8", "backslashreplace"))
    for name in sorted(inputs):
        digest.update(repr((name, _plain(_encoded(inputs[name])))).encode("utf-8", "backslashreplace"))
    digest.update(spec.output.encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _seen(action: Action) -> tuple[object, ...]:
    match action:
        case Call(function, arguments, refs):
            return (function.name, refs, _plain(arguments))
        case WaitEvent(key=key):
            return ("WaitEvent", key)
        case Sleep(delay_ms=delay_ms):
            return ("Sleep", delay_ms)
        case Wait(refs=refs, num_returns=num_returns):
            return ("Wait", refs, num_returns)
        case _:
            assert_never(action)


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
