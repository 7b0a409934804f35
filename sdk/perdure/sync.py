"""The synchronous client: the asynchronous one on a loop thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, NoReturn, ParamSpec, Self, TypeVar, cast

from perdure import codec, errors
from perdure.batches import EventItem, IdConflict, IdReuse, RunItem, RunName
from perdure.client import Client
from perdure.handle import Handle
from perdure.infos import EngineInfo, FunctionInfo, RunInfo, TaskInfo, Update
from perdure.loopthread import LoopThread
from perdure.model import BlobRef, Failure, Payload, RunStatus, TaskStatus
from perdure.rayobjects import RayObjects
from perdure.references import Reference, in_thread
from perdure.syncactors import SyncActorCalls
from perdure.v1 import system_service_pb2, workflow_pb2
from perdure.values import Decode

P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")


class SyncClient:
    """`perdure.Client` without await; any thread may use it, also one with a running loop."""

    def __init__(
        self, address: str = "", *, namespace: str = "", patience: float = 30.0, modules: bool | None = None
    ) -> None:
        self._thread = LoopThread()

        async def make() -> Client:
            return Client(address, namespace=namespace, patience=patience, modules=modules)

        self._client = self._thread.wait(make())
        self._is_closed = False
        self.actors = SyncActorCalls(self._thread, self._client.actors)
        """See Client.actors."""

    def __repr__(self) -> str:
        return f"<perdure.SyncClient of {self._client.address}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """See Client.close. Closing twice is allowed."""
        if not self._is_closed:
            self._is_closed = True
            self._thread.wait(self._client.close())
            self._thread.close()

    def start(
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
    ) -> SyncHandle:
        """See Client.start."""
        work = self._client.start(
            graph,
            workflow_id=workflow_id,
            inputs=inputs,
            metadata=metadata,
            labels=labels,
            name=name,
            request_id=request_id,
            id_reuse=id_reuse,
            id_conflict=id_conflict,
        )
        return SyncHandle(self._thread, self._thread.wait(work))

    def run(self, graph: T, **how: Any) -> T:
        """See Client.run."""
        return self._thread.wait(self._client.run(graph, **how))

    def start_many(self, items: Iterable[RunItem]) -> list[SyncHandle]:
        """See Client.start_many."""
        try:
            handles = self._thread.wait(self._client.start_many(items))
        except errors.BatchError as error:
            of_ours = [SyncHandle(self._thread, one) if isinstance(one, Handle) else one for one in error.results]
            raise errors.BatchError(of_ours) from error.__cause__
        return [SyncHandle(self._thread, handle) for handle in handles]

    def outputs(self, runs: Iterable[RunName], *, timeout: float | None = None) -> list[Any]:
        """See Client.outputs."""
        return self._thread.wait(self._client.outputs(runs, timeout=timeout))

    def handle(self, workflow_id: str, run_id: str = "") -> SyncHandle:
        """See Client.handle."""
        return SyncHandle(self._thread, self._client.handle(workflow_id, run_id))

    def actor(self, actor_class: Callable[P, A], actor_id: str, *args: P.args, **kwargs: P.kwargs) -> A:
        """See Client.actor."""
        reference = cast(Reference, self._client.actor(actor_class, actor_id, *args, **kwargs))
        return cast(A, in_thread(reference, self._thread))

    def resume(self, workflow_id: str, *, code: Literal["same", "new"] = "same") -> bool:
        """See Client.resume."""
        return self._thread.wait(self._client.resume(workflow_id, code=code))

    def cancel(self, workflow_id: str, reason: str = "") -> RunStatus:
        """See Client.cancel."""
        return self._thread.wait(self._client.cancel(workflow_id, reason))

    def send_event(self, workflow_id: str, key: str, payload: Any = None, *, event_id: str | None = None) -> bool:
        """See Client.send_event."""
        return self._thread.wait(self._client.send_event(workflow_id, key, payload, event_id=event_id))

    def send_events(self, items: Iterable[EventItem]) -> list[bool]:
        """See Client.send_events."""
        return self._thread.wait(self._client.send_events(items))

    def delete(self, workflow_id: str, *, allow_missing: bool = False) -> None:
        """See Client.delete."""
        self._thread.wait(self._client.delete(workflow_id, allow_missing=allow_missing))

    def list(self, filter: str = "", *, order_by: str = "", page_size: int = 100) -> Iterator[RunInfo]:
        """See Client.list."""
        return self._thread.iterate(self._client.list(filter, order_by=order_by, page_size=page_size))

    def info(self) -> system_service_pb2.GetSystemInfoResponse:
        """See Client.info."""
        return self._thread.wait(self._client.info())

    def engines(self) -> tuple[EngineInfo, ...]:
        """See Client.engines."""
        return self._thread.wait(self._client.engines())

    def functions(self, prefix: str = "", *, all_versions: bool = False) -> Iterator[FunctionInfo]:
        """See Client.functions."""
        return self._thread.iterate(self._client.functions(prefix, all_versions=all_versions))

    def function(self, name: str, version: str = "") -> FunctionInfo:
        """See Client.function."""
        return self._thread.wait(self._client.function(name, version))

    def collect_blobs(self) -> tuple[int, int]:
        """See Client.collect_blobs."""
        return self._thread.wait(self._client.collect_blobs())

    def has_blob(self, blob: BlobRef) -> bool:
        """See Client.has_blob."""
        return self._thread.wait(self._client.has_blob(blob))

    def objects(self) -> RayObjects:
        """See Client.objects."""
        return self._thread.wait(self._client.objects())

    def value_of(self, payload: Payload, decode: Decode = codec.decode) -> Any:
        """See Client.value_of."""
        return self._thread.wait(self._client.value_of(payload, decode))


class SyncHandle:
    """`perdure.Handle` without await."""

    def __init__(self, thread: LoopThread, handle: Handle) -> None:
        self._thread = thread
        self._handle = handle
        self.workflow_id = handle.workflow_id
        self.run_id = handle.run_id

    def __reduce__(self) -> NoReturn:
        self._handle.__reduce__()

    def __repr__(self) -> str:
        return repr(self._handle)

    def status(self) -> RunInfo:
        """See Handle.status."""
        return self._thread.wait(self._handle.status())

    def output(self, task_id: str | None = None, *, timeout: float | None = None) -> Any:
        """See Handle.output."""
        return self._thread.wait(self._handle.output(task_id, timeout=timeout))

    def outcome(self, task_id: str | None = None, *, timeout: float | None = None) -> Payload | Failure:
        """See Handle.outcome."""
        return self._thread.wait(self._handle.outcome(task_id, timeout=timeout))

    def value_of(self, payload: Payload, decode: Decode = codec.decode) -> Any:
        """See Handle.value_of."""
        return self._thread.wait(self._handle.value_of(payload, decode))

    def metadata(self, task_id: str | None = None) -> workflow_pb2.Metadata:
        """See Handle.metadata."""
        return self._thread.wait(self._handle.metadata(task_id))

    def tasks(self, *statuses: TaskStatus) -> Iterator[TaskInfo]:
        """See Handle.tasks."""
        return self._thread.iterate(self._handle.tasks(*statuses))

    def watch(self, *, include_tasks: bool = True) -> Iterator[Update]:
        """See Handle.watch."""
        return self._thread.iterate(self._handle.watch(include_tasks=include_tasks))

    def cancel(self, reason: str = "") -> RunStatus:
        """See Handle.cancel."""
        return self._thread.wait(self._handle.cancel(reason))

    def resume(self, *, code: Literal["same", "new"] = "same") -> bool:
        """See Handle.resume."""
        return self._thread.wait(self._handle.resume(code=code))

    def send_event(self, key: str, payload: Any = None, *, event_id: str | None = None) -> bool:
        """See Handle.send_event."""
        return self._thread.wait(self._handle.send_event(key, payload, event_id=event_id))
