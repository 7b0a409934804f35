"""The state of actors on a worker: which fields are sent, as what, and what is read back."""

from __future__ import annotations

import abc
import copy
import dataclasses
import threading
from typing import Any, Generic, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import Actor, failure_of
from perdure.model import INLINE_BYTES_MAX, PART_NAME_CHARS_MAX, FailureKind
from perdure.worker import actorstate
from perdure.worker.actorstate import INLINE_PARTS_BYTES_MAX, PARTS_MAX, part_name

T = TypeVar("T")


class Bag:
    """Its methods do what the caller says."""

    shared: Any = None

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def set(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def exec(self, code: str) -> Any:
        names = {"self": self, "threading": threading}
        exec(code, names)
        return names.get("result")

    def fields(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def names(self) -> list[Any]:
        return list(self.__dict__)


def bag(**fields: Any) -> Actor:
    actor = Actor(Bag)
    actor.call("set", **fields)
    return actor


def both_ways(actor: Actor) -> Any:
    """The fields as the next call sees them here, which must be what a call elsewhere sees."""
    here = actor.call("fields")
    assert actor.outcome.state is None
    actor.move()
    there = actor.call("fields")
    assert actor.outcome.state is None, "an unchanged state was sent"
    assert list(here) == list(there)
    return there


# ------------------------------------------------------------------------------ parts


def test_large_fields_are_parts_and_small_ones_are_together() -> None:
    actor = bag(a=1, large=b"x" * 10_000, b="y", huge=b"z" * 100_000)
    assert actor.sent == ["huge", "large"]
    assert actor.parts["large"].blob is None
    assert actor.parts["huge"].blob is not None
    assert actor.parts[""].size < 300
    assert both_ways(actor) == {"a": 1, "large": b"x" * 10_000, "b": "y", "huge": b"z" * 100_000}


def test_a_small_change_does_not_send_large_fields() -> None:
    actor = bag(count=0, weights=bytes(2_000_000), model=[bytes(100_000)])
    for moves in (False, True, False):
        if moves:
            actor.move()
        written = actor.blobs.written
        actor.call("exec", "self.count += 1")
        assert actor.sent == []
        assert actor.outcome.state is not None
        assert len(actor.outcome.state.data) < 300
        assert actor.blobs.written == written
    assert both_ways(actor)["count"] == 3


def test_a_change_in_place_of_a_large_field_is_sent() -> None:
    actor = bag(items=["x" * 10_000, 1], other=["y" * 10_000])
    for moves in (False, True):
        if moves:
            actor.move()
        actor.call("exec", "self.items[1] += 1")
        assert actor.sent == ["items"]
    assert both_ways(actor)["items"][1] == 3


def test_a_change_deep_in_a_small_field_is_sent() -> None:
    actor = bag(tree={"a": [{"b": 1}]})
    actor.call("exec", "self.tree['a'][0]['b'] = 2")
    assert both_ways(actor) == {"tree": {"a": [{"b": 2}]}}


def test_an_unchanged_immutable_field_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[object] = []
    real = actorstate.codec.encode

    def encode(value: object, *args: Any) -> Any:
        encoded.append(value)
        return real(value, *args)

    monkeypatch.setattr(actorstate.codec, "encode", encode)
    text, nested = "x" * 10_000, (("y" * 10_000, 1), frozenset({b"z"}))
    actor = bag(text=text, nested=nested, changing=["z" * 10_000])
    for _ in range(2):
        encoded.clear()
        actor.call("exec", "self.n = 1")
        assert not any(value in (text, nested) for value in encoded)
        assert ["z" * 10_000] in encoded
        actor.move()
        actor.call("names")


def test_an_equal_value_in_another_object_is_not_sent() -> None:
    actor = bag(text=b"x" * 10_000, n=[1])
    actor.call("exec", "self.text = bytes(bytearray(self.text)); self.n = [1]")
    assert actor.outcome.state is None


def test_a_field_that_is_replaced_or_deleted_is_seen() -> None:
    actor = bag(a=b"x" * 10_000, b=b"y" * 10_000, c=b"z" * 10_000)
    actor.call("exec", "self.a = b'w' * 20_000; del self.b")
    assert actor.sent == ["a"]
    assert actor.outcome.dropped == ("b",)
    assert both_ways(actor) == {"a": b"w" * 20_000, "c": b"z" * 10_000}


def test_a_part_that_shrinks_is_a_small_field_again() -> None:
    actor = bag(log=["x" * 10_000])
    actor.call("exec", "self.log.clear()")
    assert (actor.sent, actor.outcome.dropped) == ([], ("log",))
    assert both_ways(actor) == {"log": []}


def test_a_part_near_the_limit_stays_a_part() -> None:
    actor = bag(log=["x" * 5_000])
    actor.call("exec", "self.log = ['x' * 3_000]")
    assert (actor.sent, actor.outcome.dropped) == (["log"], ())


def test_a_small_field_that_grows_becomes_a_part() -> None:
    actor = bag(log=[])
    for number in range(100):
        actor.call("exec", f"self.log.append({number!r} * ['x'])")
    assert "log" in actor.parts
    assert len(both_ways(actor)["log"]) == 100


def test_a_changed_part_without_other_changes_comes_with_the_state() -> None:
    actor = bag(items=["x" * 10_000])
    before = actor.parts[""]
    actor.call("exec", "self.items.append(1)")
    assert actor.outcome.state == before
    assert actor.sent == ["items"]


def test_ten_thousand_fields() -> None:
    fields: dict[str, Any] = {f"field {number}": number for number in range(10_000)}
    actor = bag(**fields)
    assert list(actor.parts) == [""]
    actor.call("exec", "setattr(self, 'field 7', [7])")
    assert actor.sent == []
    assert both_ways(actor) == fields | {"field 7": [7]}


def test_more_large_fields_than_parts_may_be() -> None:
    fields = {f"f{number}": bytes([number % 250]) * 5_000 for number in range(PARTS_MAX + 20)}
    actor = bag(**fields)
    assert len(actor.parts) == PARTS_MAX + 1
    assert both_ways(actor) == fields
    assert len(actor.parts) == PARTS_MAX + 1


def test_an_outcome_has_a_bounded_inline_size() -> None:
    fields = {f"f{number}": bytes([number]) * (INLINE_BYTES_MAX - 1_000) for number in range(30)}
    actor = bag(**fields)
    inline = [len(part.data) for part in actor.parts.values()]
    assert INLINE_PARTS_BYTES_MAX / 2 < sum(inline) <= INLINE_PARTS_BYTES_MAX + INLINE_BYTES_MAX
    assert both_ways(actor) == fields
    many = bag(**{f"f{number}": f"{number} " * 300 for number in range(200)})
    assert many.parts[""].blob is not None
    assert len(both_ways(many)) == 200


@pytest.mark.parametrize(
    "name",
    ["", "a.b/c@d", "%", "..", "ü", "\ud800", "x" * 300, "ü" * 100, "__dict__", "self", "\0", " ", "\n", "__class__"],
)
def test_hostile_names_of_fields(name: str) -> None:
    actor = Actor(Bag)
    code = f"self.__dict__[{name!r}] = b'x' * 10_000; self.__dict__[{name + '2'!r}] = 1"
    actor.call("exec", code)
    (part,) = actor.sent
    assert part.isascii()
    assert part.isprintable()
    assert 1 <= len(part) <= PART_NAME_CHARS_MAX
    assert "/" not in part
    actor.move()
    assert actor.call("exec", f"result = self.__dict__[{name!r}] + bytes([self.__dict__[{name + '2'!r}]])")[-1] == 1
    assert actor.outcome.state is None


def test_different_fields_have_different_parts() -> None:
    names = ["a", "A", "%61", "a%", "x" * 201, "x" * 202, "", "%", "\ud800", "\udfff"]
    assert len({part_name(name) for name in names}) == len(names)


def test_names_of_fields_that_are_no_texts() -> None:
    actor = Actor(Bag)
    actor.call("exec", "self.__dict__[1] = b'x' * 10_000; self.__dict__[None] = 2; self.__dict__[('a', 1)] = [3]")
    assert actor.sent == []
    assert both_ways(actor) == {1: b"x" * 10_000, None: 2, ("a", 1): [3]}


# ------------------------------------------------------------------------------ objects in fields


def test_small_fields_share_objects() -> None:
    actor = Actor(Bag)
    actor.call("exec", "self.a = []; self.b = {'a': self.a}")
    actor.move()
    actor.call("exec", "self.a.append(1)")
    assert both_ways(actor) == {"a": [1], "b": {"a": [1]}}


def test_an_instance_may_refer_to_itself() -> None:
    actor = Actor(Bag)
    actor.call("exec", "self.me = self; self.handler = self.set; self.large = [self, 'x' * 10_000]")
    assert actor.sent == ["large"]
    actor.call("exec", "self.o = type(self)(n=1)")
    for _ in range(2):
        code = "result = self.me is self, self.handler.__self__ is self, self.large[0] is self, self.o is self"
        assert actor.call("exec", code) == (True, True, True, False)
        assert actor.outcome.state is None
        actor.move()


def test_arrays_of_a_state_can_be_changed_in_place_everywhere() -> None:
    numpy = pytest.importorskip("numpy")
    actor = bag(
        small=numpy.zeros(10), large=numpy.zeros(10_000), huge=numpy.zeros(100_000), read_only=_read_only(numpy)
    )
    for moves in (True, False):
        if moves:
            actor.move()
        assert actor.call("exec", "result = self.read_only.flags.writeable, self.huge.flags.writeable") == (False, True)
        assert actor.outcome.state is None
        actor.call("exec", "self.small += 1; self.large += 1; self.huge[5] += 1")
        assert actor.sent == ["huge", "large"]
    fields = both_ways(actor)
    assert (fields["small"] == 2).all()
    assert (fields["large"] == 2).all()
    assert fields["huge"].sum() == 2


def _read_only(numpy: Any) -> Any:
    array = numpy.arange(10_000)
    array.flags.writeable = False
    return array


def test_a_read_only_array_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = pytest.importorskip("numpy")
    actor = Actor(Bag)
    actor.call("exec", "import numpy; self.a = numpy.arange(10_000); self.a.flags.writeable = False; self.n = 0")
    writable = numpy.arange(5)
    assert not actorstate.is_frozen(writable)
    view = writable.view()
    view.flags.writeable = False
    assert not actorstate.is_frozen(view)
    objects = numpy.array([[]], dtype=object)
    objects.flags.writeable = False
    assert not actorstate.is_frozen(objects)
    for _ in range(2):
        monkeypatch.setattr(actorstate._Writer, "_encoded", None)
        actor.call("exec", "self.n += 1")
        assert actor.sent == []
        monkeypatch.undo()
        actor.move()
        actor.call("names")


class Named:
    def __init__(self, more: str = "") -> None:
        self.name = "value"
        self.value = more


def test_values_that_encode_otherwise_when_they_were_read_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is also the name of an attribute is one object at first, and two when it was read."""
    first = actorstate.codec.encode(Named())
    again = actorstate.codec.encode(actorstate.codec.decode(first.inline()))
    assert first != again
    actor = Actor(Bag)
    code = f"import sys; Named = sys.modules[{__name__!r}].Named; self.a = Named(); self.b = Named('x' * 9_000)"
    actor.call("exec", code)
    assert actor.sent == ["b"]
    fields = both_ways(actor)
    assert vars(fields["a"]) == vars(Named())
    small = actor.parts[""]
    compared: list[object] = []
    means_same = actorstate._Writer._means_same

    def compare(*args: Any) -> bool:
        compared.append(args)
        return means_same(*args)

    monkeypatch.setattr(actorstate._Writer, "_means_same", compare)
    actor.move()
    for _ in range(3):
        actor.call("exec", "self.b.value += 'y'")
        assert actor.sent == ["b"]
        assert actor.parts[""] == small
    assert len(compared) == 2, "the small fields and the part, each once"


# ------------------------------------------------------------------------------ what cannot be stored


def test_a_field_that_cannot_be_encoded_is_named() -> None:
    actor = bag(a=1)
    failure = failure_of(lambda: actor.call("exec", "self.lock = threading.Lock(); self.a = 2"))
    assert failure.kind is FailureKind.SERIALIZATION
    assert "the field 'lock' of the actor, a test_actor_state.Bag," in failure.message.replace("tests.unit.", "")
    assert "cannot pickle '_thread.lock' object" in failure.message
    assert both_ways(actor) == {"a": 1}


def test_a_large_field_that_cannot_be_encoded_is_named() -> None:
    actor = bag(parts=["x" * 10_000])
    failure = failure_of(lambda: actor.call("exec", "self.parts.append(threading.Lock())"))
    assert "the field 'parts'" in failure.message
    assert both_ways(actor) == {"parts": ["x" * 10_000]}


def test_a_constructor_whose_state_cannot_be_stored_fails() -> None:
    class Locked:
        def __init__(self) -> None:
            self.lock = threading.Lock()

    failure = failure_of(lambda: Actor(Locked))
    assert "the field 'lock'" in failure.message


class Evil:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


class Raises:
    def __init__(self) -> None:
        self.n = 0

    def become(self, error: BaseException) -> None:
        self.n += 1
        self.evil = Evil(error)

    def count(self) -> int:
        self.n += 1
        return self.n


@pytest.mark.parametrize("error", [ValueError("no"), GeneratorExit("no"), BaseException("no"), RecursionError("no")])
def test_any_error_of_encoding_fails_the_call_only(error: BaseException) -> None:
    actor = Actor(Raises)
    failure = failure_of(lambda: actor.call("become", error))
    assert failure.kind is FailureKind.SERIALIZATION
    assert "the field 'evil'" in failure.message
    assert actor.call("count") == 1


class Unreadable:
    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise LookupError("not here")


def test_a_state_that_cannot_be_read_fails_the_call() -> None:
    class Actress:
        def __init__(self) -> None:
            self.a = Unreadable()

        def look(self) -> int:
            return 1

    actor = Actor(Actress)
    assert actor.call("look") == 1
    actor.move()
    failure = failure_of(lambda: actor.call("look"))
    assert failure.kind is FailureKind.SERIALIZATION
    assert "the state of the actor, a" in failure.message
    assert "not here" in failure.message


def test_a_class_with_contents_that_are_no_attributes_is_refused() -> None:
    class Basket(list):  # type: ignore[type-arg]
        def add(self) -> None:
            self.append(1)

    failure = failure_of(lambda: Actor(Basket))
    assert failure.type == "perdure.NoState"
    assert "derives from list" in failure.message


class OtherBag(Bag):
    pass


def test_an_actor_keeps_its_class() -> None:
    actor = bag(a=1)
    failure = failure_of(
        lambda: actor.call("exec", "import sys; self.__class__ = sys.modules[type(self).__module__].OtherBag")
    )
    assert "has become a" in failure.message
    assert both_ways(actor) == {"a": 1}


# ------------------------------------------------------------------------------ classes


def test_a_class_without_a_state() -> None:
    class Empty:
        def hello(self) -> str:
            return "hello"

    actor = Actor(Empty)
    assert actor.revision == 1
    for _ in range(2):
        assert actor.call("hello") == "hello"
        assert actor.revision == 1
        actor.move()


class Slots:
    __slots__ = ("__private", "_large", "x", "y")

    def __init__(self) -> None:
        self.x = 1
        self.__private = [2]
        self._large = b"x" * 10_000

    def incr(self) -> tuple[int, int, bool]:
        self.x += 1
        self.__private[0] += 1
        return self.x, self.__private[0], hasattr(self, "y")


class SlotsAndMore(Slots):
    def __init__(self) -> None:
        super().__init__()
        self.z = 5

    def z_of(self) -> int:
        self.z += 1
        return self.z


@pytest.mark.parametrize("cls", [Slots, SlotsAndMore])
def test_slots_are_fields(cls: type) -> None:
    actor = Actor(cls)
    assert actor.call("incr") == (2, 3, False)
    assert actor.sent == []
    actor.move()
    assert actor.call("incr") == (3, 4, False)
    if cls is SlotsAndMore:
        assert actor.call("z_of") == 6
        actor.move()
        assert actor.call("z_of") == 7


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str] = dataclasses.field(default_factory=list)

    def move(self, by: int) -> int:
        self.x += by
        self.tags.append(str(by))
        return self.x


@dataclasses.dataclass(slots=True)
class SlotPoint(Point):
    y: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenPoint:
    x: int

    def move(self, by: int) -> int:
        object.__setattr__(self, "x", self.x + by)
        return self.x


class Wide(Point, Generic[T], abc.ABC):
    pass


@pytest.mark.parametrize("cls", [Point, SlotPoint, FrozenPoint, Wide])
def test_dataclasses_and_heirs(cls: type) -> None:
    actor = Actor(cls, 1)
    assert actor.call("move", 2) == 3
    actor.move()
    assert actor.call("move", 3) == 6
    assert actor.revision == 3


class Own:
    """Has a state of its own, beside what it does not store."""

    def __init__(self) -> None:
        self.n = 1
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"n": self.n, "large": b"x" * 10_000}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.n = state["n"]
        self.lock = threading.Lock()

    def incr(self) -> int:
        with self.lock:
            self.n += 1
            return self.n


class OwnValue(Own):
    def __getstate__(self) -> Any:
        return [self.n, "x" * 10_000]

    def __setstate__(self, state: Any) -> None:
        super().__setstate__({"n": state[0]})


class OwnHalf:
    def __init__(self) -> None:
        self.n = 1
        self.lock = threading.Lock()

    def __getstate__(self) -> Any:
        return {"n": self.n}

    def incr(self) -> int:
        self.n += 1
        return self.n


@pytest.mark.parametrize("cls", [Own, OwnValue, OwnHalf])
def test_a_class_may_define_its_state(cls: type) -> None:
    actor = Actor(cls)
    assert actor.call("incr") == 2
    if cls is Own:
        assert actor.sent == []
    actor.move()
    assert actor.call("incr") == 3


def test_a_getstate_that_raises_fails_the_call() -> None:
    class Broken:
        def __getstate__(self) -> Any:
            raise LookupError("no state today")

    failure = failure_of(lambda: Actor(Broken))
    assert failure.kind is FailureKind.SERIALIZATION
    assert "no state today" in failure.message


def test_a_method_may_replace_the_dict() -> None:
    actor = bag(a=1, b=b"x" * 10_000)
    actor.call("exec", "self.__dict__ = {'c': 3}")
    assert actor.outcome.dropped == ("b",)
    assert both_ways(actor) == {"c": 3}


def test_class_attributes_are_not_in_the_state() -> None:
    actor = bag(a=1)
    actor.call("exec", "type(self).shared = [1]")
    assert actor.outcome.state is None
    assert both_ways(actor) == {"a": 1}
    Bag.shared = None


def test_attributes_that_are_computed_are_not_in_the_state() -> None:
    class Computed:
        def __getattr__(self, name: str) -> int:
            return len(name)

        def look(self) -> int:
            return self.abc

    actor = Actor(Computed)
    assert actor.call("look") == 3
    actor.move()
    assert actor.call("look") == 3


def test_fields_keep_their_order() -> None:
    actor = bag(b=1, large=b"x" * 10_000, a=2)
    actor.move()
    assert actor.call("names") == ["b", "large", "a"]


# ------------------------------------------------------------------------------ all of it together

SMALL = st.one_of(st.none(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=4))
VALUES = st.one_of(
    SMALL,
    st.builds(lambda value, size: [value, "x" * size], SMALL, st.sampled_from([100, 2_000, 4_000, 5_000, 100_000])),
    st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 255), st.sampled_from([100, 4_050, 70_000])),
)
NAMES = st.sampled_from(["a", "b", "c", "d/e", ""])
STEPS = st.one_of(
    st.tuples(st.just("set"), NAMES, VALUES),
    st.tuples(st.just("append"), NAMES, st.sampled_from([1, "x" * 3_000])),
    st.tuples(st.just("delete"), NAMES, st.none()),
    st.tuples(st.sampled_from(["move", "look", "lose"]), NAMES, st.none()),
    st.tuples(st.just("fail"), NAMES, VALUES),
)


class Scripted:
    def step(self, what: str, name: str, value: Any) -> None:
        fields = self.__dict__
        if what in ("set", "fail"):
            fields[name] = value
        elif what == "append" and type(fields.get(name)) is list:
            fields[name].append(value)
        elif what == "delete":
            fields.pop(name, None)
        if what == "fail":
            for field in fields.values():
                if type(field) is list:
                    field.append("of a failed call")
            raise LookupError

    def fields(self) -> dict[str, Any]:
        return self.__dict__


@settings(max_examples=80)
@given(st.lists(STEPS, max_size=12))
def test_an_actor_is_what_an_object_would_be(steps: list[tuple[str, str, Any]]) -> None:
    actor, model = Actor(Scripted), Scripted()
    for what, name, value in steps:
        if what == "move":
            actor.move()
        elif what == "look":
            assert actor.call("fields") == model.__dict__
            assert actor.outcome.state is None
        elif what == "lose":  # the commit of the call did not happen
            kept, revision = dict(actor.parts), actor.revision
            actor.call("step", "set", name, "lost")
            actor.parts, actor.revision = kept, revision
        elif what == "fail":
            failure_of(lambda name=name, value=value: actor.call("step", "fail", name, value))  # type: ignore[misc]
        else:
            before = copy.deepcopy(model.__dict__)
            model.step(what, name, copy.deepcopy(value))
            actor.call("step", what, name, value)
            assert (actor.outcome.state is None) is (list(before.items()) == list(model.__dict__.items()))
    actor.move()
    assert list(actor.call("fields").items()) == list(model.__dict__.items())
