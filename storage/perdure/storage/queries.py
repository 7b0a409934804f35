"""Queries of the metadata store for lists of runs, as values."""

from __future__ import annotations

from typing import TypeAlias

from perdure.model import frozen


@frozen
class Comparison:
    """`field` is a column of RunRow or "labels.KEY"; `operator` one of = != < <= > >= and ":" (has the prefix)."""

    field: str
    operator: str
    value: str | int


@frozen
class AllOf:
    parts: tuple[Condition, ...]


@frozen
class AnyOf:
    parts: tuple[Condition, ...]


Condition: TypeAlias = Comparison | AllOf | AnyOf


@frozen
class RunQuery:
    """Current runs of a namespace, ordered by a column and then by `run_id`, both in one direction: those of all kinds
    but actors, or with `of_actors` the actors alone.

    `after` is the position of the previous page's last row: the value of the column and the run id.
    """

    namespace: str
    limit: int
    where: Condition | None = None
    order_by: str = "create_ms"
    descending: bool = True
    after: tuple[str | int, str] | None = None
    of_actors: bool = False


LABELLED_MAX = 1_000
"""Up to this many runs with a label are looked up by it. With more, a scan in the requested order finds some soon."""


def labels_of_all(where: Condition | None) -> list[tuple[str, str]]:
    """Labels (key, value) that a run must have to meet the condition."""
    match where:
        case AllOf(parts):
            return [label for part in parts for label in labels_of_all(part)]
        case Comparison(field=name, operator="=", value=str() as value) if name.startswith("labels."):
            return [(name.removeprefix("labels."), value)]
        case _:
            return []
