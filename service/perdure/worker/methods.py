"""Methods of virtual actors: loads the state, calls the method, and stores what has changed.

A method runs in the thread of its attempt, an `async def` one on a loop of that thread. Nothing runs beside it.

Instances are kept between calls, and used again if the state that comes with the next attempt is the one that they were
stored as. An instance is taken out of the cache while a method runs, and goes back only after everything went well. So
no call sees what a failed one has left behind.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any, Final

from perdure import actorwire, failures, reminders, selfcalls, told
from perdure.bounded import SharedBounded
from perdure.context import bind_context
from perdure.model import (
    ACTOR_CALL,
    CONSTRUCTOR,
    MIGRATE,
    READONLY_MARK,
    Failure,
    FailureKind,
    Function,
    MethodCall,
    MethodOutcome,
    Payload,
    frozen,
)
from perdure.wire import ARGUMENTS
from perdure.worker.actorstate import States
from perdure.worker.instances import GONE, Change, Instance, Kind
from perdure.worker.interrupt import Interrupted
from perdure.worker.loops import ThreadLoop
from perdure.worker.results import Bad, Continued, Result, Returned, kind_of, leave_room, returned
from perdure.worker.schemas import TypedFunction
from perdure.worker.values import AttemptInput, Value, Values

INSTANCES_BYTES_MAX: Final = 256 * 1024 * 1024
"""The instances that a process keeps, by the size of their stored states."""
WARM_BYTES_MAX: Final = INSTANCES_BYTES_MAX // 4
"""An activated instance is weighed at most this much, so that a large state does not evict it."""
MISSES_MAX: Final = 2
"""So many queries of other states leave the kept instance in its place."""
CLASSES_MAX: Final = 1_000
ACTIVATE: Final = "activate"
"""The method that builds what is not durable."""
NAMES_MAX: Final = 50


@frozen
class _Method:
    """A method of a class, as the class has it."""

    found: Any
    is_readonly: bool

    def of(self, instance: Any) -> Callable[..., Any]:
        """The method of an instance, whatever its attributes are called."""
        get = getattr(type(self.found), "__get__", None)
        bound: Callable[..., Any] = self.found if get is None else get(self.found, instance, type(instance))
        return bound


class _Class(Kind):
    """A class of actors, and its methods."""

    def __init__(self, cls: type) -> None:
        super().__init__(cls)
        self._own = selfcalls.prepare(cls)
        self._methods: dict[str, _Method] = {}
        self._typed: dict[Any, TypedFunction] = {}
        self.activates = callable(getattr(cls, ACTIVATE, None))

    def prepare(self) -> None:
        """Give its methods `.bind`. Unpickling the class again takes that away."""
        if not selfcalls.is_prepared(self.cls, self._own):
            self._own = selfcalls.prepare(self.cls)

    def method(self, name: str) -> _Method:
        """The method of this name. Raises Bad if none can be called by this name."""
        if (method := self._methods.get(name)) is None:
            found = self._find(name) if _is_public(name) else None
            if found is None:
                raise Bad(self._no_method(name))
            function = getattr(found, "__func__", found)
            marks = (getattr(what, READONLY_MARK, False) is True for what in (found, function))
            method = self._methods[name] = _Method(found, any(marks))
        return method

    def typed(self, method: _Method | None) -> TypedFunction:
        """The types of a method, or of the constructor."""
        found = self.cls if method is None else method.found
        if (typed := self._typed.get(found)) is None:
            is_method = method is not None and not isinstance(found, staticmethod)
            typed = self._typed[found] = TypedFunction(getattr(found, "__func__", found), is_method=is_method)
        return typed

    def by_name(self, name: str) -> Callable[..., Any] | None:
        """The method that others may call by this name, as the class has it; None if there is none."""
        found = self._find(name) if _is_public(name) else None
        return getattr(found, "__func__", found) if callable(getattr(found, "__func__", found)) else None

    def _find(self, name: str) -> Any:
        """The method as the class has it; None if there is none."""
        found: Any = inspect.getattr_static(self.cls, name, None)
        if isinstance(found, selfcalls.METHODS):
            return found.function
        return found if callable(getattr(self.cls, name, None)) and not isinstance(found, type) else None

    def _no_method(self, name: str) -> Failure:
        names = sorted(other for other in dir(self.cls) if _is_public(other) and self._find(other) is not None)
        has = ", ".join(names[:NAMES_MAX]) + (", ..." if len(names) > NAMES_MAX else "") or "none"
        why = "names with an underscore are the class's own" if name.startswith("_") else f"there are: {has}"
        if name == ACTIVATE:
            why = f"activate is called before the first method, and not by clients; {why}"
        if name == MIGRATE:
            why = f"migrate is called for states of older versions, and not by clients; {why}"
        message = f"the actor class {self.name} has no method {name!r:.200} to call; {why}"
        return Failure(FailureKind.APPLICATION, "perdure.NoSuchMethod", message, non_retryable=True)


def _is_public(name: str) -> bool:
    return not name.startswith("_") and name not in (ACTIVATE, MIGRATE)


class Methods:
    """Runs methods."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._states = States(values)
        self._classes: SharedBounded[str, _Class] = SharedBounded(CLASSES_MAX)
        self._instances: SharedBounded[str, Instance] = SharedBounded(INSTANCES_BYTES_MAX, _weight)
        self._threads = threading.local()

    def prepare(self) -> None:
        """Create the thread's event loop while the thread cannot be interrupted. An interrupt would leak a half-created
        one."""
        with suppress(OSError):  # if there are too many open files, only an `async def` method fails
            _ = self.loop

    def run(self, attempt_input: AttemptInput, cls: Any) -> Result:
        """Run a method of a class in this thread. Raises Bad, and exceptions that end a worker."""
        context = attempt_input.context
        call, values, state = self._read(attempt_input)
        kind = self._class(attempt_input.function, cls, context.task_id)
        if call.chain and not context.callers:  # the engine has not read the call of a constructor
            context = replace(context, callers=call.chain)
        if call.is_query:
            context = replace(context, is_query=True)
        with bind_context(context):
            return _Run(self, attempt_input, call, kind).run(values, state)

    def _read(self, attempt_input: AttemptInput) -> tuple[MethodCall, Sequence[Value], list[Payload]]:
        """The call, the values that its arguments refer to, and the state."""
        arguments, values = attempt_input.arguments, attempt_input.values
        try:
            if not arguments.size:  # the constructor's call is an input of the run
                arguments, values = values[0].payload, values[1:]
            if arguments.encoding != ACTOR_CALL:
                raise ValueError(f"its encoding is {arguments.encoding}")
            call = actorwire.decode_call(self._values.bytes_of(arguments))
        except (ValueError, IndexError) as error:
            message = f"task {attempt_input.context.task_id!r}: the call cannot be read: {failures.text_of(error)}"
            failure = Failure(FailureKind.SERIALIZATION, "perdure.InvalidCall", message, non_retryable=True)
            raise Bad(failure) from error
        return call, values[: call.refs], [value.payload for value in values[call.refs :]]

    def _class(self, function: Function, cls: Any, task_id: str) -> _Class:
        kind = self._classes.get(function.key)
        if kind is None or kind.cls is not cls:
            if not isinstance(cls, type):
                what = f"{function.name} is a {told.type_name(type(cls))}, not a class"
                message = f"task {task_id!r}: the class of the actor cannot be used: {what}"
                raise Bad(Failure(FailureKind.FUNCTION_UNAVAILABLE, "perdure.FunctionUnavailable", message))
            kind = _Class(cls)
            self._classes.keep(function.key, kind)
        return kind

    @property
    def loop(self) -> ThreadLoop:
        """The loop of this thread."""
        loop: ThreadLoop | None = getattr(self._threads, "loop", None)
        if loop is None:
            loop = self._threads.loop = ThreadLoop()
        return loop

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """The tasks on the loop of this thread."""
        loop: ThreadLoop | None = getattr(self._threads, "loop", None)
        return set() if loop is None else loop.tasks

    # -------------------------------------------------------------------------- instances

    def take(self, run_id: str, kind: _Class, state: list[Payload], task_id: str, *, is_query: bool) -> Instance:
        """An instance with this state, which nobody else has."""
        kept = self._instances.pop(run_id)
        if kept is not None and kept.kind is kind and kept.loop in (None, getattr(self._threads, "loop", None)):
            assert kept.saved is not None
            if _are_same(kept.saved.payloads, state):
                kept.misses = 0
                return kept
            if is_query and kept.misses < MISSES_MAX:  # the state of the query may be the older one
                kept.misses += 1
                self._instances.keep(run_id, kept)
        return self._states.restore(kind, state, task_id)

    def save(self, instance: Instance, task_id: str) -> Change:
        return self._states.save(instance, task_id)

    def keep(self, run_id: str, instance: Instance) -> None:
        self._instances.keep(run_id, instance)

    def keep_unchanged(self, run_id: str, instance: Instance) -> None:
        """Keep the instance of a readonly call, if it has not changed and no other one is kept."""
        if run_id not in self._instances and self._states.is_unchanged(instance):
            self._instances.keep(run_id, instance)


