"""Ray's own graphs: `ray.remote` functions with `.bind()`. Ray is looked at only if it is loaded already."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from perdure.model import InputRef
from perdure.options import Options

WORKFLOW_OPTIONS: Final = "workflow.io/options"
_TAKEN: Final = (
    "num_cpus",
    "num_gpus",
    "memory",
    "resources",
    "accelerator_type",
    "runtime_env",
    "scheduling_strategy",
    "max_retries",
    "retry_exceptions",
)


def _classes() -> Any:
    return sys.modules.get("ray.dag")


def is_dag_node(value: object) -> bool:
    dag = _classes()
    return dag is not None and isinstance(value, dag.DAGNode)


def input_ref(node: Any) -> InputRef | None:
    """The input that an InputNode or a part of one stands for; None for other nodes."""
    dag = _classes()
    if isinstance(node, dag.InputAttributeNode):
        return InputRef(str(node._key))
    return InputRef("0") if isinstance(node, dag.InputNode) else None


def parts_of(node: Any) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Options]:
    """Function, arguments and options of a FunctionNode. TypeError for nodes that are no function calls."""
    dag = _classes()
    if not isinstance(node, dag.FunctionNode):
        raise TypeError(f"a workflow is made of functions; {type(node).__name__} cannot be a step of one")
    given = dict(node._bound_options or {})
    if (returns := given.get("num_returns", 1)) not in (1, None):
        raise ValueError(f"a step of a workflow returns one value, not num_returns={returns}; return a tuple")
    options = {name: given[name] for name in _TAKEN if given.get(name) is not None}
    own = (given.get("_metadata") or {}).get(WORKFLOW_OPTIONS, {})
    options |= {name: value for name, value in own.items() if value is not None}
    return node._body, tuple(node._bound_args), dict(node._bound_kwargs), Options().merged(options)
