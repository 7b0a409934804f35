"""Filters and sorts runs in memory by a query."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from perdure.storage.queries import AllOf, AnyOf, Comparison, Condition, RunQuery
from perdure.storage.rows import ACTOR, RunRow


def page_of(rows: Iterable[RunRow], query: RunQuery) -> list[RunRow]:
    """The page of these rows that the query selects."""
    of_kind = (row for row in rows if row.namespace == query.namespace and (row.kind == ACTOR) is query.of_actors)
    found = [row for row in of_kind if _matches(row, query.where)]
    found.sort(key=lambda row: _place(row, query), reverse=query.descending)
    if query.after is not None:
        after = query.after
        found = [
            row for row in found if (_place(row, query) < after if query.descending else _place(row, query) > after)
        ]
    return found[: query.limit]


def _place(row: RunRow, query: RunQuery) -> tuple[str | int, str]:
    return (getattr(row, query.order_by), row.run_id)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda value, wanted: value == wanted,
    "!=": lambda value, wanted: value != wanted,
    "<": lambda value, wanted: value < wanted,
    "<=": lambda value, wanted: value <= wanted,
    ">": lambda value, wanted: value > wanted,
    ">=": lambda value, wanted: value >= wanted,
    ":": lambda value, wanted: value.startswith(wanted),
}


def _matches(row: RunRow, condition: Condition | None) -> bool:
    """Whether the condition holds. A comparison with an unset value is false, whatever its operator."""
    match condition:
        case None:
            return True
        case AllOf(parts):
            return all(_matches(row, part) for part in parts)
        case AnyOf(parts):
            return any(_matches(row, part) for part in parts)
        case Comparison(field=name, operator=operator, value=wanted):
            if name.startswith("labels."):
                value = row.labels.get(name.removeprefix("labels."))
            else:
                value = getattr(row, name)
            return value is not None and _COMPARE[operator](value, wanted)
