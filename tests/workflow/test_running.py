"""Running and resuming, by an engine without Ray."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.dag

import perdure
from perdure import workflow
from services import Service
from workflow.steps import add, double, eventually, fail_unless, lines, note, until_exists

pytestmark = pytest.mark.usefixtures("engine")


@ray.remote
def plus(left: int, right: int) -> int:
    return left + right


def test_run_gives_the_value_of_graphs_of_both_kinds() -> None:
    @ray.remote
    def one() -> int:
        return 1

    @ray.remote
    def plus(left: int, right: int) -> int:
        return left + right

    assert workflow.run(plus.bind(100, one.bind())) == 101
    assert workflow.run(add.bind(double.bind(1), double.bind(2))) == 6
    assert workflow.create(double.bind(21)).run() == 42


@pytest.mark.parametrize("what", [1, None, "graph", plus, [double.bind(1)]])
def test_what_is_no_graph_is_refused_at_the_call(what: Any) -> None:
    with pytest.raises(TypeError, match="a workflow is a graph"):
        workflow.run(what)


def test_calls_that_the_function_does_not_take_are_refused_at_the_call(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    remote: Any = plus
    for graph, why in (
        (remote.bind(1), "missing a required argument: 'right'"),
        (remote.bind(1, 2, 3), "too many positional arguments"),
        (remote.bind(1, right=2, colour="red"), "unexpected keyword argument 'colour'"),
        (remote.bind(1, remote.bind()), "missing a required argument: 'left'"),
    ):
        with pytest.raises(TypeError, match=rf"plus\(\): .*{why}"):
            workflow.run(graph, workflow_id=named)
    with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
        workflow.get_status(named)


def test_it_runs_inside_a_running_loop() -> None:
    async def main() -> int:
        return workflow.run(double.bind(4))

    assert asyncio.run(main()) == 8


def test_it_runs_from_many_threads_at_once() -> None:
    values: dict[int, int] = {}

    def work(number: int) -> None:
        values[number] = workflow.run(double.bind(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == {number: 2 * number for number in range(20)}


def test_a_task_knows_where_it_is(fresh_id: Callable[[], str]) -> None:
    @perdure.task(task_id="asks")
    def ask() -> tuple[str, str, int, str]:
        here = workflow.context()
        return here.workflow_id, here.task_id, here.attempt, here.idempotency_token

    named = fresh_id()
    workflow_id, task_id, attempt, token = workflow.run(ask.bind(), workflow_id=named)
    assert (workflow_id, task_id, attempt) == (named, "asks", 1)
    assert token.endswith("/asks")
    with pytest.raises(RuntimeError, match="inside"):
        workflow.context()


def test_default_ids_differ_and_sort_by_time() -> None:
    before = {workflow_id for workflow_id, _ in workflow.list_all()}
    for number in range(3):
        workflow.run(double.bind(number), metadata={"number": number})
    ids = sorted({workflow_id for workflow_id, _ in workflow.list_all()} - before)
    assert [workflow.get_metadata(workflow_id)["user_metadata"]["number"] for workflow_id in ids] == [0, 1, 2]


@pytest.mark.parametrize("bad", ["", "x" * 257, "tab\tbed", "line\nbreak"])
def test_ids_that_cannot_be_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="1 to 256 printable characters"):
        workflow.run(double.bind(1), workflow_id=bad)
    with pytest.raises(TypeError, match="string"):
        workflow.run(double.bind(1), workflow_id=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", ["../../etc/passwd", "/absolute", "spa ce", "ünïcödé 名前", "a" * 256, "..", "a/b"])
def test_ids_are_never_paths(odd: str) -> None:
    assert workflow.run(double.bind(3), workflow_id=odd) == 6
    assert workflow.get_output(odd) == 6
    workflow.delete(odd)


def test_the_driver_logs_the_id_of_a_new_workflow(
    fresh_id: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    workflow_id = fresh_id()
    with caplog.at_level(logging.INFO, logger="perdure.workflow"):
        workflow.run(double.bind(1), workflow_id=workflow_id)
        workflow.run(double.bind(1), workflow_id=workflow_id)
    assert caplog.messages.count(f'Workflow job created. [id="{workflow_id}"].') == 1


def test_metadata_must_be_json(fresh_id: Callable[[], str]) -> None:
    unused = fresh_id()
    for bad in ({"key": object()}, {"key": float("nan")}):
        with pytest.raises(ValueError, match="JSON"):
            workflow.run(double.bind(1), workflow_id=unused, metadata=bad)
    with pytest.raises(ValueError, match="dictionary"):
        workflow.run(double.bind(1), workflow_id=unused, metadata="text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dictionary"):
        workflow.options(metadata="text")
    with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
        workflow.get_status(unused)


# ------------------------------------------------------------------------------ ids in use


def test_a_finished_id_gives_what_is_stored(fresh_id: Callable[[], str], journal: Path) -> None:
    named = fresh_id()
    for _ in range(3):
        assert workflow.run(note.bind(str(journal), "ran", 5), workflow_id=named) == 5
    assert lines(journal) == ["ran"]


def test_a_failed_id_goes_on_where_it_failed(fresh_id: Callable[[], str], tmp_path: Path, journal: Path) -> None:
    named, door = fresh_id(), tmp_path / "door"
    before = note.bind(str(journal), "before", 1)
    graph = note.bind(str(journal), "after", fail_unless.bind(str(door), before))
    with pytest.raises(workflow.exceptions.WorkflowExecutionError):
        workflow.run(graph, workflow_id=named)
    assert workflow.get_status(named) == workflow.FAILED
    door.touch()
    assert workflow.run(graph, workflow_id=named) == "found"
    assert lines(journal) == ["before", "after"]
    assert workflow.get_status(named) == workflow.WorkflowStatus.SUCCESSFUL


def test_another_graph_under_a_used_id_is_an_error(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    workflow.run(add.bind(double.bind(1), 2), workflow_id=named)
    assert workflow.run(add.bind(double.bind(1), 2), workflow_id=named) == 4
    for other in (add.bind(double.bind(1), 3), add.bind(2, double.bind(1)), double.bind(1), add.bind(1, 2)):
        with pytest.raises(ValueError, match="another graph"):
            workflow.run(other, workflow_id=named)
    assert workflow.get_output(named) == 4


def test_an_id_that_is_running_is_refused(fresh_id: Callable[[], str], tmp_path: Path) -> None:
    named, file = fresh_id(), tmp_path / "file"
    thread = threading.Thread(target=workflow.run, args=(until_exists.bind(str(file)),), kwargs={"workflow_id": named})
    thread.start()
    eventually(tmp_path / "file.started")
    with pytest.raises(RuntimeError, match="already running or pending"):
        workflow.run(until_exists.bind(str(file)), workflow_id=named)
    with pytest.raises(RuntimeError, match="already running or pending"):
        workflow.resume(named)
    with pytest.raises(workflow.exceptions.WorkflowStillActiveError):
        workflow.delete(named)
    assert workflow.get_status(named) == workflow.RUNNING
    file.touch()
    thread.join()
    assert workflow.get_output(named) == "seen"


# ------------------------------------------------------------------------------ resume


def test_resume_of_the_unknown_has_no_side_effect(fresh_id: Callable[[], str]) -> None:
    unknown = fresh_id()
    with pytest.raises(workflow.exceptions.WorkflowNotFoundError) as caught:
        workflow.resume(unknown)
    assert isinstance(caught.value, workflow.exceptions.WorkflowNotResumableError)
    assert isinstance(caught.value, perdure.PerdureError)
    assert unknown not in dict(workflow.list_all())


def test_resume_of_what_succeeded_gives_it(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    workflow.run(double.bind(1), workflow_id=named)
    assert workflow.resume(named) == 2


def test_a_canceled_run_does_not_go_on(fresh_id: Callable[[], str], tmp_path: Path, journal: Path) -> None:
    named, file = fresh_id(), tmp_path / "never"
    graph = note.bind(str(journal), "dependent", until_exists.bind(str(file)))
    raised: list[BaseException] = []

    def work() -> None:
        try:
            workflow.run(graph, workflow_id=named)
        except workflow.exceptions.WorkflowExecutionError:
            raise AssertionError("it did not fail, it was canceled") from None
        except workflow.exceptions.WorkflowCancellationError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    eventually(tmp_path / "never.started")
    workflow.cancel(named)
    thread.join()
    (error,) = raised
    assert isinstance(error, workflow.exceptions.WorkflowError)
    assert isinstance(error, ray.exceptions.RayTaskError)
    assert isinstance(error, perdure.WorkflowCancellationError)
    assert error.message == str(error)  # type: ignore[union-attr]
    assert workflow.get_status(named) == workflow.CANCELED
    for call in (workflow.resume, lambda again: workflow.run(graph, workflow_id=again)):
        with pytest.raises(workflow.exceptions.WorkflowNotResumableError, match="canceled"):
            call(named)
    with pytest.raises(workflow.exceptions.WorkflowCancellationError):
        workflow.get_output(named)
    workflow.cancel(named)  # nothing changes
    assert workflow.get_status(named) == workflow.CANCELED
    assert lines(journal) == []
    workflow.delete(named)
    assert workflow.run(double.bind(1), workflow_id=named) == 2


# ------------------------------------------------------------------------------ errors


class Refused(Exception):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(code)
        self.code = code
        self.why = why

    def __reduce__(self) -> tuple[Any, ...]:
        return _refused, (self.code, self.why)


def _refused(code: int, why: str) -> Refused:
    return Refused(code, why=why)


def test_a_failed_run_raises_ours_and_rays_error_with_the_users_as_cause(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()

    class Inner(Refused):
        pass

    @perdure.task
    def refuse() -> None:
        raise Inner(7, why="because")

    Inner.__reduce__ = lambda self: (_inner(Inner), (self.code, self.why))  # type: ignore[method-assign]
    with pytest.raises(workflow.exceptions.WorkflowExecutionError) as caught:
        workflow.run(refuse.bind(), workflow_id=named)
    for _ in range(2):
        error = caught.value
        assert isinstance(error, ray.exceptions.RayTaskError)
        assert isinstance(error, perdure.WorkflowExecutionError)
        assert error.workflow_id == named
        cause = error.__cause__
        assert isinstance(cause, Inner)
        assert (cause.code, cause.why) == (7, "because")
        assert "in refuse" in cause.__notes__[0]
        with pytest.raises(workflow.exceptions.WorkflowError) as caught:
            workflow.get_output(named)
    assert not isinstance(caught.value, workflow.exceptions.WorkflowCancellationError)


def _inner(kind: type[Refused]) -> Callable[[int, str], Refused]:
    return lambda code, why: kind(code, why=why)


# ------------------------------------------------------------------------------ inputs


def test_inputs_by_position_name_and_as_a_whole() -> None:
    @ray.remote
    def pair(left: object, right: object) -> tuple[object, object]:
        return left, right

    with ray.dag.InputNode() as given:
        graph = pair.bind(pair.bind(given[0], given[1]), pair.bind(given.name, given["other"]))
    assert workflow.run(graph, 1, [2], name="n", other=None) == ((1, [2]), ("n", None))
    with ray.dag.InputNode() as given:
        graph = pair.bind(given, given)
    assert workflow.run(graph, {"a": 1}) == ({"a": 1}, {"a": 1})
    for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"a": 1}), ((), {"a": 1})):
        with pytest.raises(ValueError, match="one positional argument and nothing else"):
            workflow.run(graph, *args, **kwargs)


def test_missing_inputs_fail_at_the_call(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    with ray.dag.InputNode() as given:
        graph = plus.bind(given[0], given.amount)
    with pytest.raises(ValueError, match="not given: amount"):
        workflow.run(graph, 1, workflow_id=named)
    with pytest.raises(ValueError, match="the positional argument 0"):
        workflow.run(graph, amount=1, workflow_id=named)
    with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
        workflow.get_status(named)


def test_a_keyword_that_is_nothing_to_the_graph_is_refused_at_the_call(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    with pytest.raises(TypeError, match="'workflow_name' is neither an option of a run nor an input"):
        workflow.run(double.bind(1), workflow_id=named, workflow_name="x")
    with pytest.raises(TypeError, match="'amuont' is neither"):
        workflow.run(double.bind(perdure.input("amount")), workflow_id=named, amount=1, amuont=2)
    with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
        workflow.get_status(named)
    assert workflow.run(double.bind(1), "nobody", "asks") == 2  # as it was: positions may be left out


def test_other_inputs_are_another_graph(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    graph = double.bind(perdure.input("number"))
    assert workflow.run(graph, workflow_id=named, number=1) == 2
    assert workflow.run(graph, workflow_id=named, number=1) == 2
    with pytest.raises(ValueError, match="other arguments"):
        workflow.run(graph, workflow_id=named, number=2)


# ------------------------------------------------------------------------------ namespaces


def test_a_program_has_a_namespace_and_what_its_tasks_start_is_there_too(
    fresh_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outer, inner = fresh_id(), fresh_id()

    @perdure.task
    def start(inner: str) -> list[str]:
        assert workflow.run(double.bind(2), workflow_id=inner) == 4
        return sorted(named for named, _ in workflow.list_all())

    monkeypatch.setenv("PERDURE_NAMESPACE", "theirs")
    assert workflow.run(start.bind(inner), workflow_id=outer) == sorted((outer, inner))
    assert workflow.get_output(inner) == 4
    monkeypatch.delenv("PERDURE_NAMESPACE")
    assert not {outer, inner} & dict(workflow.list_all()).keys()
    with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
        workflow.get_output(outer)


# ------------------------------------------------------------------------------ the engine


def test_a_continuation_outside_of_workflows_is_executed_also_if_it_is_nothing_to_ray() -> None:
    assert workflow.continuation(add.bind(double.bind(2), 1)) == 5

    @ray.remote
    def pair(left: object, right: object) -> tuple[object, object]:
        return left, right

    mixed: Any = pair.bind(workflow.sleep(0.01), pair.bind(double.bind(1), 1))
    assert workflow.continuation(mixed) == (None, (2, 1))


def test_nothing_answers() -> None:
    for bad in ("nonsense", "host:", "host:port"):
        with pytest.raises(ValueError, match="host:port"):
            workflow.init(address=bad)


def test_an_engine_that_was_restarted_is_asked_again(fresh_id: Callable[[], str], threads_engine: Service) -> None:
    named = fresh_id()
    assert workflow.run(double.bind(1), workflow_id=named) == 2
    threads_engine.kill()
    threads_engine.up()
    assert workflow.get_output(named) == 2
