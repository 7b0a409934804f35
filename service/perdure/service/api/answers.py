"""Converts the engine's views to messages."""

from __future__ import annotations

import json
from typing import Any, Final

from google.protobuf.struct_pb2 import Struct

from perdure import wire
from perdure.model import ID_CHARS_MAX, Failure, Payload, Resources, TaskOptions
from perdure.service.api import pages
from perdure.service.executors.port import Waiting, WaitReason
from perdure.service.machines.actors import ActorView
from perdure.service.runs.views import OutcomeView, RunView, TaskView
from perdure.storage.rows import RunRow
from perdure.v1 import actor_service_pb2, failure_pb2, workflow_pb2, workflow_service_pb2

REASON_CHARS_MAX: Final = 1_000
"""Longest failure message in a list of runs. GetOutput returns the full message."""


WAIT_REASON: Final[dict[WaitReason, Any]] = {
    reason: workflow_pb2.WaitReason.Value(f"WAIT_REASON_{reason.name}") for reason in WaitReason
}


def etag(view: RunView) -> str:
    return str(view.row.change)


def workflow(view: RunView) -> workflow_pb2.Workflow:
    message = workflow_pb2.Workflow()
    fill_workflow(message, view)
    return message


def fill_workflow(message: workflow_pb2.Workflow, view: RunView) -> None:
    """Fill an empty message with the state of a run."""
    row = view.row
    message.namespace = row.namespace
    message.workflow_id = row.workflow_id
    message.run_id = row.run_id
    message.status = wire.RUN_STATUS[row.status]
    message.name = row.name
    message.queue = row.queue
    message.priority = row.priority
    message.etag = etag(view)
    message.resume_count = row.resume_count
    if row.labels:
        message.labels.update(row.labels)
    wire.fill_timestamp(message.create_time, row.create_ms)
    wire.fill_timestamp(message.update_time, row.update_ms)
    if row.start_ms is not None:
        wire.fill_timestamp(message.start_time, row.start_ms)
    if row.end_ms is not None:
        wire.fill_timestamp(message.end_time, row.end_ms)
    if row.failure is not None:
        fill_reason(message.failure, row.failure)
    if view.waiting is not None:
        fill_waiting(message.waiting, view.waiting)
    if view.counts is not None:
        counts, tasks = view.counts, message.tasks
        tasks.total = counts.total
        tasks.pending = counts.pending
        tasks.running = counts.running
        tasks.successful = counts.successful
        tasks.failed = counts.failed
        tasks.canceled = counts.canceled


def task(view: TaskView) -> workflow_pb2.Task:
    message = workflow_pb2.Task(
        task_id=view.task_id,
        node_id=view.node_id,
        parent_task_id=view.parent_task_id,
        function_name=view.function_name,
        status=wire.TASK_STATUS[view.status],
        attempts=view.attempts,
        start_time=wire.to_timestamp(view.started_ms),
        end_time=wire.to_timestamp(view.ended_ms),
        output_size_bytes=view.output_bytes,
        checkpointed=view.checkpointed,
        next_attempt_time=wire.to_timestamp(view.next_attempt_ms),
    )
    if view.waiting is not None:
        fill_waiting(message.waiting, view.waiting)
    if view.failure is not None:
        message.last_failure.CopyFrom(summary(view.failure))
    return message


def actor(row: RunRow, view: ActorView | None = None, waiting: Waiting | None = None) -> actor_service_pb2.Actor:
    """An actor; without a view as it is in lists, where nothing is known but its row."""
    message = actor_service_pb2.Actor(
        namespace=row.namespace,
        actor_id=row.workflow_id,
        class_name=row.name,
        create_time=wire.to_timestamp(row.create_ms),
        labels=dict(row.labels),
    )
    is_failed = row.status.is_final or row.damage != ""
    if view is not None:
        message.class_name = view.spec.function.name[-ID_CHARS_MAX:]
        message.revision = view.revision
        message.pending_calls = view.pending
        message.readonly_methods.extend(view.spec.readonly)
        if view.spec.ttl_ms:
            message.ttl.CopyFrom(wire.to_duration(view.spec.ttl_ms))
        message.call_retention.CopyFrom(wire.to_duration(view.spec.call_retention_ms))
    if waiting is not None:
        fill_waiting(message.waiting, waiting)
    if is_failed:
        message.status = actor_service_pb2.ACTOR_STATUS_FAILED
        if row.failure is not None:
            fill_reason(message.failure, row.failure)
    else:
        is_created = view is None or view.is_created
        message.status = actor_service_pb2.ACTOR_STATUS_READY if is_created else actor_service_pb2.ACTOR_STATUS_CREATING
    return message


