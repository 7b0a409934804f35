"""States of older versions of a class, on a worker."""

from __future__ import annotations

from typing import Any

import pytest

import perdure
from actors import Actor, failure_of
from perdure import functions
from perdure.model import FailureKind

BIG = bytes(range(256)) * 64


class One:
    """What the class was."""

    def __init__(self) -> None:
        self.name = "Ann Lee"
        self.photo = BIG
        self.gone = BIG + b"!"

    def rename(self, name: str) -> None:
        self.name = name


def two(**members: Any) -> type[Any]:
    """The class as it is now, with these members as well."""

    class Two:
        def names(self) -> list[str]:
            return [self.first, self.last]  # type: ignore[attr-defined]

        def rename(self, first: str) -> None:
            self.first = first

        @perdure.readonly
        def read(self) -> list[str]:
            return self.names()

        @staticmethod
        def migrate(version: int, state: dict[str, Any]) -> dict[str, Any]:
            assert version == 1
            first, last = state.pop("name").split()
            del state["gone"]
            return {**state, "first": first, "last": last}

    for name, member in members.items():
        setattr(Two, name, member)
    return Two


def changed(actor: Actor, cls: type[Any], version: int = 2) -> Actor:
    """The actor with another class, on a worker that does not know it."""
    perdure.actor(version=version)(cls)
    actor.function = functions.encode_function(cls)
    actor.move()
    return actor


def test_a_call_migrates_the_state_and_stores_it_with_its_result() -> None:
    actor = changed(Actor(One), two())
    assert actor.call("names") == ["Ann", "Lee"]
    assert actor.outcome.state is not None
    assert actor.outcome.dropped == ("gone",)
    assert actor.sent == [], "a part that the migration leaves alone is not written again"
    actor.move()
    assert actor.call("names") == ["Ann", "Lee"], "migrate asserts that it is called once"
    assert actor.outcome.state is None


def test_a_readonly_call_migrates_in_memory_only() -> None:
    actor = changed(Actor(One), two())
    before = dict(actor.parts)
    assert actor.query("read") == ["Ann", "Lee"]
    assert actor.call("read") == ["Ann", "Lee"]
    assert actor.outcome.state is None
    assert actor.parts == before
    actor.call("rename", "Eve")
    assert actor.query("read") == ["Eve", "Lee"]


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt, SystemExit])
def test_a_migration_that_raises_fails_the_call_with_its_traceback(kind: type[BaseException]) -> None:
    def migrate(_version: int, state: dict[str, Any]) -> None:
        raise kind("no " + state["name"])

    actor = changed(Actor(One), two(migrate=staticmethod(migrate)))
    before = dict(actor.parts)
    failure = failure_of(lambda: actor.call("names"))
    assert failure.type == f"builtins.{kind.__name__}"
    assert 'raise kind("no " + state["name"])' in failure.stack_trace
    assert actor.parts == before
    assert changed(actor, two()).call("names") == ["Ann", "Lee"]


@pytest.mark.parametrize("made", [None, 7, [("name", "Ann")]])
def test_a_migration_that_returns_no_attributes_fails_the_call(made: Any) -> None:
    actor = changed(Actor(One), two(migrate=staticmethod(lambda _version, _state: made)))
    assert failure_of(lambda: actor.call("names")).type == "perdure.BadMigration"


def test_a_class_of_another_version_without_migrate_fails_the_call() -> None:
    class Three:
        def names(self) -> None: ...

    failure = failure_of(lambda: changed(Actor(One), Three, 3).call("names"))
    assert failure.type == "perdure.NoMigration"
    assert "version 1" in failure.message
    assert "version 3" in failure.message


def test_a_state_that_is_newer_than_the_class_is_refused() -> None:
    actor = changed(Actor(One), two())
    actor.call("rename", "Eve")
    before = dict(actor.parts)
    failure = failure_of(lambda: changed(actor, One, 1).call("rename", "Tom"))
    assert (failure.type, failure.kind) == ("perdure.StateTooNew", FailureKind.FUNCTION_UNAVAILABLE)
    assert failure.non_retryable
    assert actor.parts == before


def test_a_class_method_migrates_from_any_older_version() -> None:
    def migrate(cls: type[Any], version: int, state: dict[str, Any]) -> dict[str, Any]:
        return {"first": cls.__name__, "last": str(version)}

    actor = changed(Actor(One), two())
    actor.call("names")
    assert changed(actor, two(migrate=classmethod(migrate)), 5).call("names") == ["Two", "2"]


def test_a_class_with_states_of_its_own_migrates_those() -> None:
    class Old:
        def __getstate__(self) -> list[int]:
            return [1, 2]

        def __setstate__(self, state: list[int]) -> None: ...

    class New:
        def __getstate__(self) -> list[int]:
            return self.numbers

        def __setstate__(self, state: list[int]) -> None:
            self.numbers = state

        def read(self) -> list[int]:
            return self.numbers

        @staticmethod
        def migrate(_version: int, state: list[int]) -> list[int]:
            return [*state, 3]

    assert changed(Actor(Old), New).call("read") == [1, 2, 3]


def test_a_subclass_has_a_version_of_its_own() -> None:
    @perdure.actor(version=2)
    class Base: ...

    @perdure.actor
    class Sub(Base.cls): ...  # type: ignore[misc, name-defined]

    assert (Base.version, Sub.version, Base.options(ttl=60).version) == (2, 1, 2)


def test_clients_do_not_call_migrate() -> None:
    failure = failure_of(lambda: changed(Actor(One), two()).call("migrate", 1, {}))
    assert failure.type == "perdure.NoSuchMethod"


@pytest.mark.parametrize("version", [0, -1, 1.5, "2", True, 1 << 40])
def test_unfit_version_is_refused(version: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="version is"):
        perdure.actor(version=version)
