"""Calls about the service itself: its limits, its engines, its blobs."""

from __future__ import annotations

from collections.abc import Callable

from perdure import wire
from perdure.service.api import pages
from perdure.service.common import limits
from perdure.service.executors.port import Executor
from perdure.service.housekeeping.sweep import Sweeper
from perdure.storage.ports import MemberStore
from perdure.storage.rows import EngineRow
from perdure.v1 import system_service_pb2 as pb


class SystemCalls:
    """`info` is answered also while the engine starts or drains. `http_address` gives host:port of HTTP; "" until that
    is served."""

    def __init__(
        self,
        executor: Executor,
        store: MemberStore,
        sweeper: Sweeper,
        *,
        engine: EngineRow,
        http_address: Callable[[], str],
        max_running: int,
        max_pending: int,
    ) -> None:
        self._sweeper = sweeper
        self._executor = executor
        self._store = store
        self._engine = engine
        self._http_address = http_address
        self._max_running = max_running
        self._max_pending = max_pending

    def info(self) -> pb.GetSystemInfoResponse:
        return pb.GetSystemInfoResponse(
            server_version=self._engine.version,
            capabilities=["actors", "batch", "spec-blob", "streams"],
            limits=pb.Limits(
                max_message_bytes=limits.MESSAGE_BYTES_MAX,
                max_inline_payload_bytes=limits.INLINE_PAYLOAD_BYTES_MAX,
                max_blob_bytes=limits.BLOB_BYTES_MAX,
                max_nodes=limits.NODES_MAX,
                max_wait=wire.to_duration(int(limits.WAIT_S_MAX * 1000)),
                max_running_workflows=self._max_running,
                max_pending_workflows=self._max_pending,
                max_batch_items=limits.BATCH_ITEMS_MAX,
            ),
            replica_id=self._engine.engine_id,
            python_versions=sorted(self._executor.python_versions()),
            http_address=self._http_address(),
        )

    async def engines(self) -> pb.ListEnginesResponse:
        rows = await self._store.engines() or [self._engine]
        answer, page = pb.ListEnginesResponse(), pages.Page()
        for row in rows:
            engine = _engine(row)
            if not page.fits(engine):
                break
            answer.engines.append(engine)
        return answer

    async def collect_blobs(self) -> pb.CollectBlobsResponse:
        blobs, marked = await self._sweeper.collect()
        return pb.CollectBlobsResponse(blobs=blobs, marked=marked)


def _engine(row: EngineRow) -> pb.Engine:
    return pb.Engine(
        engine_id=row.engine_id,
        name=row.name,
        address=row.address,
        version=row.version,
        start_time=wire.to_timestamp(row.started_ms or None),
        expire_time=wire.to_timestamp(row.expires_ms or None),
        dead=row.is_dead,
    )
