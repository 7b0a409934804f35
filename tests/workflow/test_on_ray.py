"""On real Ray: object references, tasks, actors, threads, a second driver, and an engine that dies."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

import perdure
from patience import PATIENCE_S
from perdure import workflow
from perdure.workflow.connection import connect
from perdure.workflow.http_event_provider import HTTPEventProvider, HTTPListener
from services import Service, running
from workflow.steps import double, lines

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("own_ray")]


def script(code: str) -> str:
    """What another driver of the same cluster prints."""
    address = ray.get_runtime_context().gcs_address
    begin = f"import ray\nray.init({address!r}, log_to_driver=False, logging_level='error')\n"
    begin += "from perdure import workflow\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + textwrap.dedent(code)],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return done.stdout.strip()


def engines() -> list[psutil.Process]:
    """The engine's process, found below this process's Ray."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "serve" in command and os.environ["PERDURE_STORAGE"] in command:
            found.append(process)
    return found


# ------------------------------------------------------------------------------ references


def test_async_calls_give_references_of_rays(fresh_id: Callable[[], str]) -> None:
    @ray.remote
    def plus(left: int, right: int) -> int:
        return left + right

    named = fresh_id()
    ref = workflow.run_async(plus.bind(1, 2), workflow_id=named)
    assert isinstance(ref, ray.ObjectRef)
    ready, remaining = ray.wait([ref], timeout=PATIENCE_S)
    assert (ready, remaining) == ([ref], [])
    assert ray.get(ref) == 3
    assert ray.get(workflow.get_output_async(named)) == 3
    assert ray.get(workflow.resume_async(named)) == 3
    assert ray.get(plus.remote(ref, 4)) == 7  # as an argument it is its value

    async def main() -> int:
        value: int = await workflow.run_async(plus.bind(5, 6))
        return value

    assert asyncio.run(main()) == 11


def test_references_of_failed_runs_raise_what_run_raises(fresh_id: Callable[[], str]) -> None:
    class Own(Exception):
        pass

    @ray.remote
    def fail() -> None:
        raise Own("no")

    named = fresh_id()
    ref = workflow.run_async(fail.bind(), workflow_id=named)
    for again in (ref, workflow.get_output_async(named)):
        with pytest.raises(ray.exceptions.RayTaskError) as caught:
            ray.get(again)
        assert isinstance(caught.value, workflow.exceptions.WorkflowExecutionError)
        assert type(caught.value.__cause__).__name__ == "Own"
        assert "in fail" in caught.value.__cause__.__notes__[0]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="without a task"):
        ray.get(workflow.get_output_async(named, task_id="other"))
    with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
        workflow.get_output_async(fresh_id())


