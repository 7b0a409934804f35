"""Retries: whether and when a failed attempt is followed by another one. Pure functions of policy and history."""

from __future__ import annotations

from zlib import crc32

from perdure.model import Failure, FailureKind, RetryRule

EXPONENT_MAX = 62
"""Beyond this exponent every growing interval has reached its maximum."""


def is_retryable(policy: RetryRule, failure: Failure) -> bool:
    """Whether the policy retries this kind of failure at all, however many attempts are left."""
    if failure.non_retryable:
        return False
    match failure.kind:
        case FailureKind.SYSTEM | FailureKind.TIMEOUT:
            return True
        case FailureKind.APPLICATION:
            types = {failure.type, *failure.base_types}
            if not policy.application_errors or types & set(policy.non_retryable_types):
                return False
            return not policy.retryable_types or bool(types & set(policy.retryable_types))
        case _:
            return False


def next_attempt_ms(policy: RetryRule, failure: Failure, failures: int, at_ms: int, salt: str) -> int | None:
    """The time of the next attempt after the `failures`-th failure; None: no further attempt. A lost worker as the
    first failure is retried at once, because it is not the fault of the task.

    The interval grows geometrically up to its maximum and is spread by the policy's jitter. The spread is computed from
    `salt`, so the same history gives the same time.
    """
    if not is_retryable(policy, failure):
        return None
    if policy.max_attempts != -1 and failures >= policy.max_attempts:
        return None
    if failure.kind is FailureKind.SYSTEM and failures == 1:
        return at_ms
    try:
        grown = policy.initial_interval_ms * policy.backoff_coefficient ** min(failures - 1, EXPONENT_MAX)
    except OverflowError:  # of floats
        grown = policy.max_interval_ms if policy.initial_interval_ms else 0
    interval = min(grown, policy.max_interval_ms)
    spread = crc32(f"{salt}:{failures}".encode()) / 0x8000_0000 - 1.0  # -1 to 1
    return at_ms + round(interval * (1 + policy.jitter * spread))
