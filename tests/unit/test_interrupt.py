"""Stopping code in another thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from perdure.worker.interrupt import Interrupted, interrupt_thread, spare_thread


class Thread:
    """Runs code that says when it has begun, and keeps what ended it."""

    def __init__(self, work: Callable[[threading.Event], None]) -> None:
        self.begun = threading.Event()
        self.ended_by: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()
        self.begun.wait()

    def _run(self, work: Callable[[threading.Event], None]) -> None:
        try:
            work(self.begun)
        except BaseException as error:
            self.ended_by = error

    @property
    def id(self) -> int:
        assert self._thread.ident is not None
        return self._thread.ident

    def join(self) -> BaseException | None:
        self._thread.join()
        return self.ended_by


def spin(begun: threading.Event) -> None:
    begun.set()
    while True:
        pass


def spin_and_swallow(begun: threading.Event) -> None:
    begun.set()
    while True:
        try:
            spin(begun)
        except Exception:
            continue


@pytest.mark.parametrize("work", [spin, spin_and_swallow])
def test_a_thread_is_interrupted_whatever_it_catches(work: Callable[[threading.Event], None]) -> None:
    thread = Thread(work)
    interrupt_thread(thread.id)
    assert isinstance(thread.join(), Interrupted)


def test_an_interrupt_is_no_exception_of_the_usual_sort() -> None:
    assert not issubclass(Interrupted, Exception)


def test_an_interrupt_that_was_not_raised_yet_can_be_taken_back() -> None:
    proceed = threading.Event()

    def wait(begun: threading.Event) -> None:
        begun.set()
        proceed.wait()  # blocks outside of Python: nothing is raised before it returns

    thread = Thread(wait)
    interrupt_thread(thread.id)
    spare_thread(thread.id)
    proceed.set()
    assert thread.join() is None


def test_a_thread_that_is_not_there_is_left_alone() -> None:
    thread = Thread(lambda begun: begun.set())
    assert thread.join() is None
    interrupt_thread(thread.id)
    spare_thread(thread.id)
