"""Facts about the caller that are not in the request. Each transport implements them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from perdure.connection import AGE_KEY, REPEAT_KEY
from perdure.service.common.repeat import Repeat

REPEAT_KEYS: Final = frozenset({"grpc-previous-rpc-attempts", REPEAT_KEY})
"""Metadata by which gRPC's own retries, and clients that make a call again themselves, say so."""
REPEATED_MS: Final = 10_000
"""gRPC's own repeats do not say when the call was made first; all of them come within some seconds."""
REPEATED_MS_MAX: Final = 24 * 3600 * 1000
DIGITS_MAX: Final = 15


class Caller(Protocol):
    """The caller of a call. Properties are computed when read: the remaining time shrinks, and few calls need all."""

    @property
    def left_s(self) -> float | None:
        """Seconds until the caller gives up; None: the caller has no deadline."""
        ...

    @property
    def repeat(self) -> Repeat | None:
        """The age of the first try, if this call is a repeat."""
        ...


class Anybody:
    """A caller of whom nothing is known."""

    left_s: float | None = None
    repeat: Repeat | None = None


def told_repeat(metadata: Iterable[tuple[str, str | bytes]]) -> Repeat | None:
    """What the metadata of a call, or its headers over HTTP, say of earlier tries. Keys are in lower case."""
    age_ms: int | None = None
    is_again = False
    for key, value in metadata:
        is_again |= key in REPEAT_KEYS and value != "0"
        if key == AGE_KEY and (digits := str(value)).isdecimal():
            is_long = len(digits) > DIGITS_MAX  # Python refuses to read thousands of them
            age_ms = REPEATED_MS_MAX if is_long else min(int(digits), REPEATED_MS_MAX)
    if not is_again:
        return None
    return Repeat(REPEATED_MS) if age_ms is None else Repeat(age_ms, age_ms)
