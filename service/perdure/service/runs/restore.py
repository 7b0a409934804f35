"""Converts rows into a machine, and records of the core into writes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from perdure import wire
from perdure.engine.machine import Machine, Saved
from perdure.engine.messages import (
    ConsumeEvent,
    EventArrived,
    ForgetTasks,
    Record,
    RecordDefinition,
    RecordRun,
    RecordTask,
)
from perdure.model import Failure, FailureKind, Payload, RunStatus, TaskStatus
from perdure.service.common.aside import aside, is_large
from perdure.service.machines.definitions import Definitions
from perdure.service.machines.kinds import Kind
from perdure.storage import rows, writes
from perdure.storage.damage import about
from perdure.storage.ports import CorruptData

T = TypeVar("T")

log = logging.getLogger(__name__)


async def restore_run(stored: rows.StoredRun, definitions: Definitions) -> Machine:
    """Rebuild a run in its durable state. Raises CorruptData."""
    row = stored.run
    if stored.damage:
        raise CorruptData(stored.damage, subject=row.run_id)
    kind = definitions.kinds.of(row)
    found = await definitions.read(kind, {row.spec_key, *(task.spec_key for task in stored.tasks if task.spec_key)})
    rebuild = partial(_rebuilt, stored, kind, found)
    size = len(stored.tasks) + sum(map(kind.size, found.values()))
    return await aside(rebuild) if is_large(size) else rebuild()


def _rebuilt(stored: rows.StoredRun, kind: Kind[Any], definitions: Mapping[str, Any]) -> Machine:
    row = stored.run
    try:
        saved = Saved(
            status=row.status if row.status.is_final else RunStatus.RUNNING,
            records=(_record_of(task) for task in stored.tasks),
            mail=[arrival_of(event) for event in stored.events],
            last_event=stored.last_event,
            began_ms=(row.start_ms or row.create_ms) if row.status is RunStatus.RUNNING else None,
            ended_ms=row.end_ms if row.start_ms is not None else None,
        )
        return kind.restore(row.spec_key, definitions, saved)
    except CorruptData:
        raise
    except KeyError as error:
        raise CorruptData(f"run {row.run_id} has a record of an unknown task {error}", subject=row.run_id) from error
    except Exception as error:  # the core fails on records that it cannot have written
        log.exception("run cannot be rebuilt", extra={"run_id": row.run_id})
        message = f"run {row.run_id} cannot be rebuilt from its records ({type(error).__name__}: {error})"
        raise CorruptData(message, subject=row.run_id) from error


def failure_of(row: rows.RunRow) -> Failure | None:
    """The failure in a run's row. Raises CorruptData if it does not decode."""
    if row.damage:
        return corrupt_data(row.damage)
    if row.failure is None:
        return None
    try:
        return wire.decode_failure(row.failure)
    except (DecodeError, ValueError) as error:
        raise CorruptData(f"the failure of run {row.run_id} does not decode: {error}", subject=row.run_id) from error


def corrupt_data(message: str) -> Failure:
    """The failure of a run whose stored data is damaged."""
    return Failure(FailureKind.SYSTEM, "perdure.CorruptData", message)


def _record_of(row: rows.TaskRow) -> RecordTask:
    has_run = row.status is TaskStatus.SUCCESSFUL or (row.status is TaskStatus.READY and row.ended_ms is not None)
    has_output = has_run and not row.spec_key and row.failure is None
    return RecordTask(
        seq=row.seq,
        task_id=row.task_id,
        status=row.status,
        attempt=row.attempt,
        failures=row.failures,
        output_bytes=row.output_bytes if has_output else None,
        failure=_decoded(wire.decode_failure, row.failure, "tasks", (row.run_id, row.task_id), "failure")
        if row.failure is not None
        else None,
        spec_key=row.spec_key,
        wake_ms=row.wake_ms,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
    )


def arrival_of(row: rows.EventRow) -> EventArrived:
    """A stored event as an event of the core. Raises CorruptData."""
    payload = _decoded(wire.decode_payload, row.payload, "events", (row.run_id, row.sequence), "payload")
    return EventArrived(row.sequence, row.key, payload, row.arrived_ms)


def _decoded(decode: Callable[[bytes], T], data: bytes, table: str, row: tuple[str, object], column: str) -> T:
    """Raises CorruptData, which names the row and the column."""
    try:
        return decode(data)
    except (DecodeError, ValueError) as error:
        raise CorruptData(about(table, " ".join(map(repr, row)), column), subject=row[0]) from error


def output_of(record: RecordTask) -> Payload | None:
    """The output of a task: its value, or the pair (null, failure) if the failure was caught."""
    if record.output is not None:
        return record.output
    if record.failure is not None and record.status is TaskStatus.SUCCESSFUL:
        return wire.outcome_payload(record.failure, 0)
    return None


def write_of(run_id: str, record: Record, output: Payload | None) -> writes.Write:
    """The write of a record. `output` is `output_of` the record, if it is that of a task."""
    match record:
        case RecordTask():
            return writes.PutTask(
                rows.TaskRow(
                    run_id=run_id,
                    task_id=record.task_id,
                    seq=record.seq,
                    status=record.status,
                    attempt=record.attempt,
                    failures=record.failures,
                    output=wire.encode_payload(output) if output is not None else None,
                    output_bytes=output.size if output is not None else record.output_bytes or 0,
                    output_blob=output.blob.sha256 if output is not None and output.blob is not None else "",
                    failure=wire.encode_failure(record.failure) if record.failure is not None else None,
                    spec_key=record.spec_key,
                    wake_ms=record.wake_ms,
                    started_ms=record.started_ms,
                    ended_ms=record.ended_ms,
                )
            )
        case ConsumeEvent():
            return writes.ConsumeEvent(run_id, record.sequence, record.task_id)
        case ForgetTasks():
            return writes.DropTasks(run_id, record.task_ids, record.and_events, record.and_graphs, record.inputs)
        case RecordDefinition():
            return writes.PutSpec(record.key, record.data)
        case RecordRun():
            return writes.SetRun(
                run_id=run_id,
                status=record.status,
                at_ms=record.at_ms,
                output_task=record.output.task_id if record.output is not None else "",
                output_wraps=record.output.wraps if record.output is not None else 0,
                failure=wire.encode_failure(record.failure) if record.failure is not None else None,
                resumed=record.status is RunStatus.RUNNING,
            )
