"""The examples of virtual actors in "Ray Workflows", a chapter on Ray 1.x, as printed but for the import line. What was
printed wrong is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from programs import SAID, kill_all, program, said

pytestmark = [pytest.mark.ray]


@pytest.mark.usefixtures("own_ray")
def test_8_4_virtual_actors() -> None:
    from perdure import workflow

    @workflow.virtual_actor
    class counter:
        def __init__(self):
            self.count = 0

        def incr(self):
            self.count += 1
            return self.count

    workflow.init(storage=os.environ["PERDURE_STORAGE"])  # "/tmp/workflows"

    c1 = counter.get_or_create("counter_workflw")  # printed as workflow1, and used by this name
    assert c1.incr.run() == 1
    assert c1.incr.run() == 2


@pytest.mark.usefixtures("own_ray")
def test_8_10_managing_workflows_with_virtual_actors() -> None:
    from perdure import workflow
    import ray

    @workflow.virtual_actor
    class Counter:
        def __init__(self, init_val):
            self._val = init_val

        def incr(self, val=1):
            self._val += val
            print(self._val)

        @workflow.virtual_actor.readonly
        def value(self):
            return self._val

    workflow.init()

    # Initialize a Counter actor with id="my_counter".
    counter = Counter.get_or_create("my_counter", 0)

    # Similar to workflow steps, actor methods support:
    # - `run()`, which will return the value
    # - `run_async()`, which will return a ObjectRef
    counter.incr.run(10)
    assert counter.value.run() == 10

    # Nonblocking execution.
    counter.incr.run_async(10)
    counter.incr.run(10)
    assert 30 == ray.get(counter.value.run_async())

    # "To retrieve an actor": printed in the text.
    assert workflow.get_actor(workflow_id="my_counter").value.run() == 30


@pytest.mark.usefixtures("own_ray")
def test_8_11_subworkflows() -> None:
    from perdure import workflow
    import ray

    @workflow.step
    def double(s):
        return 2 * s

    @workflow.virtual_actor
    class Actor:
        def __init__(self):
            self.val = 1

        def double(self, update):
            step = double.step(self.val)
            if not update:
                # Inside the method, a workflow can be launched
                return step
            else:
                # Workflow can also be passed to another method
                return self.update.step(step)

        def update(self, v):
            self.val = v
            return self.val

    handler = Actor.get_or_create("actor")
    assert handler.double.run(False) == 2
    assert handler.double.run(False) == 2
    assert handler.double.run(True) == 2
    assert handler.double.run(True) == 4


@pytest.mark.usefixtures("own_ray")
def test_8_12_a_machine_learning_workflow() -> None:
    import ray
    from perdure import workflow

    import pandas as pd
    import numpy as np
    from sklearn import base
    from sklearn.base import BaseEstimator
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier
    from sklearn.model_selection import train_test_split

    # ray.init(address='auto') as printed: this process is connected.
    workflow.init()

    @workflow.virtual_actor  # printed as @ray.workflow.virtual_actor
    class estimator_virtual_actor:
        def __init__(self, estimator: BaseEstimator):
            if estimator is not None:
                self.estimator = estimator

        def fit(self, inputtuple):
            (X, y, mode) = inputtuple
            if base.is_classifier(self.estimator) or base.is_regressor(self.estimator):
                self.estimator.fit(X, y)
                return X, y, mode
            else:
                X = self.estimator.fit_transform(X)
                return X, y, mode

        @workflow.virtual_actor.readonly
        def predict(self, inputtuple):
            (X, y, mode) = inputtuple
            if base.is_classifier(self.estimator) or base.is_regressor(self.estimator):
                pred_y = self.estimator.predict(X)
                return X, pred_y, mode
            else:
                X = self.estimator.transform(X)
                return X, y, mode

        def run_workflow_step(self, inputtuple):
            (X, y, mode) = inputtuple
            if mode == "fit":
                return self.fit(inputtuple)
            elif mode == "predict":
                return self.predict(inputtuple)

        def __getstate__(self):
            return self.estimator

        def __setstate__(self, estimator):
            self.estimator = estimator

    ## Prepare the data
    X = pd.DataFrame(np.random.randint(0, 100, size=(10000, 4)), columns=list("ABCD"))
    y = pd.DataFrame(np.random.randint(0, 2, size=(10000, 1)), columns=["Label"])

    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2)

    @workflow.step
    def scaling(inputtuple, name):
        va = estimator_virtual_actor.get_or_create(name, StandardScaler())
        outputtuple = va.run_workflow_step.run_async(inputtuple)
        return outputtuple

    @workflow.step
    def classification(inputtuple, name):
        va = estimator_virtual_actor.get_or_create(name, DecisionTreeClassifier(max_depth=3))
        outputtuple = va.run_workflow_step.run_async(inputtuple)
        return outputtuple

    training_tuple = (X_train, y_train, "fit")
    # Printed with a line break before run, which is no Python.
    classification.step(scaling.step(training_tuple, "standardscalar"), "decisiontree").run("training_pipeline")

    predict_tuple = (X_test, y_test, "predict")
    (X, pred_y, mode) = classification.step(scaling.step(predict_tuple, "standardscalar"), "decisiontree").run(
        "prediction_pipeline"
    )
    assert pred_y.shape[0] == 2000


@pytest.mark.usefixtures("own_ray")
def test_8_13_long_workflows_that_do_not_block() -> None:
    from perdure import workflow
    import ray

    @workflow.step
    def ship_items(items):  # not defined as printed
        return [f"shipped {item}" for item in items]

    @workflow.virtual_actor
    class ShoppingCart:
        # Printed as "...".
        def __init__(self, order_id):
            self.order_id = order_id
            self.items = []
            self.shipment_workflow_id = None

        def add(self, item):
            self.items.append(item)

        @workflow.virtual_actor.readonly
        def shipment(self):
            return self.shipment_workflow_id

        # Check status via ``self.shipment_workflow_id`` for avoid blocking
        def do_checkout(self):  # printed without self
            # Deterministically generate a workflow ID for idempotency.
            self.shipment_workflow_id = "ship_{}".format(self.order_id)
            # Run shipping workflow as a separate async workflow.
            ship_items.step(self.items).run_async(workflow_id=self.shipment_workflow_id)

    # Printed without a use.
    cart = ShoppingCart.get_or_create("cart", 7)
    cart.add.run("book")
    cart.add.run("lamp")
    cart.do_checkout.run()
    assert cart.shipment.run() == "ship_7"
    assert workflow.get_output("ship_7") == ["shipped book", "shipped lamp"]
    cart.do_checkout.run()
    assert workflow.get_output("ship_7") == ["shipped book", "shipped lamp"]


TRAINED_ELSEWHERE = (
    f"SAID = {SAID!r}"
    + """
