"""The data model of Perdure: graphs, payloads, failures, options and states, as values.

Values are immutable and are checked on construction. Every other part of Perdure imports this module, which imports
none of them. Fields that end in `_ms` are integers: milliseconds since the epoch for a time, milliseconds for a
duration.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar, dataclass_transform, overload

T = TypeVar("T")

ID_CHARS_MAX: Final = 256
NODE_ID_CHARS_MAX: Final = 256
REQUEST_ID_CHARS_MAX: Final = 128
"""Of ids of requests, of events and of calls of actors."""
REMINDER_KEY_CHARS_MAX: Final = 100
PART_NAME_CHARS_MAX: Final = 200
"""Of parts of an actor's state."""
DEFAULT_NAMESPACE: Final = "default"
"""The namespace of a call that names none."""
INLINE_BYTES_MAX: Final = 64 * 1024
"""Values up to this size travel inline and are stored in the database; larger ones are blobs."""


@overload
def frozen(cls: type[T], /) -> type[T]: ...
@overload
def frozen(*, slots: bool) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[Any] | None = None, /, *, slots: bool = True) -> Any:
    """A dataclass that type checkers treat as frozen. At run time it is an ordinary one, because a frozen dataclass
    takes five times as long to make, and a run makes dozens of them."""
    make = dataclass(slots=slots, unsafe_hash=True)
    return make if cls is None else make(cls)


class RunStatus(enum.StrEnum):
    """State of a run. The names are Ray's."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    RESUMABLE = "RESUMABLE"
    SUCCESSFUL = "SUCCESSFUL"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    def __init__(self, name: str) -> None:
        self.is_final = name in ("SUCCESSFUL", "FAILED", "CANCELED")
        """Whether it has ended. A FAILED run may be resumed."""


_INFINITE: Final = float("inf")


class TaskStatus(enum.StrEnum):
    """State of a task."""

    BLOCKED = "BLOCKED"
    """It waits for other nodes."""
    READY = "READY"
    """An attempt was dispatched and has not begun."""
    RUNNING = "RUNNING"
    """An attempt runs, or the task waits for its event or time."""
    BACKING_OFF = "BACKING_OFF"
    """It waits for the time of its next attempt."""
    SUCCESSFUL = "SUCCESSFUL"
    """It has an output, or returned a graph."""
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class FailureKind(enum.StrEnum):
    """Why there is no value."""

    APPLICATION = "APPLICATION"
    TIMEOUT = "TIMEOUT"
    CANCELED = "CANCELED"
    SYSTEM = "SYSTEM"
    FUNCTION_UNAVAILABLE = "FUNCTION_UNAVAILABLE"
    SERIALIZATION = "SERIALIZATION"


# ------------------------------------------------------------------------------ values


@frozen
class BlobRef:
    """Names stored bytes by their SHA-256 (64 lower-case hexadecimal digits)."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        if len(self.sha256) != 64 or not set(self.sha256) <= set("0123456789abcdef"):
            raise ValueError(f"not a SHA-256 in lower-case hexadecimal: {self.sha256!r:.80}")
        if self.size < 0:
            raise ValueError("a blob has no negative size")


@frozen
class Payload:
    """A value of the user's as bytes: inline in `data`, or stored as `blob`. `encoding` says how to read them.

    `refs` are blobs that the bytes refer to; they are kept as long as the payload.
    """

    encoding: str
    data: bytes = b""
    blob: BlobRef | None = None
    type: str = ""
    codecs: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    refs: tuple[BlobRef, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.encoding) <= 64:
            raise ValueError("a payload names its encoding in 1 to 64 characters")
        if self.blob is not None and self.data:
            raise ValueError("a payload is inline or a blob, not both")

    @property
    def size(self) -> int:
        return len(self.data) if self.blob is None else self.blob.size

    def blobs(self) -> tuple[BlobRef, ...]:
        """Every blob that reading this payload needs."""
        return self.refs if self.blob is None else (self.blob, *self.refs)


NULL: Final = Payload("binary/null")
"""No value: None, null, nil."""
WAITED: Final = "perdure/wait"


