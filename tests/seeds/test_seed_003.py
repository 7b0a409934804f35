"""The examples of "Getting started", as printed but for the import line. What was printed wrong is named."""

from __future__ import annotations

import sys

import cloudpickle
import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("own_ray"),
    pytest.mark.filterwarnings("ignore:DAGNode.execute"),
]


def test_your_first_workflow(capsys: pytest.CaptureFixture[str]) -> None:
    from typing import List
    import ray

    # Define Ray remote functions.
    @ray.remote
    def read_data(num: int):
        return [i for i in range(num)]

    @ray.remote
    def preprocessing(data: List[float]) -> List[float]:
        return [d**2 for d in data]

    @ray.remote
    def aggregate(data: List[float]) -> float:
        return sum(data)

    # Build the DAG:
    # data -> preprocessed_data -> aggregate
    data = read_data.bind(10)
    preprocessed_data = preprocessing.bind(data)
    output = aggregate.bind(preprocessed_data)

    # <follow the previous code>
    from perdure import workflow

    # Execute the workflow and print the result.
    print(workflow.run(output))

    # You can also run the workflow asynchronously and fetch the output via
    # 'ray.get'
    output_ref = workflow.run_async(output)
    print(ray.get(output_ref))

    assert capsys.readouterr().out == "285\n285\n"


def test_setting_workflow_options() -> None:
    import ray
    from perdure import workflow

    @workflow.options(checkpoint=True)
    @ray.remote(num_cpus=2, num_gpus=3, max_retries=5)
    def read_data(num: int):
        return [i for i in range(num)]

    read_data_with_options = read_data.options(
        num_cpus=1, num_gpus=1, **workflow.options(checkpoint=True))  # fmt: skip

    # Not run as printed.
    assert workflow.run(read_data.bind(3), workflow_id="decorated") == [0, 1, 2]
    assert workflow.run(read_data_with_options.bind(4), workflow_id="with_options") == [0, 1, 2, 3]
    for named, cpus, gpus in (("decorated", 2, 3), ("with_options", 1, 1)):
        options = workflow.get_metadata(named, _only_task(named))["task_options"]
        assert (options["num_cpus"], options["num_gpus"], options["max_retries"]) == (cpus, gpus, 5)


def test_retrieving_workflow_results(capsys: pytest.CaptureFixture[str]) -> None:
    import ray
    from perdure import workflow

    try:
        # Cleanup previous workflows
        # An exception will be raised if it doesn't exist.
        workflow.delete("add_example")
    except workflow.exceptions.WorkflowNotFoundError:
        pass

    @ray.remote
    def add(left: int, right: int) -> int:
        return left + right

    @ray.remote
    def get_val() -> int:
        return 10

    ret = add.bind(get_val.bind(), 20)

    print(workflow.run(ret, workflow_id="add_example"))

    print(workflow.get_output("add_example"))
    # "workflow.get_output_async" is an asynchronous version

    assert capsys.readouterr().out == "30\n30\n"
    # The text around it calls ray.workflow.list_all().
    assert ("add_example", "SUCCESSFUL") in workflow.list_all()


def test_sub_task_results() -> None:
    import ray
    from perdure import workflow

    workflow_id = "double"
    try:
        # cleanup previous workflows
        workflow.delete(workflow_id)
    except workflow.exceptions.WorkflowNotFoundError:
        pass

    @ray.remote
    def double(v):
        return 2 * v

    inner_task = double.options(**workflow.options(task_id="inner")).bind(1)
    outer_task = double.options(**workflow.options(task_id="outer")).bind(inner_task)
    result_ref = workflow.run_async(outer_task, workflow_id="double")

    inner = workflow.get_output_async(workflow_id, task_id="inner")
    outer = workflow.get_output_async(workflow_id, task_id="outer")

    assert ray.get(inner) == 2
    assert ray.get(outer) == 4
    assert ray.get(result_ref) == 4

    # "If the task with the given task_id hasn't been executed before the workflow completes, an exception
    # will be thrown."
    with pytest.raises(ValueError, match="without a task"):
        workflow.get_output(workflow_id, task_id="other")


def test_task_ids_by_decorator() -> None:
    import ray
    from perdure import workflow

    # Printed as the decorator alone.
    @workflow.options(task_id="task_name")
    @ray.remote
    def double(v):
        return 2 * v

    # "If there are multiple tasks with the same id, a suffix with a counter _n will be added."
    assert workflow.run(double.bind(double.bind(1)), workflow_id="task_names") == 4
    assert workflow.get_output("task_names", task_id="task_name") == 2
    assert workflow.get_output("task_names", task_id="task_name_1") == 4


