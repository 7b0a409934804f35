"""Nodes that wait: for time, for an event that is sent to the workflow, for an event that a listener finds.

Timers and sent events are the engine's and need no worker. A listener becomes two tasks one after the other, so
that the event is stored before it is acknowledged, and is never polled for again once it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from perdure import graph
from perdure.workflow.event_listener import EventListener, TimerListener
from perdure.workflow.http_event_provider import HTTPListener


def sleep(duration: float) -> Any:
    """A node that waits for so many seconds from when it is ready. Restarts of the engine do not start it anew."""
    return graph.sleep(duration)


def wait_for_event(
    event_listener_type: type[EventListener] | None = None,
    *args: Any,
    key: str | None = None,
    timeout: float | None = None,
    **kwargs: Any,
) -> Any:
    """A node whose value is an event.

    With a listener class: what its `poll_for_event(*args, **kwargs)` returned; `event_checkpointed` is called
    after that is stored. Without one: the payload of the event that `send_event` delivers under `key`; after
    `timeout` seconds without one the node fails. TypeError for what is no listener class.
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
    if event_listener_type is HTTPListener:
        return _http(*args, **kwargs)
    if event_listener_type is TimerListener and (moment := _moment(args, kwargs)) is not None:
        return graph.sleep_until(moment)
    return _acknowledge.bind(event_listener_type, _poll.bind(event_listener_type, *args, **kwargs))


def _moment(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> datetime | None:
    """The moment, unless a task is to find it out."""
    given = args[0] if len(args) == 1 and not kwargs else kwargs.get("timestamp") if not args else None
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(given, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise ValueError(f"{given} is no moment: seconds since the epoch are expected") from error


def _http(event_key: str) -> Any:
    return _keyed.bind(event_key, graph.event(event_key))


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