@frozen
class Waited:
    """The value of a Wait: the tasks that had values, and those that had none yet.

    `ready`, in the order of the Wait, has for each task: its id, the task whose stored output is its value, and the
    number of pairs (value, None) to wrap around that.
    """

    ready: tuple[tuple[str, str, int], ...]
    remaining: tuple[str, ...]

    def to_payload(self) -> Payload:
        return Payload(WAITED, json.dumps([self.ready, self.remaining], separators=(",", ":")).encode())

    @classmethod
    def from_payload(cls, payload: Payload) -> Waited:
        ready, remaining = json.loads(payload.data)
        return cls(tuple((task_id, source, wraps) for task_id, source, wraps in ready), tuple(remaining))


@frozen
class Failure:
    """The reason why user code, or the system under it, produced no value.

    `type` is the qualified name of the error, `base_types` are the types it derives from, nearest first. `error` is
    the error object itself, if it could be encoded.
    """

    kind: FailureKind
    type: str
    message: str
    stack_trace: str = ""
    base_types: tuple[str, ...] = ()
    cause: Failure | None = None
    error: Payload | None = None
    task_id: str = ""
    attempts: int = 0
    non_retryable: bool = False


# ------------------------------------------------------------------------------ graphs


@frozen
class Resources:
    """The resources of one attempt, in Ray's terms. `num_cpus` None: Ray's default of 1."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory_bytes: int | None = None
    custom: tuple[tuple[str, float], ...] = ()
    accelerator_type: str = ""

    def __post_init__(self) -> None:
        for name, amount in (("num_cpus", self.num_cpus), ("num_gpus", self.num_gpus), ("memory", self.memory_bytes)):
            if amount is not None and not 0 <= amount < _INFINITE:
                raise ValueError(f"{name} must be 0 or more, not {amount}")
        for name, amount in self.custom:
            if not name or not 0 <= amount < _INFINITE:
                raise ValueError(f"resource {name!r} must be 0 or more, not {amount}")

    def amounts(self) -> dict[str, float]:
        """The amounts by Ray's names, without zeros."""
        named = {"CPU": 1.0 if self.num_cpus is None else self.num_cpus, "GPU": self.num_gpus or 0}
        named["memory"] = self.memory_bytes or 0
        return {name: amount for name, amount in (*named.items(), *self.custom) if amount}


@frozen
class Shape:
    """The requirements of a task on its lease. Tasks of equal shape share leases.

    `runtime_env` is canonical JSON, "" for none. `scheduling` is "", "DEFAULT", "SPREAD",
    "node:ID" or "node?:ID" (soft), or a pickled strategy of Ray's. `keep_warm_ms` is how long an idle lease stays for
    the next attempt; 0: as long as the service says, and with GPUs a lease runs one attempt.
    """

    resources: Resources = Resources()
    runtime_env: str = ""
    scheduling: str | Payload = ""
    keep_warm_ms: int = 0


@frozen
class RetryRule:
    """When and how often a task is retried. `max_attempts` -1: without limit.

    Lost workers (SYSTEM) and time-outs of attempts are retried while attempts are left. Errors of user code are
    retried only with `application_errors`, and then by their types.
    """

    max_attempts: int = 4
    initial_interval_ms: int = 1_000
    max_interval_ms: int = 100_000
    backoff_coefficient: float = 2.0
    jitter: float = 0.2
    application_errors: bool = False
    retryable_types: tuple[str, ...] = ()
    non_retryable_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_attempts < -1 or self.max_attempts == 0:
            raise ValueError("max_attempts is 1 or more, or -1 for no limit")
        if self.initial_interval_ms < 0 or self.max_interval_ms < 0:
            raise ValueError("intervals must be 0 or more")
        if not 1 <= self.backoff_coefficient < _INFINITE:
            raise ValueError("backoff_coefficient must be 1 or more")
        if not 0 <= self.jitter <= 1:
            raise ValueError("jitter must be between 0 and 1")


