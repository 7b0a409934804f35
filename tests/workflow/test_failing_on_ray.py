"""On real Ray: errors and values that cannot travel, a resume beside older attempts, namespaces of references."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

import perdure
from perdure import workflow
from workflow.steps import eventually, lines

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("own_ray")]


@ray.remote(num_cpus=0.5)
def one() -> int:
    return 1


# ------------------------------------------------------------------------------ what cannot travel


def test_an_error_comes_as_itself_with_its_fields_its_cause_and_where_it_was_raised() -> None:
    class OutOfStock(LookupError):
        def __init__(self, item: str, left: int) -> None:
            super().__init__(item, left)
            self.item, self.left = item, left

    @workflow.options(task_id="sell")
    @ray.remote(num_cpus=0.5)
    def sell() -> None:
        try:
            {}["lamps"]
        except KeyError as error:
            raise OutOfStock("lamps", 2) from error

    def from_reference() -> Any:
        return ray.get(workflow.run_async(sell.bind()))

    for call in (lambda: workflow.run(sell.bind()), from_reference):
        with pytest.raises(workflow.exceptions.WorkflowExecutionError, match="failed in task 'sell'") as caught:
            call()
        assert isinstance(caught.value, ray.exceptions.RayTaskError)
        cause: Any = caught.value.__cause__
        assert isinstance(cause, LookupError)
        assert (type(cause).__name__, cause.item, cause.left) == ("OutOfStock", "lamps", 2)
        assert str(cause.__cause__) == "builtins.KeyError: 'lamps'"  # causes of causes are told in words
        assert 'raise OutOfStock("lamps", 2) from error' in cause.__notes__[0]


def test_what_cannot_be_pickled_is_said_with_the_task_and_fails_that_run_alone(fresh_id: Callable[[], str]) -> None:
    class Locked(Exception):
        """Has a field that cannot be pickled."""

        def __init__(self, why: str) -> None:
            super().__init__(why)
            self.lock = threading.Lock()

    @workflow.options(task_id="raises")
    @ray.remote(num_cpus=0.5, max_retries=0)
    def raises() -> None:
        raise Locked("the door is shut")

    @workflow.options(task_id="returns")
    @ray.remote(num_cpus=0.5, max_retries=0)
    def returns() -> Any:
        return {"inside": threading.Lock()}

    @ray.remote(num_cpus=0.5)
    def both(outcome: tuple[object, Exception | None], other: int) -> tuple[str, int]:
        return str(outcome[1]), other

    beside = workflow.run_async(workflow.wait_for_event(key="never"), workflow_id=(waits := fresh_id()))
    with pytest.raises(workflow.exceptions.WorkflowExecutionError, match=r"'raises'.*Locked: the door is shut") as told:
        workflow.run(raises.bind())
    assert "raise Locked" in told.value.__cause__.__notes__[0]  # type: ignore[union-attr]
    with pytest.raises(workflow.exceptions.WorkflowExecutionError, match=r"task 'returns': what it returned cannot"):
        workflow.run(returns.bind())
    caught = returns.options(**workflow.options(catch_exceptions=True)).bind()
    said, other = workflow.run(both.bind(caught, one.bind()))
    assert "what it returned cannot travel" in said
    assert other == 1
    assert workflow.get_status(waits) == workflow.RUNNING
    workflow.cancel(waits)
    with pytest.raises(workflow.exceptions.WorkflowCancellationError):
        ray.get(beside)


# ------------------------------------------------------------------------------ resuming


def test_a_resume_runs_no_task_beside_an_older_attempt_of_itself(fresh_id: Callable[[], str], tmp_path: Path) -> None:
    """The older one does not want to end. Each holds a lock that the system takes from a dead process."""
    named, door, folder = fresh_id(), tmp_path / "door", str(tmp_path)

    @ray.remote(num_cpus=0.5)
    def alone(folder: str) -> str:
        import contextlib
        import fcntl
        import os
        import time

        with open(f"{folder}/lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "beside"
            with open(f"{folder}/began", "a") as began:
                began.write(f"{os.getpid()}\n")
            while not os.path.exists(f"{folder}/door"):
                with contextlib.suppress(BaseException):
                    time.sleep(0.01)
        return "alone"

    @ray.remote(num_cpus=0.5)
    def fail_at_first(folder: str) -> str:
        import os
        import time

        while not os.path.exists(f"{folder}/began"):
            time.sleep(0.01)
        if not os.path.exists(f"{folder}/failed"):
            open(f"{folder}/failed", "w").close()
            raise RuntimeError("at first")
        return "then"

    @ray.remote(num_cpus=0)
    def pair(*values: str) -> tuple[str, ...]:
        return values

    with pytest.raises(workflow.exceptions.WorkflowExecutionError, match="at first"):
        workflow.run(pair.bind(alone.bind(folder), fail_at_first.bind(folder)), workflow_id=named)
    ref = workflow.resume_async(named)
    while len(lines(tmp_path / "began")) < 2:
        assert not ray.wait([ref], timeout=0.05)[0], ray.get(ref)
    door.touch()
    assert ray.get(ref) == ("alone", "then")


# ------------------------------------------------------------------------------ namespaces


def test_references_are_of_the_callers_namespace(
    fresh_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named, file = fresh_id(), tmp_path / "inner"

    @ray.remote(num_cpus=0.5)
    def start(named: str, file: str) -> Any:
        inner = ray.get(workflow.run_async(one.bind(), workflow_id=f"{named}-inner"))
        open(file, "w").close()
        return inner, workflow.run(one.bind())

    monkeypatch.setenv("PERDURE_NAMESPACE", "theirs")
    ref = workflow.run_async(start.bind(named, str(file)), workflow_id=named)
    eventually(file)
    assert ray.get(ref) == (1, 1)
    assert ray.get(workflow.get_output_async(f"{named}-inner")) == 1
    monkeypatch.delenv("PERDURE_NAMESPACE")
    with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
        workflow.get_output_async(named)


# ------------------------------------------------------------------------------ caught


def test_lost_workers_and_slow_attempts_are_caught_once_their_retries_are_used_up(tmp_path: Path) -> None:
    soon = perdure.RetryPolicy(initial_interval=0.05)

    @workflow.options(catch_exceptions=True, retry_policy=soon)
    @ray.remote(num_cpus=0.5, max_retries=1)
    def die(file: str) -> None:
        import os

        with open(file, "a") as tries:
            tries.write("died\n")
        os._exit(3)

    @workflow.options(catch_exceptions=True, retry_policy=soon, timeout=0.5)
    @ray.remote(num_cpus=0.5, max_retries=2)
    def never_ends(file: str) -> None:
        import time

        with open(file, "a") as tries:
            tries.write("began\n")
        while True:
            time.sleep(0.01)

    @ray.remote(num_cpus=0)
    def pair(*values: Any) -> Any:
        return values

    died, slow = tmp_path / "died", tmp_path / "slow"
    outcomes = workflow.run(pair.bind(die.bind(str(died)), never_ends.bind(str(slow))))
    for (value, error), kind in zip(outcomes, (perdure.errors.TaskLostError, TimeoutError), strict=True):
        assert value is None
        assert isinstance(error, kind)
    assert lines(died) == ["died"] * 2
    assert lines(slow) == ["began"] * 3
