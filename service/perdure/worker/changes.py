"""Which values cannot change in place, and which are certainly large or small."""

from __future__ import annotations

import sys
from typing import Any, Final

LARGE_MIN: Final = 4096
"""A container with more elements, a longer text and a larger array are large."""
TINY_MAX: Final = 1024
"""A shorter text and an integer of fewer bits are small."""
_ATOMS: Final = frozenset({int, str, bytes, float, complex, bool, type(None)})
_TEXTS: Final = frozenset({str, bytes})
_FROZEN_CONTAINERS: Final = frozenset({tuple, frozenset})
_SIZED: Final = frozenset({str, bytes, bytearray, list, tuple, dict, set, frozenset})


def is_tiny(value: Any) -> bool:
    """Whether its encoding is certainly small."""
    kind = type(value)
    if kind in _TEXTS:
        return len(value) <= TINY_MAX
    return kind in _ATOMS and (kind is not int or value.bit_length() <= TINY_MAX)


def is_plainly_large(value: Any) -> bool:
    """Whether its encoding is certainly large."""
    kind = type(value)
    if kind in _SIZED:
        return len(value) > LARGE_MIN
    return kind is _array() and value.nbytes > LARGE_MIN


def is_frozen(value: Any) -> bool:
    """Whether nothing in it can change: an atom, a tuple or frozenset of such values, a read-only array."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        kind = type(value)
        if kind in _ATOMS:
            continue
        if kind in _FROZEN_CONTAINERS:
            if not _ATOMS.issuperset(map(type, value)):
                waiting += value
        elif not _is_read_only_array(value):
            return False
    return True


def _is_read_only_array(value: Any) -> bool:
    """Whether it is an array of numpy whose memory cannot be written through it or through what it is a view of."""
    kind = _array()
    if type(value) is not kind or value.dtype.hasobject:
        return False
    while type(value) is kind:
        if value.flags.writeable:
            return False
        value = value.base
    return value is None or type(value) is bytes or (type(value) is memoryview and value.readonly)


def _array() -> Any:
    """The class of numpy's arrays; a placeholder if the program has not loaded numpy."""
    return getattr(sys.modules.get("numpy"), "ndarray", _NoArray)


class _NoArray:
    pass
