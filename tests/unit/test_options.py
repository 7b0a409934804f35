"""Options of tasks: what is wrong is said on the spot, what is right arrives in the model."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import perdure
from perdure import errors
from perdure.codec import decode
from perdure.model import Payload, Resources, RetryRule, Shape, TaskOptions
from perdure.options import Options

NAN, INFINITE = float("nan"), float("inf")

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_cpu": 1}, TypeError, "unknown option 'num_cpu'; there are accelerator_type, "),
    ({"task_id": 5}, TypeError, "task_id is a string, not an int"),
    ({"task_id": ""}, errors.InvalidFieldError, "task_id: is empty; leave it out"),
    ({"name": ""}, errors.InvalidFieldError, "name: is required"),
    ({"name": 7}, TypeError, "name is a string"),
    ({"name": "a:b"}, ValueError, "has a colon"),
    ({"name": "a", "version": 3}, TypeError, "version is a string"),
    ({"version": "3"}, TypeError, "a task with a version has a name"),
    ({"task_id": "x" * 257}, errors.InvalidFieldError, "task_id: has 1 to 256 printable characters, not 257"),
    ({"num_cpus": "2"}, TypeError, "num_cpus is a number, not a str"),
    ({"num_cpus": True}, TypeError, "num_cpus is a number, not a bool"),
    ({"num_cpus": -1}, ValueError, "num_cpus must be 0 or more, not -1"),
    ({"num_cpus": NAN}, ValueError, "num_cpus must be 0 or more, not nan"),
    ({"num_gpus": INFINITE}, ValueError, "num_gpus must be 0 or more, not inf"),
    ({"memory": "1GB"}, TypeError, "memory is a number, not a str"),
    ({"memory": -1}, ValueError, "memory is a number of bytes, not -1"),
    ({"memory": NAN}, ValueError, "memory is a number of bytes, not nan"),
    ({"memory": 2**63}, ValueError, "memory is a number of bytes"),
    ({"resources": ["a"]}, TypeError, "resources is a mapping of names to amounts"),
    ({"resources": {"a": "x"}}, TypeError, "the resource 'a' is a number, not a str"),
    ({"resources": {"a": -1}}, ValueError, "resource 'a' must be 0 or more, not -1"),
    ({"resources": {1: 1}}, TypeError, "a name in resources is a string, not an int"),
    ({"resources": {"": 1}}, ValueError, "resource '' must be"),
    ({"resources": {"CPU": 1}}, ValueError, "resources has no CPU; that is the option num_cpus"),
    ({"resources": {"GPU": 1}}, ValueError, "resources has no GPU; that is the option num_gpus"),
    ({"accelerator_type": 4}, TypeError, "accelerator_type is a string, not an int"),
    ({"runtime_env": "x"}, TypeError, "runtime_env is a mapping, not a str"),
    ({"runtime_env": {"pip": {1, 2}}}, ValueError, "runtime_env must be JSON"),
    ({"scheduling_strategy": "PACK"}, ValueError, 'scheduling_strategy is "DEFAULT", "SPREAD" or a strategy'),
    ({"max_retries": -2}, ValueError, "max_retries is 0 or more, or -1 for no limit"),
    ({"max_retries": 2**31}, ValueError, "max_retries is 0 or more, or -1 for no limit"),
    ({"max_retries": 1.5}, TypeError, "max_retries is an integer, not a float"),
    ({"max_retries": True}, TypeError, "max_retries is an integer, not a bool"),
    ({"retry_exceptions": ValueError}, TypeError, "retry_exceptions is True, False or a list of exception types"),
    ({"retry_exceptions": ["ValueError"]}, TypeError, "retry_exceptions is True, False or a list"),
    ({"retry_exceptions": [int]}, TypeError, "retry_exceptions is True, False or a list"),
    ({"retry_exceptions": None}, TypeError, "retry_exceptions is True, False or a list"),
    ({"retry_policy": 5}, TypeError, "retry_policy is a perdure.RetryPolicy, not an int"),
    ({"timeout": 0}, ValueError, "timeout must be above 0 seconds"),
    ({"timeout": -1}, ValueError, "timeout must be above 0 seconds"),
    ({"timeout": timedelta(0)}, ValueError, "timeout must be above 0 seconds"),
    ({"timeout": 1e300}, ValueError, "at most 10,000 years"),
    ({"timeout": "5"}, TypeError, "timeout is a number of seconds or a timedelta, not a str"),
    ({"catch_exceptions": "yes"}, TypeError, "catch_exceptions is True or False, not 'yes'"),
    ({"checkpoint": 1}, TypeError, "checkpoint is True or False, not 1"),
    ({"metadata": []}, TypeError, "metadata is a mapping, not a list"),
    ({"metadata": {1: 2}}, TypeError, "the keys of metadata are strings"),
    ({"metadata": {"a": object()}}, ValueError, "metadata must be JSON"),
    ({"metadata": {"a": NAN}}, ValueError, "metadata must be JSON"),
]


@pytest.mark.parametrize(("wrong", "kind", "text"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_option_is_refused_with_a_sentence(wrong: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as info:
        perdure.task(**wrong)
    assert type(info.value) is kind
    assert text in str(info.value)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"initial_interval": -1}, ValueError),
        ({"initial_interval": NAN}, ValueError),
        ({"max_interval": INFINITE}, ValueError),
        ({"backoff": 0.5}, ValueError),
        ({"backoff": INFINITE}, ValueError),
        ({"jitter": 1.5}, ValueError),
        ({"jitter": "a lot"}, TypeError),
        ({"initial_interval": "1s"}, TypeError),
    ],
)
def test_a_wrong_retry_policy_is_refused_where_it_is_made(wrong: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=rf"retry_policy\.{next(iter(wrong))} is"):
        perdure.RetryPolicy(**wrong)


def test_nothing_given_is_the_model_default_but_for_errors_of_users() -> None:
    """Ray's rule: lost workers are tried again three times, errors only if that was asked for."""
    assert Options().to_model() == TaskOptions(retry=RetryRule(application_errors=False))


