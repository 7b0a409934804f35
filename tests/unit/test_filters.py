"""The filter of ListWorkflows: what it means, and where it says that something is wrong."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.errors import InvalidFilterError
from perdure.model import RunStatus
from perdure.service.api import filters
from perdure.service.api.filters import parse_filter, parse_order
from perdure.storage.queries import AllOf, AnyOf, Comparison, Condition

NOON_MS = 1_769_860_800_000
FILTER_FIELDS = frozenset(
    {"status", "workflow_id", "name", "queue", "priority", "created_by", "create_ms", "start_ms", "end_ms"}
)
ORDER_FIELDS = frozenset({"create_ms", "update_ms", "workflow_id"})


def is_understood(condition: Condition) -> bool:
    """Whether a store can take it."""
    match condition:
        case Comparison(field, operator, value):
            is_known = field in FILTER_FIELDS or field.startswith("labels.")
            return is_known and operator in ("=", "!=", "<", "<=", ">", ">=", ":") and isinstance(value, (str, int))
        case AllOf(parts) | AnyOf(parts):
            return len(parts) > 1 and all(is_understood(part) for part in parts)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("status = FAILED", Comparison("status", "=", "FAILED")),
        ("status!=failed", Comparison("status", "!=", "FAILED")),
        ("status = WORKFLOW_STATUS_RUNNING", Comparison("status", "=", "RUNNING")),
        ('name = "two words"', Comparison("name", "=", "two words")),
        (r'name = "a \"b\" \\ c"', Comparison("name", "=", r'a "b" \ c')),
        ('name = ""', Comparison("name", "=", "")),
        ('name = "a\nb"', Comparison("name", "=", "a\nb")),
        ("name:ord", Comparison("name", ":", "ord")),
        ('workflow_id:"ord"', Comparison("workflow_id", ":", "ord")),
        ("workflow_id : ord:1:", Comparison("workflow_id", ":", "ord:1:")),
        ("workflow_id=ord:1", Comparison("workflow_id", "=", "ord:1")),
        ("queue >= a", Comparison("queue", ">=", "a")),
        ("queue < z", Comparison("queue", "<", "z")),
        ("labels.team = pay", Comparison("labels.team", "=", "pay")),
        ("labels.a.b/c-d:x", Comparison("labels.a.b/c-d", ":", "x")),
        ("priority > -5", Comparison("priority", ">", -5)),
        ("create_time >= 2026-01-31T12:00:00Z", Comparison("create_ms", ">=", NOON_MS)),
        ('end_time<"2026-01-31T14:00:00+02:00"', Comparison("end_ms", "<", NOON_MS)),
        ("start_time=2026-01-31T12:00:00.001Z", Comparison("start_ms", "=", NOON_MS + 1)),
        ("name = AND", Comparison("name", "=", "AND")),
        ("((name = a))", Comparison("name", "=", "a")),
        ("", None),
        ("  \t\n", None),
    ],
)
def test_what_a_filter_means(text: str, condition: Condition | None) -> None:
    assert parse_filter(text) == condition


def test_and_binds_closer_than_or() -> None:
    a, b, c = (Comparison("name", "=", name) for name in "abc")
    assert parse_filter("name=a OR name=b AND name=c") == AnyOf((a, AllOf((b, c))))
    assert parse_filter("(name=a OR name=b) AND name=c") == AllOf((AnyOf((a, b)), c))
    assert parse_filter("name=a AND name=b AND name=c") == AllOf((a, b, c))
    assert parse_filter("name=a OR name=b OR name=c") == AnyOf((a, b, c))


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ("colour = red", 0, "unknown field 'colour'; there are create_time, end_time"),
        ("name = a AND colour = red", 13, "unknown field 'colour'"),
        ("   colour = red", 3, "unknown field 'colour'"),
        ("name", 4, "expected an operator"),
        ("name =", 6, "expected a value"),
        ("name = = a", 7, "expected a value"),
        ("name ~ a", 5, "expected an operator"),
        ("name = a   ! b", 11, "this does not belong here"),
        ('name = "open', 7, "this does not belong here"),
        ("name = 'a'", 7, "a value is quoted by double quotes"),
        ("name = a b", 9, "expected AND, OR or the end"),
        ("name = a and name = b", 9, "expected AND, OR or the end"),
        ("name = a AND", 12, "expected a field"),
        ("OR name = a", 3, "expected an operator"),
        ("(name = a", 9, "expected )"),
        ("(name = a))", 10, "expected AND, OR or the end"),
        ("()", 1, "expected a field"),
        ("status = BROKEN", 9, "status is compared by = or != with PENDING"),
        ("status > FAILED", 9, "status is compared by = or != with PENDING"),
        ("status:FAIL", 0, "status has no prefixes"),
        ("create_time:2026", 0, "create_time has no prefixes"),
        ("create_time > yesterday", 14, "a time is written as"),
        ("create_time > 2026-01-31T12:00:00", 14, "a time needs its zone"),
        ("priority = high", 11, "priority is an integer"),
        ("priority = 99999999999999999999", 11, "priority is an integer"),
        ("priority = 1_0", 11, "priority is an integer"),
        ("labels. = x", 0, "unknown field 'labels.'"),
        ("name = a AND\x00", 12, "no text has this character"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, position: int, what: str) -> None:
    with pytest.raises(InvalidFilterError) as info:
        parse_filter(text)
    assert what in info.value.message
    assert info.value.message.endswith(f"(at character {info.value.fields['position']})")
    assert int(info.value.fields["position"]) == position


def test_depth_and_length_are_bounded() -> None:
    def nested(depth: int) -> str:
        return "(" * depth + "name = a" + ")" * depth

    assert parse_filter(nested(filters.DEPTH_MAX)) == Comparison("name", "=", "a")
    with pytest.raises(InvalidFilterError, match="parentheses may be nested 16 deep"):
        parse_filter(nested(filters.DEPTH_MAX + 1))
    with pytest.raises(InvalidFilterError, match="a filter has at most 4000 characters"):
        parse_filter("x" * 4_001)
    with pytest.raises(InvalidFilterError):
        parse_filter("(" * 4_000)


# ------------------------------------------------------------------------------ anything

TOKENS = """name status FAILED AND OR ( ) = != : <= "a " labels.x priority 5 create_time 2026-01-31T12:00:00Z
0001-01-01T00:00:00+14:00 9999-12-31T23:59:59-14:00 \\ """
words = st.sampled_from(TOKENS.split())


@given(st.text() | st.lists(words).map(" ".join) | st.lists(words).map("".join))
@example("priority = \u0661")
@example("create_time = 0001-01-01T00:00:00+23:59")
@example('name = "\\')
@example("name = \x1c")
@example("\xa0name\x85=\u2003a")
def test_any_text_is_a_filter_or_an_error_with_a_place(text: str) -> None:
    try:
        condition = parse_filter(text)
    except InvalidFilterError as error:
        place = int(error.fields["position"])
    else:
        place = 0
        assert condition is None or is_understood(condition)
    assert 0 <= place <= len(text)


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


comparisons = st.one_of(
    st.builds(
        lambda name, operator, value: (f"{name} {operator} {quoted(value)}", Comparison(name, operator, value)),
        st.sampled_from(["name", "workflow_id", "queue", "labels.team"]),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">=", ":"]),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    ),
    st.sampled_from(RunStatus).map(lambda status: (f"status={status}", Comparison("status", "=", str(status)))),
    st.integers(-100, 100).map(lambda number: (f"priority>{number}", Comparison("priority", ">", number))),
    st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(
        lambda moment: (
            f"end_time <= {moment.replace(microsecond=0).isoformat()}Z",
            Comparison("end_ms", "<=", int(moment.replace(microsecond=0, tzinfo=UTC).timestamp()) * 1000),
        )
    ),
)


def joined(parts: list[Any], word: str, kind: type[AllOf] | type[AnyOf]) -> tuple[str, Condition]:
    return f" {word} ".join(f"({text})" for text, _ in parts), kind(tuple(condition for _, condition in parts))


@given(
    st.recursive(
        comparisons,
        lambda inner: (
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: joined(parts, "AND", AllOf))
            | st.lists(inner, min_size=2, max_size=3).map(lambda parts: joined(parts, "OR", AnyOf))
        ),
        max_leaves=8,
    )
)
def test_what_is_written_is_what_is_read(written: tuple[str, Condition]) -> None:
    text, condition = written
    assert parse_filter(text) == condition


# ------------------------------------------------------------------------------ order


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("", ("create_ms", True)),
        ("create_time", ("create_ms", False)),
        ("  update_time   desc ", ("update_ms", True)),
        ("workflow_id asc", ("workflow_id", False)),
    ],
)
def test_an_order_is_a_column_and_a_direction(text: str, order: tuple[str, bool]) -> None:
    assert parse_order(text) == order


@pytest.mark.parametrize("text", ["name", "create_time down", "create_time desc desc", "create_time, workflow_id"])
def test_another_order_is_refused(text: str) -> None:
    with pytest.raises(InvalidFilterError, match="order_by is one of create_time, update_time, workflow_id"):
        parse_order(text)


@given(st.text())
def test_any_text_is_an_order_or_an_error(text: str) -> None:
    with contextlib.suppress(InvalidFilterError):
        assert parse_order(text)[0] in ORDER_FIELDS
