"""The asynchronous client: one channel, typed errors, values of any size.

A call is repeated while the service is away for a short time. Every request carries an id that makes this safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, cast

from perdure import batches, codec, errors, rayobjects, texts, wire
from perdure.actorcalls import ActorCalls
from perdure.actors import class_of
from perdure.batches import EventItem, IdConflict, IdReuse, RunItem, RunName
from perdure.context import chain
from perdure.handle import Handle, settled, value_or_error
from perdure.infos import EngineInfo, FunctionInfo, RunInfo
from perdure.model import BlobRef, Payload, RunStatus
from perdure.transport import POLL_S, transport_to
from perdure.v1 import function_service_pb2, system_service_pb2, workflow_service_pb2
from perdure.values import Decode, Values

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class Client:
    """A client of an engine. Use it as an asynchronous context manager, on one event loop.

    `address` defaults to PERDURE_ADDRESS and then to 127.0.0.1:7373. `patience` is the number of seconds for which a
    call is repeated while the service is away. The program's own modules travel with its graphs unless `modules` is
    False; None: as PERDURE_MODULES says.
    """

    def __init__(
        self, address: str = "", *, namespace: str = "", patience: float = 30.0, modules: bool | None = None
    ) -> None:
        self._transport = transport_to(address, namespace, patience)
        self._values = Values(self._transport, names_modules=modules)
        self.actors = ActorCalls(self._values)
        """Calls about actors by their ids. `actor` is for actors whose class is known."""

    @classmethod
    async def local(cls, **how: Any) -> Self:
        """A client of the engine of this process's Ray cluster. Starts Ray and the engine if they do not run. Takes the
        arguments of the class without the address. RuntimeError if the engine does not start."""
        from perdure.workflow.engines import local_address

        return cls(await asyncio.to_thread(local_address), **how)

    @property
    def address(self) -> str:
        """The engine's address, host:port."""
        return self._transport.address

    @property
    def namespace(self) -> str:
        """The namespace of all calls; "" is the service's default."""
        return self._transport.namespace

    @property
    def patience(self) -> float:
        """The number of seconds for which a call is repeated while the service is away."""
        return self._transport.patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._transport.patience = seconds

    def __repr__(self) -> str:
        return f"<perdure.Client of {self.address}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel. Runs go on."""
        await self._transport.close()

    # -------------------------------------------------------------------------- running

    async def start(
        self,
        graph: object,
        *,
        workflow_id: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        name: str = "",
        request_id: str | None = None,
        id_reuse: IdReuse = "reject",
        id_conflict: IdConflict = "fail",
    ) -> Handle:
        """Record a graph and run it; returns once it is durable. The graph is a node, or a spec made by
        `perdure.conversion.to_spec`.

        Without a `workflow_id` the run gets one that sorts by time. Idempotent by `request_id` (made here if none is
        given, so that retries of this call are safe). Raises WorkflowAlreadyExistsError if the id is in use,
        InvalidFieldError for a malformed or empty id and for an input that the graph does not use, InvalidSpecError for
        a graph that cannot run, QueueFullError, and ValueError or TypeError for metadata that is not a JSON object.
        """
        item = RunItem(graph, workflow_id, inputs, metadata, labels, name, request_id, id_reuse, id_conflict)
        request = await batches.run_request(self._values, item)
        answer = await self._transport.ask(self._transport.run, request)
        return Handle(self._values, answer.workflow.workflow_id, answer.workflow.run_id)

    async def run(self, graph: T, **how: Any) -> T:
        """Run a graph and return its value. Takes the arguments of `start`. Raises WorkflowExecutionError with the
        user's exception as `__cause__` if it fails, WorkflowCancellationError if it is canceled.

        In a task or a method, the run knows that this one waits for it. A call of an actor that waits as well raises
        ActorCycleError then. A run that was started by `start` does not know who waits for it.
        """
        request = await batches.run_request(self._values, RunItem(graph, **how), chain())
        request.wait.FromSeconds(int(POLL_S))
        request.include_error_object = True
        answer = await self._transport.ask(self._transport.run, request)
        handle = Handle(self._values, answer.workflow.workflow_id, answer.workflow.run_id)
        has_ended = answer.HasField("outcome")
        outcome = wire.outcome_from_proto(answer.outcome) if has_ended else await handle.outcome()
        value: T = await value_or_error(handle, outcome)
        return value

    async def start_many(self, items: Iterable[RunItem]) -> list[Handle]:
        """Start many runs in few calls, each as `start` does; a graph that they share is sent and stored once.

        Raises BatchError if some were refused; the others run. Its `results` are in the order of the items.
        """
        started = await batches.start_many(self._values, items)
        return errors.all_of(
            [one if isinstance(one, errors.PerdureError) else Handle(self._values, *one) for one in started]
        )

    async def outputs(self, runs: Iterable[RunName], *, timeout: float | None = None) -> list[Any]:
        """The values of many runs (handles, for example), once all have ended, in few calls.

        Raises TimeoutError after `timeout` seconds, and BatchError if some runs have no value: its `results` are the
        values, or the errors that `Handle.output` would raise.
        """
        named = list(runs)
        found = await batches.outcomes(self._values, named, poll_s=POLL_S, timeout=timeout)
        handles = [Handle(self._values, run.workflow_id, run.run_id) for run in named]
        return errors.all_of([await settled(run, outcome) for run, outcome in zip(handles, found, strict=True)])

    def handle(self, workflow_id: str, run_id: str = "") -> Handle:
        """A handle of a run, by its ids; without a `run_id` it is the last run of the workflow id. Makes no call."""
        return Handle(self._values, workflow_id, run_id)

    # -------------------------------------------------------------------------- actors

    def actor(self, actor_class: Callable[P, A], actor_id: str, *args: P.args, **kwargs: P.kwargs) -> A:
        """A reference to an actor at this client's engine, of a class decorated by `@perdure.actor`. If there is none
        when it is called first, it is made with these arguments. Makes no call. See `perdure.ActorClass.get`."""
        return cast(A, class_of(actor_class).reference(actor_id, self._values, args, kwargs))

    # -------------------------------------------------------------------------- operations on runs

    async def resume(self, workflow_id: str, *, code: Literal["same", "new"] = "same") -> bool:
        """Resume a failed or resumable run. False: it is active already. Idempotent.

        With `code` "new", tasks that have not succeeded use the program's modules as they are on this machine now.
        Functions that travelled by value stay as they are. Raises WorkflowAlreadyFinalError if the run has succeeded
        or was canceled, and InvalidFieldError, which is a ValueError, if it has no modules or none is found here.
        """
        return await self.handle(workflow_id).resume(code=code)

    async def cancel(self, workflow_id: str, reason: str = "") -> RunStatus:
        """Cancel a run. Returns its state, which differs from CANCELED if it had ended before."""
        return await self.handle(workflow_id).cancel(reason)

    async def send_event(self, workflow_id: str, key: str, payload: Any = None, *, event_id: str | None = None) -> bool:
        """Send an event; returns once it is durable. True: it is new. Idempotent by `event_id` (made here
        if none is given)."""
        return await self.handle(workflow_id).send_event(key, payload, event_id=event_id)

    async def send_events(self, items: Iterable[EventItem]) -> list[bool]:
        """Send many events in few calls, each as `send_event` does. Events to one run arrive in order.

        Raises BatchError if some were refused; the others are delivered.
        """
        return errors.all_of(await batches.send_events(self._values, items))

    async def delete(self, workflow_id: str, *, allow_missing: bool = False) -> None:
        """Delete a final or resumable run with everything that belongs to it."""
        texts.name(workflow_id, "workflow_id")
        request = workflow_service_pb2.DeleteWorkflowRequest(
            namespace=self.namespace, workflow_id=workflow_id, allow_missing=allow_missing
        )
        await self._transport.ask(self._transport.workflows.DeleteWorkflow, request)

    async def list(self, filter: str = "", *, order_by: str = "", page_size: int = 100) -> AsyncIterator[RunInfo]:
        """Runs, newest first unless `order_by` says otherwise. The filter is that of ListWorkflows."""
        token = ""
        texts.free(filter, "filter")
        while True:
            request = workflow_service_pb2.ListWorkflowsRequest(
                namespace=self.namespace, filter=filter, order_by=order_by, page_size=page_size, page_token=token
            )
            ask = partial(self._transport.workflows.ListWorkflows, request)
            answer = await self._transport.call(ask)
            for workflow in answer.workflows:
                yield RunInfo.from_proto(workflow)
            token = answer.next_page_token
            if not token:
                return

    async def info(self) -> system_service_pb2.GetSystemInfoResponse:
        """The server's version, features and limits."""
        return await self._transport.call(
            lambda: self._transport.system.GetSystemInfo(system_service_pb2.GetSystemInfoRequest())
        )

    async def engines(self) -> tuple[EngineInfo, ...]:
        """The engines that work on the service's database, the oldest first."""
        request = system_service_pb2.ListEnginesRequest()
        answer = await self._transport.call(lambda: self._transport.system.ListEngines(request))
        return tuple(EngineInfo.from_proto(engine) for engine in answer.engines)

    async def functions(self, prefix: str = "", *, all_versions: bool = False) -> AsyncIterator[FunctionInfo]:
        """The functions that clients may call by name, whose names begin with `prefix`, by name. With `all_versions`
        also those that a run without a version does not get, the newest first."""
        request = function_service_pb2.ListFunctionsRequest(name_prefix=prefix, all_versions=all_versions)
        while True:
            answer = await self._transport.call(lambda: self._transport.functions.ListFunctions(request))
            for info in answer.functions:
                yield FunctionInfo.from_proto(info)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    async def function(self, name: str, version: str = "") -> FunctionInfo:
        """A function that clients may call by name; without a version, the one that a run gets. Raises
        FunctionNotFoundError."""
        request = function_service_pb2.GetFunctionRequest(name=name, version=version)
        answer = await self._transport.call(lambda: self._transport.functions.GetFunction(request))
        return FunctionInfo.from_proto(answer.function)

    async def collect_blobs(self) -> tuple[int, int]:
        """Make the service look for blobs that no workflow uses; it removes them after its grace period. Returns the
        number of all blobs and of those it found."""
        request = system_service_pb2.CollectBlobsRequest()
        answer = await self._transport.call(lambda: self._transport.system.CollectBlobs(request))
        return answer.blobs, answer.marked

    # -------------------------------------------------------------------------- values

    async def objects(self) -> rayobjects.RayObjects:
        """Stores and loads objects of Ray, with their contents at this client's engine, for threads other than its
        loop's."""
        return self._values.objects.blocking()

    async def has_blob(self, blob: BlobRef) -> bool:
        """Whether the service has it."""
        return await self._values.blobs.has(blob)

    async def value_of(self, payload: Payload, decode: Decode = codec.decode) -> Any:
        """Decode a payload, with a download of its blob if it has one. Objects of Ray in it become objects of the
        cluster to which this process is connected; CodecError if there is none."""
        return await self._values.value_of(payload, decode)
