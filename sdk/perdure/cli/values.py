"""Values on the command line: JSON as input, readable output."""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from perdure import conversion, graph
from perdure.views import RunInfo, TaskInfo


def parse_json(text: str, what: str) -> Any:
    """The value of an argument. The error says where the JSON is broken."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{what} is not JSON: {error}") from error


def look_here() -> None:
    """Let modules be found in the working directory, as Python does for a script's folder."""
    sys.path.insert(0, os.getcwd())


def load_graph(place: str, inputs: dict[str, Any], *, is_shared: bool = False) -> Any:
    """The graph of `module:name`: a node, a task, or a function that takes the inputs and returns a node. A graph that
    several runs share gets its inputs from each run. Any error of the module becomes one line."""
    module, _, name = place.partition(":")
    if not module or not name:
        raise click.ClickException(f"{place!r}: expected module:name")
    look_here()
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        if isinstance(found, graph.Task):
            found = found.bind(**({name: graph.input(name) for name in inputs} if is_shared else inputs))
        elif callable(found) and not graph.is_node(found):
            found = found(**inputs)
        if graph.is_node(found):
            conversion.to_spec(found, names_modules=False)
            return found
    except Exception as error:
        raise click.ClickException(f"{place}: {type(error).__name__}: {error}") from error
    raise click.ClickException(
        f"{place} is a {type(found).__name__}, and not a node, a task or a function that makes one"
    )


def as_json(value: Any) -> Any:
    """The value if JSON can hold it, else its repr."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def run_fields(info: RunInfo | TaskInfo) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(info).items()}


def duration(task: TaskInfo) -> str:
    """How long a task took, or has taken until now: 0.012 s, 3.4 s, 12 min 5 s."""
    if task.started is None:
        return ""
    took_s = max(((task.ended or datetime.now(UTC)) - task.started).total_seconds(), 0.0)
    if took_s < 60:
        return f"{took_s:.3f} s" if took_s < 1 else f"{took_s:.1f} s"
    minutes, seconds = divmod(round(took_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def moment(value: datetime | None) -> str:
    return value.astimezone().strftime("%Y-%m-%d %H:%M:%S") if value is not None else ""