def test_error_handling_by_options() -> None:
    import ray
    from perdure import workflow

    # specify in decorator
    @workflow.options(catch_exceptions=True)
    @ray.remote(max_retries=5, retry_exceptions=True)
    def faulty_function():
        pass

    # specify in .options()
    without = faulty_function.options(max_retries=3, retry_exceptions=False,
                            **workflow.options(catch_exceptions=False))  # fmt: skip

    # Not run as printed.
    assert workflow.run(faulty_function.bind()) == (None, None)
    assert workflow.run(without.bind()) is None


def test_error_handling() -> None:
    from typing import Tuple
    import random

    import ray
    from perdure import workflow

    @ray.remote
    def faulty_function() -> str:
        if random.random() > 0.5:
            raise RuntimeError("oops")
        return "OK"

    # Tries up to five times before giving up.
    # (Printed so, but max_retries counts lost workers only as long as retry_exceptions is not set.)
    r1 = faulty_function.options(max_retries=5).bind()
    try:
        workflow.run(r1)
    except ray.exceptions.RayTaskError:
        pass

    @ray.remote
    def handle_errors(result: Tuple[str, Exception]):
        # The exception field will be None on success.
        err = result[1]
        if err:
            return "There was an error: {}".format(err)
        else:
            return "OK"

    # `handle_errors` receives a tuple of (result, exception).
    r2 = faulty_function.options(**workflow.options(catch_exceptions=True)).bind()
    assert workflow.run(handle_errors.bind(r2)) in ("OK", "There was an error: oops")


class Service:
    """Books flights: a folder with a file for each. With an id it books one at most. It may die once it has booked,
    before it says so. Not printed."""

    def __init__(self, folder):
        self.folder = folder

    def book_flight(self, request_id=None):
        import uuid

        ticket = request_id or uuid.uuid4().hex
        (self.folder / ticket).write_text(f"ticket {ticket}")
        if not (self.folder.parent / "mended").exists():
            raise OSError("what if we failed here?")
        return self.get_ticket(ticket)

    def has_ticket(self, request_id):
        return (self.folder / request_id).exists()

    def get_ticket(self, request_id):
        return (self.folder / request_id).read_text()


@pytest.fixture
def service(tmp_path):
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    (tmp_path / "flights").mkdir()
    yield Service(tmp_path / "flights")
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_non_idempotent_workflow(service) -> None:
    import ray
    from perdure import workflow

    FlightTicket = str

    @ray.remote
    def book_flight_unsafe() -> FlightTicket:
        ticket = service.book_flight()
        # Uh oh, what if we failed here?
        return ticket

    # Printed without an id and a failure.
    with pytest.raises(ray.exceptions.RayTaskError, match="what if we failed here"):
        workflow.run(book_flight_unsafe.bind(), workflow_id="unsafe")
    (service.folder.parent / "mended").touch()

    # UNSAFE: we could book multiple flight tickets
    assert workflow.run(book_flight_unsafe.bind(), workflow_id="unsafe").startswith("ticket ")
    assert len(list(service.folder.iterdir())) == 2


def test_idempotent_workflow(service) -> None:
    import uuid

    import ray
    from perdure import workflow

    FlightTicket = str

    @ray.remote
    def generate_id() -> str:
        # Generate a unique idempotency token.
        return uuid.uuid4().hex

    @ray.remote
    def book_flight_idempotent(request_id: str) -> FlightTicket:
        if service.has_ticket(request_id):
            # Retrieve the previously created ticket.
            return service.get_ticket(request_id)
        return service.book_flight(request_id)

    # SAFE: book_flight is written to be idempotent
    request_id = generate_id.bind()
    # Printed without an id and a failure.
    with pytest.raises(ray.exceptions.RayTaskError, match="what if we failed here"):
        workflow.run(book_flight_idempotent.bind(request_id), workflow_id="safe")
    (service.folder.parent / "mended").touch()
    ticket = workflow.run(book_flight_idempotent.bind(request_id), workflow_id="safe")

    (booked,) = service.folder.iterdir()
    assert ticket == f"ticket {booked.name}"


def test_a_node_is_no_value_outside_of_workflows(capsys: pytest.CaptureFixture[str]) -> None:
    import ray

    @ray.remote
    def bar():
        print("Hello from bar!")

    @ray.remote
    def foo():
        # This is evaluated at runtime, not in DAG construction.
        return bar.bind()

    # Executing `foo` returns the `bar` DAG node, *not* its result.
    print("Output of foo DAG:", type(ray.get(foo.bind().execute())))

    assert capsys.readouterr().out == "Output of foo DAG: <class 'ray.dag.function_node.FunctionNode'>\n"


def test_continuation() -> None:
    import ray
    from perdure import workflow

    @ray.remote
    def bar():
        return 10

    @ray.remote
    def foo():
        # This will return a DAG to be executed
        # after this function is finished.
        return workflow.continuation(bar.bind())

    assert ray.get(foo.bind().execute()) == 10
    assert workflow.run(foo.bind()) == 10


