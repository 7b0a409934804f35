"""Graphs that tasks return (`continuation`), and `wait` for some of several nodes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from perdure import graph, raydag, texts
from perdure.context import is_bound
from perdure.workflow import running

T = TypeVar("T")


def continuation(dag_node: T) -> T:
    """Continue a task with a graph: `return workflow.continuation(dag)`.

    In a task of a workflow this returns the graph, which runs after the task has returned it. Elsewhere it executes
    the graph and returns its value: by Ray if the graph consists of Ray's remote functions, else as a workflow.
    TypeError if it is not a graph.
    """
    if not graph.is_node(dag_node):
        raise TypeError(f"a continuation is a graph, made by .bind(), not {texts.kind_of(dag_node)}")
    if is_bound():
        return dag_node
    if not _is_of_ray_alone(dag_node):
        return running.run(dag_node)
    raydag.accept_metadata()
    node: Any = dag_node
    with warnings.catch_warnings():  # Ray warns that `execute` is deprecated
        warnings.simplefilter("ignore")
        ref = node.execute()
    value: T = sys.modules["ray"].get(ref)
    return value


def _is_of_ray_alone(dag_node: object) -> bool:
    """Whether Ray itself can execute the graph. It cannot if there are timers, events or calls of @perdure.task."""
    seen: set[int] = set()
    found: list[Any] = [dag_node]
    while found:
        value = found.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if raydag.is_dag_node(value):
            found += (*value._bound_args, *value._bound_kwargs.values())
        elif graph.is_node(value):
            return False
        elif isinstance(value, (list, tuple, set, frozenset)):
            found.extend(value)
        elif isinstance(value, Mapping):
            found.extend(value.values())
    return True


def wait(tasks: Sequence[T], num_returns: int = 1, timeout: float | None = None) -> Any:
    """A node whose value is `(ready, remaining)`: the values of the first `num_returns` nodes that have one, or of
    fewer after `timeout` seconds, in the order given; and the other nodes, for another `wait` or for other tasks.
    TypeError if it is not a list of nodes, ValueError for an invalid number or time."""
    if not isinstance(tasks, Sequence):
        raise TypeError(f"wait takes a list of nodes, not {texts.kind_of(tasks)}")
    return graph.wait(tasks, num_returns=num_returns, timeout=timeout)