def fill_reason(message: failure_pb2.Failure, stored: bytes) -> None:
    """Fill an empty message with a short form of the failure of a run."""
    message.ParseFromString(stored)
    message.message = message.message[:REASON_CHARS_MAX]
    for field in ("stack_trace", "error", "cause", "base_types"):
        message.ClearField(field)


def fill_waiting(message: workflow_pb2.Waiting, waiting: Waiting) -> None:
    message.reason = WAIT_REASON[waiting.reason]
    message.text = waiting.text


def summary(failure: Failure) -> failure_pb2.Failure:
    message = wire.failure_to_proto(failure)
    for field in ("stack_trace", "error", "cause"):
        message.ClearField(field)
    return message


def outcome(view: OutcomeView, *, include_error: bool) -> workflow_service_pb2.GetOutputResponse:
    """`done` is set only with an outcome. The error object is included only on request."""
    answer = workflow_service_pb2.GetOutputResponse(status=wire.RUN_STATUS[view.status])
    fill_outcome(answer, view, include_error=include_error)
    return answer


def fill_outcome(
    answer: workflow_service_pb2.GetOutputResponse | workflow_service_pb2.OutputResult,
    view: OutcomeView,
    *,
    include_error: bool,
) -> None:
    answer.run_id = view.run_id
    answer.done = view.value is not None
    if view.value is not None:
        fill_value(answer.outcome, view.value, include_error=include_error)


def fill_value(message: workflow_pb2.Outcome, value: Payload | Failure, *, include_error: bool) -> None:
    if isinstance(value, Payload):
        wire.fill_payload(message.output, value)
        return
    failure = wire.failure_to_proto(value)
    if not include_error:
        _drop_errors(failure)
    pages.shorten_failure(failure)
    message.failure.CopyFrom(failure)


def _drop_errors(failure: failure_pb2.Failure) -> None:
    while True:
        failure.ClearField("error")
        if not failure.HasField("cause"):
            return
        failure = failure.cause


def run_metadata(view: RunView) -> workflow_pb2.Metadata:
    row = view.row
    return workflow_pb2.Metadata(
        status=str(row.status),
        user_metadata=wire.json_to_struct(row.metadata) or Struct(),
        stats=workflow_pb2.Stats(
            start_time=wire.to_timestamp(row.start_ms),
            end_time=wire.to_timestamp(row.end_ms),
            attempts=1 + row.resume_count,
        ),
        name=row.name,
    )


def task_metadata(view: TaskView) -> workflow_pb2.Metadata:
    message = workflow_pb2.Metadata(
        status=str(view.status),
        user_metadata=wire.json_to_struct(view.metadata) or Struct(),
        stats=workflow_pb2.Stats(
            start_time=wire.to_timestamp(view.started_ms),
            end_time=wire.to_timestamp(view.ended_ms),
            attempts=view.attempts,
        ),
        task_options=_options(view.options),
        name=view.function_name,
        upstream_task_ids=view.upstream,
    )
    pages.shorten_metadata(message)
    return message


def _options(options: TaskOptions) -> Struct:
    """The options, under the names that users write."""
    resources: Resources = options.shape.resources
    named = {
        "max_retries": options.retry.max_attempts - 1 if options.retry.max_attempts > 0 else -1,
        "retry_exceptions": list(options.retry.retryable_types) or options.retry.application_errors,
        "catch_exceptions": options.catch_exceptions,
        "checkpoint": options.checkpoint,
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus,
        "memory": resources.memory_bytes,
        "resources": dict(resources.custom) or None,
        "accelerator_type": resources.accelerator_type or None,
        "runtime_env": json.loads(options.shape.runtime_env) if options.shape.runtime_env else None,
        "timeout": options.attempt_timeout_ms / 1000 if options.attempt_timeout_ms is not None else None,
    }
    struct = Struct()
    struct.update({name: value for name, value in named.items() if value is not None})
    return struct