def test_factorial() -> None:
    import ray
    from perdure import workflow

    @ray.remote
    def factorial(n: int) -> int:
        if n == 1:
            return 1
        else:
            # Here a DAG is passed to the continuation.
            # The DAG will continue to be executed after this task.
            return workflow.continuation(multiply.bind(n, factorial.bind(n - 1)))

    @ray.remote
    def multiply(a: int, b: int) -> int:
        return a * b

    assert workflow.run(factorial.bind(10)) == 3628800
    # You can also execute the code with Ray DAG engine.
    assert ray.get(factorial.bind(10).execute()) == 3628800


def test_booking_a_trip() -> None:
    # The bodies were left out as printed.
    from dataclasses import dataclass
    from typing import List

    import ray
    from perdure import workflow

    Flight = Hotel = str

    @dataclass
    class Receipt:
        flights: List[Flight]
        hotels: List[Hotel]

    @ray.remote
    def book_flight(origin: str, dest: str, date: str) -> Flight: return f"{origin}-{dest} on {date}"  # fmt: skip

    @ray.remote
    def book_hotel(place: str, dates: List[str]) -> Hotel: return f"{place} from {dates[0]} to {dates[1]}"  # fmt: skip

    @ray.remote
    def finalize_or_cancel(
        flights: List[Flight],
        hotels: List[Hotel]) -> Receipt:  # fmt: skip
        # Nested in a list they arrive as references of Ray's.
        return Receipt(ray.get(flights), ray.get(hotels))

    @ray.remote
    def book_trip(origin: str, dest: str, dates) -> Receipt:
        # Note that the workflow engine will not begin executing
        # child workflows until the parent task returns.
        # This avoids task overlap and ensures recoverability.
        f1 = book_flight.bind(origin, dest, dates[0])
        f2 = book_flight.bind(dest, origin, dates[1])
        hotel = book_hotel.bind(dest, dates)
        return workflow.continuation(finalize_or_cancel.bind([f1, f2], [hotel]))

    receipt: Receipt = workflow.run(book_trip.bind("OAK", "SAN", ["6/12", "7/5"]))

    assert receipt.flights == ["OAK-SAN on 6/12", "SAN-OAK on 7/5"]
    assert receipt.hotels == ["SAN from 6/12 to 7/5"]


def test_nested_arguments() -> None:
    from typing import List

    import ray
    from perdure import workflow

    @ray.remote
    def add(values: List[ray.ObjectRef]) -> int:
        # although those values are not resolved, they have been
        # *fully executed and checkpointed*. This guarantees exactly-once
        # execution semantics.
        return sum(ray.get(values))

    @ray.remote
    def get_val() -> int:
        return 10

    ret = add.bind([get_val.bind() for _ in range(3)])
    assert workflow.run(ret) == 30


def test_object_references_between_tasks() -> None:
    import ray
    from perdure import workflow

    @ray.remote
    def do_add(a, b):
        return a + b

    @ray.remote
    def add(a, b):
        return do_add.remote(a, b)

    # Printed without "assert".
    assert workflow.run(add.bind(ray.put(10), ray.put(20))) == 30


def test_custom_resources() -> None:
    import ray
    from perdure import workflow

    @ray.remote
    def train_model():
        pass  # This task is assigned to a GPU by Ray.

    workflow.run(train_model.options(num_gpus=1).bind())

    # Printed with nothing to see of it.
    @ray.remote
    def gpus_here():
        return len(ray.get_gpu_ids())

    assert workflow.run(gpus_here.options(num_gpus=1).bind()) == 1
    assert workflow.run(gpus_here.options(num_gpus=3).bind()) == 3
    assert workflow.run(gpus_here.options(resources={"disk": 1}).bind()) == 0


def _only_task(workflow_id: str) -> str:
    import perdure
    from perdure.workflow.connection import connect

    with perdure.SyncClient(connect().address) as client:
        (task,) = client.handle(workflow_id).tasks()
    return task.task_id


def test_workflows_from_tasks_and_actors() -> None:
    # "Workflows can be launched from within a Ray task or actor", without an example as printed.
    import ray
    from perdure import workflow

    @ray.remote
    def one():
        return 1

    @ray.remote
    class Launcher:
        def launch(self):
            return workflow.run(one.bind())

    @ray.remote
    def uses_tasks_and_actors():
        counter = Launcher.remote()
        return ray.get(counter.launch.remote()) + ray.get(one.remote())

    launcher = Launcher.remote()
    assert ray.get(launcher.launch.remote()) == 1
    assert workflow.run(uses_tasks_and_actors.bind()) == 2
    ray.kill(launcher)
