"""Converts options and shapes between `perdure.model` and the messages of `perdure.v1`.

A malformed message raises ValueError; `graphwire` adds the node to the error.
"""

from __future__ import annotations

from google.protobuf.struct_pb2 import Struct

from perdure.model import Payload, Resources, RetryRule, Shape, TaskOptions
from perdure.v1 import spec_pb2, worker_service_pb2
from perdure.wire import (
    DURATION_MAX_S,
    from_duration,
    json_to_struct,
    payload_from_proto,
    payload_to_proto,
    struct_to_json,
    to_duration,
)


def resources_to_proto(resources: Resources) -> spec_pb2.Resources:
    return spec_pb2.Resources(
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        memory_bytes=resources.memory_bytes,
        custom=dict(resources.custom),
        accelerator_type=resources.accelerator_type,
    )


def resources_from_proto(message: spec_pb2.Resources) -> Resources:
    return Resources(
        num_cpus=message.num_cpus if message.HasField("num_cpus") else None,
        num_gpus=message.num_gpus if message.HasField("num_gpus") else None,
        memory_bytes=message.memory_bytes if message.HasField("memory_bytes") else None,
        custom=tuple(sorted(message.custom.items())),
        accelerator_type=message.accelerator_type,
    )


def scheduling_to_proto(scheduling: str | Payload) -> spec_pb2.SchedulingStrategy | None:
    if isinstance(scheduling, Payload):
        return spec_pb2.SchedulingStrategy(pickled=payload_to_proto(scheduling))
    if not scheduling:
        return None
    if scheduling.startswith(("node:", "node?:")):
        kind, _, node_id = scheduling.partition(":")
        return spec_pb2.SchedulingStrategy(
            node_affinity=spec_pb2.NodeAffinity(node_id=node_id, soft=kind.endswith("?"))
        )
    return spec_pb2.SchedulingStrategy(name=scheduling)


def scheduling_from_proto(message: spec_pb2.SchedulingStrategy) -> str | Payload:
    match message.WhichOneof("kind"):
        case "name":
            if message.name not in ("DEFAULT", "SPREAD"):
                raise ValueError(f'a scheduling strategy is named "DEFAULT" or "SPREAD", not {message.name!r:.80}')
            return message.name
        case "node_affinity":
            kind = "node?" if message.node_affinity.soft else "node"
            return f"{kind}:{message.node_affinity.node_id}"
        case "pickled":
            return payload_from_proto(message.pickled)
        case _:
            return ""


def shape_to_proto(shape: Shape) -> worker_service_pb2.Shape:
    return worker_service_pb2.Shape(
        resources=resources_to_proto(shape.resources),
        runtime_env=json_to_struct(shape.runtime_env),
        scheduling=scheduling_to_proto(shape.scheduling),
        keep_warm=to_duration(shape.keep_warm_ms) if shape.keep_warm_ms else None,
    )


def shape_from_proto(message: worker_service_pb2.Shape) -> Shape:
    return Shape(
        resources=resources_from_proto(message.resources),
        runtime_env=struct_to_json(message.runtime_env) if message.HasField("runtime_env") else "",
        scheduling=scheduling_from_proto(message.scheduling),
        keep_warm_ms=from_duration(message.keep_warm),
    )


def _retry_to_proto(retry: RetryRule) -> spec_pb2.RetryPolicy:
    return spec_pb2.RetryPolicy(
        max_attempts=retry.max_attempts,
        initial_interval=to_duration(retry.initial_interval_ms),
        max_interval=to_duration(retry.max_interval_ms),
        backoff_coefficient=retry.backoff_coefficient,
        jitter=retry.jitter,
        non_retryable_types=retry.non_retryable_types,
        retryable_types=retry.retryable_types,
        retry_application_errors=retry.application_errors,
    )


def _retry_from_proto(message: spec_pb2.RetryPolicy) -> RetryRule:
    usual = RetryRule()
    initial_ms = usual.initial_interval_ms
    if message.HasField("initial_interval"):
        initial_ms = from_duration(message.initial_interval)
    if message.HasField("max_interval"):
        max_ms = from_duration(message.max_interval)
    else:
        max_ms = min(initial_ms * 100, DURATION_MAX_S * 1000)
    names_types = bool(message.retryable_types or message.non_retryable_types)
    errors = message.retry_application_errors if message.HasField("retry_application_errors") else names_types
    return RetryRule(
        max_attempts=message.max_attempts or usual.max_attempts,
        initial_interval_ms=initial_ms,
        max_interval_ms=max_ms,
        backoff_coefficient=message.backoff_coefficient or usual.backoff_coefficient,
        jitter=message.jitter if message.HasField("jitter") else usual.jitter,
        application_errors=errors,
        retryable_types=tuple(message.retryable_types),
        non_retryable_types=tuple(message.non_retryable_types),
    )


def options_to_proto(options: TaskOptions, usual: TaskOptions) -> spec_pb2.TaskOptions:
    """Without the runtime environment if it is the usual one."""
    shape = options.shape
    message = spec_pb2.TaskOptions(
        task_id=options.task_id,
        retry=_retry_to_proto(options.retry),
        catch_exceptions=options.catch_exceptions,
        metadata=json_to_struct(options.metadata),
        scheduling=scheduling_to_proto(shape.scheduling),
        allow_inplace=options.allow_inplace,
    )
    if shape.runtime_env != usual.shape.runtime_env:
        message.runtime_env.CopyFrom(json_to_struct(shape.runtime_env) or Struct())
    if shape.keep_warm_ms:
        message.keep_warm.CopyFrom(to_duration(shape.keep_warm_ms))
    if shape.resources != Resources():
        message.resources.CopyFrom(resources_to_proto(shape.resources))
    if options.checkpoint is not None:
        message.checkpoint = options.checkpoint
    if options.attempt_timeout_ms is not None:
        message.attempt_timeout.CopyFrom(to_duration(options.attempt_timeout_ms))
    return message


def _environment(message: Struct) -> str:
    return struct_to_json(message) if message.fields else ""


def options_from_proto(message: spec_pb2.TaskOptions, base: TaskOptions) -> TaskOptions:
    """Fields that are not set come from `base`."""
    has = message.HasField
    shape = Shape(
        resources=resources_from_proto(message.resources) if has("resources") else base.shape.resources,
        runtime_env=_environment(message.runtime_env) if has("runtime_env") else base.shape.runtime_env,
        scheduling=scheduling_from_proto(message.scheduling) if has("scheduling") else base.shape.scheduling,
        keep_warm_ms=from_duration(message.keep_warm) if has("keep_warm") else base.shape.keep_warm_ms,
    )
    timeout_ms = from_duration(message.attempt_timeout) if has("attempt_timeout") else base.attempt_timeout_ms
    if timeout_ms == 0:
        raise ValueError("attempt_timeout must be above 0")
    return TaskOptions(
        task_id=message.task_id,
        shape=shape,
        retry=_retry_from_proto(message.retry) if has("retry") else base.retry,
        attempt_timeout_ms=timeout_ms,
        catch_exceptions=message.catch_exceptions if has("catch_exceptions") else base.catch_exceptions,
        checkpoint=message.checkpoint if has("checkpoint") else base.checkpoint,
        metadata=struct_to_json(message.metadata) if has("metadata") else "",
        allow_inplace=message.allow_inplace,
    )