@frozen
class TaskOptions:
    """How a task runs. `metadata` is a JSON object as text, "" for none. `task_id` "": the node's id.

    `checkpoint` None: that of the task that returned the graph; True in a run's own graph.
    """

    task_id: str = ""
    shape: Shape = Shape()
    retry: RetryRule = RetryRule()
    attempt_timeout_ms: int | None = None
    catch_exceptions: bool = False
    checkpoint: bool | None = None
    metadata: str = ""
    allow_inplace: bool = False


@frozen
class Index:
    """Step into a value: the element of a sequence. Negative counts from the end."""

    index: int


@frozen
class Key:
    """Step into a value: the entry of a mapping."""

    key: str


@frozen
class Attribute:
    """Step into a value: an attribute of an object."""

    name: str


Path: TypeAlias = tuple[Index | Key | Attribute, ...]


@frozen
class NodeRef:
    """The value of another node, or a part of it."""

    node_id: str
    path: Path = ()


@frozen
class InputRef:
    """An input of the run, or a part of it."""

    name: str
    path: Path = ()


@frozen
class TaskRef:
    """The value of an existing task of the run, or a part of it. Used in graphs that tasks return."""

    task_id: str
    path: Path = ()


Ref: TypeAlias = NodeRef | InputRef | TaskRef


AS_JSON: Final = ("result", "json")
"""The attribute of a call's arguments that asks for a result in JSON: the caller may not be of Python."""


@frozen
class Function:
    """The function of a task: `code`, or the registered `name` ("module:qualname") at `version`.

    `key` identifies it in leases and caches: the SHA-256 of the code, or the name and version.
    """

    key: str
    name: str
    code: Payload | None = None
    version: str = ""
    python_version: str = ""

    @property
    def is_registered(self) -> bool:
        """Whether it is called by the name under which it was registered."""
        return self.code is None and ":" not in self.name


@frozen
class Call:
    """A call of a function. `arguments` is opaque, and refers to `refs` by position."""

    function: Function
    arguments: Payload
    refs: tuple[Ref, ...] = ()


@frozen
class WaitEvent:
    """A wait for an event. Its value is the event's payload."""

    key: str
    timeout_ms: int | None = None


@frozen
class Sleep:
    """A timer. Its value is null. `delay_ms` counts from when the task is ready."""

    delay_ms: int | None = None
    until_ms: int | None = None

    def __post_init__(self) -> None:
        if (self.delay_ms is None) == (self.until_ms is None):
            raise ValueError("a timer has a delay or a time")
        if self.delay_ms is not None and self.delay_ms < 0:
            raise ValueError("a delay must be 0 or more")


@frozen
class Wait:
    """A wait until `num_returns` of some tasks have values, or for `timeout_ms`. Its value is a `Waited`."""

    refs: tuple[NodeRef | TaskRef, ...]
    num_returns: int = 1
    timeout_ms: int | None = None

    def __post_init__(self) -> None:
        if any(ref.path for ref in self.refs) or len(set(self.refs)) < len(self.refs):
            raise ValueError("a wait is for whole values, each named once")
        if not 1 <= self.num_returns <= len(self.refs):
            raise ValueError("num_returns must be between 1 and the number of nodes that are waited for")


Action: TypeAlias = Call | WaitEvent | Sleep | Wait


@frozen
class SpecNode:
    """One step of a graph. `after`: nodes that must be done first, although their values are not used.

    Computed: `needs` are the ids of the nodes that it depends on, each once; `task_needs` those of tasks outside of
    this graph. A Wait starts with its graph, and needs only some of its needs to be done.
    """

    id: str
    action: Action
    after: tuple[str, ...] = ()
    options: TaskOptions = TaskOptions()
    needs: tuple[str, ...] = field(init=False, repr=False, compare=False)
    task_needs: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.after and isinstance(self.action, Wait):
            raise ValueError("a wait comes after nothing but what it waits for")
        needs = self.after
        task_needs: tuple[str, ...] = ()
        if isinstance(self.action, Call | Wait) and self.action.refs:
            named = [ref.node_id for ref in self.action.refs if isinstance(ref, NodeRef)]
            needs = tuple(dict.fromkeys((*named, *needs)))
            task_needs = tuple(dict.fromkeys(ref.task_id for ref in self.action.refs if isinstance(ref, TaskRef)))
        object.__setattr__(self, "needs", needs)
        object.__setattr__(self, "task_needs", task_needs)