class _Run:
    """One call of a method."""

    def __init__(self, methods: Methods, attempt_input: AttemptInput, call: MethodCall, kind: _Class) -> None:
        self._methods = methods
        self._values = methods._values
        self._function = attempt_input.function
        self._run_id = attempt_input.context.run_id
        self._task_id = attempt_input.context.task_id
        self._call = call
        self._kind = kind
        # Only the engine makes such an attempt: a call by this name would replace the state of an actor by a new one.
        self._is_creation = call.method == CONSTRUCTOR and not attempt_input.arguments.size

    def run(self, values: Sequence[Value], state: list[Payload]) -> Result:
        call = self._call
        if self._is_creation:
            return self._construct(values)
        method = self._kind.method(call.method)
        if call.is_query and not method.is_readonly:
            raise Bad(self._failure("perdure.NotReadonly", "may change the actor, so it is called and not queried"))
        if not state:
            raise Bad(self._failure("perdure.InvalidCall", "was called before the actor had a state"))
        typed = self._kind.typed(method) if self._is_foreign() else None
        args, kwargs = self._values.arguments(call.arguments, values, self._task_id, typed)
        instance = self._methods.take(self._run_id, self._kind, state, self._task_id, is_query=call.is_query)
        self._kind.prepare()
        self._activate(instance)
        settings = reminders.ReminderSettings(self._encode, self._kind.by_name)
        with selfcalls.running(instance.value, self._function), self._gathered(settings, method):
            value = self._user(instance, method.of(instance.value), args, kwargs)
            result = self._values.result(value, self._function, self._task_id, typed, as_json=typed is not None)
        if method.is_readonly:
            return self._answer_readonly(result, instance)
        return self._answer(result, instance, settings)

    def _is_foreign(self) -> bool:
        """Whether a method of a registered class is called as other languages call it: with JSON of its types."""
        return self._function.is_registered and self._call.arguments.encoding == ARGUMENTS

    def _gathered(self, settings: reminders.ReminderSettings, method: _Method) -> AbstractContextManager[None]:
        """A readonly method changes nothing, so it sets no reminders."""
        return nullcontext() if method.is_readonly else reminders.gathered(settings)

    def _encode(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
        """A call for a reminder. Large arguments are stored already."""
        arguments = self._values.encoded_arguments(args, kwargs, self._task_id)
        return actorwire.encode_call(MethodCall(method, arguments))

    def _construct(self, values: Sequence[Value]) -> Result:
        kind = self._kind
        kind.check(self._task_id)
        typed = kind.typed(None) if self._is_foreign() else None
        args, kwargs = self._values.arguments(self._call.arguments, values, self._task_id, typed)
        instance = Instance(kind, None)
        settings = reminders.ReminderSettings(self._encode, kind.by_name)
        with reminders.gathered(settings):
            instance.value = self._user(instance, kind.cls, args, kwargs)
        return self._answer(self._values.result(None, self._function, self._task_id), instance, settings)

    def _activate(self, instance: Instance) -> None:
        """Let a new instance build what is not durable."""
        if instance.volatile is not None:
            return
        instance.volatile = {}
        if not self._kind.activates:
            return
        before = self._kind.fields(instance.value)
        tasks = self._methods.tasks
        self._user(instance, instance.value.activate, (), {}, keeps_tasks=True)
        instance.tasks = self._methods.tasks - tasks
        after = self._kind.fields(instance.value)
        for name in before.keys() | after.keys():
            if before.get(name, GONE) is not after.get(name, GONE):
                instance.volatile[name] = before.get(name, GONE)

    # -------------------------------------------------------------------------- user code

    def _user(
        self,
        instance: Instance,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        keeps_tasks: bool = False,
    ) -> Any:
        """Call user code. A coroutine is run to its end. Raises Bad for an exception."""
        depth = sys.getrecursionlimit()
        try:
            try:
                value = function(*args, **kwargs)
            finally:
                leave_room(depth)
            if asyncio.iscoroutine(value):
                instance.loop = loop = self._methods.loop
                value, error = loop.run(value, keeps_tasks=keeps_tasks)
                leave_room(depth)
                if isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit)):
                    raise error
                if error is not None:
                    raise Bad(failures.from_exception(error, kind_of(error), skip_frames=1))
            return value
        except (Bad, Interrupted, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise Bad(failures.from_exception(error, kind_of(error), skip_frames=1)) from None

    # -------------------------------------------------------------------------- results

    def _answer(self, result: Returned | Continued, instance: Instance, settings: reminders.ReminderSettings) -> Result:
        change = self._methods.save(instance, self._task_id)
        output = result.output if isinstance(result, Returned) else None
        outcome = MethodOutcome(output, change.state, change.parts, change.dropped, settings.all())
        answer = self._with_outcome(result, outcome)
        instance.saved = change.saved
        self._methods.keep(self._run_id, instance)
        return answer

    def _answer_readonly(self, result: Returned | Continued, instance: Instance) -> Result:
        self._methods.keep_unchanged(self._run_id, instance)
        if not self._call.is_query:
            outcome = MethodOutcome(result.output if isinstance(result, Returned) else None)
            return self._with_outcome(result, outcome)
        if isinstance(result, Continued):
            raise Bad(self._failure("perdure.InvalidCall", "returned a graph, and a query answers with a value"))
        return result

    def _with_outcome(self, result: Returned | Continued, outcome: MethodOutcome) -> Result:
        answer = returned(actorwire.outcome_payload(outcome), self._task_id)  # refuses one with too many blobs
        return Continued(result.spec, answer.output.data) if isinstance(result, Continued) else answer

    def _failure(self, type_: str, what: str) -> Failure:
        message = f"the method {self._call.method!r:.200} of {self._kind.name} {what}"
        return Failure(FailureKind.APPLICATION, type_, message, non_retryable=True)


def _weight(instance: Instance) -> int:
    weight = instance.weight
    return min(weight, WARM_BYTES_MAX) if weight > WARM_BYTES_MAX and instance.is_warm else weight


def _are_same(stored: list[Payload], came: list[Payload]) -> bool:
    return len(stored) == len(came) and all(
        one.data == other.data and one.blob == other.blob and one.encoding == other.encoding
        for one, other in zip(stored, came, strict=True)
    )
