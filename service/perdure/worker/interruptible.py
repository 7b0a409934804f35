"""The steps of an attempt in a thread that may be interrupted: its function is loaded, then it runs. A lease takes them
in its main thread, the local executor in several threads.

`enter` makes the thread the attempt's, so that an interrupt reaches it, and reports that the attempt begins. It returns
False if the attempt was dropped before. `leave` makes the thread nobody's, and takes back an interrupt that was not
raised yet. It is called again after an interrupt, which may have come during the first call.
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.model import Function
from perdure.worker.attempt import Runner
from perdure.worker.interrupt import Interrupted
from perdure.worker.results import Result, exited, unforeseen
from perdure.worker.values import AttemptInput


def load(runner: Runner, function: Function, enter: Callable[[], bool], leave: Callable[[], None]) -> bool:
    """Load a function. An interrupt ends an import that hangs. False: `enter` was refused."""
    try:
        try:
            if not enter():
                return False
            runner.is_async(function)
        finally:
            leave()
    except (Interrupted, KeyboardInterrupt):
        leave()
    return True


def run(
    runner: Runner, attempt_input: AttemptInput, enter: Callable[[], bool], leave: Callable[[], None]
) -> Result | None:
    """Run an attempt. None: it was interrupted, or `enter` was refused."""
    runner.prepare(attempt_input)
    try:
        try:
            return runner.run(attempt_input) if enter() else None
        finally:
            leave()
    except (Interrupted, KeyboardInterrupt):
        leave()
        return None
    except SystemExit as exit_:
        return exited(exit_)
    except BaseException as error:
        leave()
        return unforeseen(error)