def test_references_of_canceled_runs(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    ref = workflow.run_async(workflow.wait_for_event(key="never"), workflow_id=named)
    workflow.cancel(named)
    with pytest.raises(workflow.exceptions.WorkflowCancellationError):
        ray.get(ref)


def test_large_values_come_whole() -> None:
    import numpy

    @ray.remote
    def zeros(count: int) -> Any:
        return numpy.zeros(count)

    assert ray.get(workflow.run_async(zeros.bind(1_000_000))).sum() == 0
    assert workflow.run(zeros.bind(1_000_000)).shape == (1_000_000,)


def test_from_many_threads_at_once() -> None:
    refs: dict[int, Any] = {}

    def work(number: int) -> None:
        refs[number] = workflow.run_async(double.bind(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: ray.get(ref) for number, ref in refs.items()} == {number: 2 * number for number in range(20)}


def test_resume_all(fresh_id: Callable[[], str], tmp_path: Path) -> None:
    named, door = fresh_id(), tmp_path / "door"

    @ray.remote
    def pass_door(path: str) -> str:
        with open(path) as file:
            return file.read()

    with pytest.raises(workflow.exceptions.WorkflowExecutionError) as caught:
        workflow.run(pass_door.bind(str(door)), workflow_id=named)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert workflow.resume_all() == []
    door.write_text("open")
    assert ray.get(dict(workflow.resume_all(include_failed=True))[named]) == "open"


def test_resume_all_takes_those_first_that_ran_and_leaves_out_what_cannot_go_on(
    fresh_id: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two ran and one waited. When the engine is back, by its settings one may run and one may wait."""
    ran, ran_too, waited = (fresh_id() for _ in range(3))
    service = Service(tmp_path, "--executor", "local", "--max-running-workflows", "2")
    again = Service(
        tmp_path, "--executor", "local", "--recovery", "manual",
        "--max-running-workflows", "1", "--max-pending-workflows", "1",
    )  # fmt: skip
    with running(service), perdure.SyncClient(service.address) as client:
        service.up()
        for named in (ran, ran_too, waited):
            client.start(perdure.event("go"), workflow_id=named)
        service.kill()
    with running(again), perdure.SyncClient(again.address) as client:
        again.up()
        monkeypatch.setenv("PERDURE_ADDRESS", again.address)
        assert dict(workflow.list_all()) == dict.fromkeys((ran, ran_too, waited), workflow.RESUMABLE)
        resumed = workflow.resume_all()
        assert [named for named, _ in resumed] == [ran, ran_too]
        assert f"'{waited}' cannot be resumed" in caplog.text
        statuses = {ran: workflow.RUNNING, ran_too: workflow.PENDING, waited: workflow.RESUMABLE}
        assert dict(workflow.list_all()) == statuses
        for named, status in statuses.items():
            assert workflow.get_status(named) == workflow.get_metadata(named)["status"] == status
        for named, ref in resumed:
            client.send_event(named, "go", named)
            assert ray.get(ref) == named


# ------------------------------------------------------------------------------ callers


def test_tasks_find_named_actors_of_the_driver() -> None:
    @ray.remote(num_cpus=0)
    class Counter:
        def add(self, amount: int) -> int:
            return amount + 1

    @ray.remote
    def count(amount: int) -> int:
        return int(ray.get(ray.get_actor("counter").add.remote(amount)))

    counter: Any = Counter
    handle = counter.options(name="counter").remote()
    assert workflow.run(count.bind(count.bind(1))) == 3
    del handle


def test_from_tasks_and_actors() -> None:
    @ray.remote
    def one() -> int:
        return 1

    @ray.remote
    def of_a_task() -> Any:
        return workflow.run(one.bind()), ray.get(workflow.run_async(one.bind()))

    @ray.remote
    class Plain:
        def call(self) -> Any:
            return workflow.run(one.bind())

    @ray.remote
    class Async:
        async def call(self) -> Any:
            return await workflow.run_async(one.bind()), workflow.run(one.bind())

    assert ray.get(of_a_task.remote()) == (1, 1)
    plain, asynchronous = Plain.remote(), Async.remote()
    assert ray.get(plain.call.remote()) == 1
    assert ray.get(asynchronous.call.remote()) == (1, 1)
    for actor in (plain, asynchronous):
        ray.kill(actor)


def test_a_run_inside_a_task_stands_on_its_own(fresh_id: Callable[[], str]) -> None:
    inner_id = fresh_id()

    @ray.remote
    def one() -> int:
        return 1

    @workflow.options(catch_exceptions=True, checkpoint=False)
    @ray.remote(max_retries=0)
    def outer() -> Any:
        return workflow.run(one.bind(), workflow_id=inner_id)

    assert workflow.run(outer.bind()) == (1, None)
    assert workflow.get_output(inner_id) == 1
    options = workflow.get_metadata(inner_id, _tasks(inner_id)[0])["task_options"]
    assert options["catch_exceptions"] is False
    assert options["max_retries"] == 3


def test_runs_inside_of_tasks_leave_room_for_what_they_wait_for() -> None:
    @ray.remote
    def one() -> int:
        return 1

    @ray.remote
    def outer() -> int:
        return workflow.run(one.bind()) + ray.get(workflow.run_async(one.bind()))

    @ray.remote
    def total(*values: int) -> int:
        return sum(values)

    assert workflow.run(total.bind(*[outer.bind() for _ in range(6)])) == 12


def _tasks(workflow_id: str) -> list[str]:
    with perdure.SyncClient(connect().address) as client:
        return [task.task_id for task in client.handle(workflow_id).tasks()]


@pytest.mark.filterwarnings("ignore:DAGNode.execute")
def test_continuations_inside_and_outside() -> None:
    @ray.remote
    def ten() -> int:
        return 10

    @ray.remote
    def more() -> Any:
        return workflow.continuation(ten.bind())

    assert workflow.run(more.bind()) == 10
    assert ray.get(more.bind().execute()) == 10
    assert workflow.continuation(ten.bind()) == 10  # type: ignore[comparison-overlap]


def test_nodes_of_both_kinds_in_one_graph() -> None:
    @ray.remote
    def gather(*values: Any, named: Any = None) -> Any:
        return values, named

    node = gather.bind(workflow.sleep(0.01), double.bind(1), named=double.bind(2))
    assert workflow.run(gather.bind(node, double.bind(3))) == ((((None, 2), 4), 6), None)


def test_events_over_http(fresh_id: Callable[[], str]) -> None:
    @ray.remote
    def gather(*values: Any) -> Any:
        return values

    named = fresh_id()
    event = workflow.wait_for_event(HTTPListener, event_key="paid")
    ref = workflow.run_async(gather.bind(event, "x"), workflow_id=named)
    body = json.dumps({"event_key": "paid", "event_payload": {"euros": 5}}).encode()
    request = urllib.request.Request(HTTPEventProvider.deploy() + named, data=body, method="POST")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        assert answer.status == 200
    assert ray.get(ref) == (("paid", {"euros": 5}), "x")


# ------------------------------------------------------------------------------ the engine


def test_the_same_settings_again_are_no_change() -> None:
    workflow.init()
    workflow.init(os.environ["PERDURE_STORAGE"])
    workflow.init(storage=Path(os.environ["PERDURE_STORAGE"]))
    with pytest.raises(ValueError, match="storage"):
        workflow.init(storage="/elsewhere")
    with pytest.raises(ValueError, match="max_running_workflows"):
        workflow.init(max_running_workflows=3)
    assert workflow.run(double.bind(1)) == 2


def test_another_driver_sees_the_same_workflows_and_may_leave(fresh_id: Callable[[], str], tmp_path: Path) -> None:
    named, theirs, file = fresh_id(), fresh_id(), tmp_path / "file"
    assert workflow.run(double.bind(4), workflow_id=named) == 8
    printed = script(f"""
        import time
        from pathlib import Path

        @ray.remote
        def until_exists(path):
            Path(path + ".started").touch()
            while not Path(path).exists():
                time.sleep(0.01)
            return "seen"

        print(workflow.get_output({named!r}), len(dict(workflow.list_all())) > 0)
        workflow.run_async(until_exists.bind({str(file)!r}), workflow_id={theirs!r})
        while not Path({str(file)!r} + ".started").exists():
            time.sleep(0.01)
    """)
    assert printed == "8 True"
    file.touch()
    assert workflow.get_output(theirs) == "seen"
    assert len(engines()) == 1


async def test_a_client_of_the_local_engine(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    async with await perdure.Client.local() as client:
        assert await client.run(double.bind(5), workflow_id=named) == 10
    assert workflow.get_output(named) == 10


def test_an_engine_that_is_killed_comes_back_with_its_runs(fresh_id: Callable[[], str], tmp_path: Path) -> None:
    named, file, notes = fresh_id(), tmp_path / "file", tmp_path / "notes"

    @ray.remote(max_retries=5)
    def step(path: str, before: int) -> int:
        with open(path, "a") as notes:
            notes.write(f"{before}\n")
        return before + 1

    @ray.remote(max_retries=5)
    def until_exists(path: str, value: int) -> int:
        import pathlib
        import time

        pathlib.Path(path + ".started").touch()
        while not pathlib.Path(path).exists():
            time.sleep(0.01)
        return value

    value = step.bind(str(notes), 0)
    for _ in range(4):
        value = step.bind(str(notes), value)
    value = until_exists.bind(str(file), value)
    ref = workflow.run_async(step.bind(str(notes), value), workflow_id=named)
    while not (tmp_path / "file.started").exists():
        threading.Event().wait(0.01)
    (engine,) = engines()
    engine.kill()
    engine.wait(30)
    file.touch()
    assert ray.get(ref) == 6
    assert workflow.get_output(named) == 6
    assert lines(notes) == ["0", "1", "2", "3", "4", "5"]
    assert workflow.run(double.bind(1)) == 2
    assert len(engines()) == 1
    assert engines()[0].pid != engine.pid


def test_a_run_that_the_engine_took_up_again_may_be_resumed(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    ref = workflow.run_async(workflow.wait_for_event(key="go"), workflow_id=named)
    with pytest.raises(RuntimeError, match="already running"):
        workflow.resume_async(named)
    (engine,) = engines()
    engine.kill()
    engine.wait(30)
    again = workflow.resume_async(named)
    also = dict(workflow.resume_all())[named]
    with perdure.SyncClient(connect().address) as client:
        client.send_event(named, "go", "gone")
    assert ray.get([ref, again, also]) == ["gone", "gone", "gone"]


def test_the_actor_that_hosts_the_engine_is_killed(fresh_id: Callable[[], str]) -> None:
    named = fresh_id()
    ref = workflow.run_async(workflow.wait_for_event(key="go"), workflow_id=named)
    address = connect().address
    (engine,) = engines()
    host = engine.parent()
    assert host is not None
    host.kill()
    engine.wait(30)
    assert workflow.run(double.bind(4)) == 8
    assert connect().address == address
    with perdure.SyncClient(address) as client:
        client.send_event(named, "go", "gone")
    assert ray.get(ref) == "gone"
    assert len(engines()) == 1