class InvalidSpec(ValueError):
    """The graph cannot run. `node_id` names the node at fault, "" if it is no particular node."""

    def __init__(self, message: str, node_id: str = "") -> None:
        super().__init__(message)
        self.node_id = node_id


CALLERS_MAX: Final = 64
"""So many workflows and actors wait for each other in a row."""
CALLER_CHARS_MAX: Final = ID_CHARS_MAX + 64
"""NAMESPACE/ID."""


@frozen
class Spec:
    """A graph: acyclic, with unique ids and resolved references. Tasks get their ids in the order of the nodes.
    `callers`: as MethodCall.chain, what waits for the run of this graph."""

    nodes: tuple[SpecNode, ...]
    output: str
    callers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.callers) > CALLERS_MAX:
            raise InvalidSpec(f"at most {CALLERS_MAX} workflows and actors may wait for each other in a row")
        if any(len(caller) > CALLER_CHARS_MAX for caller in self.callers):
            raise InvalidSpec(f"a caller has at most {CALLER_CHARS_MAX} characters")
        by_id: dict[str, SpecNode] = {}
        for node in self.nodes:
            if not 1 <= len(node.id) <= NODE_ID_CHARS_MAX:
                raise InvalidSpec(f"a node id has 1 to {NODE_ID_CHARS_MAX} characters: {node.id!r:.80}", node.id[:80])
            if node.id in by_id:
                raise InvalidSpec(f"two nodes have the id {node.id!r}", node.id)
            by_id[node.id] = node
        if self.output not in by_id:
            raise InvalidSpec(f"the output names the node {self.output!r:.80}, which the graph does not have")
        _refuse_cycles(by_id)

    def inputs(self) -> frozenset[str]:
        """Names of the inputs that the graph uses."""
        calls = (node.action for node in self.nodes if isinstance(node.action, Call))
        return frozenset(ref.name for call in calls for ref in call.refs if isinstance(ref, InputRef))


def _refuse_cycles(by_id: dict[str, SpecNode]) -> None:
    """Raises InvalidSpec if there is a cycle. Kahn's algorithm: linear, without recursion."""
    if len(by_id) == 1 and not next(iter(by_id.values())).needs:
        return
    missing: dict[str, int] = {}
    dependents: dict[str, list[str]] = {}
    for node in by_id.values():
        needs = node.needs
        missing[node.id] = len(needs)
        for need in needs:
            if need not in by_id:
                raise InvalidSpec(f"node {node.id!r} needs {need!r:.80}, which the graph does not have", node.id)
            dependents.setdefault(need, []).append(node.id)
    free = [node_id for node_id, count in missing.items() if not count]
    for node_id in free:  # grows while it is walked
        for dependent in dependents.get(node_id, ()):
            missing[dependent] -= 1
            if not missing[dependent]:
                free.append(dependent)
    if len(free) < len(by_id):
        stuck = next(node_id for node_id, count in missing.items() if count)
        raise InvalidSpec(f"the graph has a cycle through or before node {stuck!r}", stuck)


# ------------------------------------------------------------------------------ actors

ACTOR_CALL: Final = "perdure/actor-call"
"""The encoding of a MethodCall."""
ACTOR_OUTCOME: Final = "perdure/actor-outcome"
"""The encoding of a MethodOutcome."""
ACTOR_DROP: Final = "perdure/actor-drop"
"""The encoding of a request to end a call."""
ACTOR_CLASS: Final = "perdure/actor-class"
"""The encoding of a ClassChange."""
CONSTRUCTOR: Final = "__init__"
CREATION: Final = ".create"
"""The task of the constructor. Ids of calls do not begin with a dot."""
READONLY_MARK: Final = "__perdure_readonly__"
"""The attribute of a method that is declared readonly."""
VERSION_MARK: Final = "__perdure_version__"
"""The attribute of a class that has its version, if that is not the first one."""
FIRST_VERSION: Final = 1
"""The version of classes that say none, and of their states."""
MIGRATE: Final = "migrate"
"""The function of a class that makes a state of an older version into one of its own."""
ACTOR_DELETED: Final = Failure(
    FailureKind.CANCELED,
    "perdure.ActorDeleted",
    "the actor was deleted, and with it the call or its result",
    non_retryable=True,
)
"""The failure of a recorded call of an actor that is not there any more."""
PENDING_CALLS_MAX: Final = 1_000
"""The default bound of the calls of one actor that run or wait."""


