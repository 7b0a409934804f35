"""The bounded cache: what stays, what is evicted."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from perdure.bounded import Bounded, SharedBounded


def test_the_least_recently_used_entry_is_evicted() -> None:
    cache: Bounded[str, int] = Bounded(2)
    cache.keep("a", 1)
    cache.keep("b", 2)
    assert cache.get("a") == 1
    cache.keep("c", 3)
    assert ("a" in cache, "b" in cache, "c" in cache) == (True, False, True)


def test_keeping_a_key_again_replaces_its_value_and_weight() -> None:
    cache: Bounded[str, str] = Bounded(4, len)
    cache.keep("a", "xxxx")
    cache.keep("a", "y")
    cache.keep("b", "zzz")
    assert (cache.get("a"), cache.get("b")) == ("y", "zzz")


def test_an_entry_above_the_bound_stays_until_the_next() -> None:
    cache: Bounded[str, str] = Bounded(3, len)
    cache.keep("a", "x" * 10)
    assert cache.get("a") == "x" * 10
    cache.keep("b", "y")
    assert ("a" in cache, "b" in cache) == (False, True)


def test_dropping_frees_the_weight() -> None:
    cache: Bounded[str, str] = Bounded(3, len)
    cache.keep("a", "xx")
    cache.drop("a")
    cache.drop("nobody")
    cache.keep("b", "y")
    cache.keep("c", "zz")
    assert len(cache) == 2


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20), st.booleans())), st.integers(1, 40))
def test_the_weight_never_exceeds_the_bound(steps: list[tuple[int, int, bool]], most: int) -> None:
    cache: Bounded[int, int] = Bounded(most, lambda value: value)
    model: dict[int, int] = {}
    for key, value, is_kept in steps:
        if is_kept:
            model.pop(key, None)
            model[key] = value
            while sum(model.values()) > most and len(model) > 1:
                del model[next(iter(model))]
            cache.keep(key, value)
        else:
            assert cache.get(key) == model.get(key)
            if key in model:
                model[key] = model.pop(key)
        assert len(cache) == len(model)


def test_a_shared_cache_is_used_by_one_thread_at_a_time() -> None:
    keeping, goes_on = threading.Event(), threading.Event()
    found: list[int | None] = []

    def weigh(value: int) -> int:
        keeping.set()
        assert goes_on.wait(60)
        return value

    cache: SharedBounded[str, int] = SharedBounded(10, weigh)
    keeper = threading.Thread(target=cache.keep, args=("a", 1))
    reader = threading.Thread(target=lambda: found.append(cache.get("a")))
    keeper.start()
    assert keeping.wait(60)
    reader.start()
    reader.join(0.05)
    assert found == []  # the entry is not whole yet
    goes_on.set()
    keeper.join()
    reader.join()
    assert found == [1]


def test_a_cleared_cache_weighs_nothing() -> None:
    cache: SharedBounded[str, str] = SharedBounded(3, len)
    cache.keep("a", "xxx")
    cache.clear()
    cache.keep("b", "yy")
    cache.keep("c", "z")
    assert len(cache) == 2
    assert "a" not in cache