import ray
from perdure import workflow

import pandas as pd
import numpy as np
from sklearn import base
from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.model_selection import train_test_split

import json
import sys
import time

# Printed with address='auto': here each program has a cluster of its own.
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
workflow.init()

@workflow.virtual_actor  # printed as @ray.workflow.virtual_actor
class estimator_virtual_actor():
    def __init__(self, estimator: BaseEstimator):
        if estimator is not None:
            self.estimator = estimator

    def fit(self, inputtuple):
        (X, y, mode)= inputtuple
        if base.is_classifier(self.estimator) or base.is_regressor(self.estimator):
            self.estimator.fit(X, y)
            return X, y, mode
        else:
            X = self.estimator.fit_transform(X)
            return X, y, mode

    @workflow.virtual_actor.readonly
    def predict(self, inputtuple):
        (X, y, mode) = inputtuple
        if base.is_classifier(self.estimator) or base.is_regressor(self.estimator):
            pred_y = self.estimator.predict(X)
            return X, pred_y, mode
        else:
            X = self.estimator.transform(X)
            return X, y, mode

    def run_workflow_step(self, inputtuple):
        (X, y, mode) = inputtuple
        if mode == 'fit':
            return self.fit(inputtuple)
        elif mode == 'predict':
            return self.predict(inputtuple)

    def __getstate__(self):
        return self.estimator

    def __setstate__(self, estimator):
        self.estimator = estimator

## Prepare the data
X = pd.DataFrame(np.random.randint(0,100,size=(10000, 4)), columns=list('ABCD'))
y = pd.DataFrame(np.random.randint(0,2,size=(10000, 1)), columns=['Label'])

X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2)

@workflow.step
def scaling(inputtuple, name):
    va = estimator_virtual_actor.get_or_create(name, StandardScaler())
    outputtuple = va.run_workflow_step.run_async(inputtuple)
    return outputtuple

@workflow.step
def classification(inputtuple, name):
    va = estimator_virtual_actor.get_or_create(name,
                                               DecisionTreeClassifier(max_depth=3))
    outputtuple = va.run_workflow_step.run_async(inputtuple)
    return outputtuple

if sys.argv[1] == "train":
    training_tuple = (X_train, y_train, 'fit')
    # Printed with a line break before run, which is no Python.
    classification.step(scaling.step(training_tuple, 'standardscalar'), 'decisiontree').run('training_pipeline')
    print(SAID + json.dumps(training_tuple[2]), flush=True)
    time.sleep(600)  # until all of it is killed

predict_tuple = (X_test, y_test, 'predict')
(X, pred_y, mode) = classification.step(scaling.step(predict_tuple,
  'standardscalar'),'decisiontree').run('prediction_pipeline')
assert pred_y.shape[0] == 2000
tree = workflow.get_actor("decisiontree").predict.run((X_test, y_test, "predict"))[1]
print(SAID + json.dumps([len(pred_y), len(tree), workflow.get_status("training_pipeline")]), flush=True)
"""
)


def test_8_12_the_pipeline_is_used_on_another_cluster_after_the_first_was_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TRAINED_ELSEWHERE)
    first = program("train", tmp_path)
    try:
        assert said(first, tmp_path / "train.log") == "fit"
    finally:
        kill_all(first)
    second = program("predict", tmp_path)
    try:
        assert said(second, tmp_path / "predict.log") == [2000, 2000, "SUCCESSFUL"]
    finally:
        kill_all(second)
