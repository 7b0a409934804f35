"""The kind of graphs: the only place of the service, besides the API that takes them, that knows what a graph is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from perdure import graphwire, texts
from perdure.engine.graph_run.run import Run
from perdure.engine.graph_run.state import tasks_named
from perdure.engine.machine import Machine, Saved
from perdure.engine.messages import TaskContinued, TaskFailed
from perdure.model import ID_CHARS_MAX, BlobRef, Call, Failure, FailureKind, InvalidSpec, Spec
from perdure.service.common.uses import names_of, use
from perdure.service.executors.port import ContinuationReturned
from perdure.service.machines.definitions import spec_key
from perdure.service.machines.kinds import Returned
from perdure.service.machines.source import RunSource
from perdure.storage.rows import GRAPH
from perdure.storage.writes import PutSpec, Write


class Graphs:
    """Implements Kind for graphs."""

    name = GRAPH

    def decode(self, data: bytes) -> Spec:
        return graphwire.decode_spec(data)

    def size(self, definition: Spec) -> int:
        return len(definition.nodes)

    def begin(self, definition: Spec) -> Machine:
        return Run(definition)

    def restore(self, key: str, definitions: Mapping[str, Spec], saved: Saved) -> Machine:
        run = Run.restore(
            definitions[key],
            saved.status,
            saved.records,
            definitions,
            saved.mail,
            last_event=saved.last_event,
            ended_ms=saved.ended_ms,
        )
        if saved.began_ms is not None:
            run.settle(saved.began_ms)
        return run

    def read_returned(self, run_id: str, report: ContinuationReturned) -> Returned:
        try:
            spec = graph_of(report)
        except InvalidSpec as error:
            refused = failed(report, error)
            return lambda _machine: (refused, ())
        named = tasks_named(spec)
        key = spec_key(report.continuation)
        times = report.at_ms, report.started_ms, report.ended_ms
        event = TaskContinued(report.task_id, report.attempt, spec, key, *times)
        writes = writes_of(run_id, spec, report)

        def in_run(machine: Machine) -> tuple[TaskContinued | TaskFailed, tuple[Write, ...]]:
            assert isinstance(machine, Run)
            try:
                machine.graph.check_named(named, machine.find_task(report.task_id))
            except InvalidSpec as error:
                return failed(report, error), ()
            return event, writes

        return in_run


GRAPHS: Final = Graphs()


def graph_of(report: ContinuationReturned) -> Spec:
    """The graph that an attempt returned. Raises InvalidSpec."""
    spec = graphwire.decode_spec(report.continuation)
    texts.check_spec(spec)
    if missing := spec.inputs():
        raise InvalidSpec(f"a returned graph has no inputs of its own, but uses {sorted(missing)}")
    return spec


def writes_of(run_id: str, spec: Spec, report: ContinuationReturned, user: str = "") -> tuple[Write, ...]:
    """The writes to store with the record that a task returned this graph. `user` is the task that uses its blobs, ""
    for the run."""
    put = PutSpec(spec_key(report.continuation), report.continuation)
    return put, *use(run_id, names_of(graphwire.blobs_of_spec(spec)), user)


def failed(report: ContinuationReturned, error: ValueError) -> TaskFailed:
    """The event of an attempt whose graph cannot be used."""
    failure = Failure(FailureKind.SERIALIZATION, "perdure.InvalidSpec", f"the task returned a graph: {error}")
    return TaskFailed(report.task_id, report.attempt, failure, report.at_ms, report.started_ms, report.ended_ms)


def source_of(spec: Spec, data: bytes, *, blob: BlobRef | None = None) -> RunSource:
    """The source of a valid graph with these canonical bytes. `blob` is the blob that contained it, if any."""
    digest = hashlib.sha256(data)
    versions: dict[str, str] = {}
    for node in spec.nodes:
        if isinstance(node.action, Call) and (version := node.action.function.python_version):
            versions.setdefault(version, f"node {node.id!r}")
    output = next(node for node in spec.nodes if node.id == spec.output)
    name = output.action.function.name if isinstance(output.action, Call) else output.id
    blobs = frozenset(graphwire.blobs_of_spec(spec)) | ({blob} if blob is not None else set())
    return RunSource(
        kind=GRAPHS,
        definition=spec,
        data=data,
        digest=digest,
        key=digest.hexdigest(),
        name=name[:ID_CHARS_MAX],
        inputs=frozenset(spec.inputs()),
        blobs=blobs,
        versions=tuple(versions.items()),
    )
