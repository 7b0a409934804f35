"""Calls of workers that fetch values of tasks."""

from __future__ import annotations

from typing import Final

from perdure import wire
from perdure.service.api import requests
from perdure.service.executors.port import ValueReader
from perdure.storage.rows import ValueKey
from perdure.v1 import worker_service_pb2 as pb

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
READ_AT_ONCE: Final = 64
"""Values that are read together. Each has at most 64 KiB, or 1 MiB from other clients than ours."""


class FetchCalls:
    """Reads values of tasks."""

    def __init__(self, values: ValueReader) -> None:
        self._values = values

    async def fetch(self, request: pb.FetchValuesRequest) -> pb.FetchValuesResponse:
        """The first values that fit into one answer, at least one. The caller asks again for the rest. Raises
        CorruptData if a value is missing."""
        answer = pb.FetchValuesResponse()
        size = 0
        keys = [ValueKey(key.run_id, key.task_id, key.input) for key in request.keys]
        for start in range(0, len(keys), READ_AT_ONCE):
            for payload in await self._values.read(keys[start : start + READ_AT_ONCE]):
                size += len(payload.data)
                if answer.values and size > ANSWER_BYTES_MAX:
                    return answer
                answer.values.append(wire.payload_to_proto(payload))
        if not answer.values:
            raise requests.invalid("keys", "at least one is asked for")
        return answer
