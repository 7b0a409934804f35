"""The kind of virtual actors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from perdure import actorwire, graphwire
from perdure.engine.actor.actor import Actor, MethodContinued
from perdure.engine.actor.calls import ARGUMENTS as ARGUMENTS
from perdure.engine.actor.calls import CLASS as CLASS
from perdure.engine.actor.mailbox import MAIL as MAIL
from perdure.engine.actor.reminders import RINGS as RINGS
from perdure.engine.graph_run.state import tasks_named
from perdure.engine.machine import Machine, Saved, TaskState
from perdure.engine.messages import Source, TaskContinued, TaskFailed
from perdure.model import (
    ACTOR_OUTCOME,
    ID_CHARS_MAX,
    ActorSpec,
    BlobRef,
    ClassChange,
    InvalidSpec,
    MethodCall,
    MethodOutcome,
    Payload,
    Spec,
    frozen,
)
from perdure.service.executors.port import ContinuationReturned
from perdure.service.machines.definitions import spec_key
from perdure.service.machines.graphs import failed, graph_of, writes_of
from perdure.service.machines.kinds import Returned
from perdure.service.machines.source import RunSource
from perdure.storage.rows import ACTOR
from perdure.storage.writes import Write

MARK: Final = b"\0actor\0"
"""The beginning of the stored class of an actor. Graphs that its methods returned are stored as all graphs, and no
serialized message begins with a zero byte."""

Definition: TypeAlias = ActorSpec | Spec


class Codec:
    """Implements the machine's Codec."""

    def call(self, payload: Payload) -> MethodCall:
        return actorwire.decode_call(payload.data)

    def dropped(self, payload: Payload) -> str:
        return actorwire.decode_drop(payload.data)

    def outcome(self, payload: Payload) -> MethodOutcome:
        if payload.encoding != ACTOR_OUTCOME or payload.blob is not None:
            raise ValueError("it is not a MethodOutcome")
        return actorwire.decode_outcome(payload.data)

    def changed_class(self, payload: Payload) -> ClassChange:
        return actorwire.decode_change(payload.data)

    def stored_class(self, spec: ActorSpec) -> tuple[str, bytes]:
        data = MARK + actorwire.encode_class(spec)
        return spec_key(data), data


CODEC: Final = Codec()


class Actors:
    """Implements Kind for actors. A definition is the class of an actor, or a graph that a method returned."""

    name = ACTOR

    def decode(self, data: bytes) -> Definition:
        if data.startswith(MARK):
            return actorwire.decode_class(data.removeprefix(MARK))
        return graphwire.decode_spec(data)

    def size(self, definition: Definition) -> int:
        return len(definition.nodes) if isinstance(definition, Spec) else 1

    def begin(self, definition: Definition) -> Machine:
        assert isinstance(definition, ActorSpec)
        return Actor(definition, CODEC)

    def restore(self, key: str, definitions: Mapping[str, Definition], saved: Saved) -> Machine:
        spec = definitions[key]
        if not isinstance(spec, ActorSpec):
            raise ValueError("the definition of an actor is a class")
        graphs = {key: graph for key, graph in definitions.items() if isinstance(graph, Spec)}
        classes = {key: found for key, found in definitions.items() if isinstance(found, ActorSpec)}
        return Actor.restore(spec, CODEC, saved, graphs, classes)

    def read_returned(self, run_id: str, report: ContinuationReturned) -> Returned:
        try:
            spec = graph_of(report)
            stored = report.method_outcome
            outcome = actorwire.decode_outcome(stored) if stored is not None else None
        except ValueError as error:
            refused = failed(report, error)
            return lambda _machine: (refused, ())
        named = tasks_named(spec)
        key = spec_key(report.continuation)
        times = report.at_ms, report.started_ms, report.ended_ms
        writes = writes_of(run_id, spec, report, report.task_id)

        def in_run(machine: Machine) -> tuple[TaskContinued | TaskFailed, tuple[Write, ...]]:
            assert isinstance(machine, Actor)
            try:
                machine.check_returned(named, report.task_id, is_method=outcome is not None)
            except InvalidSpec as error:
                return failed(report, error), ()
            continuation = spec if outcome is None else MethodContinued(spec, outcome)
            return TaskContinued(report.task_id, report.attempt, continuation, key, *times), writes

        return in_run


ACTORS: Final = Actors()


def blobs_of_returned(report: ContinuationReturned) -> Iterable[BlobRef]:
    """The blobs that a returned graph names, and the state that came with it; none if it is invalid, which
    `read_returned` finds out."""
    try:
        yield from graphwire.blobs_of_spec(graphwire.decode_spec(report.continuation))
        if report.method_outcome is not None:
            yield from actorwire.blobs_of_outcome(actorwire.decode_outcome(report.method_outcome))
    except ValueError:
        return


def source_of(spec: ActorSpec) -> RunSource:
    """The source of an actor of this class."""
    _, data = CODEC.stored_class(spec)
    digest = hashlib.sha256(data)
    version = spec.function.python_version
    return RunSource(
        kind=ACTORS,
        definition=spec,
        data=data,
        digest=digest,
        key=digest.hexdigest(),
        name=spec.function.name[-ID_CHARS_MAX:],
        inputs=frozenset({ARGUMENTS}),
        blobs=frozenset(graphwire.blobs_of_code(spec.function, spec.options.shape)),
        versions=((version, "the class"),) if version else (),
    )


# ------------------------------------------------------------------------------ as its callers see it


@frozen
class ActorView:
    """An actor at one moment. `pending`: calls that run or wait."""

    spec: ActorSpec
    revision: int
    pending: int
    is_created: bool


def view_actor(machine: Machine) -> ActorView:
    assert isinstance(machine, Actor)
    return ActorView(machine.spec, machine.state.revision, machine.pending, machine.is_created)


def events_of(machine: Machine) -> int:
    """The number of events that no graph has taken."""
    assert isinstance(machine, Actor)
    return machine.events


def query_of(machine: Machine) -> tuple[ActorView, tuple[Source, ...]]:
    """The actor, and the places of its state, for an attempt that only reads it."""
    assert isinstance(machine, Actor)
    return view_actor(machine), machine.state.sources()


def result_of(machine: Machine, call_id: str) -> tuple[TaskState, int] | None:
    """A call that has ended since the actor was loaded, and the revision after it; None for others."""
    assert isinstance(machine, Actor)
    call = machine.find_call(call_id)
    return (call, call.revision) if call is not None and call.has_ended and call.revision else None


def calls_of(machine: Machine) -> Iterator[TaskState]:
    """The recorded calls: those that ended, then those that run or wait, in the order of their turns."""
    assert isinstance(machine, Actor)
    return machine.calls()
