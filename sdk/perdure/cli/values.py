"""Values on the command line: JSON in, something readable out."""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from perdure import graph
from perdure.views import RunInfo, TaskInfo


def parse_json(text: str, what: str) -> Any:
    """The value of an argument. A usage error says where the JSON is broken."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"{what} is not JSON: {error}") from error


def load_graph(place: str, inputs: dict[str, Any]) -> Any:
    """`module:name` is a node, a task, or a function that takes the inputs and returns a node."""
    module, _, name = place.partition(":")
    if not module or not name:
        raise click.UsageError(f"{place!r}: expected module:name")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"{place}: {error}") from error
    if isinstance(found, graph.Task):
        return found.bind(**inputs)
    if callable(found) and not graph.is_node(found):
        found = found(**inputs)
    if not graph.is_node(found):
        raise click.UsageError(
            f"{place} is a {type(found).__name__}, and not a node, a task or a function that makes one"
        )
    return found


def as_json(value: Any) -> Any:
    """A value as JSON takes it; what it cannot take becomes text."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return repr(value)


def run_fields(info: RunInfo | TaskInfo) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(info).items()}


def moment(value: datetime | None) -> str:
    return value.astimezone().strftime("%Y-%m-%d %H:%M:%S") if value is not None else ""
