"""The examples of "Tasks" of Ray itself, run inside of tasks of workflows; as printed but for what is named."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("own_ray")]


def test_tasks_inside_of_a_task() -> None:
    import ray
    import time

    from perdure import workflow

    # A regular Python function.
    def normal_function():
        return 1

    # By adding the `@ray.remote` decorator, a regular Python function
    # becomes a Ray remote function.
    @ray.remote
    def my_function():
        return 1

    @ray.remote
    def slow_function():
        time.sleep(0.1)  # printed as 10
        return 1

    @ray.remote
    def step():
        # To invoke this remote function, use the `remote` method.
        # This will immediately return an object ref (a future) and then create
        # a task that will be executed on a worker process.
        obj_ref = my_function.remote()

        # The result can be retrieved with ``ray.get``.
        assert ray.get(obj_ref) == 1

        # Ray tasks are executed in parallel.
        # All computation is performed in the background, driven by Ray's internal event loop.
        for _ in range(4):
            # This doesn't block.
            slow_function.remote()
        return normal_function()

    assert workflow.run(step.bind()) == 1
    assert workflow.run(my_function.bind()) == 1


def test_resources() -> None:
    import ray

    from perdure import workflow

    # Specify required resources.
    @ray.remote(num_cpus=4, num_gpus=2)
    def my_function():
        return 1

    # Override the default resource requirements.
    # (Printed as my_function.options(num_cpus=3).remote(); there are two here.)
    assert workflow.run(my_function.options(num_cpus=2).bind()) == 1


def test_object_refs_as_arguments() -> None:
    import ray

    from perdure import workflow

    @ray.remote
    def my_function():
        return 1

    @ray.remote
    def function_with_an_argument(value):
        return value + 1

    @ray.remote
    def step():
        obj_ref1 = my_function.remote()
        assert ray.get(obj_ref1) == 1

        # You can pass an object ref as an argument to another Ray task.
        obj_ref2 = function_with_an_argument.remote(obj_ref1)
        assert ray.get(obj_ref2) == 2
        return obj_ref2

    assert workflow.run(step.bind()) == 2
    assert workflow.run(function_with_an_argument.bind(my_function.remote())) == 2


def test_waiting_for_partial_results() -> None:
    import ray
    import time

    from perdure import workflow

    @ray.remote
    def slow_function():
        time.sleep(0.1)  # printed as 10
        return 1

    @ray.remote
    def step():
        object_refs = [slow_function.remote() for _ in range(2)]
        # Return as soon as one of the tasks finished execution.
        ready_refs, remaining_refs = ray.wait(object_refs, num_returns=1, timeout=None)
        return len(ready_refs), len(remaining_refs)

    assert workflow.run(step.bind()) == (1, 1)


def test_generators() -> None:
    import ray
    import time

    from perdure import workflow

    # Takes 25 seconds to finish. (Not here.)
    @ray.remote
    def f():
        for i in range(5):
            time.sleep(0.01)  # printed as 5
            yield i

    @ray.remote
    def step():
        seen = []
        for obj_ref in f.remote():
            # Prints every 5 seconds and stops after 25 seconds.
            print(ray.get(obj_ref))
            seen.append(ray.get(obj_ref))
        return seen

    assert workflow.run(step.bind()) == [0, 1, 2, 3, 4]
    with pytest.raises(TypeError, match="generator"):
        workflow.run(f.bind())


def test_multiple_returns() -> None:
    import ray

    from perdure import workflow

    # By default, a Ray task only returns a single Object Ref.
    @ray.remote
    def return_single():
        return 0, 1, 2

    # However, you can configure Ray tasks to return multiple Object Refs.
    @ray.remote(num_returns=3)
    def return_multiple():
        return 0, 1, 2

    @ray.remote(num_returns=3)
    def return_multiple_as_generator():
        for i in range(3):
            yield i

    @ray.remote
    def step():
        object_ref = return_single.remote()
        assert ray.get(object_ref) == (0, 1, 2)

        object_ref0, object_ref1, object_ref2 = return_multiple.remote()
        assert ray.get(object_ref0) == 0
        assert ray.get(object_ref1) == 1
        assert ray.get(object_ref2) == 2

        # Note: Similar to normal functions, these objects will not be available
        # until the full task is complete and all returns have been generated.
        a, b, c = return_multiple_as_generator.remote()
        return ray.get([a, b, c])

    assert workflow.run(step.bind()) == [0, 1, 2]
    assert workflow.run(return_single.bind()) == (0, 1, 2)
    # A step of a workflow has one value.
    with pytest.raises(ValueError, match="num_returns=3; return a tuple"):
        workflow.run(return_multiple.bind())
    with pytest.raises((TypeError, ValueError), match="generator"):
        workflow.run(return_multiple_as_generator.bind())


def test_cancelling() -> None:
    """With a timeout that is not printed: now and then Ray loses a cancel that meets a worker just starting."""
    import ray
    import time

    from perdure import workflow

    @ray.remote
    def blocking_operation():
        time.sleep(10e6)

    @ray.remote
    def step():
        obj_ref = blocking_operation.remote()
        ray.cancel(obj_ref)

        try:
            ray.get(obj_ref)
        except ray.exceptions.TaskCancelledError:
            print("Object reference was cancelled.")
            return "cancelled"

    step_with_timeout = step.options(max_retries=5, **workflow.options(timeout=15.0))
    assert workflow.run(step_with_timeout.bind()) == "cancelled"


def test_nested_remote_functions() -> None:
    import ray

    from perdure import workflow

    @ray.remote
    def f():
        return 1

    @ray.remote
    def g():
        # Call f 4 times and return the resulting object refs.
        return [f.remote() for _ in range(4)]

    @ray.remote
    def h():
        # Call f 4 times, block until those 4 tasks finish,
        # retrieve the results, and return the values.
        return ray.get([f.remote() for _ in range(4)])

    # Printed as ray.get(g.remote()), whose references end with the task; those of a workflow are kept.
    refs = workflow.run(g.bind())
    assert all(isinstance(ref, ray.ObjectRef) for ref in refs)
    assert ray.get(refs) == [1, 1, 1, 1]
    assert workflow.run(h.bind()) == [1, 1, 1, 1]


def test_resources_are_released_while_a_task_waits() -> None:
    import ray

    from perdure import workflow

    @ray.remote
    def f():
        return 1

    @ray.remote(num_cpus=1, num_gpus=1)
    def g():
        return ray.get(f.remote())

    @ray.remote
    def total(*values):
        return sum(values)

    assert workflow.run(total.bind(*[g.bind() for _ in range(4)])) == 4
