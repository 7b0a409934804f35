"""The asynchronous client: one channel, typed errors, values of any size.

A call that is safe to repeat is repeated when the service is away for a moment: every request carries
the id that makes it so. Waiting is a row of long polls, and outlives restarts of the engine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from perdure import batches, codec, errors, failures, graphwire, rayobjects, runtimeenv, texts, wire
from perdure.batches import EventItem, IdConflict, IdReuse, RunItem, RunName
from perdure.connection import REPEAT_KEY, client_channel
from perdure.conversion import large_parts, to_spec, with_stored
from perdure.graph import TaskNode
from perdure.ids import time_ordered_id
from perdure.model import (
    INLINE_BYTES_MAX,
    WAITED,
    BlobRef,
    Failure,
    FailureKind,
    Payload,
    RunStatus,
    Spec,
    TaskStatus,
    Waited,
)
from perdure.v1 import (
    blob_service_pb2,
    blob_service_pb2_grpc,
    payload_pb2,
    spec_pb2,
    system_service_pb2,
    system_service_pb2_grpc,
    workflow_pb2,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)
from perdure.views import EngineInfo, RunInfo, TaskInfo, Update

T = TypeVar("T")

DEFAULT_ADDRESS: Final = "127.0.0.1:7373"
POLL_S: Final = 25.0
CHUNK_BYTES: Final = 512 * 1024
SPEC_BYTES_MAX: Final = 1024 * 1024
UPLOADS_MAX: Final = 16
ASK_AGAIN_S: Final = 20.0
"""For so long it is not asked again whether the service has a package."""
PACKAGES_MAX: Final = 1_000
AWAY_FIRST_S: Final = 0.05
AWAY_MAX_S: Final = 1.0

Decode = Callable[[Payload, bytes | memoryview | None, codec.Objects | None], Any]


class Client:
    """Talks to an engine. Use it as an asynchronous context manager, on one event loop.

    `address` defaults to PERDURE_ADDRESS and then to 127.0.0.1:7373. `patience` is for how many
    seconds a call goes on asking while the service is away. The program's own modules travel with its graphs
    unless `modules` is False; None: unless PERDURE_MODULES is off.
    """

    def __init__(
        self, address: str = "", *, namespace: str = "", patience: float = 30.0, modules: bool | None = None
    ) -> None:
        self.address = address or os.environ.get("PERDURE_ADDRESS") or DEFAULT_ADDRESS
        namespace = namespace or os.environ.get("PERDURE_NAMESPACE") or ""
        self.namespace = texts.name(namespace, "namespace", limit=63, required=False)
        self.patience = patience
        self._modules = modules
        self._stored_until_s: dict[BlobRef, float] = {}  # blobs that the service has for sure, on the loop's clock
        self._objects = rayobjects.AsyncObjects(self._upload, self._load, self.has_blob)
        self._channel = client_channel(self.address)
        self._workflows = workflow_service_pb2_grpc.WorkflowServiceStub(self._channel)
        self._blobs = blob_service_pb2_grpc.BlobServiceStub(self._channel)
        self._system = system_service_pb2_grpc.SystemServiceStub(self._channel)

    @classmethod
    async def local(cls, **how: Any) -> Self:
        """A client of the engine of this process's Ray cluster, which is started if there is none; Ray too.
        Takes what the class takes but the address. RuntimeError if the engine does not start."""
        from perdure.workflow.connection import local_address

        return cls(await asyncio.to_thread(local_address), **how)

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
        await self._channel.close(None)

    # -------------------------------------------------------------------------- running

    async def start(
        self,
        graph: object,
        *,
        workflow_id: str = "",
        inputs: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        name: str = "",
        request_id: str = "",
        id_reuse: IdReuse = "reject",
        id_conflict: IdConflict = "fail",
    ) -> Handle:
        """Record a graph and run it; returns once it is durable. The graph is a node, or what
        `perdure.conversion.to_spec` made of one before.

        Idempotent by `request_id` (made here if none is given, so that retries of this call are
        safe). Raises WorkflowAlreadyExistsError if the id is in use, InvalidSpecError for a graph
        that cannot run, QueueFullError, and ValueError or TypeError for metadata that are no JSON object.
        """
        item = RunItem(graph, workflow_id, inputs, metadata, labels, name, request_id, id_reuse, id_conflict)
        request = await batches.run_request(self, item)
        answer = await self._ask(self._workflows.Run, request)
        return Handle(self, answer.workflow.workflow_id, answer.workflow.run_id)

    async def run(self, graph: T, **how: Any) -> T:
        """Run a graph and give its value; takes what `start` takes. Raises WorkflowExecutionError with
        the user's exception as `__cause__` if it fails, WorkflowCancellationError if it is canceled."""
        request = await batches.run_request(self, RunItem(graph, **how))
        request.wait.FromSeconds(int(POLL_S))
        request.include_error_object = True
        answer = await self._ask(self._workflows.Run, request)
        handle = Handle(self, answer.workflow.workflow_id, answer.workflow.run_id)
        has_ended = answer.HasField("outcome")
        outcome = batches.outcome_of(answer.outcome) if has_ended else await handle.outcome()
        value: T = await handle._value_or_error(outcome)
        return value

    async def start_many(self, items: Iterable[RunItem]) -> list[Handle]:
        """Start many runs in few calls, each as `start` does; a graph that they share is sent and stored once.

        Raises BatchError if some were refused; the others run. Its `results` are in the order of the items.
        """
        started = await batches.start_many(self, items)
        return errors.all_of([one if isinstance(one, errors.PerdureError) else Handle(self, *one) for one in started])

    async def outputs(self, runs: Iterable[RunName], *, timeout: float | None = None) -> list[Any]:
        """The values of many runs, such as handles, once all have ended, in few calls.

        Raises TimeoutError after `timeout` seconds, and BatchError if some have none: its `results` are the values,
        with what `Handle.output` would raise in the place of those that are missing.
        """
        named = list(runs)
        found = await batches.outcomes(self, named, poll_s=POLL_S, timeout=timeout)
        handles = [Handle(self, run.workflow_id, run.run_id) for run in named]
        return errors.all_of([await run._settled(outcome) for run, outcome in zip(handles, found, strict=True)])

    def handle(self, workflow_id: str, run_id: str = "") -> Handle:
        """A run by its id; nothing is asked yet."""
        return Handle(self, workflow_id, run_id)

    async def resume(self, workflow_id: str, *, code: Literal["same", "new"] = "same") -> bool:
        """Let a failed or resumable run go on. False: it is at work already. Idempotent.

        With `code` "new" the tasks that have not succeeded take the program's modules as they are here and now;
        functions that travelled by value stay as they are. ValueError if the run has no modules, or none that is here.
        """
        texts.name(workflow_id, "workflow_id")
        if code not in ("same", "new"):
            raise ValueError(f"code is 'same' or 'new', not {code!r}")
        request = workflow_service_pb2.ResumeRequest(namespace=self.namespace, workflow_id=workflow_id)
        if code == "new":
            request.modules = await self._modules_now(workflow_id)
        return (await self._ask(self._workflows.Resume, request)).resumed

    async def cancel(self, workflow_id: str, reason: str = "") -> RunStatus:
        """End a run; gives its state, which is another one than CANCELED if it was final before."""
        texts.name(workflow_id, "workflow_id")
        texts.free(reason, "reason")
        request = workflow_service_pb2.CancelRequest(namespace=self.namespace, workflow_id=workflow_id, reason=reason)
        answer = await self._ask(self._workflows.Cancel, request)
        return wire.run_status(answer.workflow.status)

    async def send_event(self, workflow_id: str, key: str, payload: Any = None, *, event_id: str = "") -> bool:
        """Send an event; returns once it is durable. True: it is new. Idempotent by `event_id` (made here
        if none is given)."""
        request = workflow_service_pb2.SendEventRequest(
            namespace=self.namespace,
            workflow_id=texts.name(workflow_id, "workflow_id"),
            event_key=texts.name(key, "event_key"),
            event_id=texts.name(event_id or time_ordered_id(), "event_id", limit=128),
            payload=wire.payload_to_proto(await self._payload(payload)),
        )
        return not (await self._call(lambda: self._workflows.SendEvent(request))).duplicate

    async def send_events(self, items: Iterable[EventItem]) -> list[bool]:
        """Send many events in few calls, each as `send_event` does; those to one run arrive in their order.

        Raises BatchError if some were refused; the others are delivered.
        """
        return errors.all_of(await batches.send_events(self, items))

    async def delete(self, workflow_id: str, *, allow_missing: bool = False) -> None:
        """Remove a final or resumable run with all that is its own."""
        texts.name(workflow_id, "workflow_id")
        request = workflow_service_pb2.DeleteWorkflowRequest(
            namespace=self.namespace, workflow_id=workflow_id, allow_missing=allow_missing
        )
        await self._ask(self._workflows.DeleteWorkflow, request)

    async def list(self, filter: str = "", *, order_by: str = "", page_size: int = 100) -> AsyncIterator[RunInfo]:
        """Runs, newest first unless `order_by` says otherwise. The filter is that of ListWorkflows."""
        token = ""
        texts.free(filter, "filter")
        while True:
            request = workflow_service_pb2.ListWorkflowsRequest(
                namespace=self.namespace, filter=filter, order_by=order_by, page_size=page_size, page_token=token
            )
            answer = await self._call(lambda request=request: self._workflows.ListWorkflows(request))  # type: ignore[misc]
            for workflow in answer.workflows:
                yield RunInfo.from_proto(workflow)
            token = answer.next_page_token
            if not token:
                return

    async def info(self) -> system_service_pb2.GetSystemInfoResponse:
        """What the server is and its limits."""
        return await self._call(lambda: self._system.GetSystemInfo(system_service_pb2.GetSystemInfoRequest()))

    async def engines(self) -> tuple[EngineInfo, ...]:
        """The engines that work on the service's database, the oldest first."""
        request = system_service_pb2.ListEnginesRequest()
        answer = await self._call(lambda: self._system.ListEngines(request))
        return tuple(EngineInfo.from_proto(engine) for engine in answer.engines)

    async def collect_blobs(self) -> tuple[int, int]:
        """Have the service look for blobs that no workflow uses; it removes them after its grace period. Gives
        how many blobs there are, and how many of them it found."""
        request = system_service_pb2.CollectBlobsRequest()
        answer = await self._call(lambda: self._system.CollectBlobs(request))
        return answer.blobs, answer.marked

    # -------------------------------------------------------------------------- values

    async def objects(self) -> rayobjects.RayObjects:
        """Objects of Ray whose contents are kept by this client's engine, for threads other than its loop's."""
        return self._objects.blocking()

    async def _spec(self, graph: object) -> Spec:
        def convert(objects: codec.Objects | None) -> Spec:
            return to_spec(graph, objects, names_modules=self._modules)

        spec = graph if isinstance(graph, Spec) else await self._objects.apply(convert)
        parts = list(large_parts(spec, INLINE_BYTES_MAX))
        stored: dict[Payload, Payload] = {}
        for start in range(0, len(parts), UPLOADS_MAX):
            some = parts[start : start + UPLOADS_MAX]
            blobs = await asyncio.gather(*[self._upload((part.data,)) for part in some])
            stored |= {part: replace(part, data=b"", blob=blob) for part, blob in zip(some, blobs, strict=True)}
        return with_stored(spec, stored)

    async def _snapshot(self, spec: Spec) -> Spec:
        """The graph with the local code that its runtime environments name stored; packed in a thread."""
        base = runtimeenv.of_this_process()
        if not runtimeenv.is_needed(spec, base):
            return spec
        if not base and (known := runtimeenv.snapshot_known(spec, self._has_for_sure)) is not None:
            return known
        return await asyncio.to_thread(runtimeenv.snapshot, spec, base, _Packages(self, asyncio.get_running_loop()))

    def _has_for_sure(self, blob: BlobRef) -> bool:
        return self._stored_until_s.get(blob, 0.0) > asyncio.get_running_loop().time()

    async def _modules_now(self, workflow_id: str) -> str:
        """The modules of a run, packed anew."""
        run = Handle(self, workflow_id)
        async for task in run.tasks():
            if task.status is not TaskStatus.SUCCESSFUL:
                options = json.loads(wire.struct_to_json((await run.metadata(task.task_id)).task_options))
                if (uri := (options.get("runtime_env") or {}).get("modules")) is not None:
                    archive = await self._load(graphwire.package_of(uri))
                    store = _Packages(self, asyncio.get_running_loop())
                    return await asyncio.to_thread(runtimeenv.modules_again, archive, store)
        raise ValueError(
            f"no task of workflow {workflow_id!r} that has not succeeded came with modules: code that travels by value "
            "stays as it is; start the program again under another id"
        )

    async def _has_package(self, blob: BlobRef) -> bool:
        """Asks once in a while: the service keeps for a minute what it has."""
        if self._has_for_sure(blob):
            return True
        if not await self.has_blob(blob):
            return False
        if len(self._stored_until_s) > PACKAGES_MAX:
            self._stored_until_s.clear()
        self._stored_until_s[blob] = asyncio.get_running_loop().time() + ASK_AGAIN_S
        return True

    async def has_blob(self, blob: BlobRef) -> bool:
        """Whether the service has it."""
        request = blob_service_pb2.GetBlobRequest(namespace=self.namespace, sha256=blob.sha256)
        try:
            await self._call(lambda: self._blobs.GetBlob(request))
        except errors.BlobNotFoundError:
            return False
        return True

    async def _source_of(self, graph: object) -> spec_pb2.WorkflowSource:
        spec = graphwire.spec_to_proto(await self._snapshot(await self._spec(graph)))
        if spec.ByteSize() <= SPEC_BYTES_MAX:
            return spec_pb2.WorkflowSource(spec=spec)
        blob = await self._upload((spec.SerializeToString(deterministic=True),))
        return spec_pb2.WorkflowSource(spec_blob=payload_pb2.BlobRef(sha256=blob.sha256, size_bytes=blob.size))

    async def _payload(self, value: Any) -> Payload:
        def encode(objects: codec.Objects | None) -> codec.Encoded | Payload:
            if codec.is_object(value):  # stands for its contents, as an argument does
                return codec.known(objects).store(value)
            return codec.encode_value(value, objects)

        encoded = await self._objects.apply(encode)
        if isinstance(encoded, Payload):
            return encoded
        if encoded.size <= INLINE_BYTES_MAX:
            return encoded.inline()
        return encoded.stored(await self._upload(encoded.chunks))

    async def _upload(self, chunks: tuple[bytes | memoryview, ...]) -> BlobRef:
        """Repeated as a whole if the service goes away in the middle: a blob is named by its content."""
        size = sum(len(chunk) for chunk in chunks)

        async def messages() -> AsyncIterator[blob_service_pb2.UploadBlobRequest]:
            header = blob_service_pb2.UploadBlobHeader(namespace=self.namespace, size_bytes=size)
            yield blob_service_pb2.UploadBlobRequest(header=header)
            offset = 0
            for chunk in chunks:
                for start in range(0, len(chunk), CHUNK_BYTES):
                    data = bytes(chunk[start : start + CHUNK_BYTES])
                    yield blob_service_pb2.UploadBlobRequest(chunk=payload_pb2.BlobChunk(offset=offset, data=data))
                    offset += len(data)

        answer = await self._call(lambda: self._blobs.UploadBlob(messages()))
        return BlobRef(answer.blob.sha256, answer.blob.size_bytes)

    async def value_of(self, payload: Payload, decode: Decode = codec.decode) -> Any:
        """Decode a payload, fetching its blob if it has one. Objects of Ray in it are objects of the cluster that
        this process is connected to; CodecError if it is connected to none."""
        data = None if payload.blob is None else await self._load(payload.blob)
        return await self._objects.apply(lambda objects: decode(payload, data, objects))

    async def _load(self, blob: BlobRef) -> memoryview:
        return await self._call(lambda: self._download(blob))

    async def _download(self, blob: BlobRef) -> memoryview:
        data = bytearray(blob.size)
        request = blob_service_pb2.DownloadBlobRequest(namespace=self.namespace, sha256=blob.sha256)
        async for answer in self._blobs.DownloadBlob(request):
            chunk = answer.chunk
            data[chunk.offset : chunk.offset + len(chunk.data)] = chunk.data
        return memoryview(data).toreadonly()

    async def _ask(self, method: Callable[..., Awaitable[T]], request: object) -> T:
        """Make a call that changes something. The service is told when it is repeated: what the first one did is
        then the answer, and no error."""
        attempts = itertools.count()

        def ask() -> Awaitable[T]:
            attempt = next(attempts)
            return method(request, metadata=((REPEAT_KEY, str(attempt)),) if attempt else None)

        return await self._call(ask)

    async def _call(self, ask: Callable[[], Awaitable[T]], *, patience: float | None = None) -> T:
        """Ask, as long as the service is away and patience lasts. Raises typed errors."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.patience if patience is None else patience)
        pause_s = AWAY_FIRST_S
        while True:
            try:
                return await ask()
            except grpc.RpcError as rpc_error:
                error = errors.from_rpc_error(rpc_error)
            if not isinstance(error, errors.ServiceUnavailableError) or loop.time() + pause_s > deadline:
                raise error
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, AWAY_MAX_S)


class _Packages:
    """Implements runtimeenv.Store over a client, for a thread that is not the client's."""

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def has(self, blob: BlobRef) -> bool:
        return asyncio.run_coroutine_threadsafe(self._client._has_package(blob), self._loop).result()

    def put(self, data: bytes) -> BlobRef:
        return asyncio.run_coroutine_threadsafe(self._client._upload((data,)), self._loop).result()


