"""Classes of actors and references to actors, by themselves. No service is there."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import perdure
from perdure import errors, workflow
from perdure.references import Reference


@perdure.actor(max_retries=2)
class Counter(perdure.Actor):
    def __init__(self, start: int, *, step: int = 1) -> None:
        self.value = start * step

    @perdure.method
    def incr(self, by: int = 1) -> int:
        self.value += by
        return self.value

    @perdure.readonly
    def read(self) -> int:
        return self.value


counters: Any = Counter


def test_class_makes_plain_objects_for_tests() -> None:
    counter: Any = Counter(2, step=3)
    assert counter.incr(4) == 10


def test_arguments_of_the_constructor_are_checked_at_once() -> None:
    with pytest.raises(TypeError, match=r"Counter\(\): missing a required argument: 'start'"):
        counters.get("id")
    with pytest.raises(TypeError, match=r"Counter\(\): got an unexpected keyword argument 'stop'"):
        counters.get("id", 1, stop=2)


@pytest.mark.parametrize("actor_id", ["", "a\nb", "x" * 257])
def test_malformed_id_is_refused(actor_id: str) -> None:
    with pytest.raises(errors.InvalidFieldError, match="actor_id"):
        Counter.get(actor_id, 1)


def test_reference_has_the_methods_of_the_class_alone() -> None:
    counter: Any = Counter.get("id", 1)
    assert repr(counter.incr) == "<method incr of <perdure actor 'id'>>"
    with pytest.raises(AttributeError, match="has no method 'decr'"):
        _ = counter.decr
    with pytest.raises(AttributeError, match="begins with an underscore"):
        _ = counter._secret
    with pytest.raises(AttributeError, match="has no method 'get'"):
        _ = counter.get


def test_reference_travels_pickled() -> None:
    counter: Any = Counter.get("id", 1, step=2)
    for copied in (pickle.loads(pickle.dumps(counter)), cloudpickle.loads(cloudpickle.dumps(counter))):
        assert isinstance(copied, Reference)
        assert copied == counter
        assert hash(copied) == hash(counter)
    assert counter != Counter.get("other", 1)


def test_options_that_actors_do_not_have_are_refused() -> None:
    for options, text in [
        ({"task_id": "x"}, "task_id is an option of tasks, and not of actors"),
        ({"checkpoint": False}, "checkpoint is an option of tasks"),
        ({"max_pending_calls": "1"}, "max_pending_calls is an integer"),
        ({"allow_inplace": True}, "allow_inplace is an option of tasks"),
        ({"no_such": 1}, "unknown option 'no_such'; there are accelerator_type, call_retention, fallback_strategy, "),
    ]:
        with pytest.raises(TypeError, match=text):
            perdure.actor(**options)
        with pytest.raises(TypeError, match=text):
            Counter.options(**options)
    with pytest.raises(ValueError, match="max_pending_calls is 1 or more"):
        perdure.actor(max_pending_calls=0)


def test_only_classes_become_actors_and_only_actors_are_referred_to() -> None:
    with pytest.raises(TypeError, match="made of a class, not of a function"):
        perdure.actor(lambda: None)

    class Plain:
        pass

    with pytest.raises(TypeError, match=r"Plain.*decorate the class with @perdure\.actor"):
        perdure.actors.class_of(Plain)


def test_readonly_methods_are_known_by_their_names() -> None:
    assert counters.definition.readonly == ("read",)
    assert Counter.options(max_retries=0).definition.readonly == ("read",)


def test_an_actor_of_ray_workflows_is_named_once() -> None:
    with pytest.raises(TypeError, match="get_actor takes an actor_id"):
        workflow.get_actor()
    with pytest.raises(TypeError, match="get_actor takes an actor_id"):
        workflow.get_actor("id", workflow_id="id")
    with pytest.raises(ValueError, match="workflow_id"):
        workflow.get_actor(workflow_id="")


def test_no_method_has_the_name_of_an_attribute_of_references() -> None:
    class Taken:
        def actor_id(self) -> int:
            return 1

    with pytest.raises(TypeError, match="no method of an actor is called 'actor_id'"):
        perdure.actor(Taken)


def test_a_migration_that_would_get_an_object_is_refused() -> None:
    class Old:
        def migrate(self, version: int, state: dict[str, int]) -> dict[str, int]:
            return state

    with pytest.raises(TypeError, match="decorate it with @staticmethod"):
        perdure.actor(Old)


async def test_revisions_that_a_call_would_ignore_are_refused() -> None:
    async with perdure.Client("127.0.0.1:1", patience=0) as client:
        counter = client.actor(Counter, "c", 1)
        for read in (counter.read.options(expected_revision=1), counter.read.options(expected_revision=0)):
            with pytest.raises(ValueError, match="'read' is readonly: it takes min_revision"):
                await read()
        for recorded in (
            counter.incr.options(min_revision=1),
            counter.read.options(min_revision=1, request_id="r"),
        ):
            with pytest.raises(ValueError, match="min_revision is for readonly methods"):
                await recorded()
        with pytest.raises(ValueError, match="min_revision is for readonly methods"):
            await counter.read.options(min_revision=1).start()