def test_everything_given_arrives() -> None:
    options = Options().merged(
        {
            "name": "charge",
            "num_cpus": 0.5,
            "num_gpus": 1,
            "memory": 2e9,
            "resources": {"b": 2, "a": 1},
            "accelerator_type": "T4",
            "runtime_env": {"pip": ["x"], "env_vars": {"A": "1"}},
            "scheduling_strategy": "SPREAD",
            "max_retries": 5,
            "retry_exceptions": [ConnectionError, KeyError],
            "retry_policy": perdure.RetryPolicy(initial_interval=0.25, max_interval=8, backoff=3, jitter=0),
            "timeout": timedelta(minutes=1),
            "catch_exceptions": True,
            "checkpoint": False,
            "metadata": {"team": "pay"},
        }
    )
    resources = Resources(0.5, 1, 2_000_000_000, (("a", 1), ("b", 2)), "T4")
    assert options.to_model() == TaskOptions(
        task_id="charge",
        shape=Shape(resources, '{"env_vars":{"A":"1"},"pip":["x"]}', "SPREAD"),
        retry=RetryRule(6, 250, 8_000, 3, 0, True, retryable_types=("builtins.ConnectionError", "builtins.KeyError")),
        attempt_timeout_ms=60_000,
        catch_exceptions=True,
        checkpoint=False,
        metadata='{"team":"pay"}',
    )


@pytest.mark.parametrize(
    ("retry_exceptions", "application_errors", "types"),
    [
        (False, False, ()),
        (True, True, ()),
        ([], False, ()),
        ((KeyError,), True, ("builtins.KeyError",)),
        ({KeyError}, True, ("builtins.KeyError",)),
    ],
)
def test_which_errors_are_tried_again(retry_exceptions: Any, application_errors: bool, types: tuple[str, ...]) -> None:
    retry = Options().merged({"retry_exceptions": retry_exceptions}).to_model().retry
    assert (retry.application_errors, retry.retryable_types) == (application_errors, types)


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (3, 4), (-1, -1), (2**31 - 2, 2**31 - 1)])
def test_retries_are_one_less_than_attempts(retries: int, attempts: int) -> None:
    assert Options().merged({"max_retries": retries}).to_model().retry.max_attempts == attempts


@pytest.mark.parametrize(("timeout", "ms"), [(1.5, 1500), (0.0001, 1), (timedelta(days=1), 86_400_000), (None, None)])
def test_a_timeout_is_seconds(timeout: Any, ms: int | None) -> None:
    assert Options().merged({"timeout": timeout}).to_model().attempt_timeout_ms == ms


def test_options_lie_over_those_of_the_task() -> None:
    @perdure.task(num_cpus=2, max_retries=7, name="first")
    def work() -> None: ...

    other = work.options(num_gpus=1, max_retries=0).options(name="third")
    made = other.default_options
    assert (made.num_cpus, made.num_gpus, made.max_retries, made.task_id) == (2, 1, 0, "third")
    usual = work.default_options
    assert (usual.num_cpus, usual.num_gpus, usual.max_retries, usual.task_id) == (2, None, 7, "first")


def test_wrong_options_of_a_task_are_refused_where_they_are_given() -> None:
    @perdure.task
    def work() -> None: ...

    with pytest.raises(TypeError, match="unknown option 'cpus'"):
        work.options(cpus=1)


class NodeAffinitySchedulingStrategy:
    """Looks like Ray's."""

    def __init__(self, node_id: str, soft: bool) -> None:
        self.node_id, self.soft = node_id, soft


class PlacementStrategy:
    def __init__(self, bundle: int) -> None:
        self.bundle = bundle


@pytest.mark.parametrize(("soft", "text"), [(False, "node:ab12"), (True, "node?:ab12")])
def test_affinity_to_a_node_is_understood(soft: bool, text: str) -> None:
    options = Options().merged({"scheduling_strategy": NodeAffinitySchedulingStrategy("ab12", soft)})
    assert options.to_model().shape.scheduling == text


def test_other_strategies_travel_pickled() -> None:
    scheduling = Options().merged({"scheduling_strategy": PlacementStrategy(3)}).to_model().shape.scheduling
    assert isinstance(scheduling, Payload)
    assert decode(scheduling).bundle == 3


def test_equal_options_make_equal_shapes() -> None:
    one = Options().merged({"resources": {"a": 1, "b": 2}, "runtime_env": {"x": 1, "y": 2}})
    two = Options().merged({"resources": {"b": 2, "a": 1}, "runtime_env": {"y": 2, "x": 1}})
    assert one.to_model().shape == two.to_model().shape
    assert hash(one.to_model()) == hash(two.to_model())
