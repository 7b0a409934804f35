"""Values on the command line: JSON as input, readable output."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import click

from perdure import conversion, graph, texts
from perdure.infos import ActorCallInfo, ActorInfo, RunInfo, TaskInfo


def parse_json(text: str, what: str, *, advice: str = "") -> Any:
    """The value of an argument. The error says where the JSON is broken, and what to do."""
    try:
        return texts.read_json(text)
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{what} is not JSON: {error}{advice}") from error


def look_here() -> None:
    """Let modules be found in the working directory, as Python does for a script's folder."""
    sys.path.insert(0, os.getcwd())


@dataclass(frozen=True, slots=True)
class Loaded:
    """A graph, and those of the given inputs that it uses by `perdure.input`."""

    graph: Any
    inputs: dict[str, Any]


def load_graph(place: str, inputs: dict[str, Any], *, is_shared: bool = False) -> Loaded:
    """The graph of `module:name`: a node, a task, or a function that returns a node. A task or a function gets the
    inputs of its parameters as keyword arguments, the graph gets those that it uses. A task that several runs share
    gets its inputs from each run. Any error of the module, and any input that is missing or has no use, becomes one
    line."""
    module, _, name = place.partition(":")
    if not module or not name:
        raise click.ClickException(f"{place!r}: expected module:name")
    look_here()
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        parameters: set[str] = set()
        is_made = False
        if isinstance(found, graph.Task):
            parameters, given = _given(found.function, inputs)
            _refuse_unused(place, inputs, parameters)
            found = found.bind(**({name: graph.input(name) for name in given} if is_shared else given))
        elif callable(found) and not graph.is_node(found):
            parameters, given = _given(found, inputs)
            found, is_made = found(**given), True
        used = conversion.to_spec(found, names_modules=False).inputs() if graph.is_node(found) else None
    except click.ClickException:
        raise
    except Exception as error:
        raise click.ClickException(f"{place}: {type(error).__name__}: {error}") from error
    if used is not None:
        _refuse_unused(place, inputs, parameters | used)
        if missing := sorted(used - inputs.keys()):
            raise click.ClickException(f"{place} needs the input {missing[0]!r}, which was not given")
        return Loaded(found, {name: value for name, value in inputs.items() if name in used})
    kind = texts.kind_of(found)
    if is_made:
        raise click.ClickException(f"{place} gives {kind}, and not a node; make it a task with @perdure.task")
    raise click.ClickException(f"{place} is {kind}, and not a node, a task or a function that makes one")


def _refuse_unused(place: str, inputs: dict[str, Any], takes: set[str]) -> None:
    if unknown := sorted(inputs.keys() - takes):
        names = ", ".join(map(repr, sorted(takes))) or "none"
        raise click.ClickException(f"{place} takes no input {unknown[0]!r}; it takes {names}")


def _given(function: Any, inputs: dict[str, Any]) -> tuple[set[str], dict[str, Any]]:
    """The names of the function's parameters, and the inputs for them. A function with `**kwargs` gets all inputs."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions written in C have none
        return set(inputs), inputs
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return set(inputs), inputs
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {parameter.name for parameter in parameters if parameter.kind in kinds}
    return names, {name: value for name, value in inputs.items() if name in names}


def as_json(value: Any) -> Any:
    """The value if JSON can hold it, else its repr."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def run_fields(info: RunInfo | TaskInfo | ActorInfo | ActorCallInfo) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(info).items()}


def duration(task: TaskInfo | ActorCallInfo) -> str:
    """How long a task or a call took, or has taken until now: 0.012 s, 3.4 s, 12 min 5 s."""
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