TTL_MS_MIN: Final = 1_000
"""An actor lives at least this long, so that its maker can call it."""
TTL_MS_MAX: Final = 315_576_000_000_000
"""10,000 years."""
CALL_RETENTION_MS: Final = 7 * 24 * 3600 * 1000
"""The default time for which an actor keeps the results of calls. Older ones are removed when a later call ends, once
the oldest is overdue by a sixteenth of the time. Beyond a number of results, the oldest are removed earlier."""


@frozen
class ActorSpec:
    """The class of a virtual actor, and how attempts of its methods run. Its options say nothing of single tasks.
    `readonly` are the methods that it declares readonly: callers query them; workers go by the class itself. An actor
    that is idle for `ttl_ms` is deleted; 0: never. Results of calls are kept for `call_retention_ms`."""

    function: Function
    options: TaskOptions = TaskOptions()
    max_pending_calls: int = PENDING_CALLS_MAX
    readonly: tuple[str, ...] = ()
    ttl_ms: int = 0
    call_retention_ms: int = CALL_RETENTION_MS

    def __post_init__(self) -> None:
        if self.max_pending_calls < 1:
            raise ValueError("max_pending_calls is 1 or more")
        if self.ttl_ms and not TTL_MS_MIN <= self.ttl_ms <= TTL_MS_MAX:
            raise ValueError("the ttl is 1 second or more, and at most 10,000 years")
        if not TTL_MS_MIN <= self.call_retention_ms <= TTL_MS_MAX:
            raise ValueError("the call_retention is 1 second or more, and at most 10,000 years")
        options = self.options
        if options.task_id or options.catch_exceptions or options.checkpoint is not None or options.allow_inplace:
            raise ValueError("task_id, catch_exceptions, checkpoint and allow_inplace are no options of an actor")


@frozen
class ClassChange:
    """A recorded request to replace the class of an actor. `change_id` is the id of its event."""

    change_id: str
    spec: ActorSpec


@frozen
class MethodCall:
    """A call of a method of an actor. `arguments` refer to `refs` values by position.

    `call_id` is "" for a method that a returned graph calls, and for a query. `chain` are the workflows and actors
    that wait for the call, as "NAMESPACE/ID", the outermost first. `is_query`: only a readonly method may be called.
    """

    method: str
    arguments: Payload
    refs: int = 0
    call_id: str = ""
    chain: tuple[str, ...] = ()
    expected_revision: int | None = None
    is_query: bool = False


@frozen
class ReminderSetting:
    """A reminder that a method has set: a `call` of `method` at `at_ms`, or `after_ms` after the method, and then every
    `every_ms` (0: once). `call` None: the reminder is no longer to ring."""

    key: str
    method: str = ""
    call: Payload | None = None
    after_ms: int | None = None
    at_ms: int | None = None
    every_ms: int = 0


@frozen
class MethodOutcome:
    """The outcome of an attempt of a method. `output` None: it returned a graph, which travels on its own.

    `state` holds the small fields of the state and the names of its parts; None: the state has not changed. `parts` are
    those that are new or have changed, by name, and `dropped` the names of those that are gone. `reminders` are those
    that the method has set.
    """

    output: Payload | None = None
    state: Payload | None = None
    parts: tuple[tuple[str, Payload], ...] = ()
    dropped: tuple[str, ...] = ()
    reminders: tuple[ReminderSetting, ...] = ()
