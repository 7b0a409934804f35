"""Views of runs for clients, and the counters of the service."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from perdure import wire
from perdure.infos import RunInfo, TaskInfo, Update
from perdure.model import RunStatus, TaskStatus
from perdure.v1 import failure_pb2, workflow_pb2, workflow_service_pb2

MOMENT = Timestamp(seconds=1_769_860_800, nanos=5_000_000)
WHEN = datetime(2026, 1, 31, 12, 0, 0, 5_000, tzinfo=UTC)

RUN = workflow_pb2.Workflow(
    workflow_id="order-1",
    run_id="r",
    status=wire.RUN_STATUS[RunStatus.RUNNING],
    labels={"team": "pay"},
    create_time=MOMENT,
    resume_count=2,
    tasks=workflow_pb2.TaskCounts(total=7, running=1, successful=5, failed=1),
)
TASK = workflow_pb2.Task(
    task_id="charge",
    status=wire.TASK_STATUS[TaskStatus.FAILED],
    attempts=3,
    end_time=MOMENT,
    last_failure=failure_pb2.Failure(type="builtins.KeyError", message="k"),
)


def test_a_run_is_told() -> None:
    info = RunInfo.from_proto(RUN)
    assert (info.workflow_id, info.status, info.labels, info.resumes) == ("order-1", "RUNNING", {"team": "pay"}, 2)
    assert (info.created, info.started, info.ended) == (WHEN, None, None)
    assert (info.tasks, info.tasks_running, info.tasks_successful, info.tasks_failed) == (7, 1, 5, 1)


def test_a_task_is_told() -> None:
    info = TaskInfo.from_proto(TASK)
    assert (info.task_id, info.status, info.attempts) == ("charge", "FAILED", 3)
    assert (info.started, info.ended) == (None, WHEN)
    assert info.error == "builtins.KeyError: k"
    assert TaskInfo.from_proto(workflow_pb2.Task(status=wire.TASK_STATUS[TaskStatus.READY])).error == ""


def test_a_change_is_of_a_run_or_of_a_task_or_a_deletion() -> None:
    event = workflow_service_pb2.WatchEvent
    assert Update.from_proto(event(workflow=RUN)) == Update(run=RunInfo.from_proto(RUN))
    task = workflow_service_pb2.WatchEvent()
    task.task.task.CopyFrom(TASK)
    assert Update.from_proto(task) == Update(task=TaskInfo.from_proto(TASK))
    assert Update.from_proto(event()) == Update()


@pytest.mark.parametrize("number", [0, 99])
def test_a_state_of_another_version_is_said_to_be_one(number: int) -> None:
    run, task = workflow_pb2.Workflow(), workflow_pb2.Task()
    run.status = task.status = number  # type: ignore[assignment]
    with pytest.raises(ValueError, match=f"unknown state {number}; the other side is another version"):
        RunInfo.from_proto(run)
    with pytest.raises(ValueError, match=f"unknown state {number}; the other side is another version"):
        TaskInfo.from_proto(task)