class Handle:
    """A run, by its ids. Making one asks nothing."""

    def __init__(self, client: Client, workflow_id: str, run_id: str = "") -> None:
        self._client = client
        self.workflow_id = texts.name(workflow_id, "workflow_id")
        self.run_id = texts.name(run_id, "run_id", required=False)

    def __repr__(self) -> str:
        return f"<perdure workflow {self.workflow_id!r} at {self._client.address}>"

    async def status(self) -> RunInfo:
        """The run as it is now."""
        request = workflow_service_pb2.GetStatusRequest(namespace=self._client.namespace, workflow_id=self.workflow_id)
        answer = await self._client._call(lambda: self._client._workflows.GetStatus(request))
        return RunInfo.from_proto(answer.workflow)

    async def output(self, task_id: str = "", *, timeout: float | None = None) -> Any:
        """The value of the run, or of one of its tasks; waits for it.

        Raises WorkflowExecutionError or WorkflowCancellationError if there will be none, TimeoutError
        after `timeout` seconds, TaskNotFoundError if the run ends without such a task.
        """
        return await self._value_or_error(await self.outcome(task_id, timeout=timeout))

    async def _value_or_error(self, outcome: Payload | Failure) -> Any:
        if isinstance(outcome, Payload):
            return await self.value_of(outcome)
        raise self._error_of(outcome)

    def _error_of(self, failure: Failure) -> errors.WorkflowExecutionError:
        if failure.kind is FailureKind.CANCELED:
            return errors.WorkflowCancellationError(self.workflow_id, failure)
        error = errors.WorkflowExecutionError(self.workflow_id, failure)
        error.__cause__ = failures.to_exception(failure)
        return error

    async def _settled(self, outcome: Payload | Failure | errors.PerdureError) -> Any:
        """The value, or the error instead of it."""
        if isinstance(outcome, errors.PerdureError):
            return outcome
        return await self.value_of(outcome) if isinstance(outcome, Payload) else self._error_of(outcome)

    async def outcome(self, task_id: str = "", *, timeout: float | None = None) -> Payload | Failure:
        """What `output` gives or raises, as it is stored. Raises TimeoutError and TaskNotFoundError as `output`."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        texts.name(task_id, "task_id", required=False)
        while True:
            left = POLL_S if deadline is None else min(POLL_S, max(deadline - loop.time(), 0))
            request = workflow_service_pb2.GetOutputRequest(
                namespace=self._client.namespace,
                workflow_id=self.workflow_id,
                run_id=self.run_id,
                task_id=task_id,
                wait=Duration(seconds=int(left), nanos=int(left % 1 * 1e9)),
                include_error_object=True,
            )
            answer = await self._client._call(lambda request=request: self._client._workflows.GetOutput(request))  # type: ignore[misc]
            if answer.done:
                if answer.outcome.WhichOneof("kind") == "output":
                    return wire.payload_from_proto(answer.outcome.output)
                return wire.failure_from_proto(answer.outcome.failure)
            if deadline is not None and loop.time() >= deadline:
                raise TimeoutError(f"workflow {self.workflow_id!r} had no output after {timeout} s")

    async def value_of(self, payload: Payload, decode: Decode = codec.decode) -> Any:
        """Like Client.value_of, but knows where the values are that a `wait` found. `decode` makes values of
        payloads and the bytes of their blobs."""
        if payload.encoding in (WAITED, codec.OUTCOME) and payload.blob is not None:
            payload = replace(payload, data=bytes(await self._client._load(payload.blob)), blob=None)
        if payload.encoding == WAITED:
            waited = Waited.from_payload(payload)
            ready = [await self._value_of_task(task_id, decode) for task_id, _, _ in waited.ready]
            return ready, [TaskNode(task_id) for task_id in waited.remaining]
        if payload.encoding == codec.OUTCOME:
            outcome = workflow_pb2.Outcome.FromString(payload.data)
            if outcome.WhichOneof("kind") == "output":
                return await self.value_of(wire.payload_from_proto(outcome.output), decode), None
        return await self._client.value_of(payload, decode)

    async def _value_of_task(self, task_id: str, decode: Decode) -> Any:
        outcome = await self.outcome(task_id)
        if isinstance(outcome, Failure):  # it had a value when it was waited for
            raise errors.WorkflowExecutionError(self.workflow_id, outcome) from failures.to_exception(outcome)
        return await self.value_of(outcome, decode)

    async def metadata(self, task_id: str = "") -> workflow_pb2.Metadata:
        """User metadata, options and times of the run or of a task."""
        texts.name(task_id, "task_id", required=False)
        request = workflow_service_pb2.GetMetadataRequest(
            namespace=self._client.namespace, workflow_id=self.workflow_id, task_id=task_id
        )
        return (await self._client._call(lambda: self._client._workflows.GetMetadata(request))).metadata

    async def tasks(self, *statuses: TaskStatus) -> AsyncIterator[TaskInfo]:
        """The tasks, in the order in which they became known."""
        token = ""
        while True:
            request = workflow_service_pb2.ListTasksRequest(
                namespace=self._client.namespace,
                workflow_id=self.workflow_id,
                page_token=token,
                page_size=1000,
                statuses=[wire.TASK_STATUS[status] for status in statuses],
            )
            answer = await self._client._call(lambda request=request: self._client._workflows.ListTasks(request))  # type: ignore[misc]
            for task in answer.tasks:
                yield TaskInfo.from_proto(task)
            token = answer.next_page_token
            if not token:
                return

    async def watch(self, *, include_tasks: bool = True) -> AsyncIterator[Update]:
        """The run and its tasks after each change, to the end of the run; reconnects by itself."""
        token = ""
        pause_s = AWAY_FIRST_S
        while True:
            request = workflow_service_pb2.WatchRequest(
                namespace=self._client.namespace,
                workflow_ids=[self.workflow_id],
                include_tasks=include_tasks,
                until_final=True,
                resume_token=token,
            )
            try:
                async for answer in self._client._workflows.Watch(request):
                    pause_s = AWAY_FIRST_S
                    for event in answer.events:
                        yield Update.from_proto(event)
                    token = answer.resume_token
                return
            except grpc.RpcError as rpc_error:
                error = errors.from_rpc_error(rpc_error)
                if not isinstance(error, (errors.ServiceUnavailableError, errors.SlowConsumerError)):
                    raise error from None
                if pause_s > self._client.patience:
                    raise error from None
            await asyncio.sleep(min(pause_s, AWAY_MAX_S))
            pause_s *= 2

    async def cancel(self, reason: str = "") -> RunStatus:
        """See Client.cancel."""
        return await self._client.cancel(self.workflow_id, reason)

    async def resume(self, *, code: Literal["same", "new"] = "same") -> bool:
        """See Client.resume."""
        return await self._client.resume(self.workflow_id, code=code)

    async def send_event(self, key: str, payload: Any = None, *, event_id: str = "") -> bool:
        """See Client.send_event."""
        return await self._client.send_event(self.workflow_id, key, payload, event_id=event_id)
