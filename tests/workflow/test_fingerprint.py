"""Fingerprints: which graphs are the same under one workflow id."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy
import pytest

import perdure
from perdure.codec import encode_value
from perdure.conversion import to_spec
from perdure.model import Failure, FailureKind
from perdure.workflow import fingerprint, outcomes
from workflow.steps import add, double


def of(graph: Any, **inputs: Any) -> str:
    return fingerprint.of(to_spec(graph), inputs)


def test_built_again_it_is_the_same() -> None:
    def build() -> int:
        inner = double.bind(1)
        return add.bind(inner, inner, double.bind(2), perdure.input("x"))

    assert of(build(), x=[1, {"a": "b"}]) == of(build(), x=[1, {"a": "b"}])
    assert of(build(), x=1) != of(build(), x=2)


@pytest.mark.parametrize(
    "other",
    [
        add.bind(double.bind(1), 3),
        add.bind(double.bind(2), 2),
        add.bind(2, double.bind(1)),
        add.bind(double.bind(1), 2, 2),
        double.bind(double.bind(1)),
        add.bind(double.options(task_id="other").bind(1), 2),
        perdure.sleep(1),
    ],
)
def test_other_graphs_differ(other: Any) -> None:
    assert of(other) != of(add.bind(double.bind(1), 2))


def test_options_may_change_and_equal_data_may_be_shared_otherwise() -> None:
    assert of(double.options(num_cpus=2, max_retries=9).bind(1)) == of(double.bind(1))
    word = "".join(["sha", "red"])
    assert of(add.bind([word, word])) == of(add.bind([word, "".join(["sha", "red"])]))  # type: ignore[arg-type]


def test_other_waits_differ_but_their_time_outs_may_change() -> None:
    nodes = [double.bind(1), double.bind(2)]
    waits: list[Any] = [
        perdure.event("a"),
        perdure.event("b"),
        perdure.sleep(1),
        perdure.sleep(2),
        perdure.wait(nodes, num_returns=1),
        perdure.wait(nodes, num_returns=2),
    ]
    assert len({of(wait) for wait in waits}) == len(waits)
    assert of(perdure.event("a", timeout=1)) == of(perdure.event("a", timeout=2))
    moment = datetime.now(UTC)
    assert of(perdure.sleep_until(moment)) == of(perdure.sleep_until(moment + timedelta(days=1)))


def test_what_pickles_differently_each_time_does_not_count() -> None:
    names = [f"name-{number}" for number in range(50)]
    backwards = names[::-1]
    assert of(add.bind(set(names))) == of(add.bind(set(backwards)))  # type: ignore[arg-type]
    assert of(add.bind(numpy.zeros(3))) == of(add.bind(numpy.ones(3)))  # type: ignore[arg-type]


def test_values_become_themselves_where_they_arrive() -> None:
    array = numpy.arange(100_000)
    encoded = encode_value(array)
    travelled = pickle.loads(pickle.dumps(outcomes.Carried(encoded.inline()), protocol=5))
    assert (travelled == array).all()
    assert pickle.loads(pickle.dumps(outcomes.Carried(encode_value(None).inline()), protocol=5)) is None


def test_errors_travel_with_their_cause() -> None:
    failure = Failure(FailureKind.APPLICATION, "builtins.ValueError", "bad", "  File x\n", task_id="t")
    error = pickle.loads(pickle.dumps(outcomes.FailedRun("w", failure), protocol=5))
    again = pickle.loads(pickle.dumps(error))
    for it in (error, again):
        assert isinstance(it, perdure.WorkflowExecutionError)
        assert str(it) == "workflow 'w' failed in task 't': builtins.ValueError: bad"
        assert it.failure == failure
        assert isinstance(it.__cause__, perdure.errors.RemoteError)  # type: ignore[attr-defined]
