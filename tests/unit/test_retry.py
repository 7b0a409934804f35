"""When a failed attempt is tried again: the policy's arithmetic, for every policy there can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.engine.retry import is_retryable, next_attempt_ms
from perdure.model import Failure, FailureKind, RetryRule

ERROR = Failure(FailureKind.APPLICATION, "builtins.KeyError", "k", base_types=("builtins.LookupError",))
LOST = Failure(FailureKind.SYSTEM, "perdure.WorkerLost", "gone")

policies = st.builds(
    RetryRule,
    st.just(-1) | st.integers(1, 2**31 - 1),
    st.integers(0, 315_576_000_000_000),
    st.integers(0, 315_576_000_000_000),
    st.floats(1, allow_infinity=False),
    st.floats(0, 1),
    application_errors=st.just(True),
)


def pauses(policy: RetryRule, count: int, salt: str = "") -> list[int | None]:
    return [next_attempt_ms(policy, ERROR, failures, 0, salt) for failures in range(1, count + 1)]


def test_pauses_grow_geometrically_to_their_maximum() -> None:
    policy = RetryRule(8, 100, 1_000, 2.0, jitter=0, application_errors=True)
    assert pauses(policy, 9) == [100, 200, 400, 800, 1_000, 1_000, 1_000, None, None]


def test_the_pause_counts_from_the_failure() -> None:
    policy = RetryRule(2, 100, jitter=0, application_errors=True)
    assert next_attempt_ms(policy, ERROR, 1, 5_000, "") == 5_100


@pytest.mark.parametrize(
    ("attempts", "failures", "goes_on"), [(1, 1, False), (3, 2, True), (3, 3, False), (-1, 10**9, True)]
)
def test_attempts_are_counted(attempts: int, failures: int, goes_on: bool) -> None:
    assert (
        next_attempt_ms(RetryRule(attempts, application_errors=True), ERROR, failures, 0, "") is not None
    ) is goes_on


def test_a_first_lost_worker_costs_no_pause() -> None:
    policy = RetryRule(3, 100, jitter=0, application_errors=True)
    assert [next_attempt_ms(policy, LOST, failures, 5_000, "") for failures in (1, 2, 3)] == [5_000, 5_200, None]
    assert next_attempt_ms(RetryRule(1, 100, application_errors=True), LOST, 1, 5_000, "") is None


@given(policies, st.integers(1, 10**9), st.text(max_size=5))
def test_a_pause_is_within_the_bounds_of_its_jitter(policy: RetryRule, failures: int, salt: str) -> None:
    at_ms = next_attempt_ms(policy, ERROR, failures, 1_000, salt)
    if policy.max_attempts != -1 and failures >= policy.max_attempts:
        assert at_ms is None
        return
    assert at_ms is not None
    pause_ms = at_ms - 1_000
    assert 0 <= pause_ms <= policy.max_interval_ms * (1 + policy.jitter) + 1
    if policy.initial_interval_ms >= policy.max_interval_ms:
        assert pause_ms >= policy.max_interval_ms * (1 - policy.jitter) - 1


@given(st.text(max_size=10))
def test_the_same_history_gives_the_same_moment(salt: str) -> None:
    policy = RetryRule(10, application_errors=True)
    assert pauses(policy, 9, salt) == pauses(policy, 9, salt)


def test_jitter_spreads_over_the_whole_width() -> None:
    policy = RetryRule(2, 1_000, jitter=0.5, application_errors=True)
    found = [next_attempt_ms(policy, ERROR, 1, 0, str(number)) or 0 for number in range(2_000)]
    assert 500 <= min(found) < 520
    assert 1_480 < max(found) <= 1_500
    assert 950 < sum(found) / len(found) < 1_050


@pytest.mark.parametrize("coefficient", [1e6, 1e300, 1.7e308])
def test_a_steep_policy_reaches_its_maximum_and_no_further(coefficient: float) -> None:
    policy = RetryRule(-1, 1, 60_000, coefficient, jitter=0, application_errors=True)
    assert next_attempt_ms(policy, ERROR, 1, 0, "") == 1
    assert next_attempt_ms(policy, ERROR, 100, 0, "") == 60_000
    at_once = RetryRule(-1, 0, 60_000, coefficient, jitter=0, application_errors=True)
    assert next_attempt_ms(at_once, ERROR, 100, 0, "") == 0


# ------------------------------------------------------------------------------ which failures


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [
        (FailureKind.SYSTEM, True),
        (FailureKind.TIMEOUT, True),
        (FailureKind.APPLICATION, True),
        (FailureKind.CANCELED, False),
        (FailureKind.SERIALIZATION, False),
        (FailureKind.FUNCTION_UNAVAILABLE, False),
    ],
)
def test_which_kinds_are_tried_again(kind: FailureKind, retryable: bool) -> None:
    assert is_retryable(RetryRule(application_errors=True), Failure(kind, "t", "m")) is retryable
    assert not is_retryable(RetryRule(application_errors=True), Failure(kind, "t", "m", non_retryable=True))


@pytest.mark.parametrize(
    ("policy", "retryable"),
    [
        (RetryRule(application_errors=False), False),
        (RetryRule(retryable_types=("builtins.KeyError",), application_errors=True), True),
        (RetryRule(retryable_types=("builtins.LookupError",), application_errors=True), True),
        (RetryRule(retryable_types=("builtins.ValueError",), application_errors=True), False),
        (RetryRule(non_retryable_types=("builtins.LookupError",), application_errors=True), False),
        (RetryRule(non_retryable_types=("builtins.ValueError",), application_errors=True), True),
        (
            RetryRule(
                retryable_types=("builtins.KeyError",),
                non_retryable_types=("builtins.LookupError",),
                application_errors=True,
            ),
            False,
        ),
        (RetryRule(retryable_types=("builtins.KeyError",), application_errors=False), False),
    ],
)
def test_types_of_errors_decide_by_what_they_derive_from(policy: RetryRule, retryable: bool) -> None:
    assert is_retryable(policy, ERROR) is retryable
    assert is_retryable(policy, LOST)
