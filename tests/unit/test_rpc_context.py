"""Facts about callers over gRPC."""

from __future__ import annotations

from typing import Any, cast

import pytest

from perdure.connection import AGE_KEY, REPEAT_KEY
from perdure.service.api.caller import REPEATED_MS, REPEATED_MS_MAX
from perdure.service.common.repeat import Repeat
from perdure.service.rpc.context import Context, RpcCaller


class Call:
    """Stands for the context of a call."""

    def __init__(self, *metadata: tuple[str, str], left_s: float | None = None) -> None:
        self._metadata = metadata
        self.left_s = left_s

    def invocation_metadata(self) -> Any:
        return self._metadata

    def time_remaining(self) -> float | None:
        return self.left_s


@pytest.mark.parametrize(
    ("metadata", "ago_ms"),
    [
        ((), None),
        ((("grpc-previous-rpc-attempts", "1"),), REPEATED_MS),
        (((REPEAT_KEY, "2"), (AGE_KEY, "70")), 70),
        (((AGE_KEY, "70"), (REPEAT_KEY, "2")), 70),
        (((REPEAT_KEY, "2"), (AGE_KEY, "soon")), REPEATED_MS),
        (((REPEAT_KEY, "2"), (AGE_KEY, "9" * 30)), REPEATED_MS_MAX),
        (((REPEAT_KEY, "2"), (AGE_KEY, "9" * 5_000)), REPEATED_MS_MAX),
        (((REPEAT_KEY, "0"), (AGE_KEY, "70")), None),
        (((AGE_KEY, "70"),), None),
    ],
)
def test_metadata_says_when_a_repeat_was_asked_first(metadata: Any, ago_ms: int | None) -> None:
    caller = RpcCaller(cast(Context, Call(*metadata)))
    is_known = ago_ms is not None and any(value.isdecimal() for key, value in metadata if key == AGE_KEY)
    assert caller.repeat == (None if ago_ms is None else Repeat(ago_ms, ago_ms if is_known else 0))


def test_what_is_left_of_the_deadline_is_read_when_it_is_needed() -> None:
    call = Call(left_s=5.0)
    caller = RpcCaller(cast(Context, call))
    call.left_s = 3.0
    assert caller.left_s == 3.0
