"""An actor without an engine: what a worker gets for each call, and what becomes of its outcomes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

from perdure import actorwire, codec, functions, graphwire
from perdure.arguments import encode_arguments
from perdure.context import Context
from perdure.model import (
    ACTOR_CALL,
    CONSTRUCTOR,
    BlobRef,
    Failure,
    Function,
    MethodCall,
    MethodOutcome,
    NodeRef,
    Payload,
)
from perdure.worker.attempt import Runner
from perdure.worker.results import Continued, Failed, Result, Returned
from perdure.worker.values import AttemptInput, Value

_numbers = itertools.count()


class Blobs:
    """Blobs in memory. `written` are the bytes that were stored."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.written = 0

    def load(self, blob: BlobRef) -> memoryview:
        return memoryview(self.kept[blob.sha256])

    def store(self, encoded: codec.Encoded) -> BlobRef:
        data = encoded.inline().data
        self.written += len(data)
        sha256 = hashlib.sha256(data).hexdigest()
        self.kept[sha256] = data
        return BlobRef(sha256, len(data))


class CallFailed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Actor:
    """One actor, with the stored parts of its state by name; "" has the small fields."""

    def __init__(
        self,
        cls: Any,
        *args: Any,
        blobs: Blobs | None = None,
        runner: Runner | None = None,
        runner_of: Callable[[Blobs], Runner] = Runner,
    ) -> None:
        self.blobs = blobs or Blobs()
        self._runner_of = runner_of
        self.runner = runner or runner_of(self.blobs)
        self.function = cls if isinstance(cls, Function) else functions.encode_function(cls)
        self.parts: dict[str, Payload] = {}
        self.revision = 0
        self.run_id = f"run-{next(_numbers)}"
        self.outcome = MethodOutcome()  # the last one
        self.call(CONSTRUCTOR, *args)

    def move(self) -> None:
        """Let the next call run in a worker that does not know the actor."""
        self.runner = self._runner_of(self.blobs)

    def input(
        self, method: str, *args: Any, is_query: bool = False, callers: tuple[str, ...] = (), **kwargs: Any
    ) -> AttemptInput:
        values = [arg for arg in args if isinstance(arg, Value)]
        arguments, refs = encode_arguments(
            args, kwargs, lambda arg: NodeRef(str(values.index(arg))) if isinstance(arg, Value) else None
        )
        call = actorwire.encode_call(MethodCall(method, arguments, len(refs), "call", (), None, is_query))
        state = [Value(self.parts[name]) for name in sorted(self.parts)]
        if not self.revision:
            return self.attempt(Payload(ACTOR_CALL), [Value(call), *values, *state])
        return self.attempt(call, [*values, *state], callers)

    def attempt(self, arguments: Payload, values: list[Value], callers: tuple[str, ...] = ()) -> AttemptInput:
        context = Context("default", "cart-1", self.run_id, "call", 1, callers=callers)
        return AttemptInput(context, self.function, arguments, values)

    def result(self, method: str, *args: Any, **kwargs: Any) -> Result:
        return self.runner.run(self.input(method, *args, **kwargs))

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """The value of a call, after which the actor has the new state. Raises CallFailed."""
        result = self.result(method, *args, **kwargs)
        if isinstance(result, Failed):
            raise CallFailed(result.failure)
        return self.take(result)

    def take(self, result: Returned | Continued) -> Any:
        """The value, or the returned graph."""
        if isinstance(result, Continued):
            self.apply(actorwire.decode_outcome(result.method_outcome))
            return graphwire.decode_spec(result.spec)
        assert result.output.encoding == "perdure/actor-outcome"
        self.apply(actorwire.decode_outcome(result.output.data))
        assert self.outcome.output is not None
        return self.value(self.outcome.output)

    def apply(self, outcome: MethodOutcome) -> None:
        self.outcome = outcome
        if outcome.state is None:
            assert not outcome.parts
            assert not outcome.dropped
            return
        self.revision += 1
        for name in outcome.dropped:
            del self.parts[name]
        self.parts |= {"": outcome.state, **dict(outcome.parts)}

    def query(self, method: str, *args: Any) -> Any:
        result = self.result(method, *args, is_query=True)
        if isinstance(result, Failed):
            raise CallFailed(result.failure)
        assert isinstance(result, Returned)
        return self.value(result.output)

    def value(self, payload: Payload) -> Any:
        return codec.decode(payload, None if payload.blob is None else self.blobs.load(payload.blob))

    @property
    def sent(self) -> list[str]:
        """The names of the parts that the last outcome brought."""
        return [name for name, _ in self.outcome.parts]


def failure_of(call: Callable[[], object]) -> Failure:
    try:
        value = call()
    except CallFailed as failed:
        return failed.failure
    raise AssertionError(f"it returned {value!r:.200}")
