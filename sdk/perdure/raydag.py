"""Ray's own graphs: `ray.remote` functions with `.bind()`, and their options.

Ray is used only if the program has loaded it. Each of Ray's options for tasks is honoured, or is accepted without
effect because it has no meaning for a worker that runs many tasks, or is refused with an error that says why.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from perdure.bounded import SharedBounded
from perdure.model import InputRef
from perdure.options import Options, RetryPolicy, workflow_options

METADATA: Final = "_metadata"
WORKFLOW_OPTIONS: Final = "workflow.io/options"
WHOLE_INPUT: Final = "*"
"""The name of the input of a bare InputNode: the run's single argument. `node[0]` is "0", `node.name` is "name"."""
_TAKEN: Final = (
    "num_cpus",
    "num_gpus",
    "memory",
    "resources",
    "accelerator_type",
    "runtime_env",
    "scheduling_strategy",
    "label_selector",
    "fallback_strategy",
    "max_retries",
    "retry_exceptions",
)
_PASSED: Final = frozenset(
    {
        "name",  # the task's id, if nothing else names it
        "num_returns",  # checked below
        "max_calls",  # workers end when they are idle; those with GPUs after each attempt
        "enable_task_events",  # of Ray's own tasks, of which there is one a worker
        "placement_group",  # older names of scheduling_strategy
        "placement_group_bundle_index",
        "placement_group_capture_child_tasks",
        METADATA,
    }
)
_REFUSED: Final = {
    "object_store_memory": "Ray has no such option for tasks either",
}
KNOWN_MAX: Final = 1_000
AT_ONCE: Final = RetryPolicy(initial_interval=0, jitter=0)
"""Ray makes no pauses between the attempts of its functions."""


def _classes() -> Any:
    return sys.modules.get("ray.dag")


def is_dag_node(value: object) -> bool:
    dag = _classes()
    return dag is not None and isinstance(value, dag.DAGNode)


def input_ref(node: Any) -> InputRef | None:
    """The input of an InputNode or a part of one; None for other nodes."""
    dag = _classes()
    if isinstance(node, dag.InputAttributeNode):
        return InputRef(str(node._key))
    return InputRef(WHOLE_INPUT) if isinstance(node, dag.InputNode) else None


def parts_of(node: Any) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Options]:
    """Function, arguments and options of a FunctionNode. TypeError for other nodes and for calls that do not match the
    function's signature, TypeError or ValueError for options that cannot be honoured."""
    dag = _classes()
    if not isinstance(node, dag.FunctionNode):
        raise TypeError(_not_a_step(node))
    function = node._body
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        name = getattr(function, "__qualname__", "the function")
        raise TypeError(f"{name}() is a generator, and a step of a workflow returns one value; return a list")
    args, kwargs = tuple(node._bound_args), dict(node._bound_kwargs)
    _check_call(function, args, kwargs)
    return function, args, kwargs, _options_of(node._bound_options)


_signatures: Final = SharedBounded[int, tuple[Callable[..., Any], inspect.Signature | None]](KNOWN_MAX)
"""By id() of the function, which is kept so that the id stays its own. None: the signature is unknown."""


def _signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    known = _signatures.get(id(function))
    if known is not None:
        return known[1]
    try:
        found = inspect.signature(function)
    except ValueError:  # of some functions that are not Python's
        found = None
    _signatures.keep(id(function), (function, found))
    return found


def _check_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """TypeError for a call that does not match the function's signature. Ray's `.bind` does not check that."""
    signature = _signature_of(function)
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{getattr(function, '__qualname__', 'the function')}(): {error}") from None


def _not_a_step(node: Any) -> str:
    kind = type(node).__name__
    if kind.startswith("Class"):  # ClassNode, ClassMethodNode and their kin
        return f"a workflow is made of functions; {kind}, an actor or a call of one, cannot be a step of it"
    return f"a workflow is made of functions; {kind} cannot be a step of one"


# ------------------------------------------------------------------------------ options

