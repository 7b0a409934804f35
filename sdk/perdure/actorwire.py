"""Converts classes, calls and outcomes of virtual actors between `perdure.model` and the messages of `perdure.v1`.

A malformed message raises ValueError.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from perdure import optionwire
from perdure.graphwire import blobs_of_code, payloads_in
from perdure.model import (
    ACTOR_CALL,
    ACTOR_CLASS,
    ACTOR_DROP,
    ACTOR_OUTCOME,
    CALL_RETENTION_MS,
    PENDING_CALLS_MAX,
    ActorSpec,
    BlobRef,
    ClassChange,
    MethodCall,
    MethodOutcome,
    Payload,
    ReminderSetting,
    TaskOptions,
)
from perdure.v1 import actor_service_pb2, spec_pb2, worker_service_pb2
from perdure.wire import (
    ARGUMENTS,
    fill_payload,
    fill_timestamp,
    from_duration,
    from_timestamp,
    function_from_proto,
    function_to_proto,
    payload_from_proto,
    to_duration,
)

# ------------------------------------------------------------------------------ classes


def encode_class(spec: ActorSpec) -> bytes:
    return class_to_proto(spec).SerializeToString(deterministic=True)


def class_to_proto(spec: ActorSpec) -> actor_service_pb2.ActorClass:
    message = actor_service_pb2.ActorClass(function=function_to_proto(spec.function))
    if spec.options != TaskOptions():
        message.options.CopyFrom(optionwire.options_to_proto(spec.options, TaskOptions()))
    if spec.max_pending_calls != PENDING_CALLS_MAX:
        message.max_pending_calls = spec.max_pending_calls
    message.readonly_methods.extend(spec.readonly)
    if spec.ttl_ms:
        message.ttl.CopyFrom(to_duration(spec.ttl_ms))
    if spec.call_retention_ms != CALL_RETENTION_MS:
        message.call_retention.CopyFrom(to_duration(spec.call_retention_ms))
    return message


def decode_class(data: bytes) -> ActorSpec:
    try:
        message = actor_service_pb2.ActorClass.FromString(data)
    except DecodeError as error:
        raise ValueError(f"not a serialized ActorClass: {error}") from error
    return class_from_proto(message)


def class_from_proto(message: actor_service_pb2.ActorClass) -> ActorSpec:
    options = optionwire.options_from_proto(message.options, TaskOptions()) if message.HasField("options") else None
    most = message.max_pending_calls or PENDING_CALLS_MAX
    readonly = tuple(message.readonly_methods)
    ttl_ms = from_duration(message.ttl) if message.HasField("ttl") else 0
    if message.HasField("ttl") and not ttl_ms:
        raise ValueError("the ttl is 1 second or more; leave it out for an actor that lives until it is deleted")
    kept_ms = from_duration(message.call_retention) if message.HasField("call_retention") else CALL_RETENTION_MS
    return ActorSpec(function_from_proto(message.function), options or TaskOptions(), most, readonly, ttl_ms, kept_ms)


def encode_change(change: ClassChange) -> Payload:
    """The payload of a new class. Its refs are the blobs of its code, so that they are kept as long as the class."""
    message = worker_service_pb2.ClassChange(change_id=change.change_id, actor_class=class_to_proto(change.spec))
    blobs = tuple(dict.fromkeys(blobs_of_code(change.spec.function, change.spec.options.shape)))
    return Payload(ACTOR_CLASS, message.SerializeToString(deterministic=True), refs=blobs)


def decode_change(data: bytes) -> ClassChange:
    try:
        message = worker_service_pb2.ClassChange.FromString(data)
    except DecodeError as error:
        raise ValueError(f"not a serialized ClassChange: {error}") from error
    return ClassChange(message.change_id, class_from_proto(message.actor_class))


# ------------------------------------------------------------------------------ calls


def arguments_to_proto(arguments: Payload) -> actor_service_pb2.MethodArguments:
    """Arguments that this side has encoded."""
    message = actor_service_pb2.MethodArguments()
    fill_payload(message.arguments, arguments)
    return message


def arguments_from_proto(message: actor_service_pb2.MethodArguments) -> Payload:
    if message.HasField("arguments"):
        if message.args or message.kwargs:
            raise ValueError("a method has args and kwargs, or arguments, not both")
        return payload_from_proto(message.arguments)
    composed = worker_service_pb2.Arguments(args=[spec_pb2.Arg(payload=arg) for arg in message.args])
    for name, arg in message.kwargs.items():
        composed.kwargs[name].payload.CopyFrom(arg)
    return Payload(ARGUMENTS, composed.SerializeToString(deterministic=True))


def encode_call(call: MethodCall) -> Payload:
    """The payload of a call. Its refs are the blobs of the arguments, so that they are kept as long as the call."""
    message = worker_service_pb2.MethodCall(
        method=call.method,
        refs=call.refs,
        call_id=call.call_id,
        chain=call.chain,
        expected_revision=call.expected_revision,
        is_query=call.is_query,
    )
    fill_payload(message.arguments, call.arguments)
    return Payload(ACTOR_CALL, message.SerializeToString(deterministic=True), refs=blobs_of_arguments(call.arguments))


def decode_call(data: bytes | memoryview) -> MethodCall:
    try:
        message = worker_service_pb2.MethodCall.FromString(bytes(data))
    except DecodeError as error:
        raise ValueError(f"not a serialized MethodCall: {error}") from error
    if not message.method:
        raise ValueError("a call names its method")
    return MethodCall(
        method=message.method,
        arguments=payload_from_proto(message.arguments),
        refs=message.refs,
        call_id=message.call_id,
        chain=tuple(message.chain),
        expected_revision=message.expected_revision if message.HasField("expected_revision") else None,
        is_query=message.is_query,
    )


def encode_drop(call_id: str) -> Payload:
    return Payload(ACTOR_DROP, worker_service_pb2.DropCall(call_id=call_id).SerializeToString(deterministic=True))


def decode_drop(data: bytes) -> str:
    try:
        return worker_service_pb2.DropCall.FromString(data).call_id
    except DecodeError as error:
        raise ValueError(f"not a serialized DropCall: {error}") from error


# ------------------------------------------------------------------------------ outcomes


def encode_outcome(outcome: MethodOutcome) -> bytes:
    message = worker_service_pb2.MethodOutcome(dropped=outcome.dropped)
    if outcome.output is not None:
        fill_payload(message.output, outcome.output)
    if outcome.state is not None:
        fill_payload(message.state, outcome.state)
    for name, part in outcome.parts:
        fill_payload(message.parts[name], part)
    for setting in outcome.reminders:
        _fill_reminder(message.reminders.add(), setting)
    return message.SerializeToString(deterministic=True)


def _fill_reminder(message: worker_service_pb2.ReminderSetting, setting: ReminderSetting) -> None:
    message.key = setting.key
    message.method = setting.method
    if setting.at_ms is not None:
        fill_timestamp(message.time, setting.at_ms)
    elif setting.after_ms is not None:
        message.delay.CopyFrom(to_duration(setting.after_ms))
    if setting.every_ms:
        message.period.CopyFrom(to_duration(setting.every_ms))
    if setting.call is not None:
        fill_payload(message.call, setting.call)


def _reminder(message: worker_service_pb2.ReminderSetting) -> ReminderSetting:
    due = message.WhichOneof("due")
    return ReminderSetting(
        key=message.key,
        method=message.method,
        call=payload_from_proto(message.call) if message.HasField("call") else None,
        after_ms=from_duration(message.delay) if due == "delay" else None,
        at_ms=from_timestamp(message.time) if due == "time" else None,
        every_ms=from_duration(message.period),
    )


def outcome_payload(outcome: MethodOutcome) -> Payload:
    """An outcome as the output of an attempt. Its refs are all blobs that it names."""
    return Payload(ACTOR_OUTCOME, encode_outcome(outcome), refs=blobs_of_outcome(outcome))


def blobs_of_outcome(outcome: MethodOutcome) -> tuple[BlobRef, ...]:
    named = [payload for payload in (outcome.output, outcome.state) if payload is not None]
    named += [part for _, part in outcome.parts]
    named += [setting.call for setting in outcome.reminders if setting.call is not None]
    return tuple(dict.fromkeys(blob for payload in named for blob in payload.blobs()))


def decode_outcome(data: bytes) -> MethodOutcome:
    try:
        message = worker_service_pb2.MethodOutcome.FromString(data)
    except DecodeError as error:
        raise ValueError(f"not a serialized MethodOutcome: {error}") from error
    return MethodOutcome(
        output=payload_from_proto(message.output) if message.HasField("output") else None,
        state=payload_from_proto(message.state) if message.HasField("state") else None,
        parts=tuple((name, payload_from_proto(message.parts[name])) for name in sorted(message.parts)),
        dropped=tuple(message.dropped),
        reminders=tuple(map(_reminder, message.reminders)) if message.reminders else (),
    )


def blobs_of_arguments(arguments: Payload) -> tuple[BlobRef, ...]:
    """The blobs of arguments, those of values in them included."""
    try:
        inner = payloads_in(arguments) if arguments.encoding == ARGUMENTS and arguments.blob is None else ()
    except DecodeError as error:
        raise ValueError(f"not serialized Arguments: {error}") from error
    return tuple(dict.fromkeys((*arguments.blobs(), *(blob for payload in inner for blob in payload.blobs()))))
