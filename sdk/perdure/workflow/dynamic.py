"""Graphs that tasks make: `continuation`, and `wait` for some of several nodes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from perdure import graph, raydag
from perdure.context import is_bound
from perdure.workflow import running

T = TypeVar("T")


def continuation(dag_node: T) -> T:
    """The value of a graph in the place of a task's own: `return workflow.continuation(dag)`.

    In a task of a workflow that is the graph itself, which runs once the task has returned it. Anywhere else the
    graph is executed now and its value returned: by Ray if it is made of Ray's remote functions, else as a workflow.
    TypeError for what is no graph.
    """
    if not graph.is_node(dag_node):
        raise TypeError(f"a continuation is a graph, made by .bind(), not a {type(dag_node).__name__}")
    if is_bound():
        return dag_node
    if not _is_of_ray_alone(dag_node):
        return running.run(dag_node)
    raydag.accept_metadata()
    node: Any = dag_node
    with warnings.catch_warnings():  # Ray warns that `execute` goes some day
        warnings.simplefilter("ignore")
        ref = node.execute()
    value: T = sys.modules["ray"].get(ref)
    return value


def _is_of_ray_alone(dag_node: object) -> bool:
    """Whether Ray itself can execute the graph: timers, events and @perdure.task are nothing to it."""
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
    """A node whose value is `(ready, remaining)`: the values of the first `num_returns` of these nodes that have one,
    or of fewer after `timeout` seconds, in the order given; and the others as nodes for another `wait` or for tasks
    that need them. TypeError for what is no list of nodes, ValueError for a number or time that cannot be."""
    if not isinstance(tasks, Sequence):
        raise TypeError(f"wait takes a list of nodes, not a {type(tasks).__name__}")
    return graph.wait(tasks, num_returns=num_returns, timeout=timeout)
