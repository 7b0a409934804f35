"""`perdure serve` as a process of its own, with a Ray of its own, that can be killed and started again."""

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

LEASE = "ray::perdure.lease"
START_S = 90
STOP_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """An engine, an agent, and a local Ray. `flags` are of `perdure serve`; without any the engine is on SQLite
    (synchronous=FULL) and files in `folder`, which has its log in any case."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.pid = 0
        self._flags = flags or ("--storage", str(folder / "storage"))
        self._log = folder / "serve.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns once it takes calls. Workers may still be on their way."""
        said = self._log.stat().st_size if self._log.exists() else 0
        flags = ("--listen", self.address, *self._flags, "--log-level", "warning")
        self._process = self._launch("serve", *flags)
        self.pid = self._process.pid
        deadline = time.monotonic() + START_S
        while b" serves on " not in self._log.read_bytes()[said:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def _launch(self, *command: str) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        folders = [str(Path(__file__).parent), environment.get("PYTHONPATH", "")]
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, folders)), "PYTHONUNBUFFERED": "1"}
        environment.setdefault("RAY_AUTH_MODE", "disabled")
        line = [sys.executable, "-m", "perdure.cli", *command]
        with self._log.open("ab") as log:
            return subprocess.Popen(line, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL to the engine, its agent, Ray and all workers, each by its id, the engine first."""
        processes = self._tree()
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=STOP_S)
        if self._process is not None:
            self._process.wait()

    def kill_workers(self) -> None:
        """SIGKILL to the processes that run tasks, each by its id."""
        for process in self._tree():
            try:
                if process.cmdline()[:1] == [LEASE]:
                    process.kill()
            except psutil.Error:  # it has ended
                continue

    def stop(self) -> None:
        """In good order; what is left after a while is killed."""
        if self._process is None:
            return
        processes = self._tree()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _, alive = psutil.wait_procs(processes, timeout=20)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive)

    def _tree(self) -> list[psutil.Process]:
        try:
            engine = psutil.Process(self.pid)
            return [engine, *engine.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class EngineApart(Service):
    """An engine as before, and an agent with a Ray that outlive it, as in a cluster."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "--storage", str(folder / "storage"), "--executor", "agents")
        self._agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        super().start()
        if self._agent is None:
            self._agent = self._launch("agent", "--address", self.address, "--ray-address", "local")

    def stop(self) -> None:
        super().stop()
        if self._agent is not None:
            processes = [psutil.Process(self._agent.pid), *psutil.Process(self._agent.pid).children(recursive=True)]
            self._agent.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs(processes, timeout=STOP_S)
            for process in alive:
                process.kill()
            self._agent.wait()
            self._agent = None


@contextmanager
def ray_beside(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """This script once more, with "ray" as its first argument, for what needs a Ray of its own; it ends when its input
    does. It is talked to by lines."""
    command = [sys.executable, script, "ray", *arguments]
    environment = {"RAY_AUTH_MODE": "disabled"} | os.environ
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        try:
            yield process
        finally:
            process.stdin.close()
