"""`workflow.options`, `continuation` outside of workflows, `init`'s arguments: all that needs no engine."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import ray

import perdure
from perdure import workflow
from perdure.raydag import WORKFLOW_OPTIONS
from workflow.steps import double


def of(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = node._bound_options["_metadata"][WORKFLOW_OPTIONS]
    return found


def test_options_as_a_decorator_and_unpacked_merge() -> None:
    @workflow.options(checkpoint=True, task_id="read")
    @ray.remote(num_cpus=2, num_gpus=3, max_retries=5)
    def read_data(num: int) -> list[int]:
        return list(range(num))

    plain = read_data.bind(1)
    assert of(plain) == {"checkpoint": True, "task_id": "read"}
    assert plain._bound_options["num_gpus"] == 3
    changed = read_data.options(num_cpus=1, num_gpus=1, **workflow.options(checkpoint=False)).bind(10)
    assert of(changed) == {"checkpoint": False, "task_id": "read"}
    assert (changed._bound_options["num_cpus"], changed._bound_options["max_retries"]) == (1, 5)
    assert of(plain)["checkpoint"] is True


def test_options_of_our_own_tasks() -> None:
    node: Any = workflow.options(catch_exceptions=True, task_id="mine")(double).bind(1)
    assert node.options.catch_exceptions
    assert node.options.task_id == "mine"


@pytest.mark.parametrize(
    "bad", [{"chekpoint": True}, {"num_cpus": 1}, {"checkpoint": 1}, {"metadata": {"a": object()}}, {"task_id": 7}]
)
def test_bad_options_are_refused_when_they_are_written(bad: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        workflow.options(**bad)


def test_only_functions_are_decorated() -> None:
    for other in (lambda: 1, "text", int):
        with pytest.raises(ValueError, match=r"above @ray\.remote"):
            workflow.options(checkpoint=True)(other)


def test_it_works_whenever_ray_is_loaded() -> None:
    code = """
from perdure import workflow
given = workflow.options(task_id="x")
import ray
@ray.remote
def f(): pass
assert f.options(num_cpus=1, **given).bind()._bound_options["_metadata"]["workflow.io/options"] == {"task_id": "x"}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_continuation_is_of_a_graph() -> None:
    for other in (1, None, double, [double.bind(1)]):
        with pytest.raises(TypeError, match="a continuation is a graph"):
            workflow.continuation(other)


def test_a_wait_is_for_a_list_of_nodes() -> None:
    node: Any = double.bind(1)
    for bad, why in ((node, "a list of nodes"), ([1], "a list of nodes"), ({node: 1}, "a list of nodes")):
        with pytest.raises(TypeError, match=why):
            workflow.wait(bad)  # type: ignore[arg-type]
    for numbers in (0, 2, -1):
        with pytest.raises(ValueError, match="num_returns must be between 1 and the number of nodes"):
            workflow.wait([node], num_returns=numbers)
    with pytest.raises(ValueError, match="each node once"):
        workflow.wait([node, node])


def test_a_program_outside_of_the_cluster_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.util.client

    monkeypatch.delenv("PERDURE_ADDRESS", raising=False)
    monkeypatch.setattr(ray.util.client.ray, "is_connected", lambda: True)
    with pytest.raises(RuntimeError, match="no part of the cluster"):
        workflow.run(double.bind(1))


@pytest.mark.parametrize("name", ["max_running_workflows", "max_pending_workflows"])
def test_limits_are_integers(name: str) -> None:
    for bad in ("1", 1.5, True):
        with pytest.raises(TypeError, match=name):
            workflow.init(**{name: bad})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=name):
        workflow.init(**{name: -2})


def test_none_may_not_run() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        workflow.init(max_running_workflows=0)


def test_settings_of_an_engine_that_runs_are_its_own() -> None:
    with pytest.raises(ValueError, match="perdure serve"):
        workflow.init(address="127.0.0.1:1", storage="folder")


def test_the_states_are_there_by_name() -> None:
    assert {str(status) for status in workflow.WorkflowStatus} == {
        workflow.PENDING,
        workflow.RUNNING,
        workflow.RESUMABLE,
        workflow.SUCCESSFUL,
        workflow.FAILED,
        workflow.CANCELED,
    }
    assert workflow.WorkflowStatus is perdure.RunStatus