_known: Final = SharedBounded[tuple[object, ...], tuple[dict[str, Any], Options]](KNOWN_MAX)
"""By names and id() of values, which the nodes of a function share: the given options, which are kept so that the ids
stay theirs, and the converted ones."""


def _options_of(given: dict[str, Any]) -> Options:
    key = (*given, *map(id, given.values()))
    found = _known.get(key)
    if found is not None:
        return found[1]
    options = options_from_ray(given)
    _known.keep(key, (dict(given), options))
    return options


def options_from_ray(given: Mapping[str, Any]) -> Options:
    """Convert options of `ray.remote` and `.options`, which Ray has merged and which include those of
    `workflow.options`."""
    returns = given.get("num_returns")
    if returns is not None and (returns != 1 or isinstance(returns, bool)):
        raise ValueError(f"a step of a workflow returns one value, not num_returns={returns!r}; return a tuple")
    for name, value in given.items():
        if value is None or name in _TAKEN or name in _PASSED or name.startswith("_"):
            continue
        why = _REFUSED.get(name, "it is not known here what it means")
        raise ValueError(f"the option {name}={value!r:.80} cannot be given to a step of a workflow: {why}")
    options = {name: given[name] for name in _TAKEN if given.get(name) is not None}
    if (group := _placement_group(given)) is not None:
        options.setdefault("scheduling_strategy", group)
    own = workflow_options((given.get(METADATA) or {}).get(WORKFLOW_OPTIONS, {}))
    task_id = own.pop("task_id", None) or own.pop("name", None) or given.get("name")
    own.pop("name", None)
    if task_id is not None:
        own["task_id"] = task_id
    return Options(retry_policy=AT_ONCE).merged(options | own)


def _placement_group(given: Mapping[str, Any]) -> Any:
    """The strategy of the older options for placement groups; None if there are none."""
    group = given.get("placement_group")
    if group is None or isinstance(group, str):
        return None
    strategies: Any = sys.modules["ray.util.scheduling_strategies"]
    return strategies.PlacementGroupSchedulingStrategy(
        group,
        given.get("placement_group_bundle_index", -1),
        given.get("placement_group_capture_child_tasks"),
    )


# ------------------------------------------------------------------------------ workflow.options


class Metadata(dict[str, Any]):
    """The value of `_metadata`. Unpickling a function that has one also prepares Ray for it in that process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _metadata, (dict(self),)


def _metadata(content: dict[str, Any]) -> Metadata:
    accept_metadata()
    return Metadata(content)


def metadata_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a workflow, checked, as keyword arguments for `ray.remote` and `.options`."""
    return {METADATA: _metadata({WORKFLOW_OPTIONS: workflow_options(options)})}


def decorate(remote_function: Any, options: Mapping[str, Any]) -> Any:
    """Set options of a workflow on a function made by `ray.remote`, overriding those it has. Returns the function."""
    kind = getattr(sys.modules.get("ray.remote_function"), "RemoteFunction", None)
    if kind is None or not isinstance(remote_function, kind):
        raise ValueError("workflow.options decorates functions made by ray.remote; put it above @ray.remote")
    defaults = remote_function._default_options
    defaults[METADATA] = _merged(defaults.get(METADATA) or {}, metadata_of(options)[METADATA])
    return remote_function


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> Metadata:
    """Two `_metadata`, merged namespace by namespace."""
    merged = Metadata(under)
    for namespace, content in over.items():
        merged[namespace] = {**merged.get(namespace, {}), **content}
    return merged


def accept_metadata() -> None:
    """Make Ray accept and merge `_metadata` as an option of tasks, as it did up to 2.47."""
    ray_options: Any = sys.modules.get("ray._common.ray_option_utils")
    if ray_options is None or METADATA in ray_options.task_options:
        return
    plain_update = ray_options.update_options

    def update_options(original: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        updated: dict[str, Any] = plain_update(original, new)
        if original.get(METADATA) is not None and new.get(METADATA) is not None:
            updated[METADATA] = _merged(original[METADATA], new[METADATA])
        return updated

    ray_options.update_options = update_options
    ray_options.task_options[METADATA] = ray_options.Option((dict, type(None)))
