"""Asking about workflows, canceling and deleting them, queueing; by an engine without Ray."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure import workflow
from services import Service, running
from workflow.steps import add, double, eventually, fail_unless, note, until_exists


@pytest.fixture
def background() -> Any:
    """Runs graphs in threads, which end with the test."""
    threads: list[threading.Thread] = []

    def quietly(graph: Any, workflow_id: str) -> None:
        with contextlib.suppress(workflow.exceptions.WorkflowError):
            workflow.run(graph, workflow_id=workflow_id)

    def start(graph: Any, workflow_id: str) -> threading.Thread:
        thread = threading.Thread(target=quietly, args=(graph, workflow_id))
        thread.start()
        threads.append(thread)
        return thread

    yield start
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


# ------------------------------------------------------------------------------ outputs


@pytest.mark.usefixtures("engine")
def test_outputs_of_tasks_by_their_ids(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    inner = double.options(**{"task_id": "inner"}).bind(1)
    assert workflow.run(workflow.options(task_id="outer")(double).bind(inner), workflow_id=named) == 4
    assert workflow.get_output(named, task_id="inner") == 2
    assert workflow.get_output(named, task_id="outer") == 4
    with pytest.raises(ValueError, match="without a task 'other'"):
        workflow.get_output(named, task_id="other")
    # As in Ray 2.0.
    assert workflow.get_output(named, name="inner") == 2
    assert workflow.get_metadata(named, name="inner") == workflow.get_metadata(named, "inner")
    for call in (workflow.get_output, workflow.get_metadata):
        with pytest.raises(TypeError, match="a task id is a string, not an int"):
            call(named, task_id=1)  # type: ignore[operator]
        with pytest.raises(TypeError, match="another word for task_id"):
            call(named, task_id="inner", name="inner")  # type: ignore[operator]
        with pytest.raises(ValueError, match="at least one character"):
            call(named, task_id="")  # type: ignore[operator]


@pytest.mark.usefixtures("engine")
def test_an_output_is_waited_for_before_its_task_exists(
    fresh_id: Callable[[], str], tmp_path: Path, background: Any
) -> None:
    named, file = fresh_id(), tmp_path / "file"

    @perdure.task
    def more(path: str) -> Any:
        late = double.options(task_id="late").bind(21)
        return workflow.continuation(add.bind(late, 1))

    found: list[int] = []
    seen = until_exists.bind(str(file))
    background(perdure.task(lambda _, path: more.bind(path)).bind(seen, str(file)), named)
    eventually(tmp_path / "file.started")
    asking = threading.Thread(target=lambda: found.append(workflow.get_output(named, task_id="late")))
    asking.start()
    file.touch()
    asking.join(60)
    assert found == [42]
    assert workflow.get_output(named) == 43


@pytest.mark.usefixtures("engine")
def test_the_unknown_is_not_found(fresh_id: Callable[[], str]) -> None:
    unknown = fresh_id()
    calls: list[Callable[[str], Any]] = [
        workflow.get_output,
        workflow.get_status,
        workflow.get_metadata,
        workflow.cancel,
        workflow.delete,
    ]
    for call in calls:
        with pytest.raises(workflow.exceptions.WorkflowNotFoundError, match=unknown) as found:
            call(unknown)
        assert isinstance(found.value, ValueError), "as in Ray"
        with pytest.raises(ValueError, match="1 to 256"):
            call("")
        with pytest.raises(TypeError, match="string"):
            call(None)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------ listing


@pytest.mark.usefixtures("engine")
def test_lists_by_state(fresh_id: Callable[[], str], tmp_path: Path) -> None:
    good, bad = fresh_id(), fresh_id()
    workflow.run(double.bind(1), workflow_id=good)
    with pytest.raises(workflow.exceptions.WorkflowExecutionError):
        workflow.run(fail_unless.bind(str(tmp_path / "door")), workflow_id=bad)
    for filters in (
        (workflow.FAILED,),
        ("FAILED",),
        ({"FAILED"},),
        ({workflow.FAILED, "CANCELED"},),
        (["FAILED", "RUNNING"],),
        ("FAILED", "PENDING"),
    ):
        listed = dict(workflow.list_all(*filters))
        assert listed[bad] == workflow.WorkflowStatus.FAILED
        assert good not in listed
    assert dict(workflow.list_all(status_filter="SUCCESSFUL"))[good] == "SUCCESSFUL"
    both = workflow.list_all()
    assert both == workflow.list_all(None) == workflow.list_all(status_filter=None)
    assert workflow.list_all(set()) == workflow.list_all([]) == workflow.list_all(status_filter=frozenset()) == []
    assert {good, bad} <= dict(both).keys()
    with pytest.raises(ValueError, match="no state"):
        workflow.list_all("ENDED")
    with pytest.raises(TypeError, match="states"):
        workflow.list_all(1)


# ------------------------------------------------------------------------------ metadata


@pytest.mark.usefixtures("engine")
def test_metadata_of_runs_and_tasks(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    user = {"number": 1, "float": 1.5, "nested": {"list": [1, "a", None]}}
    began = time.time()
    inner = double.options(task_id="inner", metadata={"of": "inner"}, max_retries=7).bind(1)
    assert workflow.run(add.bind(inner, [3][0]), workflow_id=named, metadata=user) == 5
    told = workflow.get_metadata(named)
    assert told["status"] == "SUCCESSFUL"
    assert told["user_metadata"] == user
    assert began - 1 < told["stats"]["start_time"] <= told["stats"]["end_time"] < time.time() + 1
    assert told["tasks"] == {"total": 2, "running": 0, "successful": 2, "failed": 0}
    of_task = workflow.get_metadata(named, "workflow.steps.add")
    assert of_task["task_id"] == of_task["name"] == "workflow.steps.add"
    assert of_task["workflow_refs"] == ["inner"]
    assert of_task["attempts"] == 1
    of_inner = workflow.get_metadata(named, task_id="inner")
    assert of_inner["name"] == "workflow.steps.double"
    assert of_inner["user_metadata"] == {"of": "inner"}
    assert of_inner["task_options"]["max_retries"] == 7
    assert of_inner["workflow_refs"] == []
    assert of_inner["stats"]["end_time"] >= of_inner["stats"]["start_time"]
    with pytest.raises(ValueError, match="no task"):
        workflow.get_metadata(named, "other")


@pytest.mark.usefixtures("engine")
def test_the_end_is_told_however_a_run_ended(fresh_id: Callable[[], str], tmp_path: Path, background: Any) -> None:
    failed, canceled, file = fresh_id(), fresh_id(), tmp_path / "file"
    with pytest.raises(workflow.exceptions.WorkflowExecutionError):
        workflow.run(fail_unless.options(task_id="failing").bind(str(tmp_path / "door")), workflow_id=failed)
    background(until_exists.options(task_id="interrupted").bind(str(file)), canceled)
    eventually(tmp_path / "file.started")
    assert "end_time" not in workflow.get_metadata(canceled)["stats"]
    workflow.cancel(canceled)
    for named, task_id in ((failed, "failing"), (canceled, "interrupted")):
        assert "end_time" in workflow.get_metadata(named)["stats"]
        assert "end_time" in workflow.get_metadata(named, task_id)["stats"]


@pytest.mark.usefixtures("engine")
def test_canceling_what_has_ended_changes_nothing(fresh_id: Callable[[], str], tmp_path: Path) -> None:
    good, bad = fresh_id(), fresh_id()
    assert workflow.run(double.bind(1), workflow_id=good) == 2
    with pytest.raises(workflow.exceptions.WorkflowExecutionError):
        workflow.run(fail_unless.bind(str(tmp_path / "door")), workflow_id=bad)
    for named, status in ((good, workflow.SUCCESSFUL), (bad, workflow.FAILED)):
        before = workflow.get_metadata(named)
        workflow.cancel(named)
        assert workflow.get_status(named) == status
        assert workflow.get_metadata(named) == before
    assert workflow.get_output(good) == 2
    (tmp_path / "door").touch()
    assert workflow.resume(bad) == "found"


def test_status_metadata_and_lists_agree_in_every_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_id: Callable[[], str], background: Any
) -> None:
    """The same after a restart, when no engine works on unfinished runs."""
    service = Service(tmp_path, "--executor", "local", "--recovery", "manual", "--max-running-workflows", "1")
    good, bad, canceled, runs, waits = (fresh_id() for _ in range(5))

    def check(*expected: str) -> None:
        statuses = dict(zip((good, bad, canceled, runs, waits), expected, strict=True))
        assert dict(workflow.list_all()) == statuses
        for named, status in statuses.items():
            assert workflow.get_status(named) == workflow.get_metadata(named)["status"] == status
            assert workflow.list_all(status).count((named, status)) == 1
            assert ("end_time" in workflow.get_metadata(named)["stats"]) is (status in ended)

    ended = (workflow.SUCCESSFUL, workflow.FAILED, workflow.CANCELED)
    with running(service), perdure.SyncClient(service.address) as client:
        service.up()
        monkeypatch.setenv("PERDURE_ADDRESS", service.address)
        workflow.run(double.bind(1), workflow_id=good)
        with pytest.raises(workflow.exceptions.WorkflowExecutionError):
            workflow.run(fail_unless.bind(str(tmp_path / "door")), workflow_id=bad)
        for named in (canceled, runs, waits):
            client.start(perdure.event("go"), workflow_id=named)
            if named is canceled:
                workflow.cancel(canceled)
        check(*ended, workflow.RUNNING, workflow.PENDING)
        service.kill()
        service.up()
        check(*ended, workflow.RESUMABLE, workflow.RESUMABLE)


# ------------------------------------------------------------------------------ deleting


@pytest.mark.usefixtures("engine")
def test_an_id_is_fresh_once_it_is_deleted(fresh_id: Callable[[], str], journal: Path) -> None:
    named = fresh_id()
    assert workflow.run(note.bind(str(journal), "first", 1), workflow_id=named) == 1
    workflow.delete(named)
    with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
        workflow.get_output(named)
    assert workflow.run(note.bind(str(journal), "second", 2), workflow_id=named) == 2
    assert journal.read_text().split() == ["first", "second"]


# ------------------------------------------------------------------------------ queueing


def test_one_runs_one_waits_and_the_third_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_id: Callable[[], str], background: Any
) -> None:
    flags = ("--executor", "local", "--max-running-workflows", "1", "--max-pending-workflows", "1")
    service = Service(tmp_path, *flags)
    with running(service):
        service.up()
        monkeypatch.setenv("PERDURE_ADDRESS", service.address)
        first, second, third = fresh_id(), fresh_id(), fresh_id()
        file = tmp_path / "file"
        background(until_exists.bind(str(file)), first)
        eventually(tmp_path / "file.started")
        background(double.bind(1), second)
        while second not in dict(workflow.list_all(workflow.PENDING)):
            time.sleep(0.01)
        with pytest.raises(RuntimeError, match="already running or pending"):
            workflow.run(double.bind(1), workflow_id=second)
        with pytest.raises(queue.Full, match="Workflow queue has been full"):
            workflow.run(double.bind(1), workflow_id=third)
        with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
            workflow.get_status(third)
        workflow.cancel(second)
        assert workflow.get_status(second) == workflow.CANCELED
        background(double.bind(3), third)
        while third not in dict(workflow.list_all(workflow.PENDING)):
            time.sleep(0.01)
        file.touch()
        assert workflow.get_output(third) == 6
