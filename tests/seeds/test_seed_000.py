"""The examples of "Key concepts", as printed but for the import line. What was printed wrong is named."""

from __future__ import annotations

import os

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("own_ray")]


def test_composing_functions_into_a_dag_and_running_it() -> None:
    import ray

    @ray.remote
    def one() -> int:
        return 1

    @ray.remote
    def add(a: int, b: int) -> int:
        return a + b

    dag = add.bind(100, one.bind())

    from perdure import workflow

    # Run the workflow until it completes and returns the output
    assert workflow.run(dag) == 101

    # Or you can run it asynchronously and fetch the output via 'ray.get'
    output_ref = workflow.run_async(dag)
    assert ray.get(output_ref) == 101

    # `ray.init(storage="/tmp/data")` stood here: Ray has no such argument any more, workflow.init has.
    workflow.init(storage=os.environ["PERDURE_STORAGE"])
    assert workflow.run(dag, workflow_id="run_1") == 101
    assert workflow.get_status("run_1") == workflow.WorkflowStatus.SUCCESSFUL
    assert workflow.get_output("run_1") == 101
    # workflow.get_output_async returns an ObjectRef.
    assert ray.get(workflow.get_output_async("run_1")) == 101


def test_objects() -> None:
    import ray
    from typing import List

    from perdure import workflow

    @ray.remote
    def hello():
        return "hello"

    @ray.remote
    def words() -> List[ray.ObjectRef]:
        # NOTE: Here it is ".remote()" instead of ".bind()", so
        # it creates an ObjectRef instead of a DAG.
        return [hello.remote(), ray.put("world")]

    @ray.remote
    def concat(words: List[ray.ObjectRef]) -> str:
        return " ".join([ray.get(w) for w in words])

    assert workflow.run(concat.bind(words.bind())) == "hello world"


def test_fibonacci() -> None:
    import ray

    from perdure import workflow

    @ray.remote
    def add(a: int, b: int) -> int:
        return a + b

    @ray.remote
    def fib(n: int) -> int:
        if n <= 1:
            return n
        # return a continuation of a DAG
        return workflow.continuation(add.bind(fib.bind(n - 1), fib.bind(n - 2)))

    assert workflow.run(fib.bind(10)) == 55


def test_events() -> None:
    import ray

    from perdure import workflow

    import time

    # Sleep is a special type of event.
    sleep_task = workflow.sleep(1)

    # `wait_for_events` allows for pluggable event listeners.
    event_task = workflow.wait_for_event(workflow.event_listener.TimerListener, time.time() + 2)

    @ray.remote
    def gather(*args):
        return args

    # If a task's arguments include events, the task won't be executed until all
    # of the events have occurred.
    assert workflow.run(gather.bind(sleep_task, event_task, "hello world")) == (None, None, "hello world")
