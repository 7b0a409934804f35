"""Starting Ray in tests when the machine is too busy for the times that Ray gives itself."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from rays import TRIES, patiently

SLEEPS = "import time; time.sleep(600)"
PARENT = (
    f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEPS!r}]); print(flush=True); {SLEEPS}"
)


class FailingStart:
    """Starts a process that starts another one, and raises."""

    def __init__(self, error: str) -> None:
        self.error = error
        self.processes: list[subprocess.Popen[bytes]] = []
        self.family: list[psutil.Process] = []

    def __call__(self) -> None:
        process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        with process.stdout:
            process.stdout.readline()
        parent = psutil.Process(process.pid)
        self.family += [parent, *parent.children()]
        raise RuntimeError(self.error)

    def left(self) -> list[psutil.Process]:
        for process in self.processes:
            process.poll()
        return [process for process in self.family if process.is_running()]


def test_starts_that_were_too_slow_are_repeated_and_leave_no_process() -> None:
    start = FailingStart("The current node timed out during startup.")
    with pytest.raises(RuntimeError, match="timed out"):
        patiently(start)
    assert len(start.family) == 2 * TRIES
    assert start.left() == []


def test_other_errors_are_raised_at_once_and_leave_no_process() -> None:
    start = FailingStart("no such thing")
    with pytest.raises(RuntimeError, match="no such thing"):
        patiently(start)
    assert len(start.family) == 2
    assert start.left() == []
