"""Opens every gRPC channel of the product, for three kinds of callers.

A client retries the methods that the API marks as idempotent. A worker (a lease or an agent) lives on one stream, so it
notices a dead peer soon and retries nothing. A probe asks once whether an engine answers.
"""

from __future__ import annotations

import json
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import MethodOptions

from perdure.v1 import blob_service_pb2, system_service_pb2, workflow_service_pb2

REPEAT_KEY: Final = "perdure-previous-attempts"
"""Metadata of a repeated call: the number of earlier tries. gRPC's own retries send `grpc-previous-rpc-attempts`."""
AGE_KEY: Final = "perdure-asked-ms-ago"
"""Metadata of a repeated call: the milliseconds since the first try."""
MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""The largest gRPC message in either direction, also at engines."""
LIMITS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
)

Options = list[tuple[str, Any]]


def service_config() -> str:
    """gRPC service config (gRFC A6): methods that are marked idempotent are retried on UNAVAILABLE."""
    safe: list[dict[str, str]] = []
    rest: list[dict[str, str]] = []
    for module in (workflow_service_pb2, blob_service_pb2, system_service_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                name = {"service": service.full_name, "method": method.name}
                level = method.GetOptions().idempotency_level
                is_safe = level != MethodOptions.IDEMPOTENCY_UNKNOWN and not method.client_streaming
                (safe if is_safe else rest).append(name)
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
    """A channel for the public API. It reconnects by itself, and retries idempotent methods on UNAVAILABLE."""
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
    """A channel for the one stream of a lease or an agent; it breaks within 20 s when the engine's machine is gone.

    Channels of one process share connections by default, and the reconnect backoff with them: the channel after a
    failed one would not be tried for a second. This one has connections of its own.
    """
    return _open(
        address,
        [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 10_000),
        ],
    )


def probe_channel(address: str) -> grpc.aio.Channel:
    """A channel for one call. Nothing is retried, so an address without a listener fails at once."""
    return _open(address, [])


def _open(address: str, options: Options) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=[*LIMITS, *options])
