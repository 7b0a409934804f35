"""The examples of "Advanced topics", as printed but for the import line. What was printed wrong is named."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("own_ray")]


def test_without_inplace_execution() -> None:
    import ray
    from perdure import workflow

    @ray.remote
    def exp_remote(k, n):
        if n == 0:
            return k
        return workflow.continuation(exp_remote.bind(2 * k, n - 1))

    # Not run as printed.
    assert workflow.create(exp_remote.bind(3, 7)).run() == 3 * 2**7


def test_inplace_execution() -> None:
    import ray
    from perdure import workflow

    @ray.remote
    def exp_inplace(k, n):
        if n == 0:
            return k
        return workflow.continuation(
            exp_inplace.options(**workflow.options(allow_inplace=True)).bind(2 * k, n - 1))  # fmt: skip

    assert workflow.create(exp_inplace.bind(3, 7)).run() == 3 * 2**7


def test_something_only_valid_in_the_current_process() -> None:
    import os

    import ray
    from perdure import workflow

    @ray.remote
    def bar(x):  # not defined as printed
        return x, os.getpid()

    @ray.remote
    def foo():
        x = os.getpid()  # "<something that is only valid in the current process>"
        return workflow.continuation(bar.options(**workflow.options(allow_inplace=True)).bind(x))

    made, seen = workflow.run(foo.bind())
    assert made == seen


def test_waiting_for_partial_results() -> None:
    import random
    import time
    from typing import List, Tuple

    import ray
    from perdure import workflow

    @ray.remote
    def do_task(i):
        time.sleep(random.random() / 10)  # printed without the division: 100 of them take a while on two CPUs
        return "task {}".format(i)

    # `Workflow[str]` was printed for the type of the remaining ones; no released Ray had it.
    @ray.remote
    def report_results(wait_result: Tuple[List[str], List["Workflow[str]"]]):  # noqa: F821
        ready, remaining = wait_result
        for result in ready:
            print("Completed", result)
        if not remaining:
            return "All done"
        else:
            return workflow.continuation(report_results.bind(workflow.wait(remaining)))

    tasks = [do_task.bind(i) for i in range(100)]
    # Printed as report_results.bind(workflow.wait(tasks)).run(), but nodes of Ray's have no such method.
    assert workflow.create(report_results.bind(workflow.wait(tasks))).run() == "All done"


def test_skipping_checkpoints() -> None:
    import ray
    from perdure import workflow

    @ray.remote
    def read_data(num: int):
        return [i for i in range(num)]

    data = read_data.options(**workflow.options(checkpoint=False)).bind(10)

    # Not run as printed.
    @ray.remote
    def aggregate(data):
        return sum(data)

    assert workflow.run(aggregate.bind(data)) == 45
