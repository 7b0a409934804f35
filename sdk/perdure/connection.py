"""Opens every gRPC channel of the product, for three kinds of callers.

A client lets gRPC retry the methods that the API marks as free of side effects. It repeats the others itself, because
gRPC's own retries do not say when the call was made first, which the service must know. A worker (a lease or an agent)
lives on one stream, so it notices a dead peer soon and retries nothing. A probe asks once whether an engine answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import MethodOptions

from perdure.v1 import actor_service_pb2, blob_service_pb2, system_service_pb2, workflow_service_pb2

REPEAT_KEY: Final = "perdure-previous-attempts"
"""Metadata of a repeated call: the number of earlier tries. gRPC's own retries send `grpc-previous-rpc-attempts`."""
AGE_KEY: Final = "perdure-asked-ms-ago"
"""Metadata of a repeated call: the milliseconds since the first try."""
MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""The largest gRPC message in either direction, also at engines."""
MESSAGE_BYTES: Final = 2 * 1024 * 1024
"""A message of several items is closed at this size. Its last item may exceed it."""
BATCH_ITEMS_MAX: Final = 1_000
"""The most items of one message."""
WORKER_PINGS_S: Final = 10.0, 10.0
LIMITS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
)

Options = list[tuple[str, Any]]
Metadata: TypeAlias = Sequence[tuple[str, str]]


def repeated(attempts: int, age_s: float) -> Metadata:
    """The metadata of a call that was made so many times before, first so many seconds ago. The service answers it as
    it would have answered the first one."""
    return ((REPEAT_KEY, str(attempts)), (AGE_KEY, str(ceil(age_s * 1000))))


def pings(every_s: float, answer_s: float) -> Options:
    """Options of either end: the other end is asked for a sign of life after this much silence, and the connection
    breaks if there is none for `answer_s`. gRPC answers in threads of its own, whatever user code does with the GIL.

    gRPC sends one ping at a time, some for purposes of its own. While one of those is under way, no ping of keepalive
    is sent, so they have the same limit instead of a minute. Without `max_pings_without_data`, gRPC asks once a minute
    where nothing else is sent."""
    return [
        ("grpc.keepalive_time_ms", int(every_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(answer_s * 1000)),
        ("grpc.http2.ping_timeout_ms", int(answer_s * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def service_config() -> str:
    """gRPC service config (gRFC A6): methods that are marked NO_SIDE_EFFECTS are retried on UNAVAILABLE."""
    safe: list[dict[str, str]] = []
    rest: list[dict[str, str]] = []
    for module in (workflow_service_pb2, actor_service_pb2, blob_service_pb2, system_service_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                name = {"service": service.full_name, "method": method.name}
                level = method.GetOptions().idempotency_level
                (safe if level == MethodOptions.NO_SIDE_EFFECTS else rest).append(name)
    retry = {
        "maxAttempts": 5,
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps(
        {
            "methodConfig": [{"name": safe, "retryPolicy": retry}, {"name": rest}],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
            "loadBalancingConfig": [{"round_robin": {}}],
        }
    )


def client_channel(address: str) -> grpc.aio.Channel:
    """A channel for the public API. It reconnects by itself, and retries reads on UNAVAILABLE."""
    return _open(
        address,
        [
            ("grpc.service_config", service_config()),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.keepalive_time_ms", 30_000),
        ],
    )


def worker_channel(address: str) -> grpc.aio.Channel:
    """A channel for the one stream of a lease or an agent. It breaks within 20 s when the engine stands still, or its
    machine is gone.

    Channels of one process share connections by default, and the reconnect backoff with them: the channel after a
    failed one would not be tried for a second. This one has connections of its own.
    """
    return _open(address, [("grpc.use_local_subchannel_pool", 1), *pings(*WORKER_PINGS_S)])


def probe_channel(address: str) -> grpc.aio.Channel:
    """A channel for one call. Nothing is retried, so an address without a listener fails at once."""
    return _open(address, [])


def _open(address: str, options: Options) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=[*LIMITS, *options])
