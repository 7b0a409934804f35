"""Graphs that tasks make: `continuation`, and `wait` for some of several nodes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

from perdure import graph, raydag
from perdure.context import is_bound
from perdure.graph import is_node

T = TypeVar("T")


def continuation(dag: T) -> T:
    """The value of a graph in the place of a task's own: `return workflow.continuation(dag)`.

    In a task of a workflow that is the graph itself, which runs once the task has returned it. Anywhere else the
    graph is executed now and its value returned. TypeError for what is no graph.
    """
    if not is_node(dag):
        raise TypeError(f"a continuation is a graph, made by .bind(), not a {type(dag).__name__}")
    if is_bound():
        return dag
    if not raydag.is_dag_node(dag):
        raise TypeError(
            "outside of a workflow only graphs of Ray's remote functions can be executed; run this one as a workflow"
        )
    raydag.accept_metadata()
    node: Any = dag
    with warnings.catch_warnings():  # Ray warns that `execute` goes some day
        warnings.simplefilter("ignore")
        ref = node.execute()
    value: T = sys.modules["ray"].get(ref)
    return value


def wait(tasks: Sequence[T], num_returns: int = 1, timeout: float | None = None) -> Any:
    """A node whose value is `(ready, remaining)`: the values of the first `num_returns` of these nodes that have one,
    or of fewer after `timeout` seconds, in the order given; and the others as nodes for another `wait` or for tasks
    that need them."""
    return graph.wait(tasks, num_returns=num_returns, timeout=timeout)
