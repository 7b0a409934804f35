"""Services as processes of their own, for tests that kill them. Ended by id, whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from patience import PATIENCE_S

START_S = PATIENCE_S
STOP_S = PATIENCE_S
PATHS = (str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")]))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A process of ours with all its children."""

    def __init__(self, *arguments: str, log: Path, cwd: Path | None = None) -> None:
        self._arguments = arguments
        self._cwd = cwd
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        environment |= {"RAY_AUTH_MODE": "disabled", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(PATHS)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._arguments],
                env=environment,
                cwd=self._cwd,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    @property
    def log_path(self) -> Path:
        return self._log

    def code(self) -> int | None:
        """With which exit code it ended; None: it runs."""
        return None if self._process is None else self._process.poll()

    def wait_for(self, text: str, *, since: int = 0) -> None:
        """Until the process has said so."""
        deadline = time.monotonic() + START_S
        while text not in self._log.read_text()[since:]:
            assert self._process is not None
            assert self._process.poll() is None, f"it ended: {self._log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"no {text!r}: {self._log.read_text()[-3000:]}"
            time.sleep(0.02)

    def said(self) -> int:
        return len(self._log.read_text()) if self._log.exists() else 0

    def kill(self) -> None:
        """SIGKILL, to this process alone."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def pause(self) -> None:
        """SIGSTOP, to this process alone: it is alive, and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wait_for_end(self) -> int:
        """Until it ends by itself; gives the exit code."""
        assert self._process is not None
        return self._process.wait(STOP_S)

    def stop(self) -> int:
        """SIGTERM; gives the exit code. What is left after a while is killed."""
        if self._process is None:
            return 0
        children = _children(self._process.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive)
        return code


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


class Service(Process):
    """`perdure serve` on a fixed port, so that it can be started again. What it imports may be in `cwd`."""

    def __init__(self, folder: Path, *flags: str, cwd: Path | None = None) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        arguments = ("--listen", self.address, "--storage", str(folder / "storage"), *flags)
        super().__init__("-m", "perdure.cli", "serve", *arguments, log=folder / "serve.log", cwd=cwd)

    def up(self) -> None:
        since = self.said()
        self.start()
        self.wait_for(" serves on ", since=since)


@contextmanager
def running(process: Process) -> Iterator[None]:
    try:
        yield
    finally:
        process.stop()
