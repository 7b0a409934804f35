"""`@workflow.step`, by an engine without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from perdure import graph, workflow
from perdure.workflow import engines
from services import Service
from workflow.steps import add, double, lines, note

pytestmark = pytest.mark.usefixtures("engine")


@dataclass
class Order:
    amounts: list[int]


@workflow.step
def increment(number: int) -> int:
    return number + 1


@workflow.step
def seen(value: object) -> str:
    return repr(value)


@workflow.step
def failing(path: str) -> None:
    with open(path, "a") as file:
        file.write("attempt\n")
    raise LookupError("nothing there")


def test_a_step_runs_alone_and_within_others() -> None:
    assert increment.step(1).run() == 2
    assert increment.step(increment.step(increment.step(1))).run() == 4


def test_a_step_runs_under_the_id_given_first(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    assert increment.step(1).run(named, metadata={"k": 1}) == 2
    assert workflow.get_output(named) == 2
    assert workflow.get_metadata(named)["user_metadata"] == {"k": 1}


def test_a_step_with_a_used_id_does_not_run_again(fresh_id: Callable[[], str], journal: Path) -> None:
    named = fresh_id()

    @workflow.step
    def noted(path: str) -> int:
        with open(path, "a") as file:
            file.write("ran\n")
        return 7

    assert [noted.step(str(journal)).run(workflow_id=named) for _ in range(2)] == [7, 7]
    assert lines(journal) == ["ran"]


def test_steps_inside_of_containers_arrive_as_values() -> None:
    one = increment.step(0)
    value = {"list": [one, 2], "tuple": (one,), "order": Order([one])}
    assert seen.step(value).run() == repr({"list": [1, 2], "tuple": (1,), "order": Order([1])})


def test_a_step_used_twice_runs_once(journal: Path) -> None:
    shared = workflow.step(note.function).step(str(journal), "ran", 1)
    assert seen.step([shared, shared]).run() == "[1, 1]"
    assert lines(journal) == ["ran"]


def test_steps_and_bound_tasks_mix_in_a_graph() -> None:
    @ray.remote
    def thrice(number: int) -> int:
        return 3 * number

    bound: Any = thrice
    assert increment.step(bound.bind(double.bind(increment.step(1)))).run() == 13
    assert workflow.run(add.bind(increment.step(1), bound.bind(increment.step(2)))) == 11


def test_a_step_that_returns_steps_is_continued_by_them() -> None:
    @workflow.step
    def count(down: int, up: int = 0) -> Any:
        return up if down == 0 else count.step(down - 1, increment.step(up))

    assert count.step(20).run() == 20


def test_wait_takes_steps() -> None:
    ready, remaining = workflow.create(workflow.wait([increment.step(1), increment.step(2)], num_returns=2)).run()
    assert (ready, remaining) == ([2, 3], [])


def test_async_functions_are_steps() -> None:
    @workflow.step
    async def slowly(number: int) -> int:
        await asyncio.sleep(0)
        return number

    assert slowly.step(5).run() == 5


@pytest.mark.parametrize(("options", "attempts"), [({}, 3), ({"max_retries": 1}, 1), ({"max_retries": 2}, 2)])
def test_max_retries_of_a_step_counts_all_attempts(options: dict[str, Any], attempts: int, journal: Path) -> None:
    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        failing.options(**options).step(str(journal)).run()
    assert isinstance(caught.value.__cause__, LookupError)
    assert lines(journal) == ["attempt"] * attempts


def test_a_caught_failure_is_a_pair() -> None:
    value, error = workflow.step(catch_exceptions=True, max_retries=1)(failing.function).step("/dev/null").run()  # type: ignore[misc]
    assert value is None
    assert isinstance(error, LookupError)


@pytest.mark.parametrize("retries", [0, -2])
def test_a_step_has_at_least_one_attempt(retries: int) -> None:
    with pytest.raises(ValueError, match="max_retries of a step counts all its attempts: it is 1 or more"):
        workflow.step(max_retries=retries)
    with pytest.raises(ValueError, match="max_retries of a step"):
        increment.options(max_retries=retries)


def test_unknown_options_of_steps_are_refused() -> None:
    with pytest.raises(TypeError, match="unknown option 'colour'"):
        increment.options(colour="red")


def test_options_that_are_not_named_stay(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    configured = workflow.step(max_retries=7, name="first")(increment.function)
    assert configured.options(metadata={"k": 1}).step(1).run(named) == 2
    told = workflow.get_metadata(named, name="first")
    assert told["user_metadata"] == {"k": 1}
    assert told["step_options"] == told["task_options"]
    assert told["task_options"]["max_retries"] == 6, "retries after the first attempt"


def test_calls_that_do_not_match_the_signature_are_refused() -> None:
    with pytest.raises(TypeError, match=r"increment\(\): missing a required argument: 'number'"):
        increment.step()


def test_a_direct_call_of_a_step_calls_the_function() -> None:
    assert increment(1) == 2


def test_a_step_cannot_be_tested_or_iterated_over() -> None:
    with pytest.raises(TypeError, match="has no value yet"):
        bool(increment.step(1))
    with pytest.raises(TypeError, match="has no value yet"):
        iter(increment.step(1))


def test_rays_variable_names_the_storage_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERDURE_STORAGE", raising=False)
    monkeypatch.setenv("RAY_WORKFLOW_STORAGE", "file:///rays")
    assert engines.storage_of_environment() == "file:///rays"
    monkeypatch.setenv("PERDURE_STORAGE", "file:///ours")
    assert engines.storage_of_environment() == "file:///ours"


def test_a_step_by_another_client_is_a_task(engine: Service) -> None:
    """Clients of `perdure` run steps as they run tasks."""
    import perdure

    with perdure.SyncClient(engine.address) as client:
        node: Any = increment.step(increment.bind(3))
        assert isinstance(node, graph.Node)
        assert client.run(node) == 5
