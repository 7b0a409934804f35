"""Sleeping, timers, events and listeners, by an engine without Ray."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import perdure
from perdure import workflow
from perdure.workflow.event_listener import EventListener, TimerListener
from perdure.workflow.http_event_provider import HTTPEventProvider, HTTPListener
from services import Service
from workflow.steps import fail_unless, lines

cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.usefixtures("engine")


@perdure.task
def gather(*values: object) -> tuple[object, ...]:
    return values


def write(path: str, line: str) -> None:
    with open(path, "a") as file:
        file.write(f"{line}\n")


class FileListener(EventListener):
    """The event is what a file holds once it is there. Writes down what is asked of it."""

    async def poll_for_event(self, path: str, suffix: str = "") -> str:
        write(f"{path}.log", "polled")
        while not Path(path).exists():
            await asyncio.sleep(0.01)
        return Path(path).read_text() + suffix

    async def event_checkpointed(self, event: str) -> None:
        write(event.split()[0], f"checkpointed {event}")


def test_sleep_and_a_timer_and_a_value() -> None:
    began = time.time()
    timer = workflow.wait_for_event(TimerListener, began + 0.2)
    assert workflow.run(gather.bind(workflow.sleep(0.1), timer, "hello world")) == (None, None, "hello world")
    assert time.time() >= began + 0.2


def test_a_moment_that_a_task_finds_out() -> None:
    moment = perdure.task(lambda: time.time() + 0.05).bind()
    assert workflow.run(workflow.wait_for_event(workflow.event_listener.TimerListener, moment)) is None


def test_a_listener_polls_then_acknowledges_what_is_stored(fresh_id: Callable[[], str], tmp_path: Path) -> None:
    named, file, notes = fresh_id(), tmp_path / "event", tmp_path / "notes"
    door = tmp_path / "door"
    event = workflow.wait_for_event(FileListener, str(file), suffix="!")
    graph = gather.bind(event, fail_unless.bind(str(door), event))
    thread = threading.Thread(target=file.write_text, args=(f"{notes} happened",))
    thread.start()
    with pytest.raises(workflow.exceptions.WorkflowExecutionError):
        workflow.run(graph, workflow_id=named)
    thread.join()
    assert lines(notes) == [f"checkpointed {notes} happened!"]
    assert workflow.get_output(named, task_id="poll_for_event") == f"{notes} happened!"
    door.touch()
    assert workflow.resume(named) == (f"{notes} happened!", "found")
    assert lines(tmp_path / "event.log") == ["polled"]  # never again once it is stored
    assert lines(notes) == [f"checkpointed {notes} happened!"]


def test_events_that_are_sent(fresh_id: Callable[[], str], engine: Service) -> None:
    named = fresh_id()
    graph = gather.bind(
        workflow.wait_for_event(key="approved"), workflow.wait_for_event(HTTPListener, event_key="paid")
    )
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(workflow.run(graph, workflow_id=named)))
    thread.start()
    with perdure.SyncClient(engine.address) as client:
        while named not in dict(workflow.list_all()):
            time.sleep(0.01)
        client.send_event(named, "paid", {"euros": 5})
        client.send_event(named, "approved", "yes", event_id="one")
        thread.join(60)
    assert found == [("yes", ("paid", {"euros": 5}))]


def test_an_event_that_does_not_come_in_time() -> None:
    with pytest.raises(workflow.exceptions.WorkflowExecutionError) as caught:
        workflow.run(workflow.wait_for_event(key="never", timeout=0.05))
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_wrong_listeners_are_refused_at_the_call() -> None:
    for wrong in (object, "FileListener", FileListener()):
        with pytest.raises(TypeError, match="EventListener"):
            workflow.wait_for_event(wrong, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="listener class"):
        workflow.wait_for_event()
    with pytest.raises(ValueError, match="no moment"):
        workflow.wait_for_event(TimerListener, 1e300)
    with pytest.raises(ValueError, match="time"):
        workflow.sleep(-1)


class NeedsSomething(FileListener):
    def __init__(self, something: int) -> None:
        super().__init__()


def test_what_a_listener_does_not_take_is_refused_at_the_call() -> None:
    for call, why in (
        (lambda: workflow.wait_for_event(FileListener), "FileListener.poll_for_event.*'path'"),
        (lambda: workflow.wait_for_event(FileListener, "a", "b", "c"), "FileListener.poll_for_event.*too many"),
        (lambda: workflow.wait_for_event(TimerListener), "TimerListener.poll_for_event.*'timestamp'"),
        (lambda: workflow.wait_for_event(TimerListener, "noon"), "number of seconds since the epoch, not a str"),
        (lambda: workflow.wait_for_event(HTTPListener), "HTTPListener.poll_for_event.*'event_key'"),
        (lambda: workflow.wait_for_event(NeedsSomething, "a"), "NeedsSomething is made without arguments"),
    ):
        with pytest.raises(TypeError, match=why):
            call()


class Told(HTTPListener):
    """Says that it has it."""

    async def event_checkpointed(self, event: Any) -> None:
        write(event[1], f"checkpointed {event[0]}")


class Rang(TimerListener):
    async def event_checkpointed(self, event: Any) -> None:
        assert event is None


def test_subclasses_of_engine_listeners_run_only_their_acknowledgement(
    fresh_id: Callable[[], str], engine: Service, tmp_path: Path
) -> None:
    named, notes = fresh_id(), tmp_path / "notes"
    graph = gather.bind(workflow.wait_for_event(Told, "paid"), workflow.wait_for_event(Rang, time.time()))
    with perdure.SyncClient(engine.address) as client:
        handle = client.start(graph, workflow_id=named)
        client.send_event(named, "paid", str(notes))
        assert handle.output() == (("paid", str(notes)), None)
    assert lines(notes) == ["checkpointed paid"]


def test_keys_and_moments_that_tasks_find_out_are_waited_for_by_the_engine(
    fresh_id: Callable[[], str], engine: Service
) -> None:
    named = fresh_id()
    key = perdure.task(lambda: "found").bind()
    moment = perdure.task(lambda: time.time() + 0.05).bind()
    graph = gather.bind(workflow.wait_for_event(HTTPListener, key), workflow.wait_for_event(TimerListener, moment))
    with perdure.SyncClient(engine.address) as client:
        handle = client.start(graph, workflow_id=named)
        client.send_event(named, "found", 1)
        assert handle.output() == (("found", 1), None)
        kinds = {task.task_id for task in handle.tasks()}
    assert {"event", "sleep"} <= kinds
    assert "poll_for_event" not in kinds


def test_there_is_nothing_to_deploy() -> None:
    with pytest.raises(TypeError, match="the engine takes events by HTTP itself"):
        HTTPEventProvider.bind()
    with pytest.raises(RuntimeError, match="--http-listen"):
        HTTPEventProvider.deploy()


async def test_a_listener_that_waits_by_http_itself_is_told_what_to_write() -> None:
    with pytest.raises(NotImplementedError, match="bind a task to the event instead"):
        await HTTPListener().poll_for_event("approved")
