"""The channel: which calls are retried follows from the API itself."""

from __future__ import annotations

import json
from typing import Final

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import MethodOptions

from perdure.v1 import blob_service_pb2, system_service_pb2, workflow_service_pb2

REPEAT_KEY: Final = "perdure-previous-attempts"
"""Metadata of a call that a client makes again: how often it did so before. gRPC's own retries say it by
`grpc-previous-rpc-attempts`."""
MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024


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


def options() -> list[tuple[str, object]]:
    return [
        ("grpc.service_config", service_config()),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.keepalive_time_ms", 30_000),
    ]


def open_channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=options())
