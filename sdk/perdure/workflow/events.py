"""Nodes that wait: for a time, for an event that is sent to the workflow, or for an event that a listener finds.

The engine itself waits for times and sent events, without a worker. A listener becomes two tasks, one after the other:
the event is stored before it is acknowledged, and once it is stored the listener does not poll again.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import UTC, datetime
from numbers import Real
from typing import Any

from perdure import codec, graph, texts
from perdure.workflow.event_listener import EventListener, TimerListener
from perdure.workflow.http_event_provider import HTTPListener


def sleep(duration: float) -> Any:
    """A node that waits for `duration` seconds from when it is ready. Restarts of the engine do not start it anew."""
    return graph.sleep(duration)


def wait_for_event(
    event_listener_type: type[EventListener] | None = None,
    *args: Any,
    key: str | None = None,
    timeout: float | None = None,
    **kwargs: Any,
) -> Any:
    """A node whose value is an event.

    With a listener class, the event is the result of its `poll_for_event(*args, **kwargs)`; `event_checkpointed` is
    called after that is stored. Without one, it is the payload of the event that `send_event` delivers under `key`;
    after `timeout` seconds without such an event the node fails. TypeError if it is not a listener class, or if
    `poll_for_event` does not take the arguments.
    """
    if event_listener_type is None:
        if args or kwargs or key is None:
            raise TypeError("wait_for_event takes a listener class with its arguments, or key= and perhaps timeout=")
        return graph.event(key, timeout=timeout)
    if key is not None:
        kwargs["key"] = key
    if timeout is not None:
        kwargs["timeout"] = timeout
    if not isinstance(event_listener_type, type) or not issubclass(event_listener_type, EventListener):
        raise TypeError(f"{event_listener_type!r:.200} is no subclass of workflow.event_listener.EventListener")
    _check_call(event_listener_type, args, kwargs)
    polls = event_listener_type.poll_for_event
    if polls is HTTPListener.poll_for_event:
        event = _sent(*args, **kwargs)
    elif polls is TimerListener.poll_for_event:
        event = _timer(*args, **kwargs)
    else:
        return _acknowledge.bind(event_listener_type, _poll.bind(event_listener_type, *args, **kwargs))
    acknowledges = event_listener_type.event_checkpointed is not EventListener.event_checkpointed
    return _acknowledge.bind(event_listener_type, event) if acknowledges else event


def _check_call(listener: type[EventListener], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """TypeError for a call that would fail on a worker."""
    try:
        inspect.signature(listener.poll_for_event).bind(listener, *args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{listener.__qualname__}.poll_for_event(): {error}") from None
    try:
        inspect.signature(listener).bind()
    except TypeError as error:
        raise TypeError(f"{listener.__qualname__} is made without arguments, and takes some: {error}") from None
    except ValueError:  # the class has no signature
        return


def _sent(event_key: Any) -> Any:
    if graph.is_node(event_key) or codec.is_object(event_key):
        return _sent_under.bind(event_key)
    return _keyed.bind(event_key, graph.event(event_key))


def _timer(timestamp: Any) -> Any:
    if graph.is_node(timestamp) or codec.is_object(timestamp):
        return _until.bind(timestamp)
    if isinstance(timestamp, bool) or not isinstance(timestamp, Real):
        raise TypeError(f"a moment is a number of seconds since the epoch, not {texts.kind_of(timestamp)}")
    try:
        return graph.sleep_until(datetime.fromtimestamp(float(timestamp), UTC))
    except (OverflowError, ValueError, OSError) as error:
        raise ValueError(f"{timestamp} is no moment: seconds since the epoch are expected") from error


# For a key that another task computes: that task returns this wait as its graph, so it holds no worker either.


@graph.task(num_cpus=0, max_retries=-1, task_id="http_event")
def _sent_under(event_key: Any) -> Any:
    return _sent(event_key)


@graph.task(num_cpus=0, max_retries=-1, task_id="timer")
def _until(timestamp: Any) -> Any:
    return _timer(timestamp)


# Both coroutines, so that the listeners of all runs share a few processes. A lost worker costs no attempts,
# however long the wait.


@graph.task(num_cpus=0, max_retries=-1, task_id="poll_for_event")
async def _poll(listener: type[EventListener], /, *args: Any, **kwargs: Any) -> Any:
    return await listener().poll_for_event(*args, **kwargs)


@graph.task(num_cpus=0, max_retries=-1, task_id="wait_for_event")
async def _acknowledge(listener: type[EventListener], event: Any) -> Any:
    await listener().event_checkpointed(event)
    return event


@graph.task(num_cpus=0, max_retries=-1, task_id="http_event")
async def _keyed(event_key: str, payload: Any) -> tuple[str, Any]:
    return event_key, payload
