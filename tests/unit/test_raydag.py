"""Options of Ray's own functions: merged, honoured, let pass or refused with a sentence."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
import ray
import ray.dag
from ray.util.scheduling_strategies import Exists, NodeAffinitySchedulingStrategy, NodeLabelSchedulingStrategy

import perdure
from perdure import graphwire, raydag
from perdure.codec import decode
from perdure.conversion import to_spec
from perdure.model import Payload, Resources, RetryRule, TaskOptions


def plain(value: int = 1) -> int:
    return value


def model_of(remote: Any, *args: Any) -> TaskOptions:
    """What a step made of it asks for, after a journey over the wire."""
    (node,) = graphwire.decode_spec(graphwire.encode_spec(to_spec(remote.bind(*args)))).nodes
    return node.options


def at_once(max_attempts: int, **given: Any) -> RetryRule:
    """Ray makes no pauses between attempts."""
    return RetryRule(max_attempts, initial_interval_ms=0, jitter=0, **given)


def test_nothing_given_is_rays_default() -> None:
    retry = model_of(ray.remote(plain)).retry
    assert (retry.max_attempts, retry.application_errors) == (4, False)


def test_pauses_between_attempts_are_an_option() -> None:
    policy = perdure.RetryPolicy(initial_interval=5, jitter=0)
    paused = ray.remote(plain).options(**raydag.metadata_of({"retry_policy": policy}))
    assert model_of(paused).retry.initial_interval_ms == 5_000


def test_options_of_the_decorator_and_of_the_call_are_merged() -> None:
    decorated = ray.remote(num_cpus=2, num_gpus=3, max_retries=5, resources={"disk": 1}, memory=1000)(plain)
    assert model_of(decorated).shape.resources == Resources(2, 3, 1000, (("disk", 1),))
    called = decorated.options(num_cpus=1, num_gpus=1)
    assert model_of(called).shape.resources == Resources(1, 1, 1000, (("disk", 1),))
    assert model_of(called).retry.max_attempts == 6
    assert model_of(decorated.options(resources={"net": 2})).shape.resources.custom == (("net", 2),)


@pytest.mark.parametrize(
    ("options", "retry"),
    [
        ({"max_retries": 0}, at_once(1, application_errors=False)),
        ({"max_retries": -1}, at_once(-1, application_errors=False)),
        ({"retry_exceptions": True}, at_once(4, application_errors=True)),
        ({"retry_exceptions": False}, at_once(4, application_errors=False)),
        (
            {"retry_exceptions": [OSError, KeyError]},
            at_once(4, retryable_types=("builtins.OSError", "builtins.KeyError"), application_errors=True),
        ),
        ({"retry_exceptions": []}, at_once(4, application_errors=False)),
    ],
)
def test_retries(options: dict[str, Any], retry: RetryRule) -> None:
    assert model_of(ray.remote(**options)(plain)).retry == retry
    assert model_of(ray.remote(plain).options(**options)).retry == retry


@pytest.mark.parametrize(
    "options",
    [
        {"num_returns": 1},
        {"num_returns": None},
        {"max_calls": 3},
        {"enable_task_events": False},
        {"_labels": {"a": "b"}},
        {"placement_group": "default"},
        {"placement_group": None},
        {"_generator_backpressure_num_objects": -1},
        {"accelerator_type": None},
    ],
)
def test_what_means_nothing_here_passes(options: dict[str, Any]) -> None:
    assert model_of(ray.remote(**options)(plain)) == model_of(ray.remote(plain))


def test_a_gpu_task_passes_though_ray_adds_max_calls() -> None:
    assert model_of(ray.remote(num_gpus=1)(plain)).shape.resources.num_gpus == 1
    assert model_of(ray.remote(num_gpus=1, accelerator_type="T4")(plain)).shape.resources.accelerator_type == "T4"


def test_a_node_of_rays_that_is_shared_exponentially_is_one_task() -> None:
    add = ray.remote(lambda left, right: left + right)
    node = add.bind(1, 1)
    for _ in range(200):  # 2 ** 200 paths
        node = add.bind(node, [node])
    assert len(to_spec(node).nodes) == 201


@pytest.mark.parametrize("width", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_chains_and_fans_of_rays_nodes_are_no_recursion(width: int) -> None:
    remote = ray.remote(plain)
    node = remote.bind(1)
    for _ in range(5_000):
        node = remote.bind(node)
    assert len(to_spec(node).nodes) == 5_001
    gather = ray.remote(lambda *values: len(values))
    spec = to_spec(gather.bind(*[remote.bind(number) for number in range(width)]))
    assert len({node.id for node in spec.nodes}) == width + 1
    assert len(graphwire.decode_spec(graphwire.encode_spec(spec)).nodes) == width + 1


@pytest.mark.parametrize("returns", [0, 2, 5])
def test_several_returns_are_refused(returns: int) -> None:
    with pytest.raises(ValueError, match=f"returns one value, not num_returns={returns}; return a tuple"):
        to_spec(ray.remote(num_returns=returns)(plain).bind())
    assert to_spec(ray.remote(num_returns=returns)(plain).options(num_returns=1).bind())


def test_generators_are_refused() -> None:
    def numbers() -> Any:
        yield 1

    with pytest.raises(TypeError, match=r"numbers\(\) is a generator, and a step of a workflow returns one value"):
        to_spec(ray.remote(numbers).bind())
    with pytest.raises(ValueError, match="num_returns='streaming'"):
        raydag.options_from_ray({"num_returns": "streaming"})


def test_calls_that_the_function_does_not_take_are_refused() -> None:
    remote: Any = ray.remote(plain)
    for _ in range(2):  # also when the signature is known already
        with pytest.raises(TypeError, match=r"plain\(\): too many positional arguments"):
            to_spec(remote.bind(1, 2))
        with pytest.raises(TypeError, match=r"plain\(\): got an unexpected keyword argument 'other'"):
            to_spec(remote.bind(remote.bind(other=1)))
    assert len(to_spec(remote.bind(value=remote.bind())).nodes) == 2


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="the option shiny=1 cannot be given to a step of a workflow"):
        raydag.options_from_ray({"shiny": 1})
    with pytest.raises(ValueError, match="Ray has no such option for tasks either"):
        raydag.options_from_ray({"object_store_memory": 100})


def test_actors_cannot_be_steps() -> None:
    @ray.remote
    class Counter:
        def add(self, by: int) -> int:
            return by

    remote: Any = ray.remote(plain)
    counter = Counter.bind()
    for node in (counter, counter.add.bind(1)):
        with pytest.raises(TypeError, match=r"Class.*an actor or a call of one, cannot be a step"):
            to_spec(node)
        with pytest.raises(TypeError, match=r"Class.*an actor or a call of one, cannot be a step"):
            to_spec(remote.bind(node))


def test_several_outputs_cannot_be_a_step() -> None:
    remote: Any = ray.remote(plain)
    with pytest.raises(TypeError, match="MultiOutputNode cannot be a step"):
        to_spec(ray.dag.MultiOutputNode([remote.bind(1)]))


def test_scheduling_strategies() -> None:
    remote = ray.remote(plain)
    assert model_of(remote.options(scheduling_strategy="DEFAULT")).shape.scheduling == "DEFAULT"
    assert model_of(remote.options(scheduling_strategy="SPREAD")).shape.scheduling == "SPREAD"
    affinity = NodeAffinitySchedulingStrategy("ab" * 28, soft=True)
    assert model_of(remote.options(scheduling_strategy=affinity)).shape.scheduling == f"node?:{'ab' * 28}"
    labels = NodeLabelSchedulingStrategy({"zone": Exists()})
    scheduling = model_of(remote.options(scheduling_strategy=labels)).shape.scheduling
    assert isinstance(scheduling, Payload)
    assert isinstance(decode(scheduling), NodeLabelSchedulingStrategy)
    assert scheduling.type == "NodeLabelSchedulingStrategy"


def test_label_selectors_travel_with_the_strategy() -> None:
    chosen = ray.remote(label_selector={"zone": "in(a,b)", "arch": "x86"}, scheduling_strategy="SPREAD")(plain)
    scheduling = model_of(chosen).shape.scheduling
    assert isinstance(scheduling, Payload)
    assert decode(scheduling) == {
        "label_selector": {"arch": "x86", "zone": "in(a,b)"},
        "scheduling_strategy": "SPREAD",
    }
    try:
        other = chosen.options(fallback_strategy=[{"label_selector": {"zone": "c"}}])
    except ValueError as error:
        if ray.__version__.startswith("2.48.") and "Invalid option keyword" in str(error):
            pytest.skip("this release of Ray has no fallback_strategy")
        raise
    scheduling = model_of(other).shape.scheduling
    assert isinstance(scheduling, Payload)
    assert decode(scheduling)["fallback_strategy"] == [{"label_selector": {"zone": "c"}}]


def test_a_runtime_environment_travels_as_json() -> None:
    made = ray.remote(runtime_env={"env_vars": {"A": "1"}, "pip": ["x"], "config": {"setup_timeout_seconds": 5}})(plain)
    assert '"env_vars":{"A":"1"}' in model_of(made).shape.runtime_env
    over = model_of(made.options(runtime_env={"env_vars": {"B": "2"}})).shape.runtime_env
    assert over == '{"env_vars":{"B":"2"}}'


def test_nodes_of_one_function_share_their_options() -> None:
    remote: Any = ray.remote(num_cpus=0.5)(plain)
    nodes = [remote.bind(index) for index in range(3)]
    assert len({id(raydag.parts_of(node)[3]) for node in nodes}) == 1
    remote._default_options["num_cpus"] = 2  # as decorators do
    assert raydag.parts_of(remote.bind(1))[3].num_cpus == 2


# ------------------------------------------------------------------------------ workflow.options


def test_workflow_options_as_keywords() -> None:
    remote = ray.remote(num_cpus=2)(plain)
    policy = perdure.RetryPolicy(initial_interval=3)
    given = raydag.metadata_of(
        {
            "task_id": "mine",
            "name": "anything",
            "checkpoint": False,
            "catch_exceptions": True,
            "metadata": {"a": 1},
            "allow_inplace": True,
            "retry_policy": policy,
            "timeout": 5,
        }
    )
    (node,) = to_spec(remote.options(num_cpus=1, **given).bind()).nodes
    options = node.options
    assert node.id == "mine"
    assert (options.checkpoint, options.catch_exceptions, options.allow_inplace) == (False, True, True)
    assert (options.metadata, options.attempt_timeout_ms) == ('{"a":1}', 5000)
    assert (options.retry.initial_interval_ms, options.shape.resources.num_cpus) == (3000, 1)


def test_workflow_options_are_merged_key_by_key() -> None:
    remote = raydag.decorate(ray.remote(num_cpus=2)(plain), {"checkpoint": False, "task_id": "first"})
    remote = raydag.decorate(remote, {"catch_exceptions": True})
    called = remote.options(**raydag.metadata_of({"task_id": "second"}))
    (node,) = to_spec(called.bind()).nodes
    assert (node.id, node.options.checkpoint, node.options.catch_exceptions) == ("second", False, True)
    (node,) = to_spec(remote.bind()).nodes
    assert (node.id, node.options.checkpoint) == ("first", False)
    assert node.options.shape.resources.num_cpus == 2


def test_options_of_a_decorator_below_do_not_reach_other_functions() -> None:
    one, other = ray.remote(plain), ray.remote(plain)
    raydag.decorate(one, {"checkpoint": False})
    assert model_of(other).checkpoint is None
    assert model_of(one.options(num_cpus=1)).checkpoint is False


@pytest.mark.parametrize(
    ("given", "name"),
    [({"name": "seen"}, "seen"), ({"task_id": "key", "name": "seen"}, "key"), ({}, "shown")],
)
def test_what_names_a_step(given: dict[str, Any], name: str) -> None:
    remote = ray.remote(plain).options(name="shown", **raydag.metadata_of(given))
    assert to_spec(remote.bind()).nodes[0].id == name


@pytest.mark.parametrize(
    ("wrong", "kind", "text"),
    [
        ({"colour": 1}, ValueError, "'colour' is no option of a workflow; there are allow_inplace, "),
        ({"num_cpus": 1}, ValueError, "'num_cpus' is no option of a workflow"),
        ({"checkpoint": "no"}, TypeError, "checkpoint is True or False"),
        ({"catch_exceptions": 1}, TypeError, "catch_exceptions is True or False"),
        ({"metadata": {"a": object()}}, ValueError, "metadata must be JSON"),
        ({"metadata": 5}, TypeError, "metadata is a mapping"),
        ({"task_id": 5}, TypeError, "task_id is a string"),
        ({"name": 5}, TypeError, "name is a string"),
        ({"timeout": 0}, ValueError, "timeout must be above 0 seconds"),
    ],
)
def test_wrong_workflow_options_are_refused_at_the_call(
    wrong: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        raydag.metadata_of(wrong)
    with pytest.raises(kind, match=text):
        raydag.decorate(ray.remote(plain), wrong)


def test_only_remote_functions_are_decorated() -> None:
    with pytest.raises(ValueError, match=r"decorates functions made by ray\.remote"):
        raydag.decorate(plain, {"checkpoint": True})


def test_a_function_with_workflow_options_survives_a_pickle() -> None:
    remote = raydag.decorate(ray.remote(plain), {"task_id": "x"})
    again = pickle.loads(cloudpickle.dumps(remote))
    assert to_spec(again.options(num_cpus=1).bind()).nodes[0].id == "x"
